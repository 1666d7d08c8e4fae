"""The status page in a real browser: read, followed, and attacked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.page.browser import DESKTOP, PHONE, launched, need_browser, problems, visiting
from tests.page.documents import (
    BAD_HASH,
    GOOD_HASH,
    HOSTILE,
    alert,
    change,
    detail,
    device,
    recent,
    row,
    status,
)
from tests.page.serving import Knowledge, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
#: What stands out of the box that it is in.
_OUTSIDE = """() => [...document.querySelectorAll("main section")].flatMap((section) => {
  const edge = section.getBoundingClientRect().right + 1;
  return [...section.querySelectorAll("bdi, code, .badge")].filter(
    (each) => !each.closest(".scroll") && each.getBoundingClientRect().right > edge
  ).map((each) => each.outerHTML.slice(0, 200));
})"""
COLOURS = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched(need_browser()) as running:
        yield running


def hostile() -> Knowledge:
    """Every name that is worse than the one before, on both pages."""
    verdicts = ("drift", "unexpected", "approved", "unknown")
    devices = [
        device(name, f"253:{at}", verdicts[at % 4], suspended=at % 2 == 0) for at, name in enumerate(HOSTILE)
    ]
    alerts = [alert(name, f"253:{at}", count=at + 1) for at, name in enumerate(HOSTILE)]
    told = [recent(name, f"253:{at}") for at, name in enumerate(HOSTILE)]
    known = Knowledge(status(devices, alerts, recent=told, host='<b>"host'))
    for at, name in enumerate(HOSTILE):
        known.devices[f"253:{at}"] = detail(
            name,
            history=[change("2026-11-24T06:30:11.000Z", "active", types=[name, "linear"], event=name)],
            tables=[
                {
                    **detail()["tables"][0],
                    "baseline": name,
                    "rows": [row(name or "x", name, name + "x"), row("long", "a" * 4096, None)],
                }
            ],
        )
    return known


def ordinary() -> Knowledge:
    devices = [
        device(verdict="drift"),
        device("vg0-data", "253:1", "unexpected"),
        device("swap", "253:2", "unknown"),
        device("vg0-root", "253:3"),
    ]
    return Knowledge(
        status(
            devices,
            [alert(), alert("vg0-data", "253:1", code="device.unexpected", severity="warning")],
            recent=[recent(), recent(status="resolved")],
            maintenance=[
                {"id": "1", "device": "vg0-*", "reason": "disks", "by": "root", "since": "", "until": ""}
            ],
            refused=[{"what": "page", "reason": "the port is in use", "since": ""}],
        )
    )


class TestLooks:
    @SIZES
    @COLOURS
    @pytest.mark.parametrize("path", ["/", "/device/253:5", "/device/253:99"])
    async def test_nothing_is_hard_to_use(
        self, browser: Browser, size: tuple[int, int], dark: bool, path: str
    ) -> None:
        async with (
            serving(ordinary()) as server,
            visiting(browser, server.url.rstrip("/") + path, size=size, dark=dark) as visit,
        ):
            await visit.live()
            assert await problems(visit) == []
            assert await visit.overflow() == 0

    @SIZES
    async def test_hostile_names_are_text_and_keep_to_their_place(
        self, browser: Browser, size: tuple[int, int]
    ) -> None:
        async with serving(hostile()) as server, visiting(browser, server.url, size=size) as visit:
            await visit.live()
            assert await problems(visit) == []
            for path in ("", *(f"device/253:{at}" for at in range(len(HOSTILE)))):
                await visit.page.goto(server.url + path)
                await visit.live()
                assert await visit.overflow() == 0
                assert await visit.page.locator("main img, main script, main b").count() == 0
                assert (await visit.violations(), visit.complaints) == ([], [])
                assert await visit.page.evaluate(_OUTSIDE) == []
            assert visit.hosts() == {"127.0.0.1"}

    @pytest.mark.parametrize("path", ["", "device/253:5"])
    async def test_on_paper(self, browser: Browser, path: str) -> None:
        """Dark on light, whatever the screen is like."""
        async with (
            serving(ordinary()) as server,
            visiting(browser, server.url + path, dark=True) as visit,
        ):
            await visit.live()
            await visit.page.emulate_media(media="print")
            assert await visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
                "rgb(255, 255, 255)"
            )
            assert await problems(visit) == []

    async def test_names_are_read_as_they_are(self, browser: Browser) -> None:
        async with serving(hostile()) as server, visiting(browser, server.url) as visit:
            names = {
                name.replace("\u00a0", " ")
                for name in await visit.page.locator(".devices th a").all_inner_texts()
            }
        assert {"<script>alert(1)</script>", "evil\\u202egnp.exe", "&lt;b&gt; &amp;", "(no name)"} <= names
        assert "nul\\x00 esc\\x1b[31m nl\\x0ax" in names

    async def test_a_long_history_scrolls_in_its_own_place(self, browser: Browser) -> None:
        known = ordinary()
        known.devices["253:5"] = detail(
            history=[
                change(
                    f"2026-11-01T00:{at // 60:02}:{at % 60:02}.000Z",
                    ("active", "inactive")[at % 2],
                    (GOOD_HASH, BAD_HASH)[at // 2 % 2],
                )
                for at in range(200)
            ]
        )
        async with (
            serving(known) as server,
            visiting(browser, f"{server.url}device/253:5", size=PHONE) as visit,
        ):
            await visit.live()
            assert await visit.overflow() == 0
            chart = visit.page.locator(".chart")
            wide = await chart.evaluate("each => each.scrollWidth - each.clientWidth")
            assert wide > 1000
            assert not await visit.page.locator("#changes").evaluate("each => each.open")
            assert await problems(visit) == []

    async def test_the_keyboard_reaches_everything(self, browser: Browser) -> None:
        async with serving(ordinary()) as server, visiting(browser, server.url) as visit:
            await visit.live()
            await visit.page.keyboard.press("Tab")
            assert await visit.page.evaluate("document.activeElement.className") == "skip"
            await visit.page.keyboard.press("Enter")
            assert await visit.page.evaluate("document.activeElement.id") == "main"
            await visit.page.keyboard.press("Tab")
            assert await visit.page.evaluate("document.activeElement.getAttribute('href')") == "/device/253:5"
            outline = await visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"


class TestWithoutScript:
    async def test_everything_is_there(self, browser: Browser) -> None:
        async with serving(ordinary()) as server, visiting(browser, server.url, script=False) as visit:
            assert await visit.text("#verdict") == (
                "2 alerts fire, 1 device is in drift, not everything that is set is in force"
            )
            assert "image-ro 253:5" in await visit.text(".devices tbody tr:first-child")
            assert "2026-11-30 03:12:09 UTC" in await visit.text(".devices tbody tr:first-child")
            again = visit.page.locator('meta[http-equiv="refresh"]')
            assert await again.get_attribute("content") == "10"
            assert await visit.text("#live") == "as of 2026-11-30 03:14:00 UTC"
            await visit.page.click("text=image-ro >> nth=0")
            assert "≠ differs" in await visit.text(".compare")
            assert await visit.page.locator("svg.timeline .bar").count() == 4
            assert visit.hosts() == {"127.0.0.1"}


class TestLive:
    async def test_what_changes_is_put_in_its_place(self, browser: Browser) -> None:
        known = ordinary()
        async with serving(known) as server, visiting(browser, f"{server.url}device/253:5") as visit:
            await visit.live()
            await visit.page.evaluate("window.mark = 1")
            await visit.page.click("summary")
            await visit.page.focus("summary")
            await visit.page.evaluate("window.scrollTo(0, 300)")
            assert not await visit.page.locator("#changes").evaluate("each => each.open")
            known.now += 1000
            known.devices["253:5"] = detail(
                device=device(),
                alerts=[],
                history=[*detail()["history"], change("2026-11-30T03:20:00Z", "active")],
            )
            await visit.until("#verdict", "^As approved$")
            assert await visit.page.title() == "image-ro – web-1 – dmimad"
            assert await visit.page.evaluate("window.mark") == 1
            assert not await visit.page.locator("#changes").evaluate("each => each.open")
            assert await visit.page.evaluate("document.activeElement.tagName") == "SUMMARY"
            assert await visit.page.evaluate("window.scrollY") > 0
            assert await visit.text("#announce") == "As approved"
            assert "icon-good" in str(await visit.page.locator('link[rel="icon"]').get_attribute("href"))
            assert "7 changes" in await visit.text("summary")
            assert (await visit.violations(), visit.complaints) == ([], [])

    async def test_a_device_that_has_gone(self, browser: Browser) -> None:
        known = ordinary()
        async with serving(known) as server, visiting(browser, f"{server.url}device/253:5") as visit:
            await visit.live()
            known.now += 1000
            del known.devices["253:5"]
            await visit.page.wait_for_selector("text=There is no device 253:5 now")
            known.devices["253:5"] = detail()
            known.now += 1000
            await visit.page.wait_for_selector("#verdict")

    async def test_no_news_costs_nothing(self, browser: Browser) -> None:
        known = ordinary()
        async with serving(known) as server, visiting(browser, server.url) as visit:
            await visit.live()
            statuses: list[int] = []
            visit.page.on("response", lambda response: statuses.append(response.status))
            async with visit.page.expect_response(server.url):
                pass
            async with visit.page.expect_response(server.url):
                pass
            assert set(statuses) == {304}

    async def test_silence_is_told_and_its_end(self, browser: Browser) -> None:
        known = ordinary()
        # An address of its own, so that nobody else is given its port in between.
        async with serving(known, address="127.84.0.1") as server:
            port = int(server.url.rstrip("/").rpartition(":")[2])
            async with visiting(browser, server.url) as visit:
                await visit.live()
                await server.stop()
                await visit.page.wait_for_selector("html.is-stale")
                await visit.until("#live", r"^no answer for [0-9]+ s$")
                assert await visit.text("#announce") == "The daemon does not answer."
                assert await problems(visit) == []
                async with serving(known, address="127.84.0.1", port=port):
                    await visit.page.wait_for_selector("html.is-live:not(.is-stale)")
                    assert (await visit.text("#live")).startswith("live, as of 2026-11-30 03:14:02 UTC")
                    assert await visit.text("#announce") == "The daemon answers again."

    async def test_a_hidden_tab_does_not_ask(self, browser: Browser) -> None:
        async with serving(ordinary()) as server, visiting(browser, server.url) as visit:
            await visit.live()
            async with visit.page.expect_response(server.url):
                pass
            await visit.page.evaluate(
                "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )
            visit.requests.clear()
            await visit.page.wait_for_timeout(3000)  # longer than from one question to the next
            assert visit.requests == []
            async with visit.page.expect_response(server.url):
                await visit.page.evaluate(
                    "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
                )


class TestOtherSites:
    async def test_none_can_embed_or_read_it(self, browser: Browser) -> None:
        """What a site of somebody else's, in the same browser, gets of it: nothing."""
        async with serving(ordinary()) as server, serving(Knowledge(), address="127.85.0.1") as other:
            async with visiting(browser, other.url, bypass_csp=True) as visit:
                target = server.url
                read = await visit.page.evaluate(
                    "(url) => fetch(url).then((answer) => answer.text(), () => 'refused')", target
                )
                blind = await visit.page.evaluate(
                    "(url) => fetch(url, {mode: 'no-cors'}).then(() => 'loaded', () => 'refused')", target
                )
                embed = """(url) => new Promise((done) => {
                    const frame = document.createElement("iframe");
                    frame.onload = done;
                    frame.src = url;
                    document.body.append(frame);
                })"""
                await visit.page.evaluate(embed, server.url)
                (frame,) = [each for each in visit.page.frames if each != visit.page.main_frame]
                assert await frame.locator("#verdict").count() == 0
            assert (read, blind) == ("refused", "refused")
