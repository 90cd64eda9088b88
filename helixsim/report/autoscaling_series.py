"""GPUs paid for, load and goodput over time, for systems whose replicas come and go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helixsim.domain.request import Slo
from helixsim.domain.result import FloatArray
from helixsim.metrics.autoscaling import edges_ns, fewest, rates_per_s
from helixsim.report.charts import Axis, Chart, Curve, linear_axis
from helixsim.report.style import GREY, LINE_STYLES, colors_of, new_figure
from helixsim.results.columns import Columns, joined, of_system
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERFECT, LOAD = "perfect", "load"
_S_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Values that hold from a time on [s] until the next one; the last one repeats the one before."""

    time_s: FloatArray
    values: FloatArray


def scaled(runs: RunSet) -> dict[str, Run]:
    """Return the systems whose replicas come and go."""
    return {name: run for name, run in runs.items() if run.summary.autoscaling is not None}


def gpus_over_time(run: Run) -> Steps:
    """Return the GPUs that are paid for, of all pools and of the nodes of none."""
    figures, rows = run.summary.autoscaling, run.columns("pools")
    assert figures is not None
    _, end_s = run.window_s
    times_ns = np.unique(rows["time_ns"])
    total = np.full(len(times_ns), float(figures.other_gpus))
    for pool in figures.pools:
        own = rows["node_type"] == pool
        at = np.searchsorted(rows["time_ns"][own], times_ns, side="right") - 1
        total += rows["gpus"][own][at]
    time_s = times_ns / NS_PER_S
    kept = time_s < end_s
    return Steps(np.append(time_s[kept], end_s), np.append(total[kept], total[kept][-1]))


def bound_over_time(run: Run) -> Steps | None:
    """Return the GPUs of the perfect autoscaler; None: not known."""
    figures = run.summary.autoscaling
    assert figures is not None
    if figures.bound_gpu_hours is None:
        return None
    edges, (arrivals,) = _edges(run), _columns(run, "arrival_ns")
    pools = list(figures.pools.values())
    found = fewest(pools, [pool.gpus for pool in pools], rates_per_s(arrivals, edges))
    return None if found is None else _steps(edges, found[0] + figures.other_gpus)


def load_over_time(run: Run) -> Steps:
    """Return the requests/s that arrive."""
    edges, (arrivals,) = _edges(run), _columns(run, "arrival_ns")
    return _steps(edges, rates_per_s(arrivals, edges))


def goodput_over_time(run: Run, slo: Slo) -> Steps:
    """Return the requests/s that arrive and will meet all objectives; objectives of classes are left out."""
    arrival, first, finish, tokens = _columns(run, "arrival_ns", "first_token_ns", "finish_ns", "output_tokens")
    good = finish >= 0
    if slo.ttft_s is not None:
        good &= first - arrival <= slo.ttft_s * NS_PER_S
    if slo.tpot_s is not None:
        good &= finish - first <= slo.tpot_s * NS_PER_S * (tokens - 1)
    if slo.e2el_s is not None:
        good &= finish - arrival <= slo.e2el_s * NS_PER_S
    edges = _edges(run)
    return _steps(edges, rates_per_s(arrival[good], edges))


def _columns(run: Run, *names: str) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return list(run.request_columns(*names).values())


def _edges(run: Run) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    figures = run.summary.autoscaling
    assert figures is not None
    start_s, end_s = run.window_s
    return edges_ns(round(start_s * NS_PER_S), round(end_s * NS_PER_S), figures.window_s)


def _steps(edges: np.ndarray[tuple[int], np.dtype[np.int64]], values: FloatArray) -> Steps:
    return Steps(edges / NS_PER_S, np.append(values, values[-1:]))


def _series(runs: RunSet) -> tuple[dict[str, Steps], dict[str, Steps]]:
    """Return the GPUs by system, with those of the perfect autoscaler, and the load and the goodput by system."""
    own = scaled(runs)
    gpus = {name: gpus_over_time(run) for name, run in own.items()}
    first = next(iter(own.values()))
    bounds = (bound_over_time(run) for run in own.values())
    if (bound := next((one for one in bounds if one is not None), None)) is not None:
        gpus[PERFECT] = bound
    rates = {LOAD: load_over_time(first)}
    if runs.slo.is_stated:
        rates |= {name: goodput_over_time(run, runs.slo) for name, run in own.items()}
    return gpus, rates


def scaling_charts(runs: RunSet, kinds: Mapping[str, str], axis: Axis) -> list[Chart]:
    """Return the charts of GPUs, and of load and goodput, over simulated time; none without such systems."""
    if not scaled(runs):
        return []
    charts = []
    for name, title, label, series in zip(
        ("gpus", "load"), ("GPUs paid for", "Load and goodput"), ("GPUs", "requests/s"), _series(runs), strict=True
    ):
        curves = tuple(
            Curve(kinds.get(system, "slo"), steps.time_s.tolist(), steps.values.tolist(), is_step=True, name=system)
            for system, steps in series.items()
        )
        highest = max(float(steps.values.max(initial=0.0)) for steps in series.values())
        texts = (f"{system} {number(highest_of(steps))}" for system, steps in series.items())
        about = f"{title} over simulated time ({label}). Highest value: {'; '.join(texts)}."
        charts.append(Chart(f"time-{name}", title, about, axis, linear_axis(label, 0.0, highest or 1.0), curves=curves))
    return charts


def highest_of(steps: Steps) -> float:
    """Return the highest value."""
    return float(steps.values.max(initial=0.0))


def autoscaling_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the GPUs that are paid for, and the load with what of it meets the objectives."""
    figure = new_figure(4.6)
    axes = figure.subplots(2, 1, sharex=True)
    own = list(scaled(runs))
    colors = {**colors_of(runs), PERFECT: GREY, LOAD: GREY}
    tables = []
    for axis, label, series in zip(axes, ("GPUs paid for", "requests/s within SLO"), _series(runs), strict=True):
        for name, steps in series.items():
            style = ":" if name in (PERFECT, LOAD) else LINE_STYLES[own.index(name) % 3]
            hours = steps.time_s / _S_PER_HOUR
            axis.step(hours, steps.values, where="post", color=colors[name], linestyle=style, linewidth=1.4, label=name)
            column = "gpus" if axis is axes[0] else "requests_per_s"
            tables.append(of_system(name, {"time_s": steps.time_s, column: steps.values}))
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_ylabel(label)
    axes[1].set_xlabel("simulated time, h")
    legend = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    handles, labels = axes[1].get_legend_handles_labels()
    legend |= {LOAD: handles[labels.index(LOAD)]}
    figure.legend(list(legend.values()), list(legend), loc="outside upper center", ncols=len(legend))
    return figure, joined(tables)
