"""Attribute rules: what a baseline demands of a table's targets, and what of it is not so.

Source: the project's own format, ``docs/baseline.md``.

A rule speaks of one target (``index``), of all targets of some types (``type``), or of all.  Together the
rules of an entry describe the whole table: a target that no rule speaks of is a difference, and so is a rule
that has no target.  An opaque target has no attributes; a type that nobody has told is no difference.
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

from dmimad.core.configuration import ABSENT, Attribute, Configuration, ConfiguredTarget
from dmimad.core.finding import NOT_NAMED, Difference
from dmimad.core.health import VOLATILE, is_volatile

#: Target types that measure their attributes: no opaque target is one of them.
MEASURED_TYPES = frozenset({*VOLATILE, "crypt", "integrity", "linear"})
#: How much of a value is repeated in a difference.
MAX_SHOWN_CHARS = 300
MAX_RULES = 4096
MAX_ALTERNATIVES = 256
#: Digits of a number that is compared; the kernel's have 64 bits.
MAX_DIGITS = 20

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_COMPARISON = re.compile(r"(>=|<=|>|<|!=)\s*([0-9]{1,20})")
_OPERATORS: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
}


class Kind(enum.Enum):
    """How a value is compared."""

    EXACT = "exact"
    PATTERN = "pattern"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Choice:
    """One way in which a value may be as it should; ``text`` is how it is written."""

    kind: Kind
    text: str
    pattern: re.Pattern[str] | None = None
    compare: str = ""
    number: int = 0

    def accepts(self, value: str) -> bool:
        """Whether a value passes."""
        if self.kind is Kind.EXACT:
            return value == self.text
        if self.pattern is not None:
            return self.pattern.fullmatch(value) is not None
        is_number = len(value) <= MAX_DIGITS and value.isascii() and value.isdecimal()
        return is_number and _OPERATORS[self.compare](int(value), self.number)


@dataclass(frozen=True, slots=True)
class Condition:
    """What one attribute must be: one of ``choices`` must accept it."""

    attribute: str
    choices: tuple[Choice, ...]

    @property
    def expected(self) -> str:
        """For people."""
        return " or ".join(choice.text for choice in self.choices)

    def violation(self, attributes: Sequence[Attribute]) -> str | None:
        """The value that is not as it should be; what a kernel does not write is taken for ``n``.

        All must pass: which of two of one name the kernel meant cannot be told.
        """
        if not attributes:
            return None if self._accepts((ABSENT,)) else "none"
        wrong = (one for one in attributes if not self._accepts(one.names or (one.value,)))
        return next((attribute.value[:MAX_SHOWN_CHARS] for attribute in wrong), None)

    def _accepts(self, values: Sequence[str]) -> bool:
        return any(choice.accepts(value) for choice in self.choices for value in values)


@dataclass(frozen=True, slots=True)
class TargetRule:
    """One ``[[device.target]]``: which targets it speaks of, and what it demands of them."""

    index: int | None
    types: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def concerns(self, target: ConfiguredTarget) -> bool:
        """Whether it speaks of a target; by its type if it does not say which one."""
        if self.index is not None:
            return target.index == self.index
        return not self.types or target.type in self.types or self._may_be(target)

    def _may_be(self, target: ConfiguredTarget) -> bool:
        """Of an opaque target whose type is not known the rule may speak."""
        return target.type is None and not MEASURED_TYPES.issuperset(self.types)

    def differences(self, target: ConfiguredTarget) -> list[Difference]:
        """What of a target that it speaks of is not as it demands."""
        if self.types and target.type not in self.types and not self._may_be(target):
            return [Difference(target.index, "type", " or ".join(self.types), target.type or "opaque")]
        found = []
        for condition in self.conditions:
            wrong = condition.violation(_attributes(target, condition.attribute))
            if wrong is not None:
                found.append(Difference(target.index, condition.attribute, condition.expected, wrong))
        return found


def differences(rules: tuple[TargetRule, ...], configuration: Configuration) -> tuple[Difference, ...]:
    """What of a table is not as its rules demand; () if all is, or there are no rules."""
    if not rules:
        return ()
    found: list[Difference] = []
    idle = set(range(len(rules)))
    unasked: list[ConfiguredTarget] = []
    for target, concerned in _concerned(rules, configuration):
        idle.difference_update(concerned)
        for number in concerned:
            found += rules[number].differences(target)
        if not concerned:
            unasked.append(target)
    expected = " or ".join(dict.fromkeys(kind for rule in rules for kind in rule.types if rule.index is None))
    found += [
        Difference(target.index, "type", expected or "no such target", target.type or "opaque")
        for target in unasked
    ]
    if configuration.complete and not (unasked and expected):  # else that is said: they took their place
        for number in sorted(idle):
            rule = rules[number]
            wanted = " or ".join(rule.types) or "a target"
            found.append(Difference(rule.index, "type", wanted, "no such target"))
    return tuple(found)


def unspoken(rules: tuple[TargetRule, ...], configuration: Configuration) -> Iterator[Difference]:
    """Attributes that are part of the fingerprint and that no rule speaks of."""
    for target, concerned in _concerned(rules, configuration):
        spoken = {condition.attribute for number in concerned for condition in rules[number].conditions}
        spoken |= {"target_name", "target_version"}
        for key, value, _ in target.attributes:
            if key not in spoken and value != ABSENT and not is_volatile(target.type, key):
                yield Difference(target.index, key, NOT_NAMED, value[:MAX_SHOWN_CHARS])


def demanded(rules: tuple[TargetRule, ...], configuration: Configuration) -> Iterator[Mapping[str, str]]:
    """For each target, what is demanded of its attributes, for people."""
    for _, concerned in _concerned(rules, configuration):
        found: dict[str, list[str]] = {}
        for rule in (rules[number] for number in concerned):
            if rule.types:
                found.setdefault("type", []).append(" or ".join(rule.types))
            for condition in rule.conditions:
                found.setdefault(condition.attribute, []).append(condition.expected)
        yield {attribute: ", ".join(dict.fromkeys(texts)) for attribute, texts in found.items()}


def _concerned(
    rules: tuple[TargetRule, ...], configuration: Configuration
) -> Iterator[tuple[ConfiguredTarget, list[int]]]:
    """Each target with the numbers of the rules that speak of it."""
    by_index: dict[int | None, list[int]] = {}
    for number, rule in enumerate(rules):
        by_index.setdefault(rule.index, []).append(number)
    for target in configuration.targets:
        candidates = [*by_index.get(target.index, ()), *by_index.get(None, ())]
        yield target, [number for number in sorted(candidates) if rules[number].concerns(target)]


def _attributes(target: ConfiguredTarget, key: str) -> tuple[Attribute, ...]:
    """The attributes of a name, or what is known of the target's place."""
    if key == "length":
        return (Attribute(key, str(target.length_sectors)),)
    if key == "begin":
        return (Attribute(key, str(target.begin_sectors)),)
    return target.get(key)


# -- as it is written ----------------------------------------------------------------------


def parse_rule(document: Mapping[str, object]) -> TargetRule:
    """A ``[[device.target]]`` as TOML has it; raises `RuleError`."""
    if not document:
        raise RuleError("", "needs an index, a type or an attribute")
    index = document.get("index")
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or index < 0):
        raise RuleError("index", "must be a number from 0")
    kinds = document.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not all(isinstance(kind, str) and kind for kind in kinds):
        raise RuleError("type", "must be a target type, or a list of them")
    if "type" in document and not kinds:
        raise RuleError("type", "must name at least one target type")
    conditions = tuple(
        _parse_condition(key, value) for key, value in document.items() if key not in ("index", "type")
    )
    return TargetRule(index, tuple(kinds), conditions)


class RuleError(Exception):
    """A rule that is not understood: which key, and why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


def _parse_condition(key: str, value: object) -> Condition:
    if not _KEY.fullmatch(key):
        raise RuleError(key, "is not the name of an attribute")
    values = value if isinstance(value, list) else [value]
    if not values:
        raise RuleError(key, "must allow at least one value")
    if len(values) > MAX_ALTERNATIVES:
        raise RuleError(key, f"more than {MAX_ALTERNATIVES} values")
    return Condition(key, tuple(_parse_choice(key, item) for item in values))


def _parse_choice(key: str, value: object) -> Choice:
    if isinstance(value, bool):
        return Choice(Kind.EXACT, "y" if value else "n")
    if isinstance(value, int):
        return Choice(Kind.EXACT, str(value))
    if isinstance(value, dict):
        pattern = value.get("pattern")
        if set(value) != {"pattern"} or not isinstance(pattern, str):
            raise RuleError(key, 'the only such form is { pattern = "…" }')
        return Choice(Kind.PATTERN, pattern, re.compile(translate(pattern), re.DOTALL))
    if not isinstance(value, str):
        raise RuleError(key, "must be a text, a number, true, false, a pattern or a list of these")
    if value[:1] not in ("<", ">", "!"):
        return Choice(Kind.EXACT, value)
    found = _COMPARISON.fullmatch(value)
    if found is None:
        raise RuleError(key, f"{value[:40]!r} is not a comparison like '>= 64'")
    return Choice(Kind.NUMBER, f"{found[1]} {found[2]}", None, found[1], int(found[2]))
