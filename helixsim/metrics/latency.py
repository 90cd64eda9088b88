"""TTFT, TPOT, ITL and E2EL.

TTFT: first output token at the coordinator - arrival, of requests whose first token falls into the window. TPOT:
(last - first token) / (output tokens - 1), and E2EL: last token - arrival, of requests that finish in the window.
Requests with one output token have no TPOT and are counted. ITL: times between successive tokens, pooled over requests.
Mean TPOT weights requests equally, mean ITL weights tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helixsim.domain.figures import Latency, Limits
from helixsim.domain.result import FloatArray, IntArray, RequestStatus, RunResult
from helixsim.jsonio import significant
from helixsim.metrics.stats import batch_means, describe, describe_histogram, interval_of_batches
from helixsim.metrics.window import in_window
from helixsim.units import NS_PER_MS


@dataclass(frozen=True)
class LatencySamples:
    """Latencies of the window [ns], in the order of their events."""

    ttft_ns: FloatArray
    tpot_ns: FloatArray
    e2el_ns: FloatArray
    tpot_excluded: int
    """Requests with one output token that finished in the window."""


def finished_in_window(run: RunResult) -> IntArray:
    """Return the positions of the requests that finished in the window, in that order."""
    requests = run.requests
    chosen = np.flatnonzero((requests.status == RequestStatus.FINISHED) & in_window(requests.finish_ns, run))
    return chosen[np.argsort(requests.finish_ns[chosen], kind="stable")]


def request_tpot_ns(run: RunResult, positions: IntArray) -> FloatArray:
    """Return TPOT [ns] of finished requests; NaN for those with one output token."""
    requests = run.requests
    return tpot_ns(
        *(column[positions] for column in (requests.first_token_ns, requests.finish_ns, requests.output_tokens))
    )


def tpot_ns(first_token_ns: IntArray, finish_ns: IntArray, output_tokens: IntArray) -> FloatArray:
    """Return TPOT [ns] from columns of finished requests; NaN for those with one output token."""
    steps = (output_tokens - 1).astype(np.float64)
    steps[steps < 1] = np.nan
    tpot: FloatArray = (finish_ns - first_token_ns) / steps
    return tpot


def latency_samples(run: RunResult) -> LatencySamples:
    """Return the latencies of the window."""
    requests = run.requests
    first = np.flatnonzero(in_window(requests.first_token_ns, run))
    first = first[np.argsort(requests.first_token_ns[first], kind="stable")]
    finished = finished_in_window(run)
    tpot = request_tpot_ns(run, finished)
    return LatencySamples(
        ttft_ns=(requests.first_token_ns[first] - requests.arrival_ns[first]).astype(np.float64),
        tpot_ns=tpot[~np.isnan(tpot)],
        e2el_ns=(requests.finish_ns[finished] - requests.arrival_ns[finished]).astype(np.float64),
        tpot_excluded=int(np.isnan(tpot).sum()),
    )


def latencies(run: RunResult, samples: LatencySamples) -> dict[str, Latency]:
    """Return the distributions of ``ttft``, ``tpot``, ``itl`` and ``e2el``, with intervals of the means.

    The mean of ITL has no interval, as successive values of a request are correlated.
    """
    described = {
        "ttft": (describe(samples.ttft_ns), samples.ttft_ns),
        "tpot": (describe(samples.tpot_ns), samples.tpot_ns),
        "itl": (describe_histogram(run.gaps), None),
        "e2el": (describe(samples.e2el_ns), samples.e2el_ns),
    }
    found = {}
    for name, (statistics, values_ns) in described.items():
        interval = None if values_ns is None else interval_of_batches(batch_means(values_ns / NS_PER_MS))
        figures = {f"{statistic}_s": _seconds(value / NS_PER_MS) for statistic, value in statistics.items()}
        limits = None if interval is None else Limits(_seconds(interval.low), _seconds(interval.high))
        found[name] = Latency(**figures, mean_interval_s=limits)
    return found


def _seconds(value_ms: float) -> float:
    """Convert milliseconds to seconds with the same significant digits."""
    return significant(significant(value_ms) / 1e3)
