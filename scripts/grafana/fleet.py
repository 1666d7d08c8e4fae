"""The dashboard of all hosts: what drifts, what fires, who is silent, and how well they are served.

What this module does not do: show one host closely; `host` does, and everything here leads there.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, statetimeline, table, timeseries
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DynamicConfigValue

from scripts.grafana.panels import (
    ABSENT,
    ANY_IS_BAD,
    DRIFT,
    NO_HOST,
    ORANGE,
    PURPLE,
    QUANTILES,
    SEVERITIES,
    UP,
    VERMILLION,
    Frame,
    Word,
    annotation,
    bars,
    cells,
    choice,
    counts,
    course,
    datasource_variable,
    job_variable,
    link,
    linked,
    number,
    painted,
    rows,
    several,
    shares,
    states,
    thresholds,
    told,
    values_of,
    words,
)
from scripts.grafana.queries import Query, Scope, Slots, latency

UID = "dmimad-fleet"
HOST_UID = "dmimad-host"
FLEET = Scope('job=~"$job",instance=~"$host"')
ALL_SLOTS = Slots(FLEET)
SILENCE = FLEET.silent("$lookback")

_VARIABLES = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
#: Of a table whose column Host has the instance; of a table of slots; of series.
TO_HOST = f"/d/{HOST_UID}?{_VARIABLES}&var-host=${{__data.fields.Host:percentencode}}"
TO_DEVICE = f"{TO_HOST}&var-device=${{__data.fields.Device:percentencode}}"
TO_SERIES = f"/d/{HOST_UID}?{_VARIABLES}&var-host=${{__field.labels.instance:percentencode}}"

BROKER = told("connected", "NO BROKER", "not used")
PCR = told("verified", "MISMATCH", "no TPM")


def build() -> dashboard.Dashboard:
    """The dashboard, without the ids of its panels."""
    made = dashboard.Dashboard("dmimad: fleet").uid(UID).tags(["dmimad"]).readonly()
    made.description("All hosts whose device-mapper tables dmimad watches. A host is a target of Prometheus.")
    made.refresh("30s").time("now-6h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    made.link(
        link(
            "One host",
            f"/d/{HOST_UID}?${{datasource:queryparam}}&${{job:queryparam}}",
            "The devices, the list and the daemon of one host",
        )
    )
    _add_variables(made)
    _add_annotations(made)
    for row in (_now, _alerts, _hosts, _delivery, _detection):
        row(made)
    return made


def _add_variables(made: dashboard.Dashboard) -> None:
    hosts = values_of("host", "Host", 'label_values(up{job=~"$job"}, instance)', "Hosts to look at: targets.")
    lookback = "How long a host that is no target any more counts as silent."
    made.with_variable(datasource_variable()).with_variable(job_variable())
    made.with_variable(several(hosts, ".*"))
    made.with_variable(choice("lookback", "Silent within", ("1h", "6h", "24h", "7d", "30d"), "24h", lookback))


def _add_annotations(made: dashboard.Dashboard) -> None:
    for severity, color in (("critical", VERMILLION), ("warning", ORANGE)):
        firing = f"{FLEET.fired(severity, 'instance')} > 0"
        made.annotation(
            annotation(f"{severity.title()} alerts", color, firing, f"{severity} alerts on {{{{instance}}}}")
        )
    made.annotation(annotation("Silent", PURPLE, FLEET.down(), "{{instance}} is silent"))


# -- what is wrong now ------------------------------------------------------------------------


def _now(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Now"))
    small = 4
    up = FLEET.series("up")
    mismatch = f"sum(1 - {FLEET.series('dmimad_pcr_verified')} or 0 * ({up} == 1))"
    for title, description, expression, color in (
        (
            "Slots that drift",
            "Table slots, over all hosts, whose table is not an approved one.",
            ALL_SLOTS.scope.drifting(),
            VERMILLION,
        ),
        ("Critical alerts", "Critical alerts that fire now.", FLEET.firing("critical"), VERMILLION),
        ("Warning alerts", "Alerts of severity warning that fire now.", FLEET.firing("warning"), ORANGE),
        (
            "PCR mismatches",
            "Hosts whose list does not lead to the TPM's PCR value: the list cannot be trusted. Hosts "
            "without TPM do not count.",
            mismatch,
            VERMILLION,
        ),
        (
            "Silent",
            "Hosts that do not answer, and hosts that are no target any more but were within $lookback.",
            f"count({SILENCE}) or 0 * count({up})",
            PURPLE,
        ),
    ):
        panel = number(Frame(title, description, NO_HOST, small, 4), Query(expression, title, instant=True))
        made.with_panel(panel.thresholds(thresholds((1.0, color))))
    hosts = number(
        Frame("Hosts up", "Targets of Prometheus that answer, of all that there are.", NO_HOST, small, 4),
        Query(f"sum({up})", "up", instant=True),
        Query(f"count({up})", "of", instant=True),
    )
    made.with_panel(hosts.thresholds(thresholds()))
    made.with_panel(_drift_now())
    made.with_panel(_silent_hosts())


def _drift_now() -> table.Panel:
    frame = Frame(
        "Drift now",
        "Slots whose table is not an approved one. The active table is the one in use; the inactive one "
        "comes into use with the next resume. A device leads to its host's dashboard.",
        "No slot drifts.",
        14,
        9,
    )
    columns = {
        "instance": "Host",
        "device": "Device",
        "slot": "Slot",
        "Value": "Verdict",
        "hash": "Table",
        "uuid": "UUID",
    }
    query = Query(ALL_SLOTS.drifting_tables(), instant=True, format="table")
    panel = rows(frame, query, columns=columns)
    panel = linked(panel, "Host", "Open the host", TO_HOST)
    panel = linked(panel, "Device", "Open the device on its host", TO_DEVICE)
    panel = cells(panel, "Verdict", DRIFT, 180)
    return panel.override_by_name("Slot", [DynamicConfigValue("custom.width", 90)])


def _silent_hosts() -> table.Panel:
    frame = Frame(
        "Silent hosts",
        "Hosts that do not answer Prometheus, or are no target any more but were within $lookback; and when "
        "they were last known to read their list. Who silences a host is not seen on it.",
        "No host is silent.",
        10,
        9,
    )
    read = FLEET.series("dmimad_last_read_timestamp_seconds")
    known = f"1000 * last_over_time({read}[$lookback])"
    seen = (
        f"max by (instance, why) ({SILENCE} * 0 + on (instance, job) group_left () ({known})"
        f" or on (instance, job) {SILENCE} * 0)"
    )
    columns = {"instance": "Host", "why": "What", "Value": "List last read"}
    panel = rows(frame, Query(seen, instant=True, format="table"), columns=columns)
    panel = linked(panel, "Host", "Open the host", TO_HOST)
    unknown = words({0: Word("not within that time", PURPLE)})
    properties = [DynamicConfigValue("unit", "dateTimeFromNow"), DynamicConfigValue("mappings", [unknown])]
    return panel.override_by_name("List last read", properties)


# -- alerts over time -------------------------------------------------------------------------


def _alerts(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Alerts over time"))
    alerts = course(
        Frame("Alerts firing", "Alerts that fire, by severity, over all hosts.", NO_HOST, 12),
        Query(f"sum by (severity) ({FLEET.series('dmimad_alerts_firing')})", "{{severity}}"),
    )
    made.with_panel(painted(alerts.min(0), SEVERITIES))
    findings = bars(
        Frame(
            "Findings by code",
            "Findings made, by code, over all hosts. A finding that lasts is made once; docs/findings.md "
            "says what each means.",
            "No finding was made.",
            12,
        ),
        Query(FLEET.grown("dmimad_findings_total", "code"), "{{code}}"),
    )
    made.with_panel(findings)


# -- hosts ------------------------------------------------------------------------------------


def _hosts(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Hosts"))
    made.with_panel(_all_hosts())
    pcr = FLEET.told(FLEET.series("dmimad_pcr_verified"))
    made.with_panel(
        _per_host(
            states(
                Frame(
                    "PCR 10",
                    "Whether each host's list leads to the value of its TPM's PCR. A mismatch says that the "
                    "list was tampered with, or is not the whole one.",
                    NO_HOST,
                    12,
                ),
                PCR,
                Query(pcr, "{{instance}}"),
            )
        )
    )
    made.with_panel(
        _per_host(
            states(
                Frame("Daemons", "Whether each host answers Prometheus.", NO_HOST, 12),
                UP,
                Query(FLEET.series("up"), "{{instance}}"),
            )
        )
    )


def _all_hosts() -> table.Panel:
    def each(expression: str) -> Query:
        return Query(f"max by (instance) ({expression})", instant=True, format="table")

    def told_of(metric: str) -> Query:
        return each(FLEET.told(FLEET.series(metric)))

    version = f"max by (instance, version) ({FLEET.series('dmimad_build_info')})"
    drift = f"sum by (instance) ({FLEET.series('dmimad_device_drift')})"
    none = f"sum by (instance) (0 * {FLEET.series('dmimad_devices')})"
    frame = Frame("All hosts", "Each host's state now. A host leads to its dashboard.", NO_HOST, 24, 10)
    panel = rows(
        frame,
        each(FLEET.series("up")),
        Query(f"{drift} or {none}", instant=True, format="table"),
        Query(FLEET.firing("critical", "instance"), instant=True, format="table"),
        Query(FLEET.firing("warning", "instance"), instant=True, format="table"),
        told_of("dmimad_pcr_verified"),
        told_of("dmimad_source_up"),
        each(FLEET.broker()),
        told_of("dmimad_config_last_reload_successful"),
        each(FLEET.series("dmimad_outbox_pending")),
        each(FLEET.series("dmimad_devices")),
        Query(version, instant=True, format="table"),
        columns={
            "instance": "Host",
            "Value #A": "Daemon",
            "Value #B": "Drift",
            "Value #C": "Critical",
            "Value #D": "Warning",
            "Value #E": "PCR 10",
            "Value #F": "List",
            "Value #G": "Broker",
            "Value #H": "Settings",
            "Value #I": "Outbox",
            "Value #J": "Devices",
            "version": "Version",
        },
    )
    panel = linked(panel, "Host", "Open the host", TO_HOST)
    for title, color in (("Drift", VERMILLION), ("Critical", VERMILLION), ("Warning", ORANGE)):
        counts(panel, title, color)
    for title, values in (
        ("Daemon", UP),
        ("PCR 10", PCR),
        ("List", told("read", "UNREADABLE")),
        ("Broker", BROKER),
        ("Settings", told("in force", "REFUSED")),
    ):
        cells(panel, title, values)
    return panel


def _per_host(panel: statetimeline.Panel) -> statetimeline.Panel:
    return panel.override_by_regexp(".*", [DynamicConfigValue("links", [_series_link()])])


def _line_per_host(panel: timeseries.Panel) -> timeseries.Panel:
    return panel.override_by_regexp(".*", [DynamicConfigValue("links", [_series_link()])])


def _series_link() -> dict[str, object]:
    return {"title": "Open the host", "url": TO_SERIES, "targetBlank": False}


# -- delivery and reading ---------------------------------------------------------------------


def _delivery(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Delivery"))
    made.with_panel(
        _per_host(
            states(
                Frame(
                    "Broker",
                    "Whether each host has a connection to its MQTT broker. Without one, alerts wait in its "
                    "outbox.",
                    NO_HOST,
                    8,
                ),
                BROKER,
                Query(FLEET.broker(), "{{instance}}"),
            )
        )
    )
    pending = course(
        Frame(
            "Outbox",
            "Messages that no broker has acknowledged yet. They are kept on disk and sent when there is one.",
            NO_HOST,
            8,
        ),
        Query(FLEET.series("dmimad_outbox_pending"), "{{instance}}"),
    )
    made.with_panel(_line_per_host(pending.min(0)))
    dead = course(
        Frame(
            "Messages given up",
            "Messages given up since the daemon's start: the broker kept rejecting them, or too many could "
            "not be stored.",
            NO_HOST,
            8,
        ),
        Query(FLEET.series("dmimad_outbox_dead_total"), "{{instance}}"),
    )
    made.with_panel(_line_per_host(dead.min(0).thresholds(thresholds(*ANY_IS_BAD))))


def _detection(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Detection"))
    lag = FLEET.series("dmimad_list_lag_records")
    lagging = course(
        Frame(
            "List lag",
            "Records of the measurement list that are not processed yet. A mirrored file does not tell how "
            "many there are: such a line is below 0.",
            NO_HOST,
            8,
        ),
        Query(FLEET.told(lag), "{{instance}}"),
    )
    made.with_panel(_line_per_host(lagging.mappings([words(ABSENT)])))
    quantiles = course(
        Frame(
            "Detection latency",
            "Time from seeing a change in the list to its alerts being recorded for delivery, over all "
            "hosts. Drawn where something was detected.",
            "Nothing was detected.",
            8,
        ),
        *(
            Query(latency(FLEET, quantile, "$__rate_interval"), f"{quantile:.0%}")
            for quantile in (0.5, 0.9, 0.99)
        ),
        unit="s",
    )
    made.with_panel(painted(quantiles.span_nulls(True).min(0), QUANTILES))
    versions = shares(
        Frame("Versions", "Hosts by the version of dmimad that they run.", NO_HOST, 8),
        Query(f"count by (version) ({FLEET.series('dmimad_build_info')})", "{{version}}", instant=True),
    )
    made.with_panel(versions)
