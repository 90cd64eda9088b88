"""Events and samples of the measurement window.

An event at time t belongs to the window if start < t <= end. Samples of the cumulative series are taken after all
events of their nanosecond, so differences of the series and counts of requests agree exactly. A window that starts with
the run includes the events at time 0.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.result import IntArray, RunResult
from helixsim.units import NS_PER_S

Number = TypeVar("Number", np.int64, np.float64)


def in_window(times_ns: IntArray, run: RunResult) -> NDArray[np.bool_]:
    """Return a mask of the times [ns] in the window; -1 marks an event that did not occur."""
    after_start = times_ns >= 0 if run.window_start_ns == 0 else times_ns > run.window_start_ns
    return after_start & (times_ns <= run.window_end_ns)


def duration_s(run: RunResult) -> float:
    """Return the length of the window [s]; 0 for an empty window."""
    return max(run.window_end_ns - run.window_start_ns, 0) / NS_PER_S


def window_samples(run: RunResult) -> slice:
    """Return the slice of the samples of the window, from the one at its start to the first not before its end.

    In a run that ends with its last request, that sample may be later than the end; no events happen in between.
    """
    times = run.series.time_ns
    first = int(np.searchsorted(times, run.window_start_ns, side="left"))
    last = int(np.searchsorted(times, run.window_end_ns, side="left"))
    return slice(first, last + 1)


def growth_in_window(column: NDArray[Number], run: RunResult) -> NDArray[Number]:
    """Return the growth of a cumulative series column ([S] or [S, N]) over the window.

    A window that starts with the run counts from zero, as it includes the events at time 0.
    """
    samples = column[window_samples(run)]
    if not len(samples):
        return np.zeros_like(column[0])
    return np.asarray(samples[-1] if run.window_start_ns == 0 else samples[-1] - samples[0])


def cumulative_in_window(column: IntArray, run: RunResult) -> tuple[IntArray, IntArray]:
    """Return times [ns], clipped to the end of the window, and values of a cumulative series column."""
    samples = window_samples(run)
    return np.minimum(run.series.time_ns[samples], run.window_end_ns), column[samples]
