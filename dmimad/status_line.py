"""The one line that `systemctl status` shows of the daemon: what is wrong, then what it does.

Source: none; sd_notify(3) has the line as free text.

What it does not do: send it, or tell details: `dmimad status` has those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmimad.core.finding import Severity
from dmimad.core.status import Surroundings

#: What is told of a problem's own text.
MAX_PROBLEM_CHARS = 120


def status_line(
    around: Surroundings, *, devices: int, firing: Mapping[str, int], problem: str, hanging: Sequence[str]
) -> str:
    """The line.

    Args:
        around: what the daemon knows beside the monitor.
        devices: mapped devices that exist.
        firing: alerts by severity.
        problem: why the list cannot be followed; "" if it can, or nobody has tried yet.
        hanging: tasks that make no progress.
    """
    problems = _problems(around, problem, hanging)
    told = [] if problem else [_following(around)]
    told = [": ".join([*told, f"{_count(devices, 'device')}, {_firing(firing)}"])]
    if around.mqtt_connected:
        told.append(f"broker connected, {around.outbox_pending} waiting")
    elif around.mqtt_connected is None:
        told.append("no broker set")
    return "; ".join(problems + told)


def _problems(around: Surroundings, problem: str, hanging: Sequence[str]) -> list[str]:
    """The gravest first."""
    told = [f"{task.replace('_', ' ')} hangs" for task in hanging]
    if around.store_problem:
        told.append(f"CANNOT STORE: {_cut(around.store_problem)}")
    if problem:
        told.append(f"CANNOT FOLLOW THE LIST: {_cut(problem)}")
    if around.mqtt_connected is False:
        told.append(f"broker not connected, {around.outbox_pending} waiting")
    if around.mqtt_problem:
        told.append(_cut(around.mqtt_problem))
    if around.outbox_dead:
        told.append(f"{_count(around.outbox_dead, 'message')} given up")
    if not around.settings_accepted:
        told.append("new settings refused, the former are in force")
    if not around.baseline_accepted:
        told.append("baseline refused, the last good one is in force")
    told += [f"files for {each.what} refused" for each in around.refused if each.what in ("mqtt", "metrics")]
    if around.restart_needed:
        told.append("restart needed for new settings")
    if around.live_up is False:
        told.append("live tables not observed")
    return told


def _following(around: Surroundings) -> str:
    kernel = around.source == "auto" or around.source.startswith("/sys/kernel/security/")
    followed = "the kernel's list" if kernel else around.source
    if not around.source_up:
        return f"beginning with {followed}"
    if around.lag:
        return f"following {followed}, {_count(around.lag, 'record')} behind"
    return f"following {followed}"


def _firing(firing: Mapping[str, int]) -> str:
    total = sum(firing.values())
    critical = firing.get(Severity.CRITICAL.value, 0)
    text = f"{_count(total, 'alert') if total else 'no alert'} firing"
    return f"{text} ({critical} critical)" if critical else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _cut(problem: str) -> str:
    return problem if len(problem) <= MAX_PROBLEM_CHARS else problem[: MAX_PROBLEM_CHARS - 1] + "…"
