"""Charts of a sweep for its page: lines with intervals and objectives, and Pareto fronts with labelled points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
_MOST_DIGITS, _MOST_TICKS = 1e6, 8
"""Logarithmic axes over no more values have their ticks at these."""


def sweep_charts(results: SweepResults, means: Sequence[Row], plots: Sequence[Plot]) -> tuple[Chart, ...]:
    """Return the charts of line and Pareto plots, then users against GPUs; heat maps are those of ``heat_map``."""
    kinds, keys = system_kinds(means), line_keys(results, means, plots)
    labelled = [{**row, "label": point_label(results, row)} for row in means]
    charts: list[Chart] = []
    for number_, plot in enumerate(plots):
        if plot.kind == "lines":
            charts += _lines(results, labelled, plot, keys, f"lines-{number_}")
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


Keys = Mapping[tuple[str, str], tuple[str, str]]
"""CSS classes and name of each line, by its system and what sets its result apart from others of its chart."""


def line_keys(results: SweepResults, means: Sequence[Row], plots: Sequence[Plot]) -> Keys:
    """Return the lines of all plots: a colour for each system and dashes for each result, or colours for results."""
    lines = [plot for plot in plots if plot.kind == "lines"]
    parts = list(dict.fromkeys(part for plot in lines for part in results.shared_label(plot.results)[1])) or [""]
    systems, by_part = system_kinds(means), kinds_of(parts)
    if len(systems) == 1 and len(parts) > 1:
        return {(system, part): (by_part[part], part or system) for system in systems for part in parts}
    if len(parts) == 1:
        return {(system, part): (kind, system) for system, kind in systems.items() for part in parts}
    return {
        (system, part): (f"{kind.split()[0]} {_DASHES[number_ % len(_DASHES)]}".rstrip(), f"{system} {part}".rstrip())
        for system, kind in systems.items()
        for number_, part in enumerate(parts)
    }


_DASHES = ("", "dash2", "dash3", "dash4")
"""Lines of several results of a system: whole, then dashed."""


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
    results: SweepResults, rows: Sequence[Row], plot: Plot, keys: Keys, name: str
) -> list[Chart]:  # fmt: skip
    """Return results over x, a line per system and result, a chart per value of the next varied axis."""
    shown = [row for row in rows if any(known(row.get(key)) for key in plot.results)]
    if not shown:
        return []
    others = [axis for axis in results.axes if axis != plot.x and len({str(row[axis]) for row in rows}) > 1]
    split = None
    if others and not results.is_sampled and len({str(row[others[0]]) for row in rows}) <= MOST_PANELS:
        split = others[0]
    panels = list(dict.fromkeys(str(plain_value(row[split])) for row in rows)) if split else [""]
    scale = Scale(results.label(plot.x), [row[plot.x] for row in rows])
    limit = limit_of(results, plot.y)
    drawn = [key for result in plot.results for key in (result, f"{result}.high")]
    ends = [float(row[key]) for row in shown for key in drawn if known(row.get(key))]
    highest = max(ends + ([] if limit is None else [min(limit, 2 * max(ends))]))
    label = results.shared_label(plot.results)[0]
    y = linear_axis(label, min(0.0, *ends), highest or 1.0)
    title = f"{label} over {results.label(plot.x)}"
    charts = []
    for number_, panel in enumerate(panels):
        own = [row for row in shown if split is None or str(plain_value(row[split])) == panel]
        heading = f"{title[0].upper()}{title[1:]}" + (f", {results.label(split)} {panel}" if split else "")
        charts.append(_panel(results, own, plot, keys, f"{name}-{number_}", heading, _x_axis(scale), scale, y, limit))
    return charts


def _panel(
    results: SweepResults, rows: Sequence[Row], plot: Plot, keys: Keys, name: str, title: str, x: Axis,
    scale: Scale, y: Axis, limit: float | None,
) -> Chart:  # fmt: skip
    results_by_part = dict(zip(results.shared_label(plot.results)[1], plot.results, strict=True))
    curves, bands, dots = [], [], []
    guides: list[Curve] = []
    notes: list[Note] = []
    for (system, part), (kind, shown) in keys.items():
        key = results_by_part.get(part)
        if key is None:
            continue
        own = [row for row in rows if row["system"] == system and known(row.get(key))]
        own.sort(key=lambda row: scale.of(row[plot.x]))
        points = [(scale.of(row[plot.x]), float(row[key])) for row in own]
        places, colour = sorted({at for at, _ in points}), kind.split()[0]
        if not results.is_sampled and points:
            means = [float(np.mean([value for at, value in points if at == place])) for place in places]
            curves.append(Curve(kind, places, means, name=shown))
        limits: list[tuple[Any, Any]] = [(row.get(f"{key}.low"), row.get(f"{key}.high")) for row in own]
        if len(places) == len(points) > 1 and all(known(low) and known(high) for low, high in limits):
            around = [*places, *reversed(places)]
            edges = [*(float(low) for low, _ in limits), *(float(high) for _, high in reversed(limits))]
            bands.append(Curve(colour, around, edges, name=shown))
        labels = [f"{shown}, {row['label']}: {number(row[key])}" for row in own]
        dots.append(Dots(f"{colour} full large", points, labels, name=shown))
    if limit is not None and limit <= y.high:
        guides.append(Curve("slo", (x.low, x.high), (limit, limit)))
        notes.append(Note(x.high, limit, f"SLO {number(limit)}", "end"))
    if plot.y == results.objective and rows and not plot.beside:
        best = max(rows, key=lambda row: float(row[plot.y]) * (1 if results.is_max else -1))
        place = scale.of(best[plot.x]), float(best[plot.y])
        notes += labels_beside([(*place, f"best: {best['system']}, {number(place[1])}")], x, y)
    return Chart(
        name, title, f"{title}: a line for each system, {len(rows)} points.", x, y, curves=tuple(curves),
        bands=tuple(bands), dots=tuple(dots), guides=tuple(guides), notes=tuple(notes), width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def tick_text(value: float) -> str:
    """Return a value of an axis as it was written, thousands apart."""
    return f"{value:,g}".replace(",", " ") if value.is_integer() and abs(value) < _MOST_DIGITS else f"{value:g}"


def _x_axis(scale: Scale) -> Axis:
    """Return the axis of a scale: its numbers, or a place for each of its values."""
    places = sorted(scale.places.values())
    low, high = places[0], places[-1]
    if scale.is_number and len(places) > 2 and low > 0 and high >= 20 * low:
        axis = log_axis(scale.label, places)
        if len(places) > _MOST_TICKS:
            return axis
        return replace(axis, ticks=tuple((place, tick_text(place)) for place in places))
    if scale.is_number:
        return linear_axis(scale.label, min(0.0, low) if low < 0.5 * high else low, high)
    ticks = tuple((scale.places[text], text if len(text) <= 14 else f"{text[:13]}…") for text in scale.texts)
    return Axis(scale.label, low - 0.4, high + 0.4, ticks)
