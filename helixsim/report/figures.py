"""Throughput and latency of all systems, and the list of all figures of a report.

A figure function takes the results of a run and returns the figure and the table of its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.report.autoscaling_series import autoscaling_over_time, scaled
from helixsim.report.cluster_figures import busiest_links, frontier_curves, node_type_colors, placement_diagram
from helixsim.report.distributions import CDF_POINTS, gap_curve_ms, tpot_ms, ttft_s
from helixsim.report.fault_charts import faults_over_time, has_faults
from helixsim.report.style import LINE_STYLES, FigureFile, colors_of, new_figure, styled, write_figure
from helixsim.report.time_figures import (
    kv_memory_over_time,
    requests_over_time,
    throughput_over_time,
    utilisation_over_time,
)
from helixsim.results.columns import Columns, joined, of_rows, of_system
from helixsim.results.files import file_stem
from helixsim.results.runset import RunSet
from helixsim.units import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_figures(runs: RunSet, directory: Path) -> list[FigureFile]:
    """Draw all figures of a run into ``directory``, each as SVG, PNG and CSV."""
    written = []
    with styled():
        for name, title, caption, draw in _figures(runs):
            written.append(write_figure(directory, name, title, caption, *draw(runs)))
    return written


def throughput_bars(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw output tokens/s of each system with its 95 % interval and the max-flow estimate."""
    rows = []
    for name, run in runs.items():
        served = run.summary.throughput
        low, high = served.output_interval or (None, None)
        rows.append(
            {
                "system": name,
                "output_tokens_per_s": served.output_tokens_per_s,
                "low_tokens_per_s": low,
                "high_tokens_per_s": high,
                "max_flow_output_tokens_per_s": run.summary.flow.max_flow_output_tokens_per_s,
                "ratio_to_baseline": runs.comparisons[name].output_tokens_ratio,
            }
        )
    table = of_rows(rows)
    numbers = {name: values.astype(np.float64) for name, values in table.items() if name != "system"}
    figure = new_figure(0.45 * len(rows) + 1.1)
    axis = figure.subplots()
    colors = colors_of(table["system"])
    y = np.arange(len(rows))
    value = np.nan_to_num(numbers["output_tokens_per_s"])
    axis.barh(y, value, height=0.62, color=[colors[name] for name in table["system"]])
    error = [
        np.nan_to_num(value - numbers["low_tokens_per_s"]), np.nan_to_num(numbers["high_tokens_per_s"] - value),
    ]  # fmt: skip
    axis.errorbar(value, y, xerr=error, fmt="none", ecolor="black", capsize=3, linewidth=1)
    estimate = numbers["max_flow_output_tokens_per_s"]
    axis.vlines(estimate, y - 0.4, y + 0.4, color="black", linestyle="--", linewidth=1.4, label="max-flow estimate")
    longest = float(np.nanmax([*value, *numbers["high_tokens_per_s"], *estimate]))
    labels = [
        f"{name}\n{number(delivered)}" + ("" if np.isnan(ratio) else f" ({ratio:.2f}×)")
        for name, delivered, ratio in zip(table["system"], value, numbers["ratio_to_baseline"], strict=True)
    ]
    axis.set_xlim(0, longest * 1.04 or 1.0)
    axis.set_yticks(y, labels)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"output tokens/s (× relative to {runs.baseline})")
    figure.legend(loc="outside upper right", ncols=2)
    return figure, {"system": table["system"], **numbers}


def latency_cdfs(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the cumulative distributions of TTFT, TPOT and ITL in the window."""
    figure = new_figure(3.0)
    axes = figure.subplots(1, 3, sharey=True)
    shares = np.linspace(0, 1, CDF_POINTS + 1)
    tables = []
    colors = colors_of(runs)
    for index, name in enumerate(runs):
        curves = {
            "ttft_s": _curve(ttft_s(runs[name]), shares),
            "tpot_ms": _curve(tpot_ms(runs[name]), shares),
            "itl_ms": gap_curve_ms(runs[name]),
        }
        for axis, (metric, (x, share)) in zip(axes, curves.items(), strict=True):
            style = LINE_STYLES[index % len(LINE_STYLES)]
            axis.plot(x, share, color=colors[name], linestyle=style, linewidth=1.6, label=name, drawstyle="steps-post")
            named = {"metric": np.full(len(x), metric, dtype=object), "value": x, "share_at_most": share}
            tables.append(of_system(name, named))
    for axis, label, limit in (
        (axes[0], "TTFT, s", runs.slo.ttft_s),
        (axes[1], "TPOT, ms", None if runs.slo.tpot_s is None else runs.slo.tpot_s * 1000),
        (axes[2], "ITL, ms", None),
    ):
        _finish_cdf(axis, label, limit)
    axes[0].set_ylabel("share of requests (ITL: of gaps)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5))
    return figure, joined(tables)


def _finish_cdf(axis: Axes, label: str, limit: float | None) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xlabel(label)
    axis.set_ylim(0, 1)
    lines = [np.asarray(line.get_xdata(), dtype=np.float64) for line in axis.get_lines()]
    values = np.concatenate([*lines, np.asarray([] if limit is None else [limit])])
    positive = values[values > 0]
    if positive.size and positive.max() > 20 * positive.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if positive.max() < 200 * positive.min() else (1,)))
        axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    if limit is not None:
        axis.axvline(limit, color="black", linestyle=(0, (1, 1)), linewidth=1.2)
        axis.annotate(
            "SLO", (limit, 0.05), xycoords=("data", "axes fraction"), xytext=(-3, 0), textcoords="offset points",
            fontsize=8, ha="right", bbox={"color": "white", "pad": 0.5},
        )  # fmt: skip


def _curve(values: FloatArray, shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    if not values.size:
        return np.empty(0), np.empty(0)
    return np.quantile(values, shares), shares


Draw = Callable[[RunSet], "tuple[Figure, Columns]"]


def _figures(runs: RunSet) -> Iterator[tuple[str, str, str, Draw]]:
    """Yield file name, title, caption and function of each figure."""
    yield (
        "throughput",
        "Output throughput",
        "Output tokens/s in the measurement window with 95 % intervals. Dashed: max-flow estimate at the mean lengths "
        "of the workload; larger batches than it assumes can exceed it.",
        throughput_bars,
    )
    yield (
        "latency",
        "Latency",
        "Cumulative distributions over requests (ITL: over intervals between tokens).",
        latency_cdfs,
    )
    yield (
        "throughput_over_time",
        "Throughput over time",
        "Tokens per second over simulated time: output tokens (left), prompt tokens (right). Grey: outside the "
        "measurement window.",
        throughput_over_time,
    )
    if has_faults(runs):
        yield (
            "faults",
            "Faults over time",
            "Output tokens/s, goodput (requests/s that finished within the objectives) and mean TTFT of the requests "
            "that arrived in each interval; requests sent by clients that give up. "
            "Dashed lines: nodes or links fail (red), are slow (brown), are back (green).",
            faults_over_time,
        )
    yield (
        "utilisation",
        "GPU utilisation over time",
        "Share of time in which nodes compute, mean by node type. Grey: outside the measurement window.",
        utilisation_over_time,
    )
    yield (
        "kv_memory",
        "KV memory over time",
        "Share of KV blocks in use, mean by node type; dotted: the fullest node.",
        kv_memory_over_time,
    )
    yield (
        "requests",
        "Requests in the system over time",
        "Running (left) and waiting for admission at the coordinator (right).",
        requests_over_time,
    )
    if scaled(runs):
        yield (
            "autoscaling",
            "Replicas over time",
            "GPUs that are paid for, from the start of a replica until it is removed, beside those of the perfect "
            "autoscaler; requests/s that arrive, and the share of them that misses an objective.",
            autoscaling_over_time,
        )
    yield (
        "links",
        "Busiest links",
        "Share of the run in which a link transmits, with the mean waiting time of its messages.",
        busiest_links,
    )
    if any(run.placement_document["notes"].get("frontier") for run in runs.values()):
        yield (
            "frontier",
            "Frontier of placements",
            "Max-flow estimate of the placements found, over the maximum nodes per request; hollow: candidates off the "
            "frontier; ring: the selected placement. Deeper pipelines carry more tokens, at more time per token.",
            lambda runs: frontier_curves({name: run.placement_document for name, run in runs.items()}),
        )
    for system in runs:
        yield (
            f"placement-{file_stem(system)}",
            f"Placement of {system}",
            "Layer range of each node. Colour and label of a bar: planned flow over the capacity of the node.",
            partial(_placement, system=system),
        )


def _placement(runs: RunSet, system: str) -> tuple[Figure, Columns]:
    return placement_diagram(runs[system].placement_document, node_type_colors(runs))
