"""Debian's Chromium, driven by Playwright, and what a test wants to know of the pages it has loaded."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import find_program

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: Nothing of the browser's own goes to the network, and no name is known to it but this host's.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*, EXCLUDE localhost",
)
DEADLINE_MS = 20_000.0
DESKTOP, PHONE = (1280, 900), (390, 844)

_LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""


def need_browser() -> str:
    """Chromium's path; skips where there is none, or no Playwright for this Python."""
    chromium = find_program("chromium", "chromium")
    for module in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            message = f"{module} is not installed; there may be none for this Python"
            if os.environ.get("DMIMAD_REQUIRE_PROGRAMS"):
                pytest.fail(message)
            pytest.skip(message)
    return chromium


@dataclass
class Visit:
    """A page as it is in the browser, and everything that it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hosts(self) -> set[str | None]:
        """Whom anything was asked of."""
        return {urlsplit(url).hostname for url in self.requests}

    async def violations(self) -> list[str]:
        """What the content security policy has forbidden."""
        return list(await self.page.evaluate("window.violations"))

    async def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    async def live(self) -> None:
        """Until its script runs."""
        await self.page.wait_for_selector("html.is-live")

    async def until(self, selector: str, text: str) -> None:
        """Until that is to be read there."""
        found = self.page.locator(selector)
        await found.filter(has_text=re.compile(text)).wait_for(state="attached", timeout=DEADLINE_MS)

    async def text(self, selector: str) -> str:
        """What is to be read there, spaces and line ends as one space."""
        return " ".join((await self.page.locator(selector).inner_text()).split())


@asynccontextmanager
async def launched(chromium: str) -> AsyncIterator[Browser]:
    """The browser."""
    from playwright.async_api import async_playwright  # noqa: PLC0415  # there may be none

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    script: bool = True,
    **context: Any,
) -> AsyncIterator[Visit]:
    """A window of its own at this page, which has loaded."""
    own = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        java_script_enabled=script,
        **context,
    )
    try:
        page = await own.new_page()
        visit = Visit(page)
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on(
            "console",
            lambda message: visit.complaints.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        await page.add_init_script(_LISTEN)
        await page.goto(url)
        yield visit
    finally:
        await own.close()


async def problems(visit: Visit) -> list[str]:
    """What axe-core finds, of importance or not."""
    from axe_playwright_python.async_playwright import Axe  # noqa: PLC0415  # as above

    found = (await Axe().run(visit.page)).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found
    ]
