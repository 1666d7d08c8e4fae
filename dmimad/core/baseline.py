"""What is approved: baseline files, parsed strictly, and which entries speak for a device.

Source: the project's own format, ``docs/baseline.md``.

A baseline is a TOML document, ``version = 1``, perhaps a ``serial`` and a list of ``[[device]]`` entries.
What is not understood is refused, so that no line of a baseline is ever silently without effect.  Nothing
here reads files, verifies signatures or compares tables (`drift`).
"""

from __future__ import annotations

import datetime
import difflib
import enum
import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate

from dmimad.core.configuration import LABEL
from dmimad.core.errors import BaselineError
from dmimad.core.event import printable
from dmimad.core.finding import Severity
from dmimad.core.rules import MAX_RULES, RuleError, TargetRule, parse_rule

#: Size limits of one file, against a file that is not meant for us.
MAX_BASELINE_BYTES = 4 << 20
MAX_ENTRIES = 10_000
MAX_SERIAL = (1 << 63) - 1
MAX_DESCRIPTION_CHARS = 500

_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_FINGERPRINT = re.compile(re.escape(LABEL) + r"[0-9a-f]{64}")
_WILDCARD = re.compile(r"[*?\[]")
#: Wildcards written to stand for themselves: ``[*]``.
_QUOTED = re.compile(r"\[([*?\[])\]")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TOP_KEYS = ("version", "serial", "device")
_ENTRY_KEYS = (
    "name",
    "uuid",
    "required",
    "hashes",
    "fingerprints",
    "target",
    "allow",
    "severity",
    "staged_severity",
    "not_before",
    "not_after",
    "description",
)


class Operation(enum.StrEnum):
    """What may be done to an approved device without a word."""

    RENAME = "rename"
    RELOAD = "reload"
    REMOVE = "remove"


#: What may be done where an entry does not say: another approved table may be loaded.
DEFAULT_ALLOWED = frozenset({Operation.RELOAD})


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``[[device]]``: which devices it speaks for and what it approves.

    Neither ``hashes`` nor ``fingerprints`` nor ``rules``: the device is expected, its tables are not looked
    at.  Otherwise a table is approved if it has one of the hashes or fingerprints (where there are any) and
    obeys all of the rules.  ``origin`` is ``file:line`` of the entry; ``not_before`` and ``not_after`` are
    Unix seconds.
    """

    name: str
    uuid: str
    required: bool
    hashes: frozenset[bytes]
    origin: str
    name_pattern: re.Pattern[str]
    uuid_pattern: re.Pattern[str]
    fingerprints: frozenset[str] = frozenset()
    rules: tuple[TargetRule, ...] = ()
    allow: frozenset[Operation] = DEFAULT_ALLOWED
    severity: Severity | None = None
    staged_severity: Severity | None = None
    not_before: float | None = None
    not_after: float | None = None
    description: str = ""
    #: The one name and the one uuid it is for; "" if it is not for one alone.
    exact_name: str = field(init=False, repr=False, compare=False)
    exact_uuid: str = field(init=False, repr=False, compare=False)
    #: Entries with fewer wildcards come first, then those with more literal text.
    specificity: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What is asked of an entry for each record is worked out once."""
        patterns = [pattern for pattern in (self.name, self.uuid) if pattern]
        exact = sum(_is_exact(pattern) for pattern in patterns)
        literal = (re.sub(r"\[[^]]*\]|[*?]", "", _QUOTED.sub("x", pattern)) for pattern in patterns)
        object.__setattr__(self, "exact_name", _unquoted(self.name) if _is_exact(self.name) else "")
        object.__setattr__(self, "exact_uuid", _unquoted(self.uuid) if _is_exact(self.uuid) else "")
        object.__setattr__(self, "specificity", (exact, sum(map(len, literal))))

    @property
    def label(self) -> str:
        """What to call the entry: its name, or its uuid; wildcards that stand for themselves as they are."""
        return _unquoted(self.name or self.uuid)

    @property
    def demands(self) -> bool:
        """Whether it says anything about tables."""
        return bool(self.hashes or self.fingerprints or self.rules)

    @property
    def looks_at_configuration(self) -> bool:
        """Whether more than the kernel's table hash is needed to judge by it."""
        return bool(self.fingerprints or self.rules)

    def matches(self, name: str, uuid: str) -> bool:
        """Whether the entry speaks for a device of this name and uuid."""
        return self.matches_name(name) and self.matches_uuid(uuid)

    def matches_name(self, name: str) -> bool:
        """Whether it could be for this name."""
        return not self.name or self.name_pattern.fullmatch(name) is not None

    def matches_uuid(self, uuid: str) -> bool:
        """Whether it could be for this uuid."""
        return not self.uuid or self.uuid_pattern.fullmatch(uuid) is not None

    def has_begun(self, now: float) -> bool:
        """Whether the approval has begun; it may have ended since."""
        return self.not_before is None or self.not_before <= now

    def is_valid(self, now: float) -> bool:
        """Whether the approval has begun and not ended."""
        return self.has_begun(now) and (self.not_after is None or now < self.not_after)

    @property
    def is_exact(self) -> bool:
        """Whether the entry names its device without a wildcard."""
        return bool(self.exact_name or self.exact_uuid)


def _unquoted(pattern: str) -> str:
    """Wildcards that stand for themselves as they are."""
    return _QUOTED.sub(r"\1", pattern)


def _is_exact(pattern: str) -> bool:
    return not _WILDCARD.search(_QUOTED.sub("", pattern))


@dataclass(frozen=True, slots=True)
class Baseline:
    """All entries of all files.  Without entries nothing is approved and nothing can drift.

    ``serial`` is that of a single file, None where it has none or there are several files.
    """

    entries: tuple[Entry, ...] = ()
    serial: int | None = None
    #: Whether more than the kernel's table hashes is needed to judge by it.
    looks_at_configuration: bool = field(init=False, repr=False, compare=False)
    # Places of those for one name alone, by that name; for one uuid alone, by that; and of those that are
    # for neither: a host may have thousands.
    _named: Mapping[str, list[int]] = field(init=False, repr=False, compare=False)
    _identified: Mapping[str, list[int]] = field(init=False, repr=False, compare=False)
    _others: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named: dict[str, list[int]] = {}
        identified: dict[str, list[int]] = {}
        others: list[int] = []
        for place, entry in enumerate(self.entries):
            if entry.exact_name:
                named.setdefault(entry.exact_name, []).append(place)
            if entry.exact_uuid:
                identified.setdefault(entry.exact_uuid, []).append(place)
            if not entry.is_exact:
                others.append(place)
        looks = any(entry.looks_at_configuration for entry in self.entries)
        object.__setattr__(self, "looks_at_configuration", looks)
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "_identified", identified)
        object.__setattr__(self, "_others", others)

    def entries_for(self, name: bytes, uuid: bytes, *, now: float | None = None) -> tuple[Entry, ...]:
        """The most specific entries for a device; several if they are equally specific.

        With ``now`` those that have not begun count only if there are no others: what is prepared for later
        takes nothing from what is approved until then.
        """
        shown_name, shown_uuid = printable(name), printable(uuid)
        places = {*self._named.get(shown_name, ()), *self._identified.get(shown_uuid, ()), *self._others}
        candidates = (self.entries[place] for place in sorted(places))
        matching = [entry for entry in candidates if entry.matches(shown_name, shown_uuid)]
        if now is not None:
            matching = [entry for entry in matching if entry.has_begun(now)] or matching
        if len(matching) < 2:
            return tuple(matching)
        best = max(entry.specificity for entry in matching)
        return tuple(entry for entry in matching if entry.specificity == best)

    def named(self, name: bytes) -> tuple[Entry, ...]:
        """The entries for exactly this name, whatever uuid they are for."""
        return tuple(self.entries[place] for place in self._named.get(printable(name), ()))

    def identified(self, uuid: bytes) -> tuple[Entry, ...]:
        """The entries for exactly this uuid, whatever name they are for."""
        return tuple(self.entries[place] for place in self._identified.get(printable(uuid), ()))

    def changes_for(self, identities: Iterable[tuple[bytes, bytes]]) -> tuple[float, ...]:
        """When approvals begin and end that may be of a device with these names and uuids, in order."""
        found: set[Entry] = set()
        for name, uuid in identities:
            shown_name, shown_uuid = printable(name), printable(uuid)
            found.update((*self.named(name), *self.identified(uuid)))
            others = (self.entries[place] for place in self._others)
            found.update(entry for entry in others if entry.matches(shown_name, shown_uuid))
        moments = {moment for entry in found for moment in (entry.not_before, entry.not_after)}
        return tuple(sorted(moment for moment in moments if moment is not None))

    def next_change(self, now: float) -> float | None:
        """When an approval begins or ends next."""
        moments = [moment for entry in self.entries for moment in (entry.not_before, entry.not_after)]
        return min((moment for moment in moments if moment is not None and moment > now), default=None)


def parse_baseline(text: str, file: str) -> Baseline:
    """The text of one baseline file -> its entries.

    Raises:
        BaselineError: with file, line, key and reason, if any part is not understood.
    """
    if len(text) > MAX_BASELINE_BYTES:
        raise BaselineError(file, f"larger than {MAX_BASELINE_BYTES} bytes")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise BaselineError(file, "is nested too deeply") from None
    except ValueError as error:  # not TOML, or a number of thousands of digits
        found = _TOML_LINE.search(str(error))
        reason = _TOML_LINE.sub("", str(error)).strip()
        raise BaselineError(file, reason, line=int(found[1]) if found else None) from error
    return _read_document(document, file, text.splitlines())


def merge(baselines: Iterable[Baseline]) -> Baseline:
    """Several files are one baseline."""
    return Baseline(tuple(entry for baseline in baselines for entry in baseline.entries))


def _read_document(document: Mapping[str, object], file: str, lines: list[str]) -> Baseline:
    def refuse(key: str, reason: str) -> BaselineError:
        return BaselineError(file, reason, key=key, line=_line_of(lines, key))

    for key in document:
        if key not in _TOP_KEYS:
            raise refuse(key, _unknown(key, _TOP_KEYS))
    if document.get("version") != 1 or document.get("version") is True:
        raise refuse("version", "must be 1")
    serial = document.get("serial")
    if serial is not None and (
        not isinstance(serial, int) or isinstance(serial, bool) or not 0 <= serial <= MAX_SERIAL
    ):
        raise refuse("serial", "must be a number from 0")
    entries = document.get("device", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise refuse("device", "entries are written [[device]]")
    if len(entries) > MAX_ENTRIES:
        raise BaselineError(file, f"more than {MAX_ENTRIES} entries", key="device")
    starts, rules = _headers(lines, r"device"), _headers(lines, r"device\s*\.\s*target")
    places = [_Place(file, start, f"{file}:{start}", rules) for start in starts]
    # Without headers, in one line perhaps; but which of them is meant must be clear.
    places += [_Place(file, 1, f"{file}:1#{n}", []) for n in range(len(places) + 1, len(entries) + 1)]
    read = (_Reader(place, lines, entry).entry() for entry, place in zip(entries, places, strict=False))
    return Baseline(tuple(read), serial)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry is: its first line; ``rules`` are the lines that begin a rule, of any entry."""

    file: str
    line: int
    origin: str
    rules: list[int]


def _headers(lines: list[str], table: str) -> list[int]:
    """Numbers of the lines that begin an element of a table."""
    pattern = re.compile(rf"\s*\[\[\s*{table}\s*\]\]")
    return [number for number, line in enumerate(lines, 1) if pattern.match(line)]


class _Reader:
    """One ``[[device]]`` as TOML has it."""

    def __init__(self, place: _Place, lines: list[str], document: Mapping[str, object]) -> None:
        self._file = place.file
        self._start = place.line
        self._place = place
        self._lines = lines
        self._document = document

    def entry(self) -> Entry:
        """The entry; raises BaselineError."""
        for key in self._document:
            if key not in _ENTRY_KEYS:
                raise self._refusal(key, _unknown(key, _ENTRY_KEYS))
        name, uuid = self._text("name"), self._text("uuid")
        if not name and not uuid:
            raise BaselineError(self._file, "needs a name or a uuid", key="device", line=self._start)
        name_pattern, uuid_pattern = (re.compile(translate(text), re.DOTALL) for text in (name, uuid))
        required = self._document.get("required", False)
        if not isinstance(required, bool):
            raise self._refusal("required", "must be true or false")
        begin, end = self._moment("not_before"), self._moment("not_after")
        if begin is not None and end is not None and begin >= end:
            raise self._refusal("not_after", "must be later than not_before")
        return Entry(
            name,
            uuid,
            required,
            self._hashes(),
            self._place.origin,
            name_pattern,
            uuid_pattern,
            fingerprints=self._fingerprints(),
            rules=self._rules(),
            allow=self._allowed(),
            severity=self._severity("severity"),
            staged_severity=self._severity("staged_severity"),
            not_before=begin,
            not_after=end,
            description=self._text("description")[:MAX_DESCRIPTION_CHARS],
        )

    def _refusal(self, key: str, reason: str) -> BaselineError:
        line = _line_of(self._lines, key, self._start)
        return BaselineError(self._file, reason, key=f"device.{key}", line=line)

    def _text(self, key: str) -> str:
        value = self._document.get(key, "")
        if not isinstance(value, str) or (key in self._document and not value):
            raise self._refusal(key, "must be a text, or left out")
        return value

    def _texts(self, key: str, example: str) -> list[str]:
        values = self._document.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._refusal(key, f"must be a list of texts like {example}")
        return values

    def _hashes(self) -> frozenset[bytes]:
        digests = []
        for value in self._texts("hashes", '"sha256:…"'):
            digest = _HASH.fullmatch(value)
            if digest is None:
                reason = f"{value!r} is not a table hash: sha256: and 64 hexadecimal digits"
                raise self._refusal("hashes", reason)
            digests.append(bytes.fromhex(digest[1]))
        return frozenset(digests)

    def _fingerprints(self) -> frozenset[str]:
        values = self._texts("fingerprints", f'"{LABEL}…"')
        for value in values:
            if not _FINGERPRINT.fullmatch(value):
                reason = f"{value!r} is not a fingerprint: {LABEL} and 64 hexadecimal digits"
                raise self._refusal("fingerprints", reason)
        return frozenset(values)

    def _allowed(self) -> frozenset[Operation]:
        if "allow" not in self._document:
            return DEFAULT_ALLOWED
        known = ", ".join(Operation)
        try:
            return frozenset(Operation(value) for value in self._texts("allow", '"rename"'))
        except ValueError as error:
            raise self._refusal("allow", f"{error}; the operations are {known}") from None

    def _severity(self, key: str) -> Severity | None:
        value = self._document.get(key)
        if value is None:
            return None
        try:
            return Severity(str(value))
        except ValueError:
            raise self._refusal(key, f"must be {', '.join(Severity)}") from None

    def _moment(self, key: str) -> float | None:
        value = self._document.get(key)
        if value is None:
            return None
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            raise self._refusal(key, "must be a time with its offset, like 2026-12-24T18:00:00Z")
        return value.timestamp()

    def _rules(self) -> tuple[TargetRule, ...]:
        documents = self._document.get("target", [])
        if not isinstance(documents, list) or not all(isinstance(rule, dict) for rule in documents):
            raise self._refusal("target", "rules are written [[device.target]]")
        if "target" in self._document and not documents:
            raise self._refusal("target", "has no rules; leave it out")
        if len(documents) > MAX_RULES:
            raise self._refusal("target", f"more than {MAX_RULES} rules")
        first = bisect_left(self._place.rules, self._start)
        starts = self._place.rules[first : first + len(documents)]
        starts += [self._start] * (len(documents) - len(starts))
        return tuple(self._rule(rule, start) for rule, start in zip(documents, starts, strict=True))

    def _rule(self, document: Mapping[str, object], start: int) -> TargetRule:
        try:
            return parse_rule(document)
        except RuleError as error:
            line = _line_of(self._lines, error.key, start) if error.key else start
            key = f"device.target.{error.key}" if error.key else "device.target"
            raise BaselineError(self._file, error.reason, key=key, line=line) from None


def _unknown(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), 1)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "")


def _line_of(lines: list[str], key: str, start: int = 1) -> int | None:
    """The line that sets ``key``, at or after ``start``; None if it cannot be told."""
    pattern = re.compile(rf"\s*(?:\[+\s*)?[\"']?(?:device\.)?{re.escape(key)}[\"']?\s*(?:=|\])")
    return next(
        (number for number, line in enumerate(lines, 1) if number >= start and pattern.match(line)), None
    )
