"""What faults do over simulated time: goodput, output tokens/s and TTFT, with the failures and repairs marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helixsim.domain.faults import CUT, MENDED, SLOW_LINKS, USUAL_SPEED, FaultKind
from helixsim.domain.request import Slo
from helixsim.domain.result import FloatArray
from helixsim.metrics.throughput import met_objectives
from helixsim.report.style import LINE_STYLES, colors_of, new_figure, shade_outside
from helixsim.results.columns import Columns, joined, of_system
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INTERVALS = 40
"""Intervals of simulated time over which rates and TTFT are averaged."""

_MOST_EVENTS = 40
"""More lines cannot be told apart."""

EVENTS_NOTE = "Vertical lines: nodes or links fail or will, are slow or are back."

_RED, _BROWN, _GREEN = "#b2182b", "#b26a18", "#1a7a3a"
_MARKS = {
    FaultKind.DOWN.value: _RED,
    FaultKind.NOTICE.value: _BROWN,
    FaultKind.SLOW.value: _BROWN,
    FaultKind.UP.value: _GREEN,
    CUT: _RED,
    SLOW_LINKS: _BROWN,
    MENDED: _GREEN,
    USUAL_SPEED: _GREEN,
}


def has_faults(runs: RunSet) -> bool:
    """Return whether nodes failed, or could, in some system."""
    return any(run.summary.faults is not None for run in runs.values())


def events(runs: RunSet) -> list[tuple[float, str]]:
    """Return (time [s], kind) of the failures, repairs and slow nodes of all systems, the first of them."""
    found = {
        (float(one.time_s or 0.0), one.what): None
        for run in runs.values()
        if run.summary.faults is not None
        for one in run.summary.faults.events
        if one.what in _MARKS
    }
    return sorted(found)[:_MOST_EVENTS]


def edges_s(run: Run) -> FloatArray:
    """Return the ends of equal intervals of a run [s]."""
    times_ns = run.columns("series")["time_ns"]
    end_s = float(times_ns[-1]) / NS_PER_S if len(times_ns) else 0.0
    return np.linspace(0.0, max(end_s, 1e-9), _INTERVALS + 1)


def good_rate(run: Run, slo: Slo) -> FloatArray:
    """Return the requests/s that finished within the objectives in each interval; all that finished without any.

    Objectives of classes are left out.
    """
    rows = run.request_columns("arrival_ns", "first_token_ns", "finish_ns", "output_tokens")
    done = rows["finish_ns"] >= 0
    good = met_objectives(*(values[done] for values in rows.values()), slo=slo)
    edges = edges_s(run)
    counts: FloatArray = np.histogram(rows["finish_ns"][done][good] / NS_PER_S, edges)[0].astype(np.float64)
    return counts / np.diff(edges)


def ttft_by_arrival_s(run: Run) -> FloatArray:
    """Return the mean TTFT of the requests that arrived in each interval and got a first token [s]; NaN without any."""
    rows = run.request_columns("arrival_ns", "first_token_ns")
    came = rows["first_token_ns"] >= 0
    arrival_s = rows["arrival_ns"][came] / NS_PER_S
    waits_s = rows["first_token_ns"][came] / NS_PER_S - arrival_s
    edges = edges_s(run)
    counts, sums = np.histogram(arrival_s, edges)[0], np.histogram(arrival_s, edges, weights=waits_s)[0]
    means: FloatArray = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means


def sent_rate(run: Run) -> FloatArray:
    """Return the requests/s that clients sent in each interval, for the first time or again."""
    edges = edges_s(run)
    counts: FloatArray = np.histogram(run.request_columns("arrival_ns")["arrival_ns"] / NS_PER_S, edges)[0] / 1.0
    return counts / np.diff(edges)


def has_clients(runs: RunSet) -> bool:
    """Return whether clients could give up in some system."""
    return any(run.summary.faults is not None and run.summary.faults.clients is not None for run in runs.values())


def output_rate(run: Run) -> FloatArray:
    """Return the output tokens/s of each interval."""
    series, edges = run.columns("series"), edges_s(run)
    so_far = np.interp(edges, series["time_ns"] / NS_PER_S, series["output_tokens"].astype(np.float64))
    return np.diff(so_far) / np.diff(edges)


def faults_over_time(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw output tokens/s, goodput, TTFT and, of clients that give up, requests/s, with lines at faults."""
    labels = ["output tokens/s", "goodput, requests/s", "TTFT by arrival, s"]
    labels += ["requests sent/s"] if has_clients(runs) else []
    figure = new_figure(1.4 + 1.4 * len(labels))
    axes = figure.subplots(len(labels), 1, sharex=True)
    colors, tables = colors_of(runs), []
    for index, (name, run) in enumerate(runs.items()):
        edges = edges_s(run)
        columns = {
            "output_tokens_per_s": output_rate(run),
            "goodput_per_s": good_rate(run, runs.slo),
            "ttft_s": ttft_by_arrival_s(run),
        }
        if has_clients(runs):
            columns["sent_per_s"] = sent_rate(run)
        style = LINE_STYLES[index % len(LINE_STYLES)]
        for axis, values in zip(axes, columns.values(), strict=True):
            axis.stairs(values, edges, baseline=None, color=colors[name], linestyle=style, linewidth=1.5, label=name)
        tables.append(of_system(name, {"time_s": edges[1:], **columns}))
    for axis, label in zip(axes, labels, strict=True):
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_ylabel(label)
        shade_outside(axis, runs[next(iter(runs))].window_s)
        _mark(axis, runs)
    axes[-1].set_xlabel("simulated time, s")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 5))
    return figure, joined(tables)


def _mark(axis: Axes, runs: RunSet) -> None:
    for at_s, what in events(runs):
        axis.axvline(at_s, color=_MARKS[what], linestyle=(0, (2, 2)), linewidth=1.1)
