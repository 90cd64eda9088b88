"""GPUs paid for, load and goodput over time, for systems whose replicas come and go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helixsim.domain.request import Slo
from helixsim.domain.result import FloatArray
from helixsim.metrics.autoscaling import edges_ns, fewest, rates_per_s
from helixsim.metrics.throughput import met_objectives
from helixsim.report.charts import Axis, Chart, Curve, linear_axis
from helixsim.report.style import GREY, LINE_STYLES, colors_of, small_multiples
from helixsim.results.columns import Columns, joined, of_system
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERFECT, LOAD, SPOT = "perfect autoscaler", "offered load", "on spot machines"
"""Lines beside those of systems, whose names have no spaces."""
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
    return _summed(run, figures.other_gpus, dict.fromkeys(figures.pools, rows["gpus"]))


def spot_over_time(run: Run) -> Steps | None:
    """Return the GPUs on spot machines that are paid for; None: the system has none."""
    figures, rows = run.summary.autoscaling, run.columns("pools")
    assert figures is not None
    pools = {name: pool for name, pool in figures.pools.items() if pool.spot is not None}
    return _summed(run, 0, {name: pool.gpus * rows["spot"] for name, pool in pools.items()}) if pools else None


def _summed(run: Run, others: float, of_pools: Mapping[str, FloatArray]) -> Steps:
    """Return a number of other GPUs and the sum over pools of what the rows of each have."""
    rows, (_, end_s) = run.columns("pools"), run.window_s
    times_ns = np.unique(rows["time_ns"])
    total = np.full(len(times_ns), float(others))
    for pool, values in of_pools.items():
        own = rows["node_type"] == pool
        at = np.searchsorted(rows["time_ns"][own], times_ns, side="right") - 1
        total += values[own][at]
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
    good = (finish >= 0) & met_objectives(arrival, first, finish, tokens, slo=slo)
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
    finest = max(own.values(), key=lambda run: len(_edges(run)))
    bounds = (bound_over_time(run) for run in own.values())
    if (bound := next((one for one in bounds if one is not None), None)) is not None:
        gpus[PERFECT] = bound
    rates = {LOAD: load_over_time(finest)}
    if runs.slo.is_stated:
        rates |= {name: goodput_over_time(run, runs.slo) for name, run in own.items()}
    return gpus, rates


def scaling_charts(runs: RunSet, kinds: Mapping[str, str], axis: Axis) -> list[Chart]:
    """Return the charts of GPUs, and of load and goodput, over simulated time; none without such systems."""
    if not scaled(runs):
        return []
    charts = []
    for name, title, label, series in zip(
        ("gpus", "load"),
        ("GPUs paid for, dashed: perfect autoscaler", "Goodput, dashed: load"),
        ("GPUs", "requests/s"),
        _series(runs),
        strict=True,
    ):
        curves = {
            system: Curve(kinds.get(system, "slo"), steps.time_s.tolist(), steps.values.tolist(), True, system)
            for system, steps in series.items()
        }
        highest = max(map(highest_of, series.values()))
        texts = (f"{system} {number(highest_of(steps))}" for system, steps in series.items())
        about = f"{title} over simulated time ({label}). Highest value: {'; '.join(texts)}."
        guides = tuple(curves.pop(system) for system in (PERFECT, LOAD) if system in curves)
        y = linear_axis(label, 0.0, highest or 1.0)
        charts.append(Chart(f"time-{name}", title, about, axis, y, curves=tuple(curves.values()), guides=guides))
    return charts


def highest_of(steps: Steps) -> float:
    """Return the highest value."""
    return float(steps.values.max(initial=0.0))


def autoscaling_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the GPUs that are paid for in a panel per system, the load, and what of it misses the objectives."""
    gpus, rates = _series(runs)
    own, bound, load = scaled(runs), gpus.pop(PERFECT, None), rates.pop(LOAD)
    loads = {name: load_over_time(own[name]) for name in rates}  # windows and variants of the load may differ
    late = {name: Steps(one.time_s, _late_percent(loads[name].values, one.values)) for name, one in rates.items()}
    panels = [*own, "load, requests/s", *(["requests beyond the SLO, %"] if late else [])]
    figure, axes = small_multiples(panels, 1.35, same_y=False)
    colors, tables = colors_of(runs), []

    def draw(axis: Axes, name: str, steps: Steps, unit: str, color: str, style: str = "-") -> None:
        hours = steps.time_s / _S_PER_HOUR
        axis.step(hours, steps.values, where="post", color=color, linestyle=style, linewidth=1.2, label=name)
        shown = np.full(len(steps.values), unit, dtype=object)
        tables.append(of_system(name, {"time_s": steps.time_s, "value": steps.values, "unit": shown}))

    for axis, name in zip(axes, own, strict=False):
        draw(axis, name, gpus[name], "GPUs", colors[name])
        if (spot := spot_over_time(own[name])) is not None:
            hours = spot.time_s / _S_PER_HOUR
            axis.fill_between(hours, spot.values, step="post", color=colors[name], alpha=0.3, linewidth=0, label=SPOT)
            unit = np.full(len(hours), "GPUs on spot machines", dtype=object)
            tables.append(of_system(name, {"time_s": spot.time_s, "value": spot.values, "unit": unit}))
        if bound is not None:
            axis.step(
                bound.time_s / _S_PER_HOUR, bound.values, where="post", color="black", linewidth=1.0, label=PERFECT
            )
        axis.set_ylim(0, 1.05 * max(highest_of(one) for one in gpus.values()))
        axis.set_ylabel("GPUs")
    if bound is not None:
        shown = np.full(len(bound.values), "GPUs", dtype=object)
        tables.append(of_system(PERFECT, {"time_s": bound.time_s, "value": bound.values, "unit": shown}))
    draw(axes[len(own)], LOAD, load, "requests/s", GREY)
    axes[len(own)].set_ylim(bottom=0)
    for index, (name, steps) in enumerate(late.items()):
        draw(axes[len(own) + 1], name, steps, "% beyond the SLO", colors[name], LINE_STYLES[index % len(LINE_STYLES)])
    for axis in axes:
        axis.margins(x=0)
    for axis in axes[-2:]:
        axis.set_xlabel("simulated time, h")
    lines = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if common := [label for label in (PERFECT, SPOT) if label in lines]:
        figure.legend([lines[label] for label in common], common, loc="outside upper right", ncols=2)
    return figure, joined(tables)


def _late_percent(load: FloatArray, good: FloatArray) -> FloatArray:
    """Return the share of the load that is not good [%]; 0 where nothing arrives."""
    share: FloatArray = np.divide(load - good, load, out=np.zeros_like(load), where=load > 0)
    return 100 * share
