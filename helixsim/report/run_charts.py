"""Charts of the report of a run: distributions of latencies, and series over simulated time, a line per system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.report.autoscaling_series import scaling_charts
from helixsim.report.charts import Axis, Chart, Curve, linear_axis, log_axis, share_axis
from helixsim.report.distributions import gap_curve_ms, tpot_ms, ttft_s
from helixsim.report.fault_charts import (
    EVENTS_NOTE,
    edges_s,
    events,
    good_rate,
    has_clients,
    has_faults,
    sent_rate,
    ttft_by_arrival_s,
)
from helixsim.results.columns import thinned
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S, number

_POINTS = 120
"""Points of a line; more cannot be told apart at this width."""

_RATES = 40
"""Intervals over which rates are averaged."""

_KINDS = 8
_DASHES = ("", "dash2", "dash3", "dash4")
_WIDE_RANGE = 20
"""Distributions whose largest value is this many times the smallest one have a logarithmic axis."""


def kinds_of(names: Sequence[str], letter: str = "c") -> dict[str, str]:
    """Return the CSS classes of each name: a colour, and dashes, which tell lines apart without colours."""
    return {
        name: f"{letter}{index % _KINDS + 1} {_DASHES[index % len(_DASHES)]}".strip()
        for index, name in enumerate(names)
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeSeries:
    """A column of the node series: times [s], and values [samples, nodes] with the node type of each node."""

    time_s: FloatArray
    values: FloatArray
    node_types: tuple[str, ...]


def node_series(run: Run, column: str) -> NodeSeries:
    """Return a column of the node series of a run."""
    rows = run.columns("node_series")
    times = rows["time_ns"]
    nodes = int((times == times[0]).sum()) if len(times) else 0
    if not nodes:
        return NodeSeries(np.empty(0), np.empty((0, 0)), ())
    values = rows[column].astype(np.float64).reshape(-1, nodes)
    return NodeSeries(times[::nodes] / NS_PER_S, values, tuple(map(str, rows["node_type"][:nodes])))


def latency_charts(runs: RunSet) -> list[Chart]:
    """Return the cumulative distributions of TTFT, TPOT and ITL in the window, with their objectives."""
    slo = runs.slo
    shown: tuple[tuple[str, str, Callable[[Run], tuple[FloatArray, FloatArray]], float | None], ...] = (
        ("TTFT", "s", lambda run: _quantiles(ttft_s(run)), slo.ttft_s),
        ("TPOT", "ms", lambda run: _quantiles(tpot_ms(run)), None if slo.tpot_s is None else 1e3 * slo.tpot_s),
        ("ITL", "ms", gap_curve_ms, None),
    )
    kinds = kinds_of(list(runs))
    charts = []
    for name, unit, curve_of, limit in shown:
        curves = {system: curve_of(run) for system, run in runs.items()}
        values = np.concatenate([*(x for x, _ in curves.values()), np.asarray([] if limit is None else [limit])])
        axis = _value_axis(f"{name}, {unit}", values[values > 0])
        ends = [f"{system} {_at(x, y, 0.5)} and {_at(x, y, 0.99)} {unit}" for system, (x, y) in curves.items()]
        lines = []
        for system, (x, y) in curves.items():
            inside = np.maximum(np.append(axis.low, x), axis.low) if x.size else x
            shares = np.append(0.0, y) if x.size else y
            lines.append(Curve(kinds[system], inside.tolist(), shares.tolist(), is_step=True, name=system))
        charts.append(
            Chart(
                f"cdf-{name.lower()}",
                name,
                f"Cumulative distribution of {name}. Median and 99th percentile: {'; '.join(ends)}.",
                axis,
                share_axis("share of gaps at most" if name == "ITL" else "share of requests at most"),
                curves=tuple(lines),
                guides=() if limit is None else (Curve("slo", (limit, limit), (0.0, 1.0)),),
                notes=() if limit is None else (_slo_note(axis, limit),),
            )
        )
    return charts


def time_charts(runs: RunSet) -> list[Chart]:
    """Return throughput, requests in the system, KV memory, batches and utilisation over simulated time."""
    charts = [
        _over_time(
            runs, "output-rate", "Output throughput", "output tokens/s", lambda run: _rate(run, "output_tokens")
        ),
        _over_time(
            runs, "prompt-rate", "Prompt throughput", "prompt tokens/s", lambda run: _rate(run, "prompt_tokens")
        ),
        _over_time(runs, "waiting", "Requests waiting for admission", "requests", lambda run: _level(run, "waiting")),
        _over_time(runs, "running", "Requests running", "requests", lambda run: _level(run, "running")),
        _over_time(runs, "kv", "KV memory in use, mean of the nodes", "share of KV blocks", _mean_kv),
        _over_time(runs, "kv-peak", "KV memory in use, fullest node", "share of KV blocks", _highest_kv),
        *_batch_sizes(runs),
        _over_time(runs, "busy", "Nodes computing, mean", "share of the time", _mean_busy),
        *scaling_charts(runs, kinds_of(list(runs)), _time_axis(runs)),
    ]
    return [*_of_faults(runs), *charts] if has_faults(runs) else charts


def _of_faults(runs: RunSet) -> list[Chart]:
    """Return goodput and TTFT over simulated time, which faults change most."""

    def steps(run: Run, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        return edges_s(run), np.concatenate([values, values[-1:]])

    sent = [_over_time(runs, "sent-rate", "Requests sent", "requests/s", lambda run: steps(run, sent_rate(run)))]
    return [
        *(sent if has_clients(runs) else []),
        _over_time(runs, "goodput-rate", "Goodput", "requests/s", lambda run: steps(run, good_rate(run, runs.slo))),
        _over_time(
            runs, "ttft-rate", "TTFT by arrival, mean", "TTFT, s", lambda run: steps(run, ttft_by_arrival_s(run))
        ),
    ]


def _batch_sizes(runs: RunSet) -> list[Chart]:
    """Return the chart of batch sizes; none for a run of an older version, which has not recorded them."""
    if not all("batches" in run.columns("node_series") for run in runs.values()):
        return []
    title = "Decode batch, mean of the nodes"
    return [_over_time(runs, "batch-rate", title, "sequences per iteration", _mean_batch)]


def _mean_batch(run: Run) -> tuple[FloatArray, FloatArray]:
    """Return decoding sequences over iterations, of all nodes together; NaN while none computes."""
    tokens, batches = node_series(run, "decode_tokens"), node_series(run, "batches")
    rows = thinned(len(batches.time_s), _RATES)
    if len(rows) < 2:
        return np.empty(0), np.empty(0)
    steps = np.diff(batches.values[rows].sum(axis=1))
    sizes = np.diff(tokens.values[rows].sum(axis=1)) / np.where(steps > 0, steps, np.nan)
    return batches.time_s[rows], np.concatenate([sizes, sizes[-1:]])


def node_type_charts(runs: RunSet) -> list[Chart]:
    """Return utilisation over simulated time for each system, a line per node type."""
    names = list(dict.fromkeys(kind for run in runs.values() for kind in node_series(run, "busy_ns").node_types))
    kinds = kinds_of(names, "n")
    charts = []
    for number_, (system, run) in enumerate(runs.items()):
        time_s, busy, types = _busy_shares(run)
        curves, means = [], []
        for name in names:
            own = [index for index, kind in enumerate(types) if kind == name]
            if own and len(time_s):
                share = busy[:, own].mean(axis=1)
                curves.append(Curve(kinds[name], time_s.tolist(), share.tolist(), is_step=True, name=name))
                means.append(f"{name} {share.mean():.0%}")
        charts.append(
            Chart(
                f"node-types-{number_}",
                system,
                f"Share of the time in which nodes of each type compute under {system}. Means: {', '.join(means)}.",
                _time_axis(runs),
                share_axis("share of the time"),
                curves=tuple(curves),
                shades=_outside(run, _time_axis(runs).high),
            )
        )
    return charts


def _over_time(
    runs: RunSet, name: str, title: str, label: str, series: Callable[[Run], tuple[FloatArray, FloatArray]]
) -> Chart:
    kinds, axis = kinds_of(list(runs)), _time_axis(runs)
    is_share = label.startswith("share")
    curves, ends, highest = [], [], 0.0
    for system, run in runs.items():
        time_s, values = series(run)
        is_rate = name.endswith("rate") or name == "busy"
        curves.append(Curve(kinds[system], time_s.tolist(), values.tolist(), is_step=is_rate, name=system))
        found = values[np.isfinite(values)]
        if found.size:
            highest = max(highest, float(found.max()))
            texts = [f"{value:.0%}" if is_share else number(float(value)) for value in (found.mean(), found.max())]
            ends.append(f"{system} {texts[0]} and {texts[1]}")
    up = share_axis(label) if is_share else linear_axis(label, 0.0, highest or 1.0)
    marked = events(runs)
    marks = f" {EVENTS_NOTE}" if marked else ""
    return Chart(
        f"time-{name}",
        title,
        f"{title} over simulated time ({label}). Mean and highest value: {'; '.join(ends)}.{marks}",
        axis,
        up,
        curves=tuple(curves),
        guides=tuple(Curve("slo", (at_s, at_s), (up.low, up.high)) for at_s, _ in marked),
        shades=_outside(next(iter(runs.values())), axis.high),
    )


def _time_axis(runs: RunSet) -> Axis:
    times = [run.columns("series")["time_ns"] for run in runs.values()]
    ends = [float(one[-1]) / NS_PER_S for one in times if len(one)]
    return linear_axis("simulated time, s", 0.0, max(ends, default=1.0) or 1.0)


def _outside(run: Run, end_s: float) -> tuple[tuple[float, float], ...]:
    """Return the ranges of time outside the measurement window."""
    first, last = run.window_s
    return tuple((low, high) for low, high in ((0.0, first), (last, end_s)) if high - low > 1e-9 * end_s)


def _rate(run: Run, column: str) -> tuple[FloatArray, FloatArray]:
    """Return the increase of a cumulative column per second; a value holds from its time to the next one."""
    series = run.columns("series")
    rows = thinned(len(series["time_ns"]), _RATES)
    return _increase(series["time_ns"][rows] / NS_PER_S, series[column][rows].astype(np.float64))


def _increase(time_s: FloatArray, totals: FloatArray) -> tuple[FloatArray, FloatArray]:
    if len(time_s) < 2:
        return np.empty(0), np.empty(0)
    steps = np.diff(time_s)
    rates = np.diff(totals, axis=0) / (steps if totals.ndim == 1 else steps[:, None])
    return time_s, np.concatenate([rates, rates[-1:]])


def _level(run: Run, column: str) -> tuple[FloatArray, FloatArray]:
    series = run.columns("series")
    rows = thinned(len(series["time_ns"]), _POINTS)
    return series["time_ns"][rows] / NS_PER_S, series[column][rows].astype(np.float64)


def _mean_kv(run: Run) -> tuple[FloatArray, FloatArray]:
    return _kv(run, lambda values: values.mean(axis=1))


def _highest_kv(run: Run) -> tuple[FloatArray, FloatArray]:
    return _kv(run, lambda values: values.max(axis=1))


def _kv(run: Run, over_nodes: Callable[[FloatArray], FloatArray]) -> tuple[FloatArray, FloatArray]:
    found = node_series(run, "kv_used_share")
    rows = thinned(len(found.time_s), _POINTS)
    return found.time_s[rows], over_nodes(found.values[rows]) if rows else np.empty(0)


def _mean_busy(run: Run) -> tuple[FloatArray, FloatArray]:
    time_s, busy, _ = _busy_shares(run)
    return time_s, busy.mean(axis=1) if busy.size else np.empty(0)


def _busy_shares(run: Run) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    found = node_series(run, "busy_ns")
    rows = thinned(len(found.time_s), _RATES)
    time_s, shares = _increase(found.time_s[rows], found.values[rows] / NS_PER_S)
    return time_s, shares, found.node_types


def _quantiles(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    shares = np.linspace(0, 1, _POINTS + 1)
    return (np.quantile(values, shares), shares) if values.size else (np.empty(0), np.empty(0))


def _value_axis(label: str, values: FloatArray) -> Axis:
    """Return an axis for a distribution, logarithmic over a wide range."""
    if values.size and values.max() > _WIDE_RANGE * values.min():
        return log_axis(label, [float(values.min()), float(values.max())])
    return linear_axis(label, 0.0, float(values.max()) if values.size else 1.0)


def _slo_note(axis: Axis, limit: float) -> Any:
    from helixsim.report.charts import Note

    return Note(limit, 0.03, f"SLO {number(limit)}", "end" if axis.share(limit) > 0.5 else "start")


def _at(values: FloatArray, shares: FloatArray, share: float) -> str:
    return number(float(np.interp(share, shares, values))) if values.size else "–"


def chart_rows(chart: Chart) -> Iterator[Mapping[str, Any]]:
    """Yield the values of the lines of a chart, for its CSV file."""
    for curve in chart.curves:
        for x, y in zip(curve.xs, curve.ys, strict=True):
            yield {"chart": chart.title, "line": curve.name, chart.x.label: x, chart.y.label: y}
