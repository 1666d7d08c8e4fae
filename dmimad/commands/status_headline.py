"""What matters of a status document, in words: as approved or not, what fires, what else is wrong.

Source: the document, ``docs/status.md``.  Agrees with the exit status of ``dmimad status``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dmimad.commands.plain_text import plain
from dmimad.commands.status_document import Document, count_of, list_in, table_in, trouble
from dmimad.commands.status_facts import Fact, State

_SEVERITIES = ("critical", "warning", "info")
_VERDICTS = {"drift": "in drift", "unexpected": "unexpected", "unknown": "not judged", "approved": "approved"}
"""In the order of their importance, as words."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The word for the whole, how it is to be taken, and why."""

    word: str
    state: State
    reasons: str


def headline(document: Document, facts: Sequence[Fact]) -> Headline:
    """Of a document whose facts are these."""
    wrong = list(dict.fromkeys(fact.name for fact in facts if fact.state is State.BAD))
    reasons = [_alerts(document), _devices(document), *([f"see {', '.join(wrong)}"] if wrong else [])]
    word, state = _word(document, wrong=bool(wrong))
    return Headline(word, state, "; ".join(reasons))


def _word(document: Document, *, wrong: bool) -> tuple[str, State]:
    if _verdicts(document)["drift"]:
        return "NOT AS APPROVED", State.BAD
    if trouble(document):
        return "ALERT", State.BAD
    if wrong:
        return "IMPAIRED", State.BAD
    if not table_in(document, "baseline").get("entries"):
        return "NOTHING APPROVED YET", State.ODD
    return "AS APPROVED", State.GOOD


def _alerts(document: Document) -> str:
    firing = table_in(document, "firing")
    counts = {severity: count_of(firing.get(severity)) for severity in _SEVERITIES}
    total = sum(counts.values())
    if not total:
        return "no alert fires"
    shown = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
    return f"{total} alert{'s fire' if total > 1 else ' fires'} ({shown})"


def _devices(document: Document) -> str:
    verdicts = _verdicts(document)
    total = verdicts.total() + count_of(document.get("devices_left_out"))
    if not total:
        return "no mapped devices"
    devices = f"{total} device{'s' * (total > 1)}"
    counts = {word: verdicts[verdict] for verdict, word in _VERDICTS.items() if verdicts[verdict]}
    if total > 1 and list(counts.values()) == [total]:
        return f"{devices}, all {next(iter(counts))}"
    shown = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"{devices}: {shown}" if shown else devices


def _verdicts(document: Document) -> Counter[str]:
    """How many devices have which one; those left out have none."""
    return Counter(plain(device.get("verdict")) for device in list_in(document, "devices"))
