"""The doctor's report: aligned lines for people, or one JSON object for programs.

Source: ``docs/doctor.md``; no-color.org.  What comes from outside (names, paths, a broker's words) loses its
control characters; nothing is said by colour alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from dmimad.doctor.checks import Check, Status, verdict

REPORT_VERSION = 1
MAX_LINE_CHARS = 600
_MARKS = {Status.FINE: "ok", Status.ADVICE: "advice", Status.PROBLEM: "problem", Status.UNKNOWN: "unknown"}
_COLOURS = {Status.FINE: "32", Status.ADVICE: "33", Status.PROBLEM: "1;31", Status.UNKNOWN: "36"}


def json_report(host: str, checks: tuple[Check, ...]) -> str:
    """One object, on one line."""
    document = {
        "version": REPORT_VERSION,
        "host": host,
        "verdict": verdict(checks).value,
        "checks": [
            {
                "id": check.id,
                "status": check.status.value,
                "summary": check.summary,
                "remedy": check.remedy,
                "details": dict(check.details),
            }
            for check in checks
        ],
    }
    return json.dumps(document) + "\n"


def text_report(checks: tuple[Check, ...], *, colour: bool) -> Iterator[str]:
    """A line for each check, below it what to do, and the verdict at the end."""
    mark_width = max(map(len, _MARKS.values()))
    id_width = max((len(check.id) for check in checks), default=0)
    for check in checks:
        mark = _painted(f"{_MARKS[check.status]:<{mark_width}}", _COLOURS[check.status], colour=colour)
        yield f"{mark}  {check.id:<{id_width}}  {_plain(check.summary)}\n"
        if check.remedy and check.status is not Status.FINE:
            yield f"{'':<{mark_width}}  {'':<{id_width}}  → {_plain(check.remedy)}\n"
    status = verdict(checks)
    yield "\n" + _painted(_conclusion(checks), _COLOURS[status], colour=colour) + "\n"


def _conclusion(checks: tuple[Check, ...]) -> str:
    problems, advice, unseen = (
        sum(check.status is status for check in checks)
        for status in (Status.PROBLEM, Status.ADVICE, Status.UNKNOWN)
    )
    said = [f"{problems} problem{'s' if problems > 1 else ''}"] if problems else []
    said += [f"advice on {advice}"] if advice else []
    said += [f"{unseen} not to be seen"] if unseen else []
    opening = {
        Status.FINE: "This host can be monitored",
        Status.ADVICE: "This host can be monitored, as far as can be seen; it could be done better",
        Status.PROBLEM: "Something is in the way of monitoring this host",
    }[verdict(checks)]
    return opening + (f": {', '.join(said)}." if said else ".")


def _painted(text: str, code: str, *, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _plain(text: str) -> str:
    cut = text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
