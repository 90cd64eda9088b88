"""Whether the cluster keeps up with its load.

Of the requests that arrive in the window, which share piles up waiting for admission? That share is the growth of the
number of waiting requests (a straight line fitted to its samples) over the window, divided by the arrivals. Admitted
requests do not enter it: their number also grows while a cluster merely fills up, which ``steady`` tells. An overload
that KV memory can still absorb therefore shows there first.

OVERLOADED: the share exceeds 5 %, and the growth exceeds the usual fluctuation of such a number (three times the root
of its mean). BACKLOGGED: no such growth, but more than a tenth of the requests in the system wait for admission; an
endless queue (``saturate``) is that by definition. STABLE: neither.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from helixsim.domain.request import FeedMode
from helixsim.domain.result import IntArray, RunResult
from helixsim.metrics.window import in_window, window_samples

_GROWTH_SHARE = 0.05
_WAITING_SHARE = 0.10
_FLUCTUATIONS = 3.0


class Saturation(StrEnum):
    """Verdict on load against capacity."""

    STABLE = "STABLE"
    BACKLOGGED = "BACKLOGGED"
    OVERLOADED = "OVERLOADED"


def backlog_growth(run: RunResult) -> float:
    """Return by how many requests the waiting queue grew over the window, by a least-squares line."""
    sampled = window_samples(run)
    times = run.series.time_ns[sampled].astype(np.float64)
    if len(times) < 2:
        return 0.0
    centred = times - times.mean()
    slope = float((centred * run.series.waiting[sampled]).sum() / (centred * centred).sum())
    return slope * float(times[-1] - times[0])


def saturation(run: RunResult) -> Saturation:
    """Return the verdict for the window."""
    if run.mode is FeedMode.SATURATE:
        return Saturation.BACKLOGGED
    sampled = window_samples(run)
    waiting = _mean(run.series.waiting[sampled])
    running = _mean(run.series.running[sampled])
    arrivals = int(in_window(run.requests.arrival_ns, run).sum())
    growth = backlog_growth(run)
    if growth > _GROWTH_SHARE * arrivals and growth > _FLUCTUATIONS * math.sqrt(waiting):
        return Saturation.OVERLOADED
    return Saturation.BACKLOGGED if waiting > _WAITING_SHARE * (waiting + running) else Saturation.STABLE


def _mean(samples: IntArray) -> float:
    return float(samples.mean()) if len(samples) else 0.0
