"""Throughput, utilisation, KV memory and requests in the system over simulated time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helixsim.domain.result import FloatArray, IntArray
from helixsim.report.style import (
    GREY,
    LINE_STYLES,
    NODE_TYPE_COLORS,
    colors_of,
    new_figure,
    shade_outside,
    small_multiples,
)
from helixsim.results.columns import Columns, chosen, joined, of_system, texts, thinned
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_POINTS = 150
_MAX_RATES = 60
"""Longer series are thinned: more points cannot be told apart at this width."""


def throughput_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw output and prompt tokens/s of all systems, averaged over equal intervals."""
    figure = new_figure(2.8)
    axes = figure.subplots(1, 2)
    colors = colors_of(runs)
    tables = []
    for index, name in enumerate(runs):
        series = runs[name].columns("series")
        series = chosen(series, thinned(len(series["time_ns"]), _MAX_RATES // 2))
        time_s = series["time_ns"] / NS_PER_S
        rates = {column: np.diff(series[column]) / np.diff(time_s) for column in ("output_tokens", "prompt_tokens")}
        style = LINE_STYLES[index % len(LINE_STYLES)]
        for axis, rate in zip(axes, rates.values(), strict=True):
            axis.stairs(rate, time_s, baseline=None, color=colors[name], linestyle=style, linewidth=1.5, label=name)
        columns = {f"{column}_per_s": rate for column, rate in rates.items()}
        tables.append(of_system(name, {"time_s": time_s[1:], **columns}))
    for axis, label in zip(axes, ("output tokens/s", "prompt tokens/s"), strict=True):
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_xlabel("simulated time, s")
        axis.set_ylabel(label)
        shade_outside(axis, runs[next(iter(runs))].window_s)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))
    return figure, joined(tables)


def utilisation_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the utilisation per node type, one panel per system."""
    figure, axes = small_multiples(list(runs), 1.7)
    colors = _node_type_colors(runs)
    tables = []
    for axis, name in zip(axes, runs, strict=True):
        times_ns, busy_ns, kinds = _by_node(runs, name, "busy_ns")
        rows = thinned(len(times_ns), _MAX_RATES)
        times_ns, busy_ns = times_ns[rows], busy_ns[rows]
        time_s = times_ns / NS_PER_S
        by_node_type = _means(np.diff(busy_ns, axis=0) / np.diff(times_ns)[:, None], kinds)
        for node_type, share in by_node_type.items():
            axis.stairs(
                100 * share,
                time_s,
                baseline=None,
                color=colors[node_type],
                linewidth=1.4,
                label=node_type,
            )
        tables.append(_long(by_node_type, name, time_s[1:], "busy_share"))
    _finish(figure, axes, runs, "utilisation, %")
    return figure, joined(tables)


def kv_memory_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the KV memory use per node type and of the fullest node, one panel per system."""
    figure, axes = small_multiples(list(runs), 1.7)
    colors = _node_type_colors(runs)
    tables = []
    for axis, name in zip(axes, runs, strict=True):
        times_ns, used, kinds = _by_node(runs, name, "kv_used_share")
        rows = thinned(len(times_ns), _MAX_POINTS)
        time_s, used = times_ns[rows] / NS_PER_S, used[rows]
        by_node_type = _means(used, kinds)
        for node_type, share in by_node_type.items():
            axis.plot(time_s, 100 * share, color=colors[node_type], linewidth=1.4, label=node_type)
        fullest = used.max(axis=1)
        axis.plot(time_s, 100 * fullest, color=GREY, linestyle=":", linewidth=1.2, label="fullest node")
        tables.append(_long({**by_node_type, "fullest node": fullest}, name, time_s, "kv_used_share"))
    _finish(figure, axes, runs, "KV memory use, %")
    return figure, joined(tables)


def requests_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw running and waiting requests of all systems."""
    figure = new_figure(2.8)
    axes = figure.subplots(1, 2)
    colors = colors_of(runs)
    for index, name in enumerate(runs):
        series = runs[name].columns("series")
        series = chosen(series, thinned(len(series["time_ns"]), _MAX_POINTS))
        for axis, column in zip(axes, ("running", "waiting"), strict=True):
            axis.plot(
                series["time_ns"] / NS_PER_S,
                series[column],
                color=colors[name],
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                linewidth=1.5,
                label=name,
            )
    first = next(iter(runs))
    for axis, label in zip(axes, ("running requests", "waiting requests"), strict=True):
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_xlabel("simulated time, s")
        axis.set_ylabel(label)
        shade_outside(axis, runs[first].window_s)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))
    series = runs.columns("series")
    return figure, {name: series[name] for name in ("system", "time_ns", "running", "waiting")}


def _by_node(runs: RunSet, system: str, column: str) -> tuple[IntArray, FloatArray, dict[str, list[int]]]:
    """Return the times [ns] of the node series, one of its columns as (time, node), and the nodes of each type."""
    rows = runs[system].columns("node_series")
    times_ns, at_time = np.unique(rows["time_ns"], return_inverse=True)
    nodes = {node: number for number, node in enumerate(dict.fromkeys(rows["node"].tolist()))}
    wide = np.full((len(times_ns), len(nodes)), np.nan)
    wide[at_time, [nodes[node] for node in rows["node"].tolist()]] = rows[column]
    kinds: dict[str, list[int]] = {}
    for node, kind in dict(zip(rows["node"].tolist(), rows["node_type"].tolist(), strict=True)).items():
        kinds.setdefault(kind, []).append(nodes[node])
    return times_ns, wide, kinds


def _means(values: FloatArray, kinds: dict[str, list[int]]) -> dict[str, FloatArray]:
    """Return the mean over the nodes of each type of values by (time, node)."""
    return {kind: values[:, nodes].mean(axis=1) for kind, nodes in kinds.items()}


def _node_type_colors(runs: RunSet) -> dict[str, str]:
    return colors_of(dict.fromkeys(runs.columns("nodes")["node_type"].tolist()), NODE_TYPE_COLORS)


def _long(by_node_type: dict[str, FloatArray], system: str, time_s: FloatArray, value: str) -> Columns:
    """Return a row for each time and type of node."""
    table = {
        "time_s": np.repeat(time_s, len(by_node_type)),
        "node_type": np.tile(texts(by_node_type), len(time_s)),
        value: np.stack(list(by_node_type.values()), axis=1).ravel(),
    }
    return of_system(system, table)


def _finish(figure: Figure, axes: list[Axes], runs: RunSet, label: str) -> None:
    legend: dict[str, Artist] = {}
    for axis, name in zip(axes, runs, strict=True):
        axis.set_ylim(0, 103)
        axis.margins(x=0)
        axis.set_ylabel(label)
        axis.set_xlabel("simulated time, s")
        shade_outside(axis, runs[name].window_s)
        handles, labels = axis.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    if "fullest node" in legend:
        legend["fullest node"] = legend.pop("fullest node")
    figure.legend(list(legend.values()), list(legend), loc="outside upper right", ncols=len(legend))
