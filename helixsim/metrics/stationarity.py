"""Test of stationarity: the first half of the window against the second.

A quantity drifts if the halves differ by more than 10 % (output tokens/s) or 25 % (mean TTFT, mean number of requests
in the system), and significantly: ten batch means per half, Student's t at 99 %.
"""

from __future__ import annotations

import math

import numpy as np

from helixsim.domain.result import FloatArray, RunResult
from helixsim.metrics.stats import BATCHES, MIN_BATCHES, batch_means, batch_rates, student_t_quantile
from helixsim.metrics.window import cumulative_in_window, in_window, window_samples
from helixsim.units import NS_PER_S, number

STEADY, NOT_STEADY = "steady", "not steady"

_THROUGHPUT_DRIFT = 0.10
_QUEUE_DRIFT = 0.25
_SIGNIFICANCE = 0.995  # two-sided 99 %


def stationarity(run: RunResult) -> str:
    """Return ``"steady"``, ``"not steady: ..."`` or, for a window with too few samples, ``"unknown: ..."``."""
    series, requests = run.series, run.requests
    rates = batch_rates(*cumulative_in_window(series.output_tokens, run))
    sampled = window_samples(run)
    in_system = batch_means((series.waiting + series.running)[sampled].astype(np.float64))
    if min(len(rates), len(in_system)) < 2 * MIN_BATCHES:
        return f"unknown: the window holds only {len(series.time_ns[sampled])} samples"
    first = np.flatnonzero(in_window(requests.first_token_ns, run))
    middle_ns = (run.window_start_ns + run.window_end_ns) // 2
    early = first[requests.first_token_ns[first] <= middle_ns]
    late = first[requests.first_token_ns[first] > middle_ns]
    if min(len(early), len(late)) < 2 * MIN_BATCHES:
        return f"unknown: only {len(first)} requests have their first token in the window"

    def ttft_batches(chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
        ordered = chosen[np.argsort(requests.first_token_ns[chosen], kind="stable")]
        ttft_s = (requests.first_token_ns[ordered] - requests.arrival_ns[ordered]) / NS_PER_S
        return batch_means(ttft_s, BATCHES // 2)

    drifts = [
        _drift("output tokens/s", *_halves(rates), _THROUGHPUT_DRIFT, ""),
        _drift("mean TTFT", ttft_batches(early), ttft_batches(late), _QUEUE_DRIFT, " s"),
        _drift("requests in the system", *_halves(in_system), _QUEUE_DRIFT, ""),
    ]
    found = [drift for drift in drifts if drift]
    return f"{NOT_STEADY}: {'; '.join(found)}" if found else STEADY


def _halves(batches: FloatArray) -> tuple[FloatArray, FloatArray]:
    middle = len(batches) // 2
    return batches[:middle], batches[-middle:]


def _drift(quantity: str, first: FloatArray, second: FloatArray, allowed: float, unit: str) -> str:
    """Return a description of the drift of a quantity between the halves; empty if there is none."""
    before, after = float(first.mean()), float(second.mean())
    mean = (before + after) / 2
    difference = after - before
    if not mean or abs(difference) <= allowed * mean:
        return ""
    error = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    if abs(difference) <= student_t_quantile(_SIGNIFICANCE, len(first) + len(second) - 2) * error:
        return ""
    verb = "rose" if difference > 0 else "fell"
    change = f" ({difference / before:+.0%})" if before else ""
    halves = f"from {number(before)}{unit} in the first half to {number(after)}{unit} in the second"
    return f"{quantity} {verb} {halves}{change}"
