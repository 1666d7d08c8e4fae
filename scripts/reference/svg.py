"""A few shapes of SVG, in one style that is legible in light and dark.

A drawing brings its own background, because the page around it may be of either scheme; it follows what the
reader's system prefers.  Text is text, so it can be searched and read aloud.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

STYLE = """
  .paper { fill: #fbfbf9; stroke: #d5d8d3; }
  .box { fill: #ffffff; stroke: #59636b; stroke-width: 1.5; }
  .frame { fill: none; stroke: #8a949b; stroke-width: 1.5; stroke-dasharray: 5 4; }
  .full { fill: #0b6aa8; stroke: #0b6aa8; }
  .other { fill: #b3420b; stroke: #b3420b; }
  .void { fill: none; stroke: #59636b; stroke-dasharray: 3 3; }
  .line { fill: none; stroke: #59636b; stroke-width: 1.6; }
  .weak { fill: none; stroke: #8a949b; stroke-width: 1.2; stroke-dasharray: 4 4; }
  .dot { fill: #59636b; stroke: #59636b; }
  text { font-family: system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
  text { font-size: 14px; fill: #1d2429; }
  .title { font-weight: 600; }
  .small { font-size: 12.5px; }
  .faint { font-size: 12.5px; fill: #4d575e; }
  .on { fill: #ffffff; font-weight: 600; }
  .bad { fill: #a33a08; font-weight: 600; }
  .good { fill: #09598d; font-weight: 600; }
  .arrow { fill: #59636b; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #171b1e; stroke: #343b40; }
    .box { fill: #20262a; stroke: #9aa5ac; }
    .frame, .weak { stroke: #6f7a81; }
    .full { fill: #2472a8; stroke: #2472a8; }
    .other { fill: #b9500f; stroke: #b9500f; }
    .void { stroke: #9aa5ac; }
    .line { stroke: #9aa5ac; }
    .dot { fill: #9aa5ac; stroke: #9aa5ac; }
    text { fill: #e4e8ea; }
    .faint { fill: #a9b3b9; }
    .on { fill: #ffffff; }
    .bad { fill: #f29a63; }
    .good { fill: #79c0ee; }
    .arrow { fill: #9aa5ac; }
  }
"""
ARROW = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7.5" markerHeight="7.5" '
    'orient="auto-start-reverse"><path class="arrow" d="M0 0.8 L10 5 L0 9.2 z"/></marker>'
)


def drawing(width: int, height: int, title: str, description: str, shapes: Iterable[str]) -> str:
    """A whole file; `title` and `description` are what is read aloud."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f"<style>{STYLE}</style>",
        f"<defs>{ARROW}</defs>",
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>',
        *shapes,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def rect(x: float, y: float, width: float, height: float, kind: str = "box", radius: float = 8) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """One line, `y` is its base line."""
    style = f" class={quoteattr(kind)}" if kind else ""
    return f'<text{style} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def line(path: str, kind: str = "line", *, arrow: bool = True) -> str:
    """Along `path`, as SVG writes paths; with an arrow at its end."""
    head = ' marker-end="url(#head)"' if arrow else ""
    return f'<path class="{kind}" d="{path}"{head}/>'


def dot(x: float, y: float, radius: float, kind: str = "dot") -> str:
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'
