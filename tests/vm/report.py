"""What came out of a machine: one result per scenario, and what to say if there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

#: What a scenario says that goes on after a reboot; if it is its last word, the reboot went wrong.
CONTINUED = "continued"
STATUSES = ("passed", "failed", "skipped", CONTINUED)
_LAST_LINES = 40


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """One line of results.jsonl."""

    scenario: str
    status: str
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """One machine's run. `trouble` says why scenarios may lack a result; empty if it came to its end."""

    kernel: str
    release: str
    out: Path
    results: Mapping[str, ScenarioResult]
    trouble: str
    seconds_to_main: float | None
    seconds: float

    def explain(self, scenario: str) -> str:
        """All that helps to understand why this scenario did not pass."""
        result = self.results.get(scenario)
        folder = self.out / scenario
        last = next(iter(sorted(folder.glob("boot-*"), reverse=True)), folder)
        logs = sorted(last.glob("*.log"))
        parts = [f"kernel {self.kernel} ({self.release or 'did not come up'}), scenario {scenario}"]
        if result is None or result.status == CONTINUED:
            ended = f"it has no result: {self.trouble or 'the guest wrote none'}"
            parts += [
                ended,
                last_lines(self.out / "serial.log", 2 * _LAST_LINES),
                last_lines(self.out / "console.log"),
            ]
        else:
            parts.append(result.message)
        parts += [last_lines(path) for path in logs]
        parts.append(f"everything is in {folder if folder.is_dir() else self.out}")
        return "\n".join(part for part in parts if part)


def parse_results(text: str) -> Mapping[str, ScenarioResult]:
    """Results by scenario, the last of several boots with the seconds of all.

    A line cut off by the machine's end, or one that is no result, is left out.
    """
    results: dict[str, ScenarioResult] = {}
    for line in text.splitlines():
        try:
            fields = json.loads(line)
            result = ScenarioResult(
                str(fields["scenario"]),
                str(fields["status"]),
                str(fields.get("message") or ""),
                float(fields.get("seconds") or 0.0),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if result.status in STATUSES:
            before = results.get(result.scenario)
            seconds = result.seconds + (0.0 if before is None else before.seconds)
            results[result.scenario] = replace(result, seconds=round(seconds, 1))
    return results


def last_lines(path: Path, count: int = _LAST_LINES) -> str:
    """The end of a log under a heading; empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join((f"--- the end of {path.name}", *lines[-count:])) if lines else ""


def summary(reports: Sequence[Report]) -> str:
    """A line per machine: when it came up, how long it took, what came out."""
    lines = []
    for report in reports:
        counts = dict.fromkeys(STATUSES, 0)
        for result in report.results.values():
            counts[result.status] += 1
        came_up = "never" if report.seconds_to_main is None else f"{report.seconds_to_main:.1f} s"
        numbers = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no result"
        lines.append(
            f"{report.kernel} ({report.release or 'no release'}): up after {came_up}, "
            f"{report.seconds:.0f} s in all, {numbers}: {report.out}"
        )
    return "\n".join(lines)
