"""Stability of a system under its load.

The growth of the backlog is that of a least-squares line through the number of waiting requests over the window.
Admitted requests are not included: their number also grows while the cluster fills up, which ``stationarity`` detects.
An overload that KV memory still absorbs is therefore detected there first.

OVERLOADED: the growth exceeds 5 % of the arrivals, and three times the square root of the mean number of waiting
requests, its typical fluctuation. BACKLOGGED: no such growth, but more than 10 % of the requests in the system wait for
admission; always under saturation (``saturate``). STABLE: neither.
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
    """Verdict on the stability of a system."""

    STABLE = "STABLE"
    BACKLOGGED = "BACKLOGGED"
    OVERLOADED = "OVERLOADED"


def backlog_growth(run: RunResult) -> float:
    """Return the growth of the waiting queue over the window [requests], by a least-squares line."""
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
