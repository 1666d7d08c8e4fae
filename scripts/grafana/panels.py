"""Panels, variables and links as both dashboards have them: colours, units, words, what an empty one says.

Source: grafana-foundation-sdk's builders; the dashboard model of Grafana 10.4, which later ones take.
The colours are those of Okabe and Ito, which people of any colour vision tell apart; a word goes with each.

What this module does not do: know any metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DashboardRegexMapOptions,
    DashboardSpecialValueMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    RegexMap,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from scripts.grafana.queries import NOT_TOLD, SILENT, Query

BLUE, SKY, GREEN, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
ORANGE, VERMILLION, PURPLE, GREY = "#E69F00", "#D55E00", "#CC79A7", "#8E8E8E"
SEVERITIES = {"critical": VERMILLION, "warning": ORANGE, "info": SKY}
QUANTILES = {"50%": SKY, "90%": ORANGE, "99%": VERMILLION}

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
NO_HOST = "No host: does Prometheus scrape dmimad?"

Panel = TypeVar(
    "Panel",
    bargauge.Panel,
    heatmap.Panel,
    stat.Panel,
    statetimeline.Panel,
    table.Panel,
    timeseries.Panel,
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What every panel has: title, description, what it says when there is nothing, size in grid cells."""

    title: str
    description: str
    nothing: str
    width: int
    height: int = 8


# -- values -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """What stands for a value, and its colour."""

    text: str
    color: str


def words(values: Mapping[int, Word]) -> ValueMapping:
    """A value mapping: what each number is called."""
    results = {
        str(value): ValueMappingResult(text=word.text, color=word.color, index=index)
        for index, (value, word) in enumerate(values.items())
    }
    return ValueMap(options=results)


def pattern(regex: str, color: str) -> ValueMapping:
    """A value mapping: texts of that form have this colour, and stay as they are."""
    return RegexMap(DashboardRegexMapOptions(pattern=regex, result=ValueMappingResult(color=color)))


def not_a_number(text: str) -> ValueMapping:
    """A value mapping: what stands for NaN and for no value."""
    result = ValueMappingResult(text=text, color=GREY)
    return SpecialValueMap(
        DashboardSpecialValueMapOptions(match=SpecialValueMatch.NULL_AND_NAN, result=result)
    )


def told(yes: str, no: str, absent: str = "not told") -> dict[int, Word]:
    """Of a metric that is 1 or 0, taken by `Scope.told`."""
    return {
        1: Word(yes, BLUE),
        0: Word(no, VERMILLION),
        NOT_TOLD: Word(absent, GREY),
        SILENT: Word("silent", PURPLE),
    }


UP = {1: Word("up", BLUE), 0: Word("SILENT", PURPLE)}
#: Of `Slots.verdict`.
DRIFT = {
    0: Word("no drift", BLUE),
    1: Word("DRIFT", VERMILLION),
    2: Word("maintenance", SKY),
    3: Word("DRIFT in maintenance", ORANGE),
}
#: Of a number by `Scope.told` that cannot be negative.
ABSENT = {NOT_TOLD: Word("not told", GREY), SILENT: Word("silent", PURPLE)}


def thresholds(*steps: tuple[float, str], base: str = BLUE) -> dashboard.ThresholdsConfig:
    """`base` below the first step, then each step's colour from its value on."""
    rising = [Threshold(value=None, color=base)]
    rising += [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(rising)


#: Of a number that should be 0.
ANY_IS_BAD = ((1.0, VERMILLION),)


# -- panels -----------------------------------------------------------------------------------


def framed(panel: Panel, frame: Frame, *queries: Query) -> Panel:
    """`panel` with its frame, data source and queries."""
    panel.title(frame.title).description(frame.description).no_value(frame.nothing)
    panel.datasource(DATASOURCE).span(frame.width).height(frame.height)
    for letter, query in zip("ABCDEFGHIJKL", queries, strict=False):
        panel.with_target(target(query, letter))
    return panel


def target(query: Query, letter: str) -> prometheus.Dataquery:
    """A query as a panel has it, under that letter."""
    made = prometheus.Dataquery().datasource(DATASOURCE).ref_id(letter).expr(query.expression)
    made.legend_format(query.legend or "__auto").format(PromQueryFormat(query.format))
    return made.instant() if query.instant else made.range()


def number(frame: Frame, *queries: Query, unit: str = "none", trend: bool = False) -> stat.Panel:
    """The last value of each query, large; `trend`: with the course of it."""
    panel = framed(stat.Panel(), frame, *queries).unit(unit)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.graph_mode(BigValueGraphMode.AREA if trend else BigValueGraphMode.NONE)
    return panel.color_mode(BigValueColorMode.BACKGROUND).text_mode(BigValueTextMode.AUTO)


def word(frame: Frame, query: Query, values: Mapping[int, Word]) -> stat.Panel:
    """One value as a word."""
    return number(frame, query).mappings([words(values)]).thresholds(thresholds(base=GREY))


def course(
    frame: Frame, *queries: Query, unit: str = "none", calcs: Sequence[str] = ("lastNotNull", "max")
) -> timeseries.Panel:
    """Lines over time; its legend is a table with what `calcs` makes of each."""
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    legend.display_mode(LegendDisplayMode.TABLE).calcs(list(calcs))
    panel = framed(timeseries.Panel(), frame, *queries).unit(unit).legend(legend)
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    panel.line_interpolation(LineInterpolation.STEP_AFTER).line_width(2).fill_opacity(10).span_nulls(False)
    return panel.show_points(VisibilityMode.AUTO).color_scheme(classic())


def bars(frame: Frame, *queries: Query, unit: str = "none") -> timeseries.Panel:
    """Stacked bars over time, for what happens now and then."""
    panel = (
        course(frame, *queries, unit=unit, calcs=["sum"])
        .draw_style(GraphDrawStyle.BARS)
        .fill_opacity(80)
        .min(0)
    )
    panel.max_data_points(120)  # so that one can see a bar
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))


def states(frame: Frame, values: Mapping[int, Word], *queries: Query) -> statetimeline.Panel:
    """A line of coloured stretches for each series, each with its word."""
    return _timeline(frame, *queries).mappings([words(values)])


def hashes(
    frame: Frame, query: Query, row: str, value: str, known: Iterable[ValueMapping]
) -> statetimeline.Panel:
    """As `states`, but of texts: the label `value` over time, in a line for each `row`.

    Prometheus has no texts but labels.  As a table, its answer has a row for each series and point, of which
    a matrix of lines and points is made.
    """
    panel = _timeline(frame, query).mappings(list(known))
    panel.max_data_points(400)  # a row of the answer for each of them and each slot
    matrix = {"columnField": row, "rowField": "Time", "valueField": value, "emptyValue": "null"}
    points = {"conversions": [{"targetField": f"Time\\{row}", "destinationType": "time"}], "fields": {}}
    for name, options in (
        ("sortBy", {"fields": {}, "sort": [{"field": "Time"}]}),
        ("groupingToMatrix", matrix),
        ("convertFieldType", points),
    ):
        panel.with_transformation(transformation(name, options))
    return panel


def _timeline(frame: Frame, *queries: Query) -> statetimeline.Panel:
    legend = common.VizLegendOptions().show_legend(False).placement(LegendPlacement.BOTTOM)
    legend.display_mode(LegendDisplayMode.LIST)
    panel = framed(statetimeline.Panel(), frame, *queries).legend(legend).merge_values(True)
    panel.show_value(VisibilityMode.AUTO).row_height(0.9).fill_opacity(85).line_width(0).per_page(40)
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE).sort(SortOrder.NONE))
    return panel.color_scheme(by_threshold()).thresholds(thresholds(base=GREY))


def shares(frame: Frame, query: Query) -> bargauge.Panel:
    """A bar for each series, with its number."""
    panel = framed(bargauge.Panel(), frame, query).unit("none").min(0)
    panel.display_mode(BarGaugeDisplayMode.BASIC).orientation(VizOrientation.HORIZONTAL)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    return panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color(BLUE))


def rows(frame: Frame, *queries: Query, columns: Mapping[str, str]) -> table.Panel:
    """A table of the answers at the end of the time range: `columns` by field and title, no others.

    A cell without a value has a dash: what the frame says of nothing is of the panel.
    """
    panel = framed(table.Panel(), frame, *queries).color_scheme(by_threshold())
    panel.thresholds(thresholds(base="text"))
    kept = {"include": {"names": list(columns)}}
    order = {
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": dict(columns),
        "excludeByName": {},
    }
    panel.with_transformation(transformation("filterFieldsByName", kept))
    if len(queries) > 1:  # rows become one if what they share is the same: no longer the time
        panel.with_transformation(transformation("merge", {}))
    panel.with_transformation(transformation("organize", order))
    return panel.override_by_regexp(".*", [DynamicConfigValue("noValue", "–")])


def cells(panel: table.Panel, title: str, values: Mapping[int, Word], width: int = 110) -> table.Panel:
    """In `panel`, the column of that title: its values as words on their colours."""
    properties = [
        DynamicConfigValue("mappings", [words(values)]),
        DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
        DynamicConfigValue("custom.width", width),
    ]
    return panel.override_by_name(title, properties)


def counts(panel: table.Panel, title: str, color: str = VERMILLION, width: int = 90) -> table.Panel:
    """In `panel`, the column of that title: a number that is coloured unless it is 0."""
    steps = {"mode": "absolute", "steps": [{"value": None, "color": "text"}, {"value": 1, "color": color}]}
    properties = [
        DynamicConfigValue("thresholds", steps),
        DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        DynamicConfigValue("custom.width", width),
    ]
    return panel.override_by_name(title, properties)


def linked(panel: table.Panel, title: str, link: str, url: str) -> table.Panel:
    """In `panel`, the cells of that column lead to `url`."""
    links = [{"title": link, "url": url, "targetBlank": False}]
    return panel.override_by_name(title, [DynamicConfigValue("links", links)])


def painted(panel: timeseries.Panel, colors: Mapping[str, str]) -> timeseries.Panel:
    """In `panel`, the colours of its series by their names."""
    for name, color in colors.items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [DynamicConfigValue("color", fixed)])
    return panel


def transformation(name: str, options: object) -> DataTransformerConfig:
    return DataTransformerConfig(id_val=name, options=options)


def classic() -> dashboard.FieldColor:
    """A colour for each series, by its name: the same tomorrow."""
    return dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME)


def by_threshold() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS)


# -- variables, annotations, links -------------------------------------------------------------


def datasource_variable() -> dashboard.DatasourceVariable:
    made = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return made.description("The Prometheus that scrapes the hosts.")


def values_of(name: str, label: str, query: str, description: str) -> dashboard.QueryVariable:
    """A variable with the values of a label, looked up again for each time range."""
    made = dashboard.QueryVariable(name).label(label).description(description).datasource(DATASOURCE)
    made.query({"query": query, "refId": f"variable-{name}"}).definition(query)
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)


def several(variable: dashboard.QueryVariable, everything: str = "") -> dashboard.QueryVariable:
    """`variable` of which several values, and at first all, are chosen; `everything`: a pattern for all."""
    variable.multi(True).include_all(True).current(VariableOption(True, ["All"], ["$__all"]))
    return variable.all_value(everything) if everything else variable


def job_variable() -> dashboard.QueryVariable:
    """The jobs that scrape dmimad, whatever they are called; so `up` of other exporters is left out."""
    query = "label_values(dmimad_build_info, job)"
    return several(values_of("job", "Job", query, "Scrape jobs of Prometheus that have dmimad's metrics."))


def choice(
    name: str, label: str, values: Sequence[str], first: str, description: str
) -> dashboard.CustomVariable:
    """A variable with these values."""
    made = dashboard.CustomVariable(name).label(label).description(description)
    made.values(",".join(values)).current(VariableOption(True, first, first))
    return made.options([VariableOption(value == first, value, value) for value in values])


def annotation(name: str, color: str, expression: str, title: str) -> dashboard.AnnotationQuery:
    """Marks the times at which `expression` is above 0."""
    made = dashboard.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).icon_color(color)
    made.expr(expression).title_format(title)
    return made.target(target(Query(expression, title), "Anno"))


def link(title: str, url: str, tooltip: str) -> dashboard.DashboardLink:
    """At the top of a dashboard; the time range goes along."""
    made = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(url).tooltip(tooltip)
    return made.icon("dashboard").keep_time(True).include_vars(False)
