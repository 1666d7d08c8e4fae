"""The site in a browser: fits a phone, is fit for everybody as far as axe-core can tell, and asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import find_program

ROOT = Path(__file__).parents[2]
#: Of each kind one: words, pictures, wide tables, code, lists.
PAGES = ("docs/index", "docs/why", "docs/reference/metrics", "docs/install")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        program = find_program("chromium", "chromium")
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_nothing_serious_is_found_by_axe(
    site: Path, browser: Browser, scheme: Literal["light", "dark"], width: int
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    page = context.new_page()
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        serious = [
            (violation["id"], violation["nodes"][0]["html"])
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
        assert serious == [], name
    context.close()


#: Texts that are wider than the box they begin in, or than the paper.
TOO_WIDE = """() => {
  const boxes = [...document.querySelectorAll("rect:not(.frame)")].map(rect => rect.getBBox());
  const within = (box, x, y) => box.x <= x && x <= box.x + box.width && box.y <= y && y <= box.y + box.height;
  return [...document.querySelectorAll("text")].filter(text => {
    const its = text.getBBox(), middle = its.y + its.height / 2;
    const around = boxes.filter(box => within(box, its.x + its.width / 3, middle));
    return around.some(box => its.x < box.x || box.x + box.width < its.x + its.width);
  }).map(text => text.textContent);
}"""


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/images/*.svg")), ids=lambda path: path.stem)
def test_words_fit_into_the_pictures(browser: Browser, path: Path) -> None:
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate(TOO_WIDE) == []
    page.close()


def test_pages_fit_a_phone_and_ask_nobody(site: Path, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_load_state("networkidle")
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), name
    assert len(asked) > len(PAGES)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()
