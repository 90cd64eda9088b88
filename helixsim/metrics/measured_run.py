"""Results of ``vllm bench serve`` and how far a simulated run lies from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.errors import DataError

METRICS = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    *(
        f"{statistic}_{metric}_ms"
        for metric in ("ttft", "tpot", "itl", "e2el")
        for statistic in ("mean", "median", "p50", "p75", "p90", "p95", "p99")
    ),
)
"""Keys that ``vllm bench serve`` and ``summary.json`` share."""


@dataclass(frozen=True)
class MeasuredRun:
    """A measured run.

    Parameters
    ----------
    figures
        Those of ``METRICS`` the file holds.
    start_s, ttft_s, step_s
        Start [s], time to first token [s] and mean time of a decode step [s] (NaN with one output token) of each
        request that did not fail, in order of start; empty if the file has no arrays (``--save-detailed``).
    """

    figures: Mapping[str, float]
    start_s: FloatArray
    ttft_s: FloatArray
    step_s: FloatArray


def read_measured(path: Path) -> MeasuredRun:
    """Return what a result file of ``vllm bench serve`` holds.

    Raises
    ------
    DataError
        If it is no JSON object, holds none of ``METRICS``, or arrays of different lengths.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(document).__name__}")
    figures = {key: float(value) for key in METRICS if (value := document.get(key)) is not None and _is_number(value)}
    if not figures:
        raise DataError(f"{path}: holds no figure of `vllm bench serve` (looked for {METRICS[1]}, {METRICS[3]}, ...)")
    starts, ttfts, itls = (document.get(key) or [] for key in ("start_times", "ttfts", "itls"))
    errors = document.get("errors") or [""] * len(starts)
    if not starts or not ttfts or not itls:
        empty = np.zeros(0)
        return MeasuredRun(figures, empty, empty, empty)
    if len({len(starts), len(ttfts), len(itls), len(errors)}) > 1:
        raise DataError(f"{path}: start_times, ttfts, itls and errors have different lengths")
    rows = sorted(
        (start, ttft, float(np.mean(gaps)) if gaps else math.nan)
        for start, ttft, gaps, error in zip(starts, ttfts, itls, errors, strict=True)
        if not error
    )
    start_s, ttft_s, step_s = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return MeasuredRun(figures, start_s - start_s.min(initial=math.inf), ttft_s, step_s)


def relative_errors(simulated: Mapping[str, Any], measured: Mapping[str, float]) -> dict[str, float]:
    """Return simulated / measured - 1 of every metric that both hold and that is not zero."""
    return {
        key: simulated[key] / measured[key] - 1.0
        for key in METRICS
        if measured.get(key) and _is_number(simulated.get(key))
    }


def mean_loss(simulated: Sequence[FloatArray], measured: Sequence[FloatArray]) -> float:
    """Return the mean absolute logarithm of simulated over measured means; NaN entries are left out."""
    terms = [
        abs(math.log(np.nanmean(ours) / np.nanmean(theirs))) for ours, theirs in zip(simulated, measured, strict=True)
    ]
    return sum(terms) / len(terms)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
