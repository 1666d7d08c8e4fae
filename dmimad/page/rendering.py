"""HTML from the templates of this folder.

Source: Jinja2's documentation.  Whatever comes from a table is escaped (autoescape) and made visible
(`shown`); what a template names and nobody has is an error, not an empty place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from dmimad.page.overview import SEVERITIES, VERDICTS, Level
from dmimad.page.texts import moment_tag, plain, shown, span, told, utc

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_ETAG_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that is served as it is."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Page:
    """HTML, and a tag that is another one when a reader would see something else."""

    body: bytes
    etag: str


def assets() -> dict[str, Asset]:
    """Style sheet, script and icons, by their paths."""
    found = {}
    for entry in sorted(files("dmimad.page").joinpath("static").iterdir(), key=lambda entry: entry.name):
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            found[f"/static/{entry.name}"] = Asset(entry.read_bytes(), kind)
    return found


class Renderer:
    """Renders pages; `version` of the daemon stands on each."""

    def __init__(self, version: str, served: Mapping[str, Asset]) -> None:
        environment = Environment(
            loader=PackageLoader("dmimad.page"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(shown=shown, told=told, plain=plain, moment=moment_tag, span=span, utc=utc)
        environment.globals.update(Level=Level, severities=SEVERITIES, verdicts=VERDICTS)
        digest = hashlib.sha256(b"".join(asset.body for asset in served.values())).hexdigest()
        self._common = {"version": version, "assets": digest[:12]}
        self._templates = {
            name: environment.get_template(name)
            for name in ("layout.html", "index.html", "device.html", "message.html", "macros.html")
        }

    def page(
        self, template: str, *, title: str, host: str, time: str, level: Level, **values: object
    ) -> Page:
        """A page; its tag depends on what is in the main part, not on the time it was made."""
        main = self._templates[template].render(**self._common, host=host, **values)
        about = f"{self._common}\0{title}\0{level}\0{main}"
        etag = hashlib.sha256(about.encode()).hexdigest()[:_ETAG_DIGITS]
        html = self._templates["layout.html"].render(
            **self._common, main=main, title=title, host=host, time=time, level=level, etag=etag
        )
        return Page(html.encode(), f'"{etag}"')
