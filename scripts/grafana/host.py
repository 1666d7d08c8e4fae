"""The dashboard of one host: its devices' table slots over time, what was found, how the daemon is.

What this module does not do: compare hosts; `fleet` does, and a link leads back there.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, heatmap, stat, statetimeline, table
from grafana_foundation_sdk.builders.heatmap import HeatmapColorOptions, HeatmapTooltip, YAxisConfig
from grafana_foundation_sdk.models.common import BigValueTextMode, ScaleDistribution
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DynamicConfigValue
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

from scripts.grafana.fleet import BROKER, HOST_UID, PCR
from scripts.grafana.fleet import UID as FLEET_UID
from scripts.grafana.panels import (
    ABSENT,
    ANY_IS_BAD,
    BLUE,
    DRIFT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    QUANTILES,
    SEVERITIES,
    SKY,
    UP,
    VERMILLION,
    YELLOW,
    Frame,
    Word,
    annotation,
    bars,
    cells,
    course,
    datasource_variable,
    framed,
    hashes,
    job_variable,
    link,
    linked,
    not_a_number,
    number,
    painted,
    pattern,
    rows,
    several,
    states,
    thresholds,
    told,
    values_of,
    word,
    words,
)
from scripts.grafana.queries import NOT_TOLD, SILENT, Query, Scope, Slots, latency

HOST = Scope('job=~"$job",instance="$host"')
SLOTS = Slots(HOST, ('device=~"$device"',))
UNKNOWN = "Unknown: the host is silent."
NO_DEVICE = "No device, or the host is silent."

#: For the first digit of a table's hash; none of them is that of a drift.
DIGITS = (
    *(BLUE, SKY, GREEN, YELLOW, PURPLE, "#332288", "#88CCEE", "#117733"),
    *("#999933", "#AA4499", "#44AA99", "#DDCC77", "#6699CC", "#882255", "#661100", "#BBBBBB"),
)
EVENTS = {
    "table_load": BLUE,
    "device_resume": SKY,
    "device_remove": VERMILLION,
    "table_clear": YELLOW,
    "device_rename": PURPLE,
    "target_update": GREEN,
}
PROVENANCE = {
    3: Word("both", BLUE),
    2: Word("observed", YELLOW),
    1: Word("measured", SKY),
    0: Word("not told", GREY),
}
LIST = told("read", "UNREADABLE")


def build() -> dashboard.Dashboard:
    """The dashboard, without the ids of its panels."""
    made = dashboard.Dashboard("dmimad: host").uid(HOST_UID).tags(["dmimad"]).readonly()
    made.description("One host: its device-mapper tables, what was found about them, and how its daemon is.")
    made.refresh("30s").time("now-6h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    back = f"/d/{FLEET_UID}?${{datasource:queryparam}}&${{job:queryparam}}"
    made.link(link("Fleet", back, "All hosts at a glance"))
    _add_variables(made)
    _add_annotations(made)
    for row in (_now, _devices, _findings, _detection, _list, _delivery, _daemon):
        row(made)
    return made


def _add_variables(made: dashboard.Dashboard) -> None:
    host = values_of("host", "Host", 'label_values(up{job=~"$job"}, instance)', "The host: a target.")
    query = 'label_values(dmimad_device_drift{job=~"$job",instance="$host"}, device)'
    device = values_of("device", "Device", query, "Mapped devices whose slots are shown.")
    made.with_variable(datasource_variable()).with_variable(job_variable()).with_variable(host)
    made.with_variable(several(device, ".*"))


def _add_annotations(made: dashboard.Dashboard) -> None:
    drift = f"max by (device, slot) (max_over_time({SLOTS.drift}[$__rate_interval])) > 0"
    made.annotation(annotation("Drift", VERMILLION, drift, "{{device}} drifts ({{slot}} table)"))
    for severity, color in (("critical", VERMILLION), ("warning", ORANGE)):
        firing = f"{HOST.fired(severity, 'severity')} > 0"
        made.annotation(annotation(f"{severity.title()} alerts", color, firing, "{{severity}} alerts"))
    made.annotation(annotation("Silent", PURPLE, HOST.down(), "silent"))
    restarts = f"resets({HOST.series('dmimad_records_total')}[$__rate_interval]) > 0"
    made.annotation(annotation("Restart", SKY, restarts, "the daemon has started anew"))


# -- now --------------------------------------------------------------------------------------


def _now(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Now"))
    for title, description, expression, color in (
        ("Slots that drift", "Table slots whose table is not an approved one.", HOST.drifting(), VERMILLION),
        ("Critical alerts", "Critical alerts that fire now.", HOST.firing("critical"), VERMILLION),
        ("Warning alerts", "Alerts of severity warning that fire now.", HOST.firing("warning"), ORANGE),
    ):
        panel = number(Frame(title, description, UNKNOWN, 3, 4), Query(expression, title, instant=True))
        made.with_panel(panel.thresholds(thresholds((1.0, color))))
    nowhere = "Not a target of this Prometheus."
    for title, description, expression, values in (
        ("Daemon", "Whether the host answers Prometheus.", HOST.series("up"), UP),
        (
            "PCR 10",
            "Whether the list leads to the value of the TPM's PCR. A mismatch says that the list was "
            "tampered with, or is not the whole one.",
            HOST.told(HOST.series("dmimad_pcr_verified")),
            PCR,
        ),
        (
            "List",
            "Whether the measurement list can be read.",
            HOST.told(HOST.series("dmimad_source_up")),
            LIST,
        ),
        (
            "Broker",
            "Whether there is a connection to the MQTT broker. Without one, alerts wait in the outbox.",
            HOST.broker(),
            BROKER,
        ),
    ):
        query = Query(expression, title, instant=True)
        made.with_panel(word(Frame(title, description, nowhere, 3, 4), query, values))
    age = number(
        Frame(
            "Last read",
            "How long ago something was last read. A list that does not grow is not read.",
            UNKNOWN,
            3,
            4,
        ),
        Query(f"time() - {HOST.series('dmimad_last_read_timestamp_seconds')}", instant=True),
        unit="s",
    )
    made.with_panel(age.decimals(0).thresholds(thresholds()))


# -- devices ----------------------------------------------------------------------------------


def _devices(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Devices"))
    made.with_panel(_slots_over_time())
    made.with_panel(_slots_now())
    drift = states(
        Frame(
            "Drift",
            "Whether the table in each slot is not an approved one; and maintenances that expect changes.",
            NO_DEVICE,
            12,
            9,
        ),
        DRIFT,
        Query(f"max by (device, slot) ({SLOTS.verdict()})", "{{device}} · {{slot}}"),
    )
    made.with_panel(drift)
    provenance = states(
        Frame(
            "Provenance",
            "Who says that the table is in the slot: the measurement list, the live tables of the kernel, "
            "or both. Drawn while a slot has a table.",
            NO_DEVICE,
            12,
            9,
        ),
        PROVENANCE,
        Query(SLOTS.provenance(), "{{device}} · {{slot}}"),
    )
    made.with_panel(provenance)


def _slots_over_time() -> statetimeline.Panel:
    frame = Frame(
        "Tables in the slots",
        "The table in both slots of each device over time, by the first eight digits of its hash. Another "
        "table is another stretch; one that is not approved says DRIFT. The last line is whether the daemon "
        "was heard.",
        NO_DEVICE,
        24,
        11,
    )
    known = [
        pattern("DRIFT .*", VERMILLION),
        pattern("silent", PURPLE),
        pattern("(empty|scraped)", "#4A4A4A"),
        *(pattern(f"{digit:x}.*", color) for digit, color in enumerate(DIGITS)),
    ]
    return hashes(frame, Query(SLOTS.states(), format="table"), "place", "state", known)


def _slots_now() -> table.Panel:
    frame = Frame(
        "Slots now",
        "The tables that are in the slots, with their whole hashes, as baselines name them. A device leads "
        "to this dashboard with that device alone.",
        NO_DEVICE,
        24,
        9,
    )
    columns = {
        "device": "Device",
        "slot": "Slot",
        "Value": "Verdict",
        "hash": "Table",
        "provenance": "Provenance",
        "uuid": "UUID",
    }
    panel = rows(frame, Query(SLOTS.now(), instant=True, format="table"), columns=columns)
    here = (
        f"/d/{HOST_UID}?${{datasource:queryparam}}&${{job:queryparam}}&${{host:queryparam}}&${{__url_time_range}}"
        "&var-device=${__data.fields.Device:percentencode}"
    )
    panel = cells(linked(panel, "Device", "This device alone", here), "Verdict", DRIFT, 180)
    for title, width in (("Slot", 90), ("Provenance", 120)):
        panel.override_by_name(title, [DynamicConfigValue("custom.width", width)])
    return panel


# -- what was found ---------------------------------------------------------------------------


def _findings(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Findings"))
    alerts = course(
        Frame("Alerts firing", "Alerts that fire, by severity.", UNKNOWN, 8),
        Query(f"sum by (severity) ({HOST.series('dmimad_alerts_firing')})", "{{severity}}"),
    )
    made.with_panel(painted(alerts.min(0), SEVERITIES))
    made.with_panel(
        bars(
            Frame(
                "Findings by code",
                "Findings made, by code. A finding that lasts is made once; docs/findings.md says what each "
                "means.",
                "No finding was made.",
                8,
            ),
            Query(HOST.grown("dmimad_findings_total", "code"), "{{code}}"),
        )
    )
    events = bars(
        Frame("Device-mapper events", "Records of device-mapper in the list, by event.", UNKNOWN, 8),
        Query(HOST.grown("dmimad_dm_events_total", "event"), "{{event}}"),
    )
    made.with_panel(painted(events, EVENTS))


def _detection(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Detection latency"))
    buckets = HOST.grown("dmimad_detection_latency_seconds_bucket", "le")
    made.with_panel(_heatmap(Query(buckets, "{{le}}", format="heatmap")))
    nothing = "Nothing was detected."
    quantiles = course(
        Frame(
            "Quantiles over time",
            "Time from seeing a change in the list to its alerts being recorded for delivery. Drawn "
            "where something was detected.",
            nothing,
            8,
        ),
        *(Query(latency(HOST, each, "$__rate_interval"), f"{each:.0%}") for each in (0.5, 0.9, 0.99)),
        unit="s",
    )
    made.with_panel(painted(quantiles.span_nulls(True).min(0), QUANTILES))
    whole = number(
        Frame("Quantiles", "Detection latency over the whole time range.", nothing, 4),
        *(Query(latency(HOST, each, "$__range"), f"{each:.0%}", instant=True) for each in (0.5, 0.9, 0.99)),
        unit="s",
    )
    made.with_panel(
        whole.mappings([not_a_number("nothing detected")]).thresholds(
            thresholds((1.0, ORANGE), (10.0, VERMILLION))
        )
    )


def _heatmap(query: Query) -> heatmap.Panel:
    frame = Frame(
        "Latency heatmap",
        "How many changes were detected within which time, from seeing them in the list to their alerts "
        "being recorded for delivery.",
        "Nothing was detected.",
        12,
    )
    # Cividis reads the same with any colour vision.
    color = HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Cividis").steps(64).fill(SKY)
    panel = framed(heatmap.Panel(), frame, query).unit("none").calculate(False)
    panel.color(color).y_axis(YAxisConfig().unit("s")).tooltip(HeatmapTooltip().show_color_scale(True))
    scale = common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR)
    return panel.scale_distribution(scale)


# -- the list ---------------------------------------------------------------------------------


def _list(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Measurement list"))
    growth = f"60 * rate({HOST.series('dmimad_records_total')}[$__rate_interval])"
    position = course(
        Frame("Position and growth", "Records processed of the present list, and per minute.", UNKNOWN, 8),
        Query(HOST.series("dmimad_list_position"), "position"),
        Query(growth, "records per minute"),
    )
    right = [DynamicConfigValue("custom.axisPlacement", "right"), DynamicConfigValue("unit", "cpm")]
    made.with_panel(position.min(0).override_by_name("records per minute", right))
    lag = HOST.told(HOST.series("dmimad_list_lag_records"))
    made.with_panel(
        course(
            Frame(
                "Lag",
                "Records of the list that are not processed yet. A mirrored file does not tell how many "
                "there are: the line is below 0 then, as where the host is silent.",
                UNKNOWN,
                8,
            ),
            Query(lag, "records not processed"),
        ).mappings([words(ABSENT)])
    )
    made.with_panel(
        course(
            Frame(
                "Age of the last read",
                "How long ago something was last read, at each time. A list that does not grow is not read.",
                UNKNOWN,
                8,
            ),
            Query(f"time() - {HOST.series('dmimad_last_read_timestamp_seconds')}", "since the last read"),
            unit="s",
        ).min(0)
    )


# -- delivery ---------------------------------------------------------------------------------


def _delivery(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Delivery and health"))
    made.with_panel(_health())
    outbox = course(
        Frame(
            "Outbox",
            "Messages that the broker has not acknowledged yet. They are kept on disk and sent when there "
            "is one.",
            UNKNOWN,
            8,
        ),
        Query(HOST.series("dmimad_outbox_pending"), "waiting"),
    )
    made.with_panel(outbox.min(0))
    dead = number(
        Frame(
            "Given up",
            "Messages given up since the daemon's start: the broker kept rejecting them, or too many could "
            "not be stored.",
            UNKNOWN,
            4,
        ),
        Query(HOST.series("dmimad_outbox_dead_total"), "messages", instant=True),
    )
    made.with_panel(dead.thresholds(thresholds(*ANY_IS_BAD)))


def _health() -> statetimeline.Panel:
    frame = Frame(
        "Health over time",
        "Whether the daemon answers, reads the list, observes the live tables, finds the list in agreement "
        "with the TPM, has its broker, can store, and has its settings in force.",
        UNKNOWN,
        12,
        8,
    )
    lines = (
        ("list", "dmimad_source_up"),
        ("live tables", "dmimad_live_up"),
        ("PCR 10", "dmimad_pcr_verified"),
        ("broker", "dmimad_mqtt_connected"),
        ("state directory", "dmimad_store_up"),
        ("settings", "dmimad_config_last_reload_successful"),
    )
    told_lines = [Query(HOST.told(HOST.series(metric)), name) for name, metric in lines]
    daemon = Query(HOST.told(f"({HOST.series('up')} == 1)"), "daemon")
    return states(frame, told("fine", "FAILED"), daemon, *told_lines)


# -- the process ------------------------------------------------------------------------------


def _daemon(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("The daemon's process"))
    version = number(
        Frame("Version", "The version of dmimad that runs.", UNKNOWN, 4, 4),
        Query(HOST.series("dmimad_build_info"), "{{version}}", instant=True),
    )
    made.with_panel(version.text_mode(BigValueTextMode.NAME).thresholds(thresholds()))
    devices = Query(HOST.series("dmimad_devices"), "devices", instant=True)
    made.with_panel(
        number(Frame("Mapped devices", "Mapped devices that exist.", UNKNOWN, 4, 4), devices).thresholds(
            thresholds()
        )
    )
    started = HOST.series("process_start_time_seconds")
    processor = HOST.series("process_cpu_seconds_total")
    for title, description, expression, unit in (
        ("Uptime", "How long ago the daemon was started.", f"(time() - {started})", "dtdurations"),
        ("Memory", "Memory the daemon has resident.", HOST.series("process_resident_memory_bytes"), "bytes"),
        ("Processor", "Share of one processor.", f"rate({processor}[$__rate_interval])", "percentunit"),
        ("Open files", "Descriptors the daemon has open.", HOST.series("process_open_fds"), "none"),
    ):
        made.with_panel(_resource(Frame(title, description, UNKNOWN, 4, 4), expression, unit))


def _resource(frame: Frame, expression: str, unit: str) -> stat.Panel:
    """A number with its course; a daemon may be built without them."""
    panel = number(frame, Query(HOST.told(expression), frame.title), unit=unit, trend=unit != "dtdurations")
    absent = {NOT_TOLD: Word("not told", GREY), SILENT: Word("silent", PURPLE)}
    return panel.mappings([words(absent)]).thresholds(thresholds())
