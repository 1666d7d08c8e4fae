"""Pictures of the page for the documentation: always the same host, at the same time.

``make screenshots`` writes them; otherwise it is only seen that they can be made, and that those in the
documentation are there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

import dmimad
from tests.page.browser import DESKTOP, PHONE, launched, need_browser, visiting
from tests.page.scene import NOW, knowledge
from tests.page.serving import serving

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGES = Path(dmimad.__file__).parent.parent / "docs" / "images"
MAX_BYTES = 250_000
#: File -> path, window, dark or light, and how much of it, in pixels from above (None: all).
PICTURES: dict[str, tuple[str, tuple[int, int], bool, int | None]] = {
    "page-index-light.png": ("", DESKTOP, False, 1100),
    "page-device-dark.png": ("device/253:5", DESKTOP, True, 1595),
    "page-phone.png": ("", PHONE, False, 1100),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched(need_browser()) as running:
        yield running


@pytest.mark.parametrize("name", PICTURES)
async def test_it_can_be_taken(browser: Browser, name: str, tmp_path: Path) -> None:
    path, size, dark, height = PICTURES[name]
    wanted = os.environ.get("DMIMAD_SCREENSHOTS")
    file = (IMAGES if wanted else tmp_path) / name
    file.parent.mkdir(exist_ok=True)
    async with serving(knowledge()) as server, visiting(browser, server.url, size=size, dark=dark) as visit:
        await visit.page.clock.set_fixed_time(datetime.fromtimestamp(NOW, UTC))
        await visit.page.goto(server.url + path)
        await visit.live()
        clip = (
            None if height is None else {"x": 0.0, "y": 0.0, "width": float(size[0]), "height": float(height)}
        )
        await visit.page.screenshot(path=file, full_page=True, clip=clip, animations="disabled")  # type: ignore[arg-type]  # a FloatRect is one
    assert 10_000 < file.stat().st_size < MAX_BYTES
    assert (IMAGES / name).exists(), "make screenshots"
