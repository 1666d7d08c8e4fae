"""What an administrator would call the configuration of a table, and its fingerprint.

Source: the project's own format, ``docs/fingerprint.md``, made so that the same configuration is the same
whoever tells it (ASCII list, binary list, live table), at every boot and under every kernel:

- backing devices are named instead of numbered (`backing`);
- attributes that move by themselves (`health`) and the target's version are left out;
- so are attributes whose value is ``n``: an older kernel, which does not know them, behaves like that;
- the type of an opaque target is left out, because the list does not have it.

Names and numbers of the device itself are not part of it: who is approved is said by a baseline's entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dmimad.core.backing import Names, Number, as_number
from dmimad.core.health import is_volatile
from dmimad.core.observation import LiveTable, LiveTarget
from dmimad.core.rebuild import MAX_TARGET_OWN_TEXT_BYTES
from dmimad.core.table import Provenance, Table, parse_pairs, parse_targets

#: Begins the canonical form; another number for another form.
FORM = "dmimad-config-1"
LABEL = "config:"
#: What an attribute is taken for that a kernel does not write.
ABSENT = "n"


class Attribute(NamedTuple):
    """One attribute; ``value`` as measured, but for a backing device its name.

    ``names`` are all that is known of a backing device, its number last; () for other attributes.
    """

    key: str
    value: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfiguredTarget:
    """One target.  ``type`` is None for an opaque one of which nobody has told it.

    ``attributes`` begin with the target's name and version, unless it is opaque.
    """

    index: int
    begin_sectors: int
    length_sectors: int
    type: str | None
    opaque: bool
    attributes: tuple[Attribute, ...]

    def get(self, key: str) -> tuple[Attribute, ...]:
        """The attributes of that name: a value in which commas are allowed may look like a second one."""
        return tuple(attribute for attribute in self.attributes if attribute.key == key)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A table's targets.

    Attributes:
        complete: whether all targets are known; an older kernel's list may lack the last one.
        backing: numbers of the devices below, with the names they go by here.
    """

    targets: tuple[ConfiguredTarget, ...]
    complete: bool
    backing: tuple[tuple[Number, tuple[str, ...]], ...]

    @property
    def unnamed(self) -> tuple[Number, ...]:
        """Backing devices that only have a number, which may be another one at the next boot."""
        return tuple(number for number, names in self.backing if not names)

    @property
    def fingerprint(self) -> str | None:
        """``config:`` and 64 hexadecimal digits; None if not all targets are known."""
        if not self.complete:
            return None
        return LABEL + hashlib.sha256(canonical(self)).hexdigest()


def canonical(configuration: Configuration) -> bytes:
    """The bytes whose SHA-256 is the fingerprint: JSON without spaces, in UTF-8."""
    targets = [
        [
            target.length_sectors,
            None if target.opaque else target.type,
            sorted(_written(pair) for place, pair in enumerate(target.attributes) if _counts(target, place)),
        ]
        for target in configuration.targets
    ]
    text = json.dumps([FORM, targets], ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _written(attribute: Attribute) -> list[str]:
    """A name of a device is marked, so that no value can pass for one."""
    pair = [attribute.key, attribute.value]
    return [*pair, "device"] if attribute.names else pair


def _counts(target: ConfiguredTarget, place: int) -> bool:
    """Name and version stand first; what has their key further on is something else."""
    key, value, _ = target.attributes[place]
    if (place, key) in ((0, "target_name"), (1, "target_version")) or value == ABSENT:
        return False
    return not is_volatile(target.type, key)


def configuration_of(table: Table, live: LiveTable | None, names: Names) -> Configuration:
    """The configuration of a tracked table.

    Args:
        live: what the last observation says is in the same slot; if it is the same table, it adds what the
            list does not tell: types of opaque targets, a last target that was not measured.
        names: of the devices below.
    """
    found = _Namer(names)
    targets = [
        _configured(
            target.index, (target.begin_sectors, target.length_sectors), None, target.attributes, found
        )
        for target in parse_targets(table.texts)
    ]
    seen = _seen(table, live)
    if seen is not None:
        observed = [_observed(index, target, found) for index, target in enumerate(seen)]
        if all(_agree(*pair) for pair in zip(targets, observed, strict=False)):  # the last may be unmeasured
            told = [replace(one, type=other.type) for one, other in zip(targets, observed, strict=False)]
            targets = told + observed[len(targets) :]
    whole = [target.index for target in targets] == list(range(table.num_targets))
    return Configuration(tuple(targets), whole and bool(table.texts), tuple(found.known.items()))


def configuration_of_live(targets: Sequence[LiveTarget], names: Names) -> Configuration:
    """The configuration of a table as the kernel holds it, where no list is known."""
    found = _Namer(names)
    configured = tuple(_observed(index, target, found) for index, target in enumerate(targets))
    return Configuration(configured, True, tuple(found.known.items()))


def _seen(table: Table, live: LiveTable | None) -> tuple[LiveTarget, ...] | None:
    """The live targets, if the table has been seen in its slot; else they may be of the one before."""
    if live is None or live.targets is None or table.provenance is Provenance.MEASURED:
        return None
    return live.targets if len(live.targets) == table.num_targets else None


def _agree(target: ConfiguredTarget, observed: ConfiguredTarget) -> bool:
    place = (target.begin_sectors, target.length_sectors, target.opaque)
    if place != (observed.begin_sectors, observed.length_sectors, observed.opaque):
        return False
    return target.opaque or target.type == observed.type


class _Namer:
    """Names devices, and remembers which it was asked for."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.known: dict[Number, tuple[str, ...]] = {}

    def attribute(self, key: str, value: str) -> Attribute:
        number = as_number(value)
        if number is None:
            return Attribute(key, value)
        if number not in self.known:
            self.known[number] = self._names(number)
        names = (*self.known[number], f"number:{value}")
        return Attribute(key, names[0], (*names, value))


def _observed(index: int, target: LiveTarget, namer: _Namer) -> ConfiguredTarget:
    pairs = parse_pairs(target.text[:MAX_TARGET_OWN_TEXT_BYTES])
    return _configured(index, (target.begin_sectors, target.length_sectors), target.type, pairs, namer)


def _configured(
    index: int, place: tuple[int, int], kind: str | None, pairs: Iterable[tuple[str, str]], namer: _Namer
) -> ConfiguredTarget:
    """A target; it is opaque, and of type ``kind``, unless its text begins with its name."""
    attributes = tuple(namer.attribute(key, value) for key, value in pairs)
    opaque = not attributes or attributes[0].key != "target_name"
    return ConfiguredTarget(
        index, *place, type=kind if opaque else attributes[0].value, opaque=opaque, attributes=attributes
    )
