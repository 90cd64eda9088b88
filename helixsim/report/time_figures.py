"""Throughput, utilisation, KV memory and requests in the system over simulated time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helixsim.report.style import (
    GREY,
    LINE_STYLES,
    NODE_TYPE_COLORS,
    colors_of,
    new_figure,
    shade_outside,
    small_multiples,
)
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_POINTS = 150
_MAX_RATES = 60
"""Longer series are thinned: more points cannot be told apart at this width."""


def throughput_over_time(runs: RunSet) -> tuple[Figure, pd.DataFrame]:
    """Draw output and prompt tokens/s of all systems, averaged over equal intervals."""
    import pandas as pd

    figure = new_figure(2.8)
    axes = figure.subplots(1, 2)
    colors = colors_of(runs)
    tables = []
    for index, name in enumerate(runs):
        series = runs[name].series
        series = series.iloc[_thinned(len(series), _MAX_RATES // 2)]
        time_s = series["time_ns"].to_numpy() / NS_PER_S
        rates = {column: np.diff(series[column]) / np.diff(time_s) for column in ("output_tokens", "prompt_tokens")}
        style = LINE_STYLES[index % len(LINE_STYLES)]
        for axis, rate in zip(axes, rates.values(), strict=True):
            axis.stairs(rate, time_s, baseline=None, color=colors[name], linestyle=style, linewidth=1.5, label=name)
        columns = {f"{column}_per_s": rate for column, rate in rates.items()}
        tables.append(pd.DataFrame({"system": name, "time_s": time_s[1:], **columns}))
    for axis, label in zip(axes, ("output tokens/s", "prompt tokens/s"), strict=True):
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_xlabel("simulated time, s")
        axis.set_ylabel(label)
        shade_outside(axis, runs[next(iter(runs))].window_s)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))
    return figure, pd.concat(tables, ignore_index=True)


def utilisation_over_time(runs: RunSet) -> tuple[Figure, pd.DataFrame]:
    """Draw the utilisation per node type, one panel per system."""
    import pandas as pd

    figure, axes = small_multiples(list(runs), 1.7)
    colors = _node_type_colors(runs)
    tables = []
    for axis, name in zip(axes, runs, strict=True):
        busy_ns = _by_node(runs, name, "busy_ns")
        busy_ns = busy_ns.iloc[_thinned(len(busy_ns), _MAX_RATES)]
        time_s = busy_ns.index.to_numpy() / NS_PER_S
        share = busy_ns.diff().iloc[1:].div(np.diff(busy_ns.index.to_numpy()), axis=0)
        by_node_type = share.T.groupby(level="node_type", sort=False).mean().T
        for node_type in by_node_type:
            axis.stairs(
                100 * by_node_type[node_type],
                time_s,
                baseline=None,
                color=colors[node_type],
                linewidth=1.4,
                label=node_type,
            )
        tables.append(_long(by_node_type, name, time_s[1:], "busy_share"))
    _finish(figure, axes, runs, "utilisation, %")
    return figure, pd.concat(tables, ignore_index=True)


def kv_memory_over_time(runs: RunSet) -> tuple[Figure, pd.DataFrame]:
    """Draw the KV memory use per node type and of the fullest node, one panel per system."""
    import pandas as pd

    figure, axes = small_multiples(list(runs), 1.7)
    colors = _node_type_colors(runs)
    tables = []
    for axis, name in zip(axes, runs, strict=True):
        used = _by_node(runs, name, "kv_used_share")
        used = used.iloc[_thinned(len(used))]
        time_s = used.index.to_numpy() / NS_PER_S
        by_node_type = used.T.groupby(level="node_type", sort=False).mean().T
        for node_type in by_node_type:
            axis.plot(time_s, 100 * by_node_type[node_type], color=colors[node_type], linewidth=1.4, label=node_type)
        fullest = used.max(axis=1)
        axis.plot(time_s, 100 * fullest, color=GREY, linestyle=":", linewidth=1.2, label="fullest node")
        tables.append(_long(by_node_type.assign(**{"fullest node": fullest}), name, time_s, "kv_used_share"))
    _finish(figure, axes, runs, "KV memory use, %")
    return figure, pd.concat(tables, ignore_index=True)


def requests_over_time(runs: RunSet) -> tuple[Figure, pd.DataFrame]:
    """Draw running and waiting requests of all systems."""
    figure = new_figure(2.8)
    axes = figure.subplots(1, 2)
    colors = colors_of(runs)
    for index, name in enumerate(runs):
        series = runs[name].series
        series = series.iloc[_thinned(len(series))]
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
    return figure, runs.frame("series")[["system", "time_ns", "running", "waiting"]]


def _by_node(runs: RunSet, system: str, column: str) -> pd.DataFrame:
    """Return one column of the node series, indexed by time [ns], with (node_type, node) columns in node order."""
    rows = runs[system].node_series
    nodes = rows[["node_type", "node"]].drop_duplicates()
    wide = rows.pivot_table(index="time_ns", columns=["node_type", "node"], values=column, sort=False)
    return wide[list(nodes.itertuples(index=False, name=None))]


def _thinned(samples: int, points: int = _MAX_POINTS) -> list[int]:
    """Return evenly spaced positions including the first and the last."""
    if samples <= points:
        return list(range(samples))
    return sorted({int(position) for position in np.linspace(0, samples - 1, points).round()})


def _node_type_colors(runs: RunSet) -> dict[str, str]:
    return colors_of(runs.frame("nodes")["node_type"].unique(), NODE_TYPE_COLORS)


def _long(
    wide: pd.DataFrame, system: str, time_s: np.ndarray[tuple[int], np.dtype[np.float64]], value: str
) -> pd.DataFrame:
    table = wide.set_axis(time_s, axis=0).rename_axis(index="time_s", columns="node_type")
    long: pd.DataFrame = table.stack().rename(value).reset_index()
    long.insert(0, "system", system)
    return long


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
