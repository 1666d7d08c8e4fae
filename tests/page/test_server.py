"""What a browser is answered, over real sockets: pages, documents, and who gets none."""

from __future__ import annotations

import asyncio
import html
import io
import json
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dmimad.adapters.http.tls import server_context
from dmimad.core.errors import AdapterError
from dmimad.page.rendering import assets
from dmimad.page.server import HEADERS, MAX_AGE_SECONDS, is_own_host
from dmimad.settings import PageSettings
from tests.certificates import Authority
from tests.page.documents import HOSTILE, alert, detail, device, status
from tests.page.serving import DEADLINE_SECONDS, Knowledge, ask, serving


@pytest.fixture
def known() -> Knowledge:
    return Knowledge(status([device(verdict="drift"), device("vg0-root", "253:0")], [alert()]))


class TestPages:
    async def test_the_index(self, known: Knowledge) -> None:
        async with serving(known) as server:
            found = await ask(server.url)
        assert (found.status, found.headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
        assert "<title>(1) web-1 – dmimad</title>" in found.body
        assert ">1 alert fires, 1 device is in drift</p>" in found.body
        assert found.headers["Content-Length"] == str(len(found.body.encode()))

    async def test_a_device(self, known: Knowledge) -> None:
        async with serving(known) as server:
            for path in ("/device/253:5", "/device/253%3A5", "/device/253:5?x=1"):
                found = await ask(server.url, path)
                assert found.status == "200 OK"
                assert "<title>(1) image-ro – web-1 – dmimad</title>" in found.body
                assert found.body.count('class="differs"') == 3

    async def test_documents(self, known: Knowledge) -> None:
        async with serving(known) as server:
            for path, document in (("/status.json", known.status), ("/device/253:5.json", detail())):
                found = await ask(server.url, path)
                assert (found.status, found.headers["Content-Type"]) == ("200 OK", "application/json")
                assert json.loads(found.body) == document

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/device/253:6", "There is no device 253:6 now"),
            ("/device/253:6.json", "There is no device 253:6 now"),
            ("/device/", "There is no such page"),
            ("/device/<script>", "There is no such page"),
            ("/device/%3Cscript%3E", "There is no such page"),
            ("/static/../server.py", "There is no such page"),
            ("/static/", "There is no such page"),
            ("/favicon.ico", "There is no such page"),
            ("//", "There is no such page"),
            ("*", "There is no such page"),
        ],
    )
    async def test_there_is_no_other(self, known: Knowledge, path: str, words: str) -> None:
        async with serving(known) as server:
            found = await ask(server.url, path)
        assert (found.status, f"<h1>{words}</h1>" in found.body) == ("404 Not Found", True)
        assert "<script>" not in found.body

    async def test_style_script_and_icons(self, known: Knowledge) -> None:
        paths = assets().keys()
        assert paths == {
            "/static/page.css",
            "/static/page.js",
            *(f"/static/icon-{level}.svg" for level in ("good", "attention", "bad", "off")),
        }
        async with serving(known) as server:
            for path in paths:
                assert (await ask(server.url, path)).status == "200 OK"

    @pytest.mark.parametrize("name", HOSTILE)
    async def test_a_hostile_name_is_text_everywhere(self, known: Knowledge, name: str) -> None:
        """What stands in a page is what is in the templates, and text."""
        plain = await self._tags(known)
        known.status = status([device(name, verdict="drift"), device("vg0-root", "253:0")], [alert(name)])
        known.devices = {"253:5": detail(name)}
        assert await self._tags(known) == plain

    async def _tags(self, known: Knowledge) -> list[list[str]]:
        found = []
        async with serving(known) as server:
            for path in ("/", "/device/253:5"):
                known.now += 1000
                body = (await ask(server.url, path)).body
                assert "\u202e" not in body
                tags = re.findall(r"<[a-zA-Z/!][^>]*>", body)
                ours = ("<main ", "<i>", "</i>", "<bdi", "</bdi>", '<span class="escape"', "</span>")
                found.append([tag for tag in tags if not tag.startswith(ours)])
        return found

    async def test_everything_bounded_is_said_to_be(self, known: Knowledge) -> None:
        known.status = status([device(f"d{at}", f"253:{at}") for at in range(300)], devices_left_out=2)
        async with serving(known) as server:
            body = (await ask(server.url)).body
        assert "and 52 more devices" in body
        assert body.count("/device/") == 250

    async def test_an_error_in_a_page_is_told_and_no_end(self, known: Knowledge) -> None:
        log = io.StringIO()
        known.devices["253:9"] = {**detail(), "tables": [{"rows": [{"nonsense": 1}]}]}
        async with serving(known, log=log) as server:
            found = await ask(server.url, "/device/253:9")
            assert found.status == "500 Internal Server Error"
            assert (await ask(server.url, "/device/253:5")).status == "200 OK"
        (told,) = [json.loads(line) for line in log.getvalue().splitlines() if "page_failed" in line]
        assert told["path"] == "/device/253:9"


class TestHeaders:
    @pytest.mark.parametrize("path", ["/", "/device/253:5", "/status.json", "/static/page.js", "/nowhere"])
    async def test_every_answer_has_them(self, known: Knowledge, path: str) -> None:
        async with serving(known) as server:
            found = await ask(server.url, path)
        for name, value in HEADERS:
            assert found.headers[name] == value
        assert found.headers["Cache-Control"] == "no-store"
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert found.headers["Date"] == "Mon, 30 Nov 2026 03:14:02 GMT"
        assert not {
            name for name in found.headers if name.startswith(("Set-Cookie", "Access-Control", "Server"))
        }

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET /\r\n\r\n", b"400 Bad Request"),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400 Bad Request"),
            (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421 Misdirected Request"),
            (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405 Method Not Allowed"),
            (
                b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 200_000 + b"\r\n\r\n",
                b"431 Request Header Fields Too Large",
            ),
        ],
    )
    async def test_so_has_what_refuses(self, known: Knowledge, request_: bytes, status: bytes) -> None:
        async with serving(known) as server, asyncio.timeout(DEADLINE_SECONDS):
            found = urlsplit(server.url)
            reader, writer = await asyncio.open_connection(found.hostname, found.port)
            try:
                writer.write(request_)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readline()
            finally:
                writer.transport.abort()
        assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
        for name, value in HEADERS:
            assert f"\r\n{name}: {value}\r\n".encode() in head
        assert body.endswith(b"\n")

    async def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(
        self, known: Knowledge
    ) -> None:
        async with serving(known) as server:
            found = [await ask(server.url, path) for path in ("/", "/device/253:5", "/nowhere")]
        for answer in found:
            policy = dict(
                part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
            )
            assert policy.pop("default-src") == "'none'"
            assert set(policy.values()) == {"'self'", "'none'"}
            assert not re.search(
                r"<style|\sstyle=|\son[a-z]+=|<script(?! src=\"/static/page\.js\" defer>)", answer.body
            )
            for link in re.findall(r'(?:href|src|action)="([^"]*)"', answer.body):
                assert html.unescape(link).startswith(("/", "#"))
                assert not link.startswith("//")

    def test_nothing_in_the_files_names_another_host(self) -> None:
        for asset in assets().values():
            text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)


class TestNews:
    async def test_who_has_it_is_told_so_until_there_is_something_else(self, known: Knowledge) -> None:
        async with serving(known) as server:
            first = await ask(server.url)
            tag = first.headers["ETag"]
            known.status = {**known.status, "time": "2026-11-30T03:15:00.000Z"}  # no news
            known.now += 1000
            for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                again = await ask(server.url, headers={"If-None-Match": header})
                assert (again.status, again.body) == ("304 Not Modified", "")
                assert again.headers["ETag"] == tag
                assert "Content-Length" not in again.headers
            known.status = status([device()])
            known.now += 1000
            other = await ask(server.url, headers={"If-None-Match": tag})
            assert (other.status, other.headers["ETag"] == tag) == ("200 OK", False)

    @pytest.mark.parametrize("path", ["/status.json", "/device/253:5", "/device/253:5.json"])
    async def test_time_alone_is_no_news(self, known: Knowledge, path: str) -> None:
        async with serving(known) as server:
            tag = (await ask(server.url, path)).headers["ETag"]
            known.now += 1000
            later = "2026-11-30T03:15:00.000Z"
            known.status = {
                **known.status,
                "time": later,
                "list": {**known.status["list"], "last_read": later},
            }
            known.devices["253:5"] = detail(time=later)
            assert (await ask(server.url, path, headers={"If-None-Match": tag})).status == "304 Not Modified"
            known.status = {**known.status, "host": "web-2"}
            known.devices["253:5"] = detail(host="web-2")
            known.now += 1000
            assert (await ask(server.url, path, headers={"If-None-Match": tag})).status == "200 OK"

    async def test_a_page_is_made_once_for_all_who_ask(self, known: Knowledge) -> None:
        async with serving(known) as server:
            found = await asyncio.gather(*(ask(server.url) for _ in range(8)))
            assert {answer.status for answer in found} == {"200 OK"}
            assert known.asked == 1
            known.now += MAX_AGE_SECONDS
            await ask(server.url)
            assert known.asked == 2

    async def test_pages_have_a_rest_between(self, known: Knowledge) -> None:
        """Ten times what they took; here that would be hours, which end when the server does."""
        now = [0.0]

        def slow() -> float:
            now[0] += 300.0
            return now[0]

        async with asyncio.timeout(DEADLINE_SECONDS), serving(known, monotonic=slow) as server:
            await ask(server.url)
            waiting = asyncio.create_task(ask(server.url, "/device/253:5"))
            ended, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not ended
            await server.stop()
            await asyncio.wait([waiting])


class TestWhoIsAnswered:
    @pytest.mark.parametrize(
        ("host", "address", "own"),
        [
            ("localhost", "127.0.0.1", True),
            ("LocalHost:9838", "127.0.0.1", True),
            ("localhost.:1", "127.0.0.1", True),
            ("127.0.0.1:8080", "127.0.0.1", True),
            ("[::1]:9838", "127.0.0.1", True),
            ("[::1]", "::1", True),
            ("192.0.2.7", "0.0.0.0", True),
            ("web-1.example.org:9838", "web-1.example.org", True),
            ("WEB-1.example.org", "web-1.example.org", True),
            ("web-1.example.org", "127.0.0.1", False),
            ("attacker.example", "127.0.0.1", False),
            ("localhost.attacker.example", "127.0.0.1", False),
            ("127.0.0.1.attacker.example", "127.0.0.1", False),
            ("localhost@attacker.example", "127.0.0.1", False),
            ("localhost:x", "127.0.0.1", False),
            ("localhost:9838 attacker", "127.0.0.1", False),
            ("", "127.0.0.1", False),
            ("[", "127.0.0.1", False),
        ],
    )
    def test_names_of_this_host(self, host: str, address: str, own: bool) -> None:
        assert is_own_host(host, address) is own

    @pytest.mark.parametrize("path", ["/", "/status.json", "/static/page.js", "/nowhere"])
    @pytest.mark.parametrize("host", ["attacker.example", None])
    async def test_another_name_is_refused(self, known: Knowledge, path: str, host: str | None) -> None:
        async with serving(known) as server:
            found = await ask(server.url, path, host=host)
        assert (found.status, found.body) == (
            "421 Misdirected Request",
            "ask by address, localhost or page.address\n",
        )
        assert known.asked == 0

    async def test_two_names_are_no_request(self, known: Knowledge) -> None:
        async with serving(known) as server:
            found = await ask(server.url, headers={"host": "attacker.example"})
        assert found.status == "400 Bad Request"

    async def test_who_shows_a_certificate_may_use_any_name(self, known: Knowledge) -> None:
        async with serving(known, checks_host=False) as server:
            assert (await ask(server.url, host="web-1.example.org")).status == "200 OK"

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "X"])
    async def test_nothing_can_be_changed(self, known: Knowledge, method: str) -> None:
        async with serving(known) as server:
            found = await ask(server.url, method=method)
        assert (found.status, found.headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")

    async def test_head(self, known: Knowledge) -> None:
        async with serving(known) as server:
            whole = await ask(server.url)
            found = await ask(server.url, method="HEAD")
        assert (found.status, found.body) == ("200 OK", "")
        assert found.headers["Content-Length"] == whole.headers["Content-Length"]

    async def test_a_large_page_is_sent_whole(self, known: Knowledge) -> None:
        known.status = status([device("x" * 500, f"253:{at}") for at in range(5000)])
        async with serving(known) as server:
            found = await ask(server.url, "/status.json")
        assert len(json.loads(found.body)["devices"]) == 5000


class TestTls:
    @pytest.mark.parametrize("shown", [True, False])
    async def test_client_certificates(self, known: Knowledge, tmp_path: Path, shown: bool) -> None:
        authority = Authority(tmp_path / "pki")
        own, client = authority.sign("server"), authority.sign("client")
        files = PageSettings(
            tls_cert_file=str(own.certificate),
            tls_key_file=str(own.key),
            tls_client_ca_file=str(authority.file),
        )
        mine = ssl.create_default_context(cafile=authority.file)
        if shown:
            mine.load_cert_chain(client.certificate, client.key)
        async with serving(known, tls=server_context(files, section="page")) as server:
            assert server.url.startswith("https://127.0.0.1:")
            try:
                found = (await ask(server.url, tls=mine)).status
            except (ssl.SSLError, ConnectionError):  # or so; TLS 1.3 refuses after the handshake
                found = ""
        assert found == ("200 OK" if shown else "")
        assert known.asked == int(shown)

    def test_what_is_wrong_is_told_of_the_page(self, tmp_path: Path) -> None:
        files = PageSettings(tls_cert_file=str(tmp_path / "absent"), tls_key_file=str(tmp_path / "absent"))
        with pytest.raises(AdapterError, match=r"page\.tls_cert_file: No such file or directory"):
            server_context(files, section="page")


async def test_a_port_in_use_is_one_line_that_says_what_to_do(known: Knowledge) -> None:
    async with serving(known) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(AdapterError) as refused:
            async with serving(known, port=port):
                pass
    assert str(refused.value) == (
        f"page endpoint 127.0.0.1:{port}: the port is in use; "
        "stop what listens there or choose another page.port"
    )
