"""PromQL of the dashboards: what to select, and what to say where a series is absent.

Source: the metrics of `dmimad/adapters/metrics.py`.  Those that every daemon has are used as they are; those
that not each has, only with something in their place, so that no panel is empty for the lack of them.

What this module does not do: know anything of panels.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What these are told apart by.
TARGET = "instance, job"
DEVICE = f"{TARGET}, device, uuid"
SLOT = f"{DEVICE}, slot"

#: Values of `Scope.told` that are none of the metric's own.
NOT_TOLD = -1
SILENT = -2


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; `instant`: its value at the end of the time range, not over it."""

    expression: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


@dataclass(frozen=True, slots=True)
class Scope:
    """The series a dashboard is about, as label matchers in which Grafana puts its variables."""

    matchers: str

    def series(self, metric: str, *more: str) -> str:
        """A selector; `more`: further matchers."""
        return f"{metric}{{{','.join((self.matchers, *more))}}}"

    def told(self, expression: str) -> str:
        """`expression` per target; NOT_TOLD where a daemon has no such series, SILENT where it is down.

        All of it is one series for each target, or a state would move from line to line.
        """
        up = self.series("up")
        absent = f"0 * ({up} == 1) - {-NOT_TOLD} or 0 * ({up} == 0) - {-SILENT}"
        return f"max by ({TARGET}) ({expression} or {absent})"

    def grown(self, metric: str, by: str) -> str:
        """By how much counters have grown, by these labels, from each point to the next.

        Unlike `increase` it neither guesses nor tells one finding at several points.  A counter that is new
        counts from zero, or the first finding of each code would be missed; not so where the daemon was not
        scraped in the hour before either, for nobody knows when that was.  What came to pass in a shorter
        silence is told at its end.
        """
        now = self.series(metric)
        before, known = (
            f"last_over_time({each}[1h] offset $__interval)"
            for each in (now, self.series("dmimad_records_total"))
        )
        more, anew = f"({now} - {before} >= 0)", f"({now} and {now} < {before})"
        new = f"(({now} unless {before}) and on ({TARGET}) {known})"
        return f"sum by ({by}) ({more} or {anew} or {new})"

    def broker(self) -> str:
        """Whether there is a connection to the broker; NOT_TOLD where there is to be none."""
        unwanted = f"({self.series('dmimad_mqtt_enabled')} == 0)"
        return self.told(f"({self.series('dmimad_mqtt_connected')} unless on ({TARGET}) {unwanted})")

    def firing(self, severity: str, by: str = "") -> str:
        """Number of alerts of this severity that fire; `by`: labels to keep."""
        alerts = self.series("dmimad_alerts_firing", f'severity="{severity}"')
        return f"sum by ({by}) ({alerts})" if by else f"sum({alerts})"

    def fired(self, severity: str, by: str) -> str:
        """The highest number of them since the point before, so that a short one is marked too."""
        alerts = self.series("dmimad_alerts_firing", f'severity="{severity}"')
        return f"sum by ({by}) (max_over_time({alerts}[$__rate_interval]))"

    def down(self) -> str:
        """Targets that did not answer since the point before."""
        return f"1 - min_over_time({self.series('up')}[$__rate_interval]) > 0"

    def drifting(self) -> str:
        """Number of slots that drift; 0 also where there is no device."""
        none = f"sum(0 * {self.series('dmimad_devices')})"
        return f"sum({self.series('dmimad_device_drift')}) or {none}"

    def silent(self, since: str) -> str:
        """Targets that are down, and those that were there within `since` and are none any more; by `why`."""
        up = self.series("up")
        gone = f"last_over_time({up}[{since}]) unless {up}"
        return (
            f'(label_replace({up} == 0, "why", "does not answer", "", "")'
            f' or label_replace({gone}, "why", "is no target any more", "", ""))'
        )


def latency(scope: Scope, quantile: float, window: str) -> str:
    """That quantile of the detection latency over `window`; NaN if nothing was detected."""
    buckets = scope.series("dmimad_detection_latency_seconds_bucket")
    return f"histogram_quantile({quantile}, sum by (le) (rate({buckets}[{window}])))"


# -- device slots -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slots:
    """The table slots of the devices in a scope."""

    scope: Scope
    matchers: tuple[str, ...] = ()

    @property
    def drift(self) -> str:
        return self.scope.series("dmimad_device_drift", *self.matchers)

    @property
    def table(self) -> str:
        return self.scope.series("dmimad_device_table_info", *self.matchers)

    def verdict(self) -> str:
        """Per slot: 1 if it drifts, and 2 more while a maintenance expects changes of the device."""
        maintenance = self.scope.series("dmimad_device_maintenance", *self.matchers)
        none = f"0 * max by ({DEVICE}) ({self.drift})"
        return f"({self.drift} + on ({DEVICE}) group_left () 2 * ({maintenance} or on ({DEVICE}) {none}))"

    def drifting_tables(self) -> str:
        """The verdict on each table that is not approved, with its `hash` if the slot has a table."""
        drifting = f"({self.verdict()} and on ({SLOT}) {self.drift} == 1)"
        tables = f"{self.table} * on ({SLOT}) group_left () {drifting}"
        return f"max by (instance, device, slot, uuid, hash) ({tables} or on ({SLOT}) {drifting})"

    def states(self) -> str:
        """One series per `place` (device and slot) and `state`: the head of the table's hash, if any.

        DRIFT stands before it if the table is not approved.  The daemon has a place of its own, at each time:
        so that what is not known then is not drawn.
        """
        head = '"hash", "(?:[^:]*:)?(.{0,8}).*"'
        drifting, fine = f"({self.drift} == 1)", f"({self.drift} == 0)"
        slots = " or ".join(
            (
                f'label_replace({self.table} and on ({SLOT}) {drifting}, "state", "DRIFT $1", {head})',
                f'label_replace({self.table} unless on ({SLOT}) {drifting}, "state", "$1", {head})',
                f'label_replace({drifting} unless on ({SLOT}) {self.table}, "state", "DRIFT empty", "", "")',
                f'label_replace({fine} unless on ({SLOT}) {self.table}, "state", "empty", "", "")',
            )
        )
        up = self.scope.series("up")
        daemon = " or ".join(
            f'label_replace({up} == {value}, "state", "{state}", "", "")'
            for value, state in ((1, "scraped"), (0, "silent"))
        )
        return (
            f'max by (place, state) (label_join({slots}, "place", " · ", "device", "slot"))'
            f' or max by (place, state) (label_replace({daemon}, "place", "daemon", "", ""))'
        )

    def provenance(self) -> str:
        """By device and slot: 3 measured and observed, 2 observed, 1 measured, 0 not told."""
        witness = "dmimad_device_witness_info"
        told = " or ".join(
            f"{value} * " + self.scope.series(witness, *self.matchers, f'provenance="{who}"')
            for value, who in ((3, "both"), (2, "observed"), (1, "measured"))
        )
        return f"max by (device, slot) (({told}) or on ({SLOT}) 0 * {self.table})"

    def now(self) -> str:
        """The verdict on each table, with its device, slot, hash and provenance."""
        witness = self.scope.series("dmimad_device_witness_info", *self.matchers)
        untold = f'label_replace({self.table}, "provenance", "not told", "", "")'
        # Two devices may share name and uuid for a while, and so have two tables here: one of them will do.
        who = f"topk by ({SLOT}) (1, {witness} or on ({SLOT}) {untold})"
        verdict = f"{self.table} * on ({SLOT}) group_left () {self.verdict()}"
        return (
            f"max by (device, slot, hash, uuid, provenance)"
            f" (({verdict}) * on ({SLOT}) group_left (provenance) {who})"
        )
