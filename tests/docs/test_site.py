"""The site as built: every page can be found, every link leads somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import runpy
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from tests.docs.html import Page, fetched_by_style, read

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT).with_suffix(""))
    for path in (*ROOT.glob("docs/**/*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md")
)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: read(path) for path in site.rglob("*.html")}


def test_every_page_is_built_and_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    first = site / "docs/index.html"
    reached = {str((first.parent / urlsplit(link).path).resolve()) for link in pages[first].links}
    for page in PAGES:
        built = (site / page).with_suffix(".html")
        assert built in pages, page
        assert page == "docs/index" or str(built.resolve()) in reached, f"{page} is not in docs/index.md"


def test_the_navigation_has_what_the_first_page_lists() -> None:
    conf = runpy.run_path(str(ROOT / "docs/conf.py"))
    groups = conf["navigation"]((ROOT / "docs/index.md").read_text("utf-8"))
    assert list(groups) == ["Start", "Operate", "Reference", "Understand", "Contribute"]
    listed = [page for group in groups.values() for page in group]
    assert len(listed) == len(set(listed)), "a page is listed twice"
    assert {*PAGES} - {"docs/index"} <= {*listed}


def test_the_root_leads_to_the_first_page(site: Path) -> None:
    assert "docs/index.html" in read(site / "index.html").links
    assert "url=docs/index.html" in (site / "index.html").read_text("utf-8").replace(" ", "")


def test_links_and_anchors_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages.get(target)
            if not target.is_file() or (anchor and known and anchor not in known.anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [(path, address) for path, page in pages.items() for address in page.fetched]
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        loaded += [(path, address) for address in fetched_by_style(path.read_text("utf-8"))]
    assert len(loaded) > len(pages)
    for path, address in loaded:
        parts = urlsplit(address)
        if parts.scheme == "data" or address.startswith("#"):
            continue
        assert not parts.scheme, f"{path.relative_to(site)}: {address}"
        assert not parts.netloc, f"{path.relative_to(site)}: {address}"
        assert (path.parent / unquote(parts.path)).is_file(), f"{path.relative_to(site)}: {address}"


def test_pages_have_one_title_and_pictures_have_words(site: Path, pages: dict[Path, Page]) -> None:
    for page in PAGES:
        found = pages[(site / page).with_suffix(".html")]
        assert found.headings.count("h1") == 1, page
        assert found.images_without_words == [], page


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/images/*.svg")), ids=lambda path: path.stem)
def test_pictures_are_small_and_bring_their_own_paper(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ElementTree.fromstring(text)
    namespace = "{http://www.w3.org/2000/svg}"
    assert len(text) < 20_000
    assert [len(tree.findtext(f"{namespace}{name}", "").split()) > 1 for name in ("title", "desc")] == [
        True
    ] * 2
    assert "prefers-color-scheme: dark" in text
    paper = tree.find(f"{namespace}rect")
    assert paper is not None
    assert paper.get("class") == "paper"
    width, height = int(tree.get("width", "")), int(tree.get("height", ""))
    assert width <= 760
    for element in tree.iter(f"{namespace}text"):
        assert 0 < float(element.get("x", "")) < width, element.text
        assert 0 < float(element.get("y", "")) < height, element.text
    assert not {"script", "image", "foreignObject"} & {
        element.tag.removeprefix(namespace) for element in tree.iter()
    }
