"""Comparison of systems with a baseline.

Systems receive the same requests at the same times, so the interval of the ratio R of output throughputs is that of the
classical ratio estimator over pairs of batch rates a and b: the standard error of the mean of a - R b over the mean of
b. Latencies cannot be paired by batch; their ratio has the interval R exp(+-r), where r is the root of the sum of
squares of the relative half widths. This ignores the correlation of the systems and is conservative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from helixsim.domain.figures import Limits
from helixsim.domain.result import FloatArray, IntArray, RunResult
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.jsonio import json_values
from helixsim.metrics.latency import finished_in_window, request_tpot_ns
from helixsim.metrics.stats import batch_means, batch_rates, interval_of_batches
from helixsim.metrics.window import cumulative_in_window
from helixsim.units import NS_PER_MS

RATIO_METRICS = (
    "output_throughput",
    "total_token_throughput",
    "request_throughput",
    "request_goodput",
    "mean_ttft_ms",
    "mean_tpot_ms",
    "mean_itl_ms",
    "mean_e2el_ms",
)
"""Summary keys that get a ratio to the baseline."""


@dataclass(frozen=True)
class Comparison:
    """A system against the baseline.

    Parameters
    ----------
    ratios
        System over baseline for each of ``RATIO_METRICS``; None if either is missing or the baseline is 0.
    intervals
        95 % intervals of the ratios that have one.
    paired
        Differences over paired requests (``paired``).
    """

    ratios: Mapping[str, float | None]
    intervals: Mapping[str, Limits]
    paired: Mapping[str, Any]

    @property
    def output_tokens_ratio(self) -> float | None:
        """Output tokens/s over those of the baseline."""
        return self.ratios["output_throughput"]

    @property
    def output_tokens_ratio_interval(self) -> Limits | None:
        """95 % interval of ``output_tokens_ratio``; None if the windows are too short."""
        return self.intervals.get("output_throughput")

    def to_json(self) -> dict[str, Any]:
        """Return the keys of a system in ``summary.json`` that are not in its summary."""
        return {
            "ratio_to_baseline": dict(self.ratios),
            "ratio_to_baseline_interval": {name: list(limits) for name, limits in self.intervals.items()},
            "paired_with_baseline": dict(self.paired),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Comparison:
        """Return the comparison from the document of a system (``helixsim`` in ``summary.json``).

        Raises
        ------
        DataError
            If there is none.
        """
        try:
            intervals = {name: Limits(*limits) for name, limits in document["ratio_to_baseline_interval"].items()}
            return cls(document["ratio_to_baseline"], intervals, document["paired_with_baseline"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"no comparison with a baseline: {type(error).__name__}: {error}") from None


def compared(summary: Summary, baseline: Summary, run: RunResult, baseline_run: RunResult) -> Comparison:
    """Return the comparison of a system with the baseline, with nine significant digits."""
    intervals = ratio_intervals(summary, baseline, run, baseline_run)
    return Comparison(
        ratios=json_values(ratios(summary, baseline)),
        intervals={name: Limits(*json_values(limits)) for name, limits in intervals.items()},
        paired=json_values(paired(run, baseline_run)),
    )


def ratios(summary: Summary, baseline: Summary) -> dict[str, float | None]:
    """Return system over baseline for each of ``RATIO_METRICS``; None if either is missing or the baseline is 0."""
    ours, theirs = summary.vllm_keys(), baseline.vllm_keys()
    return {metric: _ratio(ours[metric], theirs[metric]) for metric in RATIO_METRICS}


def ratio_intervals(
    summary: Summary, baseline: Summary, run: RunResult, baseline_run: RunResult
) -> dict[str, list[float]]:
    """Return [low, high] of the ratio for metrics with an interval in both summaries."""
    means, base_means = summary.vllm_keys(), baseline.vllm_keys()
    ours, theirs = summary.confidence(), baseline.confidence()
    intervals: dict[str, list[float]] = {}
    for metric, ratio in ratios(summary, baseline).items():
        if not ratio or metric not in ours or metric not in theirs:
            continue
        if summary is baseline:
            intervals[metric] = [1.0, 1.0]
            continue
        if metric == "output_throughput":
            paired_limits = _throughput_ratio_interval(run, baseline_run)
            if paired_limits is not None:
                intervals[metric] = paired_limits
                continue
        relative = [
            (limits.high - mean) / mean  # the upper half, as the lower limit may be cut at zero
            for limits, mean in ((ours[metric], means[metric]), (theirs[metric], base_means[metric]))
        ]
        spread = math.exp(math.hypot(*relative))
        intervals[metric] = [ratio / spread, ratio * spread]
    return intervals


def paired(run: RunResult, baseline: RunResult) -> dict[str, Any]:
    """Return differences over the requests that finished in the windows of both runs.

    Requests are paired by id if prompt and output tokens agree. For TTFT, TPOT and E2EL the result has the mean
    difference [ms] (negative: faster than the baseline), its 95 % interval or None, and the share of faster requests.
    """
    ours, theirs = _pairs(run, baseline)
    result: dict[str, Any] = {"requests": len(ours)}
    if not len(ours):
        return result
    for metric, ours_ns, theirs_ns in zip(
        ("ttft", "tpot", "e2el"), _latencies_ns(run, ours), _latencies_ns(baseline, theirs), strict=True
    ):
        difference = ours_ns - theirs_ns
        difference = difference[~np.isnan(difference)] / NS_PER_MS
        interval = interval_of_batches(batch_means(difference), floor=None)
        result[f"{metric}_difference_ms"] = float(difference.mean()) if difference.size else math.nan
        result[f"{metric}_difference_interval_ms"] = None if interval is None else [interval.low, interval.high]
        result[f"{metric}_faster_share"] = float((difference < 0).mean()) if difference.size else math.nan
    return result


def _ratio(value: float | None, base: float | None) -> float | None:
    if value is None or base is None or not base:
        return None
    return value / base


def _throughput_ratio_interval(run: RunResult, baseline: RunResult) -> list[float] | None:
    """Return [low, high] from paired batches; None if the windows differ or are too short."""
    if (run.window_start_ns, run.window_end_ns) != (baseline.window_start_ns, baseline.window_end_ns):
        return None
    ours, theirs = (batch_rates(*cumulative_in_window(each.series.output_tokens, each)) for each in (run, baseline))
    if len(ours) != len(theirs):
        return None
    ratio = float(ours.sum() / theirs.sum())
    residual = interval_of_batches(ours - ratio * theirs, floor=None)
    if residual is None:
        return None
    half = residual.half_width / float(theirs.mean())
    return [max(0.0, ratio - half), ratio + half]


def _pairs(run: RunResult, baseline: RunResult) -> tuple[IntArray, IntArray]:
    """Return the positions of the paired requests in each run, in order of id."""
    ours, theirs = finished_in_window(run), finished_in_window(baseline)
    _, left, right = np.intersect1d(
        run.requests.request_id[ours], baseline.requests.request_id[theirs], assume_unique=True, return_indices=True
    )
    ours, theirs = ours[left], theirs[right]
    same = (run.requests.prompt_tokens[ours] == baseline.requests.prompt_tokens[theirs]) & (
        run.requests.output_tokens[ours] == baseline.requests.output_tokens[theirs]
    )
    return ours[same], theirs[same]


def _latencies_ns(run: RunResult, positions: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    requests = run.requests
    arrival = requests.arrival_ns[positions]
    ttft = (requests.first_token_ns[positions] - arrival).astype(np.float64)
    e2el = (requests.finish_ns[positions] - arrival).astype(np.float64)
    return ttft, request_tpot_ns(run, positions), e2el
