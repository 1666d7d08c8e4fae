"""The page of the real daemon: followed in a browser while the list grows, and when it cannot be served."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from dmimad.adapters.control.client import ask as ask_control
from tests.broker import free_port
from tests.certificates import Authority, Signed
from tests.core.kernel import Kernel, linear
from tests.core.lists import ascii_list
from tests.page.browser import launched, need_browser, problems, visiting
from tests.page.documents import HOSTILE
from tests.page.serving import ask
from tests.service.daemon_process import DaemonProcess, prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Of lvm-6.1: image-ro is there as it was approved; it is a plain mapping of the same disk.
GOOD_RECORDS, SWAPPED_RECORDS = 578, 581
IMAGE_HASH = "sha256:f3b63d8ad43b78d4e5f2ffefe47f43b06e9d78e8fb5dfabb71c02368779a4e71"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched(need_browser()) as running_one:
        yield running_one


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Without a broker."""
    made = Host(tmp_path / "host", free_port())
    made.configure(mqtt={"enabled": False}, baseline={"unexpected_devices": False})
    return made


async def page_of(daemon: DaemonProcess, count: int = 1) -> str:
    return str((await daemon.wait_for_log("page_listening", count))["url"])


async def refused(host: Host) -> dict[str, Any]:
    """What the status says is not in force, and why."""
    return {each["what"]: each["reason"] for each in (await status_of(host))["refused"]}


async def status_of(host: Host) -> Any:
    """What `dmimad status` gets."""
    return (await asyncio.to_thread(ask_control, host.socket, {"request": "status"}))["status"]


class TestInABrowser:
    async def test_an_attack_is_seen_as_it_happens(self, browser: Browser, host: Host, corpus: Path) -> None:
        records = ascii_records(corpus / "lvm-6.1")
        host.approve(entry("image-ro", [IMAGE_HASH]))
        host.append(b"".join(records[:GOOD_RECORDS]))
        async with running(host.settings) as daemon:
            url = await page_of(daemon)
            await host.settled(GOOD_RECORDS)
            async with visiting(browser, url) as visit:
                await visit.live()
                await visit.until(".devices", "image-ro 253:5")
                await visit.page.evaluate("window.mark = 1")
                host.append(b"".join(records[GOOD_RECORDS:SWAPPED_RECORDS]))
                await visit.until("#verdict", "^1 alert fires, 1 device is in drift$")
                assert await visit.page.title() == "(1) web-1 – dmimad"
                assert await visit.page.evaluate("window.mark") == 1, "it was loaded again"
                assert "image-ro 253:5" in await visit.text(".devices tbody tr:first-child")
                await visit.page.click(".alerts a")
                await visit.live()
                assert await visit.text("#verdict") == "In drift, 1 alert fires"
                assert IMAGE_HASH in await visit.text(".compare .differs")
                assert await visit.page.locator(".timeline .bar.bad").count() > 0
                assert await problems(visit) == []
                assert (await visit.violations(), visit.complaints) == ([], [])
                assert {urlsplit(each).netloc for each in visit.requests} == {urlsplit(url).netloc}
                await daemon.kill()
                await visit.page.wait_for_selector("html.is-stale")
                await visit.until("#live", r"^no answer for [0-9]+ s$")
                assert await visit.text("#verdict") == "In drift, 1 alert fires"

    async def test_hostile_names_from_the_list(self, browser: Browser, host: Host) -> None:
        kernel = Kernel()
        for number, name in enumerate(name for name in HOSTILE if name and "\x00" not in name):
            kernel.create(name.encode()[:127], (linear(8 * number),))
        kernel.create(b"\xff\xfe<b>", (linear(4096),))
        host.append(ascii_list(kernel.items))
        async with running(host.settings) as daemon:
            url = await page_of(daemon)
            await host.settled(len(kernel.items))
            async with visiting(browser, url) as visit:
                names = await visit.page.locator(".devices th a").all_inner_texts()
                assert {"<script>alert(1)</script>", "evil\\u202egnp.exe", "\\xff\\xfe<b>"} <= set(names)
                links = await visit.page.locator(".devices th a").evaluate_all(
                    "each => each.map((a) => a.href)"
                )
                assert len(links) == len(kernel.devices)
                for link in links:
                    await visit.page.goto(link)
                    await visit.live()
                    assert await visit.page.locator("main script, main img, main b").count() == 0
                    assert await visit.overflow() == 0
                assert (await visit.violations(), visit.complaints) == ([], [])

    async def test_documents_are_those_of_status(self, host: Host, corpus: Path) -> None:
        host.append(b"".join(ascii_records(corpus / "lvm-6.1")))
        async with running(host.settings) as daemon:
            url = await page_of(daemon)
            await host.settled(612)
            found = (await ask(url, "/status.json")).body
            told = await status_of(host)
        timeless = {"time": "", "list": ""}
        assert {**json.loads(found), **timeless} == {**told, **timeless}


class TestCannotBeServed:
    async def test_monitoring_goes_on_until_the_port_is_free(self, host: Host, corpus: Path) -> None:
        records = ascii_records(corpus / "systematic-6.1")
        with socket.create_server(("127.86.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            host.configure(page={"address": "127.86.0.1", "port": port})
            host.append(b"".join(records[:4]))
            async with running(host.settings) as daemon:
                told = await daemon.wait_for_log("page_unavailable")
                await host.settled(4)
                assert told["problem"] == (
                    f"page endpoint 127.86.0.1:{port}: the port is in use; "
                    "stop what listens there or choose another page.port"
                )
                assert await refused(host) == {"page": told["problem"]}
                assert await daemon.metric("dmimad_config_last_reload_successful") == 0
                await daemon.reload()
                taken.close()
                url = await page_of(daemon)
                assert (await ask(url)).status == "200 OK"
                assert await refused(host) == {}
                assert len(daemon.logged("page_unavailable")) == 1

    async def test_nor_do_files_keep_it_from_monitoring(
        self, host: Host, tmp_path: Path, corpus: Path
    ) -> None:
        records = ascii_records(corpus / "systematic-6.1")
        absent = str(tmp_path / "absent")
        host.configure(page={"tls_cert_file": absent, "tls_key_file": absent})
        host.append(b"".join(records[:4]))
        async with running(host.settings) as daemon:
            told = await daemon.wait_for_log("page_unavailable")
            await host.settled(4)
            assert told["problem"].startswith(f"{absent}: page.tls_cert_file: No such file or directory; ")
            assert await refused(host) == {"page": told["problem"]}

    async def test_an_address_that_nobody_knows(self, host: Host, corpus: Path) -> None:
        host.configure(page={"address": "web-1.invalid", "allow_anyone": True})
        host.append(b"".join(ascii_records(corpus / "systematic-6.1")[:4]))
        async with running(host.settings) as daemon:
            await host.settled(4)
            told = await daemon.wait_for_log("page_unavailable")
            assert "the address is not known" in told["problem"]
            assert "correct page.address" in told["problem"]

    async def test_not_to_be_served(self, host: Host) -> None:
        host.configure(page={"enabled": False})
        async with running(host.settings) as daemon:
            await daemon.reload()
            assert not daemon.logged("page_listening")
            assert await refused(host) == {}

    @pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "web-1.example.org"])
    async def test_not_for_everybody_unless_that_is_said(self, host: Host, address: str) -> None:
        host.configure(page={"address": address})
        async with prepared(host.settings) as daemon:
            status, told = await daemon.run_to_end()
        assert status == 2
        assert told.endswith(
            f"page.address: would show the page to everybody who reaches {address}; demand certificates of "
            "them (tls_client_ca_file), or allow it with allow_anyone = true"
        )


class TestCertificates:
    @pytest.fixture
    def served(self, host: Host, tmp_path: Path) -> tuple[Authority, Signed, ssl.SSLContext]:
        """The CA, the host's certificate, and a browser's with its own."""
        authority = Authority(tmp_path / "pki")
        server, browser = authority.sign("server"), authority.sign("browser")
        context = ssl.create_default_context(cafile=authority.file)
        context.load_cert_chain(browser.certificate, browser.key)
        host.configure(
            page={
                "tls_cert_file": str(server.certificate),
                "tls_key_file": str(server.key),
                "tls_client_ca_file": str(authority.file),
            }
        )
        return authority, server, context

    async def test_a_reload_takes_others_and_keeps_the_last_good_ones(
        self, host: Host, served: tuple[Authority, Signed, ssl.SSLContext]
    ) -> None:
        authority, server, context = served
        async with running(host.settings) as daemon:
            url = await page_of(daemon)
            assert (await ask(url, host="web-1.example.org", tls=context)).status == "200 OK"
            before = await shown(url, context)
            authority.sign("server")
            await daemon.reload()
            after = await shown(url, context)
            assert before != after
            server.certificate.write_text("no certificate")
            await daemon.reload()
            assert await shown(url, context) == after
            assert (await daemon.wait_for_log("files_refused"))["use"] == "page"
            assert set(await refused(host)) == {"page"}
            authority.sign("server")
            await daemon.reload()
            assert await shown(url, context) not in (before, after)
            assert await refused(host) == {}
            assert not daemon.logged("restart_needed")

    async def test_what_waits_for_a_restart_opens_no_door_before(
        self, host: Host, served: tuple[Authority, Signed, ssl.SSLContext]
    ) -> None:
        """From now on for this host alone and without certificates; until a restart it is as it was."""
        _, _, context = served
        host.configure(page={"address": "0.0.0.0"})
        async with running(host.settings) as daemon:
            url = (await page_of(daemon)).replace("0.0.0.0", "127.0.0.1")
            files = dict.fromkeys(("tls_cert_file", "tls_key_file", "tls_client_ca_file"))
            host.configure(page={"address": "127.0.0.1", **files})
            await daemon.reload()
            assert (await daemon.wait_for_log("restart_needed"))["sections"] == ["page"]
            assert (await ask(url, tls=context)).status == "200 OK"
            assert (await ask(url)).status == ""


async def shown(url: str, context: ssl.SSLContext) -> bytes:
    """The certificate that a browser gets to see."""
    found = urlsplit(url)
    async with asyncio.timeout(60):
        _, writer = await asyncio.open_connection(found.hostname, found.port, ssl=context)
        try:
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return certificate
        finally:
            writer.transport.abort()
