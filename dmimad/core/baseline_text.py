"""Baseline files as they are written for people: captured devices, and single entries for `approval`.

Source: the project's own format, ``docs/baseline.md``; attribute names as ``drivers/md`` of Linux 5.15 to
7.2 measures them.

An entry has the configuration's fingerprint and, for people and for telling what differs, a rule for each
target with all that the fingerprint covers.  Attributes that are ``n`` are written too: they are what could
become ``y``.  What is written is accepted by `baseline.parse_baseline` and approves what it was made of,
whatever devices are called.  Devices are in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dmimad.core.backing import Number
from dmimad.core.baseline import DEFAULT_ALLOWED, MAX_BASELINE_BYTES, MAX_ENTRIES, Operation
from dmimad.core.capture import CapturedDevice, CapturedTable
from dmimad.core.configuration import Attribute, ConfiguredTarget
from dmimad.core.finding import Severity
from dmimad.core.health import is_volatile
from dmimad.core.rules import MAX_ALTERNATIVES

#: Of tables with more targets only the fingerprint is written.
MAX_RULED_TARGETS = 32
MAX_COMMENT_CHARS = 300
MAX_NAMED = 4
SECTOR_BYTES = 512
UNKNOWN_HASH = "unknown"

#: Keys of a rule that are not attributes, and what is the target's type.
_NOT_ATTRIBUTES = frozenset({"index", "type", "length", "begin", "target_name", "target_version"})
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_LUKS = re.compile(r"CRYPT-(LUKS[0-9]+|PLAIN|TCRYPT|BITLK)-")


# -- TOML ----------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A TOML string, without anything that a terminal or an editor would act on."""
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code < 1 << 16 else f"\\U{code:08X}"


def literal_pattern(name: str) -> str:
    """The pattern that matches this name alone: wildcards in it stand for themselves."""
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def comment_line(text: str) -> str:
    """One line."""
    text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return "# " + (text if len(text) <= MAX_COMMENT_CHARS else text[: MAX_COMMENT_CHARS - 1] + "…")


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join(quoted(value) for value in values) + "]"


def moment_text(seconds: float) -> str:
    """Unix seconds as a TOML time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- what a device is ----------------------------------------------------------------------


def describe(uuid: str, table: CapturedTable) -> str:
    """What a table is, for people, in one line."""
    targets = table.configuration.targets
    if not targets:
        return "a table of which only the hash is known"
    size = for_people(sum(target.length_sectors for target in targets) * SECTOR_BYTES)
    kinds = list(dict.fromkeys(_kind(target) for target in targets))
    special = _special(uuid, targets[0]) if len(targets) == 1 else ""
    if special:
        return f"{special}, {size}"
    below = [_called(pair) for target in targets for pair in target.attributes if pair.names]
    text = f"{_owner(uuid)}{_some(kinds, ' and ')}"
    if below:
        text += f" on {_some(list(dict.fromkeys(below)), ', ')}"
    return f"{text}{f', {len(targets)} segments' if len(targets) > 1 else ''}, {size}"


def for_people(size: int) -> str:
    """Bytes, as ``16 MiB``."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{size} bytes"


def _kind(target: ConfiguredTarget) -> str:
    return target.type or "a target of unknown type"


def _owner(uuid: str) -> str:
    found = _LUKS.match(uuid)
    if found:
        return f"{found[1]}, "
    return "LVM volume, " if uuid.startswith("LVM-") else ""


def _special(uuid: str, target: ConfiguredTarget) -> str:
    """Of a table with one target."""
    if target.type == "verity":
        data, tree = _first(target, "data_device_name"), _first(target, "hash_device_name")
        return f"dm-verity, data on {_called(data)}, hash tree on {_called(tree)}"
    if target.type == "crypt":
        cipher, size = _first(target, "cipher_string").value, _first(target, "key_size").value
        bits = f", {8 * int(size)} bit" if _NUMBER.fullmatch(size) else ""
        owner = _owner(uuid).removesuffix(", ")
        return f"{owner} (crypt {cipher}{bits})" if owner else f"crypt {cipher}{bits}"
    return ""


def _first(target: ConfiguredTarget, key: str) -> Attribute:
    return next(iter(target.get(key)), Attribute(key, "?"))


def _called(attribute: Attribute) -> str:
    """A device below, as a person would call it."""
    names = (name.removeprefix("dm-name:") for name in attribute.names if name.startswith("dm-name:"))
    return next(names, "") or attribute.value.removeprefix("number:")


def _some(texts: Sequence[str], between: str) -> str:
    more = len(texts) - MAX_NAMED
    return between.join(texts[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def number_text(number: Number) -> str:
    """``8:3``."""
    return f"{number[0]}:{number[1]}"


# -- one entry -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an entry says beside the table.

    ``name`` and ``uuid`` are patterns, "" for none; times are Unix seconds.
    """

    name: str
    uuid: str
    required: bool = True
    allow: frozenset[Operation] = DEFAULT_ALLOWED
    severity: Severity | None = None
    staged_severity: Severity | None = None
    not_before: float | None = None
    not_after: float | None = None
    description: str = ""


def terms_of(captured: CapturedDevice) -> Terms:
    """For this device alone."""
    return Terms(literal_pattern(captured.name), literal_pattern(captured.uuid))


def can_be_approved(captured: CapturedDevice, table: CapturedTable) -> bool:
    """Whether the device can be named, and something is known that its table can be recognised by."""
    known = table.label != UNKNOWN_HASH or table.configuration.fingerprint is not None
    return known and bool(captured.name or captured.uuid)


def entry_text(table: CapturedTable, terms: Terms, *, hashes: bool = False, rules: bool = True) -> str:
    """A ``[[device]]`` that approves a table; it ends in a newline.

    Args:
        hashes: name the kernel's table hash even if there is a fingerprint.
        rules: say what each target is to be, unless that is not known or too much.
    """
    return "".join(f"{line}\n" for line in _entry(table, terms, hashes=hashes, rules=rules))


def _entry(table: CapturedTable, terms: Terms, *, hashes: bool, rules: bool) -> Iterator[str]:
    fingerprint = table.configuration.fingerprint
    yield "[[device]]"
    yield from (
        f"{key} = {quoted(value)}" for key, value in (("name", terms.name), ("uuid", terms.uuid)) if value
    )
    if terms.description:
        yield f"description = {quoted(terms.description)}"
    yield f"required = {'true' if terms.required else 'false'}"
    if terms.allow != DEFAULT_ALLOWED:
        yield f"allow = {_list(sorted(terms.allow))}"
    for key, severity in (("severity", terms.severity), ("staged_severity", terms.staged_severity)):
        if severity is not None:
            yield f"{key} = {quoted(severity)}"
    for key, moment in (("not_before", terms.not_before), ("not_after", terms.not_after)):
        if moment is not None:
            yield f"{key} = {moment_text(moment)}"
    if fingerprint is not None:
        yield f"fingerprints = {_list([fingerprint])}"
    if fingerprint is None or (hashes and table.label != UNKNOWN_HASH):
        yield f"hashes = {_list([table.label])}"
    if rules and fingerprint is not None and len(table.configuration.targets) <= MAX_RULED_TARGETS:
        for target in table.configuration.targets:
            yield from _rule(target)


def _rule(target: ConfiguredTarget) -> Iterator[str]:
    yield ""
    yield "[[device.target]]"
    yield f"index = {target.index}"
    if target.type:
        yield f"type = {quoted(target.type)}"
    yield f"length = {target.length_sectors}"
    for key in dict.fromkeys(attribute.key for attribute in target.attributes):
        values = list(dict.fromkeys(_value(attribute.value) for attribute in target.get(key)))
        if _is_ruled(target, key) and len(values) <= MAX_ALTERNATIVES:
            yield f"{key} = {values[0] if len(values) == 1 else '[' + ', '.join(values) + ']'}"


def _is_ruled(target: ConfiguredTarget, key: str) -> bool:
    return key not in _NOT_ATTRIBUTES and bool(_KEY.fullmatch(key)) and not is_volatile(target.type, key)


def _value(text: str) -> str:
    """A value that is to be exactly this."""
    if _NUMBER.fullmatch(text):
        return text
    if text[:1] in ("<", ">", "!"):  # it would be read as a comparison
        return f"{{ pattern = {quoted(literal_pattern(text))} }}"
    return quoted(text)


def remarks(captured: CapturedDevice, table: CapturedTable, *, rules: bool = True) -> tuple[str, ...]:
    """What a person must know of an entry for a table; those that begin with WARNING are for today."""
    configuration = table.configuration
    found = []
    if configuration.fingerprint is None:
        found.append(
            "WARNING: not all of this table is known, so only its hash is approved, which changes when "
            "numbers do, as they may at the next boot"
        )
    elif unnamed := configuration.unnamed:
        numbers = _some([number_text(number) for number in unnamed], ", ")
        found.append(
            f"WARNING: of {numbers} only the number is known; the fingerprint does not survive a boot "
            "that numbers devices otherwise"
        )
    opaque = sum(target.opaque for target in configuration.targets)
    if opaque:
        found.append(f"{opaque} of {len(configuration.targets)} targets opaque: no attributes are measured")
    if configuration.fingerprint is not None and (
        not rules or len(configuration.targets) > MAX_RULED_TARGETS
    ):
        found.append(f"{len(configuration.targets)} targets, which are approved by the fingerprint alone")
    if captured.inactive is not None and table is captured.active:
        found.append("another table was staged at the time, which is not approved here")
    return tuple(found)


# -- a whole file --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured file.

    Attributes:
        text: the baseline file.
        devices: how many have an entry in it.
        warnings: what a person must know, by device.
        left_out: devices without an entry, and why.
    """

    text: str
    devices: int
    warnings: tuple[str, ...]
    left_out: tuple[str, ...]


class TooLargeError(Exception):
    """More devices than one baseline file can hold."""


def capture(
    devices: Iterable[CapturedDevice],
    header: Iterable[str] = (),
    *,
    serial: int | None = None,
    hashes: bool = False,
) -> Capture:
    """The baseline that approves devices as they are.

    Args:
        header: lines of comment for the file's beginning.
        serial: of the file, None for none.
        hashes: name kernel table hashes as well.

    Raises:
        TooLargeError: one file cannot hold them.
    """
    ordered, header = sorted(devices, key=lambda one: (one.name, one.uuid, one.key)), list(header)
    for rules in (True, False):
        made = _captured(ordered, header, serial, hashes=hashes, rules=rules)
        if len(made.text.encode()) <= MAX_BASELINE_BYTES and made.devices <= MAX_ENTRIES:
            return made
    raise TooLargeError


def _captured(
    devices: Sequence[CapturedDevice],
    header: Iterable[str],
    serial: int | None,
    *,
    hashes: bool,
    rules: bool,
) -> Capture:
    lines = [*(comment_line(line) for line in header), "version = 1"]
    if serial is not None:
        lines.append(f"serial = {serial}")
    blocks, warnings, left_out = ["\n".join(lines) + "\n"], [], []
    entries = 0
    for device in devices:
        table = device.active
        if table is None or not can_be_approved(device, table):
            reason = "no active table" if table is None else "nobody has told what its table is"
            if table is None and device.inactive is not None:
                reason += ", only a staged one"
            left_out.append(f"{device.name} ({device.key}): {reason}")
            blocks.append(comment_line(f"left out: {left_out[-1]}") + "\n")
            continue
        told = remarks(device, table, rules=rules)
        warnings += [f"{device.name} ({device.key}): {one}" for one in told if one.startswith("WARNING")]
        about = f"{device.name or device.uuid} ({device.key}): {describe(device.uuid, table)}"
        comments = [comment_line(about), *map(comment_line, told)]
        entry = entry_text(table, terms_of(device), hashes=hashes, rules=rules)
        blocks.append("\n".join(comments) + "\n" + entry)
        entries += 1
    return Capture("\n".join(blocks), entries, tuple(warnings), tuple(left_out))
