"""What is approved: baseline files, parsed strictly, and which entry speaks for a device.

Source: the project's own format, ``docs/baseline.md``.

A baseline is a TOML document, ``version = 1`` and a list of ``[[device]]`` entries.  What this
version cannot enforce it refuses, so that no line of a baseline is ever silently without effect.
Nothing here reads files or compares tables (`drift`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate

from dmimad.core.errors import BaselineError
from dmimad.core.event import printable

#: Size limits of one file, against a file that is not meant for us.
MAX_BASELINE_BYTES = 4 << 20
MAX_ENTRIES = 10_000

_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_WILDCARD = re.compile(r"[*?\[]")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_ENTRY_KEYS = ("name", "uuid", "required", "hashes")
_LATER_KEYS = ("fingerprints", "target")


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``[[device]]``: which devices it speaks for and what it approves.

    ``hashes`` empty: the device is expected, its tables are not looked at.
    ``origin`` is ``file:line`` of the entry.
    """

    name: str
    uuid: str
    required: bool
    hashes: frozenset[bytes]
    origin: str
    name_pattern: re.Pattern[str]
    uuid_pattern: re.Pattern[str]

    @property
    def label(self) -> str:
        """What to call the entry: its name, or its uuid."""
        return self.name or self.uuid

    def matches(self, name: str, uuid: str) -> bool:
        """Whether the entry speaks for a device of this name and uuid."""
        return (not self.name or self.name_pattern.fullmatch(name) is not None) and (
            not self.uuid or self.uuid_pattern.fullmatch(uuid) is not None
        )

    @property
    def is_exact(self) -> bool:
        """Whether the entry names its device without a wildcard."""
        return any(pattern and not _WILDCARD.search(pattern) for pattern in (self.name, self.uuid))

    @property
    def specificity(self) -> tuple[int, int]:
        """Entries with fewer wildcards come first, then those with more literal text."""
        patterns = [pattern for pattern in (self.name, self.uuid) if pattern]
        exact = sum(not _WILDCARD.search(pattern) for pattern in patterns)
        return exact, sum(len(re.sub(r"\[[^]]*\]|[*?]", "", pattern)) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Baseline:
    """All entries of all files.  Without entries nothing is approved and nothing can drift."""

    entries: tuple[Entry, ...] = ()

    def entry_for(self, name: bytes, uuid: bytes) -> Entry | None:
        """The most specific entry for a device; those equally specific are taken together."""
        shown_name, shown_uuid = printable(name), printable(uuid)
        matching = [entry for entry in self.entries if entry.matches(shown_name, shown_uuid)]
        if not matching:
            return None
        best = max(entry.specificity for entry in matching)
        first, *others = [entry for entry in matching if entry.specificity == best]
        if not others:
            return first
        hashes = first.hashes.union(*(entry.hashes for entry in others))
        required = any(entry.required for entry in (first, *others))
        return Entry(
            first.name, first.uuid, required, hashes, first.origin, first.name_pattern, first.uuid_pattern
        )


def parse_baseline(text: str, file: str) -> Baseline:
    """The text of one baseline file -> its entries.

    Raises:
        BaselineError: with file, line, key and reason, if any part is not understood.
    """
    if len(text) > MAX_BASELINE_BYTES:
        raise BaselineError(file, f"larger than {MAX_BASELINE_BYTES} bytes")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        reason = _TOML_LINE.sub("", str(error)).strip()
        raise BaselineError(file, reason, line=int(found[1]) if found else None) from error
    return _read_document(document, file, text.splitlines())


def merge(baselines: Iterable[Baseline]) -> Baseline:
    """Several files are one baseline."""
    return Baseline(tuple(entry for baseline in baselines for entry in baseline.entries))


def _read_document(document: Mapping[str, object], file: str, lines: list[str]) -> Baseline:
    for key in document:
        if key not in ("version", "device"):
            raise BaselineError(
                file, _unknown(key, ("version", "device")), key=key, line=_line_of(lines, key)
            )
    if document.get("version") != 1 or document.get("version") is True:
        raise BaselineError(file, "must be 1", key="version", line=_line_of(lines, "version"))
    entries = document.get("device", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BaselineError(
            file, "entries are written [[device]]", key="device", line=_line_of(lines, "device")
        )
    if len(entries) > MAX_ENTRIES:
        raise BaselineError(file, f"more than {MAX_ENTRIES} entries", key="device")
    starts = [number for number, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*device\s*\]\]", line)]
    starts += [1] * (len(entries) - len(starts))
    return Baseline(
        tuple(_read_entry(entry, file, lines, start) for entry, start in zip(entries, starts, strict=False))
    )


def _read_entry(entry: Mapping[str, object], file: str, lines: list[str], start: int) -> Entry:
    def refuse(key: str, reason: str) -> BaselineError:
        return BaselineError(file, reason, key=f"device.{key}", line=_line_of(lines, key, start))

    for key in entry:
        if key in _LATER_KEYS:
            raise refuse(key, "not supported by this version; approve table hashes with `hashes`")
        if key not in _ENTRY_KEYS:
            raise refuse(key, _unknown(key, _ENTRY_KEYS))
    texts = {}
    for key in ("name", "uuid"):
        value = entry.get(key, "")
        if not isinstance(value, str) or (key in entry and not value):
            raise refuse(key, "must be a text, or left out")
        texts[key] = value
    if not texts["name"] and not texts["uuid"]:
        raise BaselineError(file, "needs a name or a uuid", key="device", line=start)
    required = entry.get("required", False)
    if not isinstance(required, bool):
        raise refuse("required", "must be true or false")
    hashes = entry.get("hashes", [])
    if not isinstance(hashes, list) or not all(isinstance(value, str) for value in hashes):
        raise refuse("hashes", 'must be a list of texts like "sha256:…"')
    digests = [_HASH.fullmatch(value) for value in hashes]
    for value, digest in zip(hashes, digests, strict=True):
        if digest is None:
            raise refuse("hashes", f"{value!r} is not a table hash: sha256: and 64 hexadecimal digits")
    approved = frozenset(bytes.fromhex(digest[1]) for digest in digests if digest is not None)
    patterns = [re.compile(translate(texts[key]), re.DOTALL) for key in ("name", "uuid")]
    return Entry(texts["name"], texts["uuid"], required, approved, f"{file}:{start}", *patterns)


def _unknown(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), 1)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "")


def _line_of(lines: list[str], key: str, start: int = 1) -> int | None:
    """The line that sets ``key``, at or after ``start``; None if it cannot be told."""
    pattern = re.compile(rf"\s*(?:\[+\s*)?[\"']?(?:device\.)?{re.escape(key)}[\"']?\s*(?:=|\])")
    return next(
        (number for number, line in enumerate(lines, 1) if number >= start and pattern.match(line)), None
    )
