"""Where this machine gets Debian's packages: sources.list(5), one-line `.list` and deb822 `.sources` files.

The test machines take their kernels and their userland from that mirror, whatever its host is called. Only
what is needed to choose it is understood; apt itself does the fetching and verifying.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.vm.programs import VmError

APT_DIRECTORY = Path("/etc/apt")
# A mirror that has one of these has the others. Security mirrors do not, and name their suites differently.
SUITES = frozenset(
    (
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    )
)
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)"
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Debian mirror, and what signs it: paths, fingerprints or a key block; empty: apt's own keys."""

    uri: str
    signed_by: str = ""

    def sources(self, *suites: str) -> str:
        """What a `.sources` file says for these suites of it."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {' '.join(suites)}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def find_mirror(directory: Path = APT_DIRECTORY) -> Mirror:
    """The first Debian mirror apt would use, in apt's order of files."""
    for path in (directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))):
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for mirror in one_line_mirrors(text) if path.suffix == ".list" else deb822_mirrors(text):
                return mirror
    raise VmError(f"no mirror with Debian's main in {directory}/sources.list and sources.list.d: add one")


def one_line_mirrors(text: str) -> Iterator[Mirror]:
    """The Debian mirrors of a `.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None or not _is_debian([match["suite"]], match["components"].split()):
            continue
        options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
        yield Mirror(match["uri"], options.get("signed-by", "").replace(",", " "))


def deb822_mirrors(text: str) -> Iterator[Mirror]:
    """The Debian mirrors of a `.sources` file."""
    for stanza in stanzas(text):
        uris = stanza.get("uris", "").split()
        enabled = stanza.get("enabled", "yes").lower() not in ("no", "false", "without", "off", "disable")
        fits = _is_debian(stanza.get("suites", "").split(), stanza.get("components", "").split())
        if uris and enabled and fits and "deb" in stanza.get("types", "").split():
            yield Mirror(uris[0], stanza.get("signed-by", ""))


def stanzas(text: str) -> Iterator[Mapping[str, str]]:
    """The paragraphs of a deb822 text (`.sources`, Packages): lower-case names, continuation lines kept."""
    fields: dict[str, str] = {}
    name = ""
    for line in (*text.splitlines(), ""):
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line.startswith("#"):
            continue
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()


def _is_debian(suites: list[str], components: list[str]) -> bool:
    return not SUITES.isdisjoint(suites) and "main" in components
