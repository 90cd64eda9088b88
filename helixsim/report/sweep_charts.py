"""Charts of a sweep for its page: lines with intervals and objectives, and Pareto fronts with labelled points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helixsim.config.sweep_file import Plot
from helixsim.report.charts import Axis, Chart, Curve, Dots, Note, linear_axis, log_axis
from helixsim.report.run_charts import kinds_of
from helixsim.report.search_charts import HEIGHT, WIDTH, known, labels_beside, pareto_chart, users_against_gpus
from helixsim.report.sweep_figures import MOST_PANELS, Scale
from helixsim.results.sweep import SweepResults, plain_value, short_names
from helixsim.units import number

Row = Mapping[str, Any]
_LONGEST_LABEL = 28


def sweep_charts(results: SweepResults, means: Sequence[Row], plots: Sequence[Plot]) -> tuple[Chart, ...]:
    """Return the charts of line and Pareto plots, then users against GPUs; heat maps stay figures."""
    kinds = system_kinds(means)
    labelled = [{**row, "label": point_label(results, row)} for row in means]
    charts: list[Chart] = []
    for number_, plot in enumerate(plots):
        if plot.kind == "lines":
            charts += _lines(results, labelled, plot, kinds, f"lines-{number_}")
        elif plot.kind == "pareto":
            rows = [row for row in labelled if known(row.get(plot.x)) and known(row.get(plot.y))]
            title = f"{results.label(plot.y)} against {results.label(plot.x)}"
            x, y = (plot.x, results.label(plot.x), plot.x_goal), (plot.y, results.label(plot.y), plot.y_goal)
            chart = pareto_chart(f"pareto-{number_}", title[0].upper() + title[1:], rows, kinds, x, y)
            charts += [] if chart is None else [chart]
    return (*charts, *users_against_gpus(labelled, kinds))


def system_kinds(means: Sequence[Row]) -> dict[str, str]:
    """Return the CSS classes of each system."""
    return kinds_of(list(dict.fromkeys(str(row["system"]) for row in means)))


def point_label(results: SweepResults, row: Row) -> str:
    """Return the settings of a point in short."""
    names = zip(short_names(results.axes), results.axes, strict=True)
    text = ", ".join(f"{name} {plain_value(row[axis])}" for name, axis in names)
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def limit_of(results: SweepResults, key: str) -> float | None:
    """Return the objective of a result in its unit; None if it has none."""
    slo = results.slo
    for name, limit in (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("e2el", slo.e2el_s)):
        if limit is not None and f"_{name}_" in f"_{key}":
            return 1e3 * limit if key.endswith("_ms") else limit
    return None


def _lines(
    results: SweepResults, rows: Sequence[Row], plot: Plot, kinds: Mapping[str, str], name: str
) -> list[Chart]:  # fmt: skip
    """Return y over x, a line per system, a chart per value of the next varied axis."""
    shown = [row for row in rows if known(row.get(plot.y))]
    if not shown:
        return []
    others = [axis for axis in results.axes if axis != plot.x and len({str(row[axis]) for row in rows}) > 1]
    split = None
    if others and not results.is_sampled and len({str(row[others[0]]) for row in rows}) <= MOST_PANELS:
        split = others[0]
    panels = list(dict.fromkeys(str(plain_value(row[split])) for row in rows)) if split else [""]
    scale = Scale(results.label(plot.x), [row[plot.x] for row in rows])
    limit = limit_of(results, plot.y)
    ends = [row[plot.y] for row in shown] + [row[f"{plot.y}.high"] for row in shown if known(row.get(f"{plot.y}.high"))]
    highest = max([float(end) for end in ends] + ([] if limit is None else [min(limit, 2 * max(ends))]))
    y = linear_axis(results.label(plot.y), min(0.0, *(float(row[plot.y]) for row in shown)), highest or 1.0)
    title = f"{results.label(plot.y)} over {results.label(plot.x)}"
    charts = []
    for number_, panel in enumerate(panels):
        own = [row for row in shown if split is None or str(plain_value(row[split])) == panel]
        heading = f"{title[0].upper()}{title[1:]}" + (f", {results.label(split)} {panel}" if split else "")
        charts.append(_panel(results, own, plot, kinds, f"{name}-{number_}", heading, _x_axis(scale), scale, y, limit))
    return charts


def _panel(
    results: SweepResults, rows: Sequence[Row], plot: Plot, kinds: Mapping[str, str], name: str, title: str, x: Axis,
    scale: Scale, y: Axis, limit: float | None,
) -> Chart:  # fmt: skip
    curves, bands, dots = [], [], []
    for system, kind in kinds.items():
        own = sorted((row for row in rows if row["system"] == system), key=lambda row: scale.of(row[plot.x]))
        points = [(scale.of(row[plot.x]), float(row[plot.y])) for row in own]
        places = sorted({at for at, _ in points})
        if not results.is_sampled and points:
            means = [float(np.mean([value for at, value in points if at == place])) for place in places]
            curves.append(Curve(kind, places, means, name=system))
        limits: list[tuple[Any, Any]] = [(row.get(f"{plot.y}.low"), row.get(f"{plot.y}.high")) for row in own]
        if len(places) == len(points) > 1 and all(known(low) and known(high) for low, high in limits):
            around = [*places, *reversed(places)]
            edges = [*(float(low) for low, _ in limits), *(float(high) for _, high in reversed(limits))]
            bands.append(Curve(kind.split()[0], around, edges, name=system))
        labels = [f"{system}, {row['label']}: {number(row[plot.y])}" for row in own]
        dots.append(Dots(f"{kind.split()[0]} full large", points, labels, name=system))
    guides, notes = [], []
    if limit is not None and limit <= y.high:
        guides.append(Curve("slo", (x.low, x.high), (limit, limit)))
        notes.append(Note(x.high, limit, f"SLO {number(limit)}", "end"))
    if plot.y == results.objective and rows:
        best = max(rows, key=lambda row: float(row[plot.y]) * (1 if results.is_max else -1))
        place = scale.of(best[plot.x]), float(best[plot.y])
        notes += labels_beside([(*place, f"best: {best['system']}, {number(place[1])}")], x, y)
    return Chart(
        name, title, f"{title}: a line for each system, {len(rows)} points.", x, y, curves=tuple(curves),
        bands=tuple(bands), dots=tuple(dots), guides=tuple(guides), notes=tuple(notes), width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def _x_axis(scale: Scale) -> Axis:
    """Return the axis of a scale: its numbers, or a place for each of its values."""
    places = sorted(scale.places.values())
    low, high = places[0], places[-1]
    if scale.is_number and len(places) > 2 and low > 0 and high >= 20 * low:
        return log_axis(scale.label, places)
    if scale.is_number:
        return linear_axis(scale.label, min(0.0, low) if low < 0.5 * high else low, high)
    ticks = tuple((scale.places[text], text if len(text) <= 14 else f"{text[:13]}…") for text in scale.texts)
    return Axis(scale.label, low - 0.4, high + 0.4, ticks)
