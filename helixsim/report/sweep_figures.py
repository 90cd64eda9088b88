"""Figures over all points of a sweep: lines with intervals, heat maps, Pareto fronts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.config.sweep_file import Plot
from helixsim.errors import ConfigError, unknown_name
from helixsim.report.search_charts import front_of
from helixsim.report.style import GREY, FigureFile, colors_of, new_figure, small_multiples, styled, write_figure
from helixsim.results.sweep import SweepResults, frame, mean_rows, plain_value
from helixsim.units import number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
MOST_PANELS = 6
_QUANTITY = re.compile(r"([+-]?\d+\.?\d*(?:[eE][+-]?\d+)?) (\S+)")


def write_sweep_figures(directory: Path, results: SweepResults, means: Sequence[Row]) -> list[FigureFile]:
    """Draw the configured figures, or default ones for the axes; each with its data as CSV."""
    written = []
    with styled():
        for index, plot in enumerate(results.plots if results.plots is not None else defaults(results, means)):
            title, caption, figure, table = _DRAWINGS[plot.kind](results, means, plot)
            written.append(write_figure(directory, f"{index + 1}-{plot.kind}", title, caption, figure, table))
    return written


def drawing(results: SweepResults, plot: Plot) -> Figure:
    """Return one figure.

    Raises
    ------
    ConfigError
        If the plot names no axis or result of the sweep.
    """
    shown = [name for name in (plot.x, *plot.results, plot.value) if name is not None]
    known = [name for name in results.table() if name not in {"point", "seed", "run", "system"}]
    for name in shown:
        if name not in known:
            raise ConfigError(unknown_name("result", name, known))
    means = mean_rows(results, [name for name in shown if name not in results.axes])
    return _DRAWINGS[plot.kind](results, means, plot)[2]


class Scale:
    """Positions of the values of an axis: the numbers if all have one unit, else one position per value."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.texts = list(dict.fromkeys(str(plain_value(value)) for value in values))
        matches = [_QUANTITY.fullmatch(text) for text in self.texts]
        units = {match.group(2) for match in matches if match is not None}
        self.label = name
        self.is_number = True
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            self.places = {text: float(text) for text in self.texts}
        elif all(matches) and len(units) == 1:
            self.places = {
                text: float(match.group(1)) for text, match in zip(self.texts, matches, strict=True) if match
            }
            self.label += f", {units.pop()}"
        else:
            self.places = {text: float(place) for place, text in enumerate(self.texts)}
            self.is_number = False
        self.texts.sort(key=self.places.__getitem__)

    def of(self, value: Any) -> float:
        """Return the position of a value."""
        return self.places[str(plain_value(value))]

    def finish(self, axis: Axes) -> None:
        """Label the x axis, and make it logarithmic for wide ranges."""
        axis.set_xlabel(self.label)
        places = sorted(self.places.values())
        if not self.is_number:
            turned = any(len(text) > 12 for text in self.texts)
            axis.set_xticks(places, self.texts, rotation=20 if turned else 0, ha="right" if turned else "center")
        elif len(places) > 2 and places[0] > 0 and places[-1] / places[0] >= 20:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")


def defaults(results: SweepResults, means: Sequence[Row]) -> Iterator[Plot]:
    """Yield the default plots for the axes."""
    varied = [axis for axis in results.axes if len({str(row[axis]) for row in means}) > 1] or list(results.axes[:1])
    for metric in dict.fromkeys((results.objective, "p99_ttft_ms")):
        yield Plot("lines", varied[0], metric)
    if len(varied) > 1 and not results.is_sampled:
        yield Plot("heatmap", varied[0], varied[1], results.objective)
    has_prices = any(row.get("cost_usd_per_mtok") is not None for row in means)
    if has_prices and results.objective != "cost_usd_per_mtok":
        goal = "max" if results.is_max else "min"
        yield Plot("pareto", "cost_usd_per_mtok", results.objective, y_goal=goal)


Drawn = tuple[str, str, "Figure", "pd.DataFrame"]


def _lines(results: SweepResults, means: Sequence[Row], plot: Plot) -> Drawn:
    """Draw y over x, a line per system, a panel per value of the next varied axis."""
    known = [row for row in means if any(row.get(key) is not None for key in plot.results)]
    label, parts = results.shared_label(plot.results)
    others = [axis for axis in results.axes if axis != plot.x and len({str(row[axis]) for row in means}) > 1]
    split = None
    if others and not results.is_sampled and len({str(row[others[0]]) for row in means}) <= MOST_PANELS:
        split = others[0]
    panels = list(dict.fromkeys(str(plain_value(row[split])) for row in means)) if split else [""]
    systems = list(dict.fromkeys(row["system"] for row in means))
    scale, colors = Scale(results.label(plot.x), [row[plot.x] for row in means]), colors_of(systems)
    figure, axes = small_multiples([f"{results.label(split)} = {panel}" if split else "" for panel in panels], 2.8)
    for panel, axis in zip(panels, axes, strict=True):
        shown = [row for row in known if split is None or str(plain_value(row[split])) == panel]
        for key, part, style in zip(plot.results, parts, _STYLES, strict=False):
            for system in systems:
                own = [row for row in shown if row["system"] == system and row.get(key) is not None]
                name = f"{system} {part}".rstrip()
                _line(axis, scale, own, plot.x, key, colors[system], style, name, joined=not results.is_sampled)
        scale.finish(axis)
        axis.set_ylabel(label if axis in axes[::2] else "")
    axes[0].set_ylim(bottom=0)  # after all panels are drawn, as they share the axis
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5) or 1)
    averaged = [axis for axis in others if axis != split]
    caption = "Means over the seeds"
    caption += ", bands: their 95 % interval." if len(results.seeds) > 1 else "."
    if results.is_sampled:
        caption = "One dot per point and system."
    elif averaged:
        caption += f" Lines: the mean over {', '.join(averaged)}; dots: single points."
    columns = [f"{key}{end}" for key in plot.results for end in ("", ".low", ".high")]
    table = _columns(known, [*results.axes, "system", *columns])
    return f"{_capital(label)} over {results.label(plot.x)}", caption, figure, table


_STYLES = ("-", "--", ":", "-.")


def _line(
    axis: Axes, scale: Scale, rows: Sequence[Row], across: str, up: str, color: str, style: str, name: str, *,
    joined: bool,
) -> None:  # fmt: skip
    x = np.array([scale.of(row[across]) for row in rows])
    y = np.array([row[up] for row in rows], dtype=float)
    if not joined:
        axis.plot(x, y, "o", color=color, markersize=3.5, label=name)
        return
    places = np.unique(x)
    axis.plot(places, [y[x == place].mean() for place in places], style, color=color, linewidth=1.6, label=name)
    axis.plot(x, y, "o", color=color, markersize=3)
    low = [row.get(f"{up}.low") for row in rows]
    if len(places) == len(x) and all(value is not None for value in low) and len(x) > 1:
        order = np.argsort(x)
        high = np.array([row[f"{up}.high"] for row in rows], dtype=float)
        axis.fill_between(x[order], np.array(low, dtype=float)[order], high[order], color=color, alpha=0.18, lw=0)


def _heatmap(results: SweepResults, means: Sequence[Row], plot: Plot) -> Drawn:
    """Draw a heat map per system over two axes."""
    value = plot.value or results.objective
    systems = list(dict.fromkeys(row["system"] for row in means))
    across, down = (
        Scale(results.label(plot.x), [row[plot.x] for row in means]),
        Scale(results.label(plot.y), [row[plot.y] for row in means]),
    )
    figure, axes = small_multiples(systems, 1.3 + 0.42 * len(down.texts))
    known = [row[value] for row in means if row.get(value) is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    image = None
    for system, axis in zip(systems, axes, strict=True):
        cells = np.full((len(down.texts), len(across.texts)), np.nan)
        for j, vertical in enumerate(down.texts):
            for i, horizontal in enumerate(across.texts):
                here = [
                    row[value]
                    for row in means
                    if row["system"] == system and row.get(value) is not None
                    and (str(plain_value(row[plot.x])), str(plain_value(row[plot.y]))) == (horizontal, vertical)
                ]  # fmt: skip
                cells[j, i] = np.mean(here) if here else np.nan
        image = axis.imshow(cells, cmap="viridis", vmin=low, vmax=high, aspect="auto", origin="lower")
        for (j, i), cell in np.ndenumerate(cells):
            dark = not np.isnan(cell) and high > low and (cell - low) / (high - low) < 0.6
            text = "–" if np.isnan(cell) else number(float(cell))
            axis.text(i, j, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axis.set_xticks(range(len(across.texts)), across.texts)
        axis.set_yticks(range(len(down.texts)), down.texts)
        axis.set_xlabel(results.label(plot.x))
        axis.set_ylabel(results.label(plot.y) if axis in axes[::2] else "")
        axis.grid(visible=False)
    if image is not None:
        figure.colorbar(image, ax=axes, label=results.label(value), shrink=0.8)
    others = [axis for axis in results.axes if axis not in {plot.x, plot.y} and len({str(r[axis]) for r in means}) > 1]
    caption = "Means over the seeds" + (f" and over {', '.join(others)}." if others else ".")
    caption += " Dash: no result."
    return (
        f"{_capital(results.label(value))} at each combination",
        caption,
        figure,
        _columns(means, [*results.axes, "system", value]),
    )


def _pareto(results: SweepResults, means: Sequence[Row], plot: Plot) -> Drawn:
    """Draw two results against each other, and their Pareto front."""
    known = [row for row in means if row.get(plot.x) is not None and row.get(plot.y) is not None]
    systems = list(dict.fromkeys(row["system"] for row in means))
    colors = colors_of(systems)
    figure = new_figure(3.8)
    axis = figure.subplots()
    for system in systems:
        own = [row for row in known if row["system"] == system]
        x, y = [row[plot.x] for row in own], [row[plot.y] for row in own]
        axis.plot(x, y, "o", color=colors[system], markersize=4, alpha=0.7, label=system)
    front = front_of(known, plot.x, plot.y, plot.x_goal, plot.y_goal)
    x, y = [row[plot.x] for row in front], [row[plot.y] for row in front]
    axis.plot(x, y, color=GREY, linewidth=1.2, linestyle="--", label="Pareto front", zorder=0)
    values = sorted(row[plot.x] for row in known)
    if values and values[0] > 0 and values[-1] / values[0] >= 20:
        axis.set_xscale("log")
    axis.set_xlabel(f"{results.label(plot.x)} ({'less' if plot.x_goal == 'min' else 'more'} is better)")
    axis.set_ylabel(f"{results.label(plot.y)} ({'less' if plot.y_goal == 'min' else 'more'} is better)")
    figure.legend(loc="outside upper center", ncols=min(len(systems) + 1, 6))
    chosen = {id(row) for row in front}
    table = _columns(known, [*results.axes, "system", plot.x, plot.y])
    table["on_front"] = [id(row) in chosen for row in known]
    caption = "One dot per point and system. Dashed: Pareto front."
    return f"{_capital(results.label(plot.y))} against {results.label(plot.x)}", caption, figure, table


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _columns(rows: Sequence[Row], names: Sequence[str]) -> pd.DataFrame:
    return frame([{name: row.get(name) for name in dict.fromkeys(names)} for row in rows])


_DRAWINGS: Mapping[str, Callable[[SweepResults, Sequence[Row], Plot], Drawn]] = {
    "lines": _lines, "heatmap": _heatmap, "pareto": _pareto,
}  # fmt: skip
