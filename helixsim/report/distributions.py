"""Samples of latencies in the measurement window, for the figures and charts of their distributions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.result import FloatArray, IntArray
from helixsim.results.run import Run
from helixsim.units import NS_PER_MS, NS_PER_S

CDF_POINTS = 400


def ttft_s(run: Run) -> FloatArray:
    """Return the TTFT of the requests whose first token came in the window [s]."""
    columns = run.request_columns("arrival_ns", "first_token_ns")
    chosen = _inside(columns["first_token_ns"], run.window_s)
    return np.asarray((columns["first_token_ns"][chosen] - columns["arrival_ns"][chosen]) / NS_PER_S)


def tpot_ms(run: Run) -> FloatArray:
    """Return the TPOT of the requests of more than one output token that finished in the window [ms]."""
    columns = run.request_columns("first_token_ns", "finish_ns", "output_tokens")
    chosen = _inside(columns["finish_ns"], run.window_s) & (columns["output_tokens"] > 1)
    steps = columns["output_tokens"][chosen] - 1
    return np.asarray((columns["finish_ns"][chosen] - columns["first_token_ns"][chosen]) / steps / NS_PER_MS)


def gap_curve_ms(run: Run) -> tuple[FloatArray, FloatArray]:
    """Return the cumulative distribution of ITL: gaps [ms] and shares, at most ``CDF_POINTS``."""
    gaps = run.columns("itl")
    if not len(gaps["count"]):
        return np.empty(0), np.empty(0)
    share = np.cumsum(gaps["count"]) / gaps["count"].sum()
    # Keep one bin per step of the curve: more cannot be told apart.
    keep = np.unique(np.searchsorted(share, np.linspace(0, share[-1], CDF_POINTS + 1)))
    keep = keep[keep < len(share)]
    return np.asarray(gaps["gap_to_ns"][keep] / NS_PER_MS), np.asarray(share[keep])


def _inside(times_ns: IntArray, window_s: tuple[float, float]) -> NDArray[np.bool_]:
    start_ns, end_ns = (edge * NS_PER_S for edge in window_s)
    after_start = times_ns >= 0 if start_ns == 0 else times_ns > start_ns
    return after_start & (times_ns <= end_ns)
