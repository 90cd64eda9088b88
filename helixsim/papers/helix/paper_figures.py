"""Figures that set ours beside the paper's: bars and boxes in three columns, in a paper's style.

Each function takes rows of plain values, the same that are written as CSV beside the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helixsim.report.style import GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

COLUMN_STYLES: dict[str, dict[str, Any]] = {
    "published": {"facecolor": "white", "edgecolor": "black", "hatch": "////"},
    "as published": {"facecolor": "#7FBFE8", "edgecolor": "black"},
    "fair": {"facecolor": "#0B4F82", "edgecolor": "black"},
}
"""White, light and dark, which stay apart in grey print and for every kind of colour blindness."""

_METRIC_LABELS = {
    "throughput": "output tokens/s",
    "prompt": "time to first token, s",
    "decode": "time of a decode step, s",
}
_BAR = 0.26
_PANEL_IN = 2.3
_HEADROOM = 1.16
"""Of the tallest bar, for the number above it."""


def comparison(rows: Rows, labels: Mapping[str, str]) -> Figure:
    """Draw methods side by side, one axis per panel and metric: bars of throughput, boxes of latency.

    Boxes span the 25th to 75th percentile, whiskers the 5th to 95th, the line is the median. A diamond is what the
    prototype measured (of latencies the median) where bars show simulations.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Throughput of all panels first, then latencies, as in the paper.
    pairs = dict.fromkeys((row["panel"], row["metric"]) for row in rows)
    panels = sorted(pairs, key=lambda pair: pair[1] != "throughput")
    lines = -(-len(panels) // 2)
    figure = new_figure(_PANEL_IN * lines + 0.4)
    axes = figure.subplots(lines, min(2, len(panels)), squeeze=False).ravel().tolist()
    for spare in axes[len(panels) :]:
        spare.remove()
    for axis, (panel, metric) in zip(axes, panels, strict=False):
        shown = [row for row in rows if (row["panel"], row["metric"]) == (panel, metric)]
        methods = [method for method in labels if any(row["method"] == method for row in shown)]
        _draw_panel(axis, shown, methods, metric)
        axis.set_xticks(range(len(methods)), [labels[method] for method in methods], fontsize=7.5)
        axis.set_title(panel)
        axis.set_ylabel(_METRIC_LABELS[metric])
        axis.grid(visible=False, axis="x")
        axis.set_xlim(-0.5, len(methods) - 0.5)
    present = dict.fromkeys(row["column"] for row in rows)
    handles: list[Any] = [Patch(label=name, **style) for name, style in COLUMN_STYLES.items() if name in present]
    if "measured" in present:
        handles.append(
            Line2D([], [], marker="D", color="black", markersize=4, linestyle="none", label="prototype, measured")
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_panel(axis: Axes, rows: Rows, methods: Sequence[str], metric: str) -> None:
    for place, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method]
        bars = [row for row in own if row["column"] in COLUMN_STYLES]
        measured = [row["value" if metric == "throughput" else "p50"] for row in own if row["column"] == "measured"]
        for number, row in enumerate(bars):
            x = place + (number - (len(bars) - 1) / 2) * _BAR
            if metric == "throughput":
                _bar(axis, x, row, max(measured, default=0.0) if number == 0 else 0.0, 6.5 if len(methods) < 6 else 5.4)
            else:
                _box(axis, x, row)
        for value in measured:
            axis.plot(place - (len(bars) - 1) / 2 * _BAR, value, "D", color="black", markersize=4, zorder=5)
    if metric == "throughput":
        tops = [row["value"] if row["high"] is None else row["high"] for row in rows]
        axis.set_ylim(0, _HEADROOM * max(tops, default=1.0))
    else:
        _log_axis(axis)


def _log_axis(axis: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")


def _bar(axis: Axes, x: float, row: Mapping[str, Any], least_top: float, points: float) -> None:
    """Draw a bar with its number, which stays above ``least_top`` and so clear of a diamond."""
    value = row["value"]
    axis.bar(x, value, width=_BAR * 0.92, linewidth=0.7, **COLUMN_STYLES[row["column"]])
    top = max(value, least_top)
    if row["low"] is not None:
        top = max(top, row["high"])
        error = [[value - row["low"]], [row["high"] - value]]
        axis.errorbar(x, value, yerr=error, fmt="none", ecolor="#D55E00", capsize=2.5, linewidth=1.1)
    axis.annotate(
        f"{value:.3g}" if value < 1000 else f"{value:.0f}",
        (x, top),
        xytext=(0, 4 if row["column"] == "published" else 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=points,
    )


def _box(axis: Axes, x: float, row: Mapping[str, Any]) -> None:
    if row["p50"] is None:
        return
    box = {
        "med": row["p50"], "q1": row["p25"], "q3": row["p75"], "whislo": row["p5"], "whishi": row["p95"], "fliers": [],
    }  # fmt: skip
    style = COLUMN_STYLES[row["column"]]
    median = "#F5C542" if row["column"] == "fair" else "black"
    axis.bxp(
        [box], positions=[x], widths=_BAR * 0.85, patch_artist=True, showfliers=False, manage_ticks=False,
        boxprops={**style, "linewidth": 0.7}, medianprops={"color": median, "linewidth": 1.6},
        whiskerprops={"color": GREY, "linewidth": 0.9}, capprops={"color": GREY, "linewidth": 0.9},
    )  # fmt: skip
