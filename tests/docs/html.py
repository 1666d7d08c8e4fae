"""What a built page has: anchors, links, and what a browser would fetch by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

#: Elements and attributes whose addresses a browser fetches without being asked.
FETCHED = {
    ("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"),
    ("iframe", "src"), ("video", "src"), ("audio", "src"), ("embed", "src"), ("object", "data"),
    ("link", "href"), ("use", "href"), ("image", "href"), ("input", "src"),
}  # fmt: skip
#: Of <link>, what is not fetched.
NOT_FETCHED = {"index", "search", "next", "prev", "author", "canonical"}


@dataclass(slots=True)
class Page:
    """Of one HTML file."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    images_without_words: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.page.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        if tag in {"h1", "h2", "h3"}:
            self.page.headings.append(tag)
        if tag == "img" and len(given.get("alt", "").split()) < 4:
            self.page.images_without_words.append(given.get("src", ""))
        self.page.fetched += [
            value
            for name, value in given.items()
            if (tag, name) in FETCHED and not (tag == "link" and given.get("rel") in NOT_FETCHED)
        ]
        self.page.fetched += fetched_by_style(given.get("style", ""))


def read(path: Path) -> Page:
    reader = _Reader()
    reader.feed(path.read_text("utf-8"))
    return reader.page


def fetched_by_style(css: str) -> list[str]:
    """What a style sheet loads: images, fonts, other style sheets."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.findall(r"url\(\s*[\"']?([^)\"']+)", css) + re.findall(r"@import\s+[\"']([^\"']+)", css)
