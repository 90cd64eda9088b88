"""Results of ``vllm bench serve``, and the errors of simulated runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.errors import DataError
from helixsim.jsonio import shown
from helixsim.units import NS_PER_S
from helixsim.workload.readers.chat import vllm_result
from helixsim.workload.readers.files import json_documents
from helixsim.workload.readers.values import fault, time_ns, token_count

STATISTICS = ("mean", "median", "p50", "p75", "p90", "p95", "p99")

METRICS = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    *(f"{statistic}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for statistic in STATISTICS),
)
"""Keys of both ``vllm bench serve`` and ``summary.json``."""

_LARGEST = 1e15
"""Largest accepted figure."""

_WHOLE_CHUNKS = 0.99
"""Least ratio of gaps to later tokens at which each streamed chunk is assumed to be one token."""


@dataclass(frozen=True)
class MeasuredRun:
    """A measured run.

    Parameters
    ----------
    figures
        The ``METRICS`` in the file.
    start_s, ttft_s, step_s
        Start [s], TTFT [s] and mean decode step [s] (NaN with one output token) of each successful request, in order of
        start; empty if the file has no arrays (``--save-detailed``). vLLM before January 2026 writes no starts:
        ``start_s`` is then empty, and the order is that of the file.
    notes
        Sentences on the interpretation of the file.
    """

    figures: Mapping[str, float]
    start_s: FloatArray
    ttft_s: FloatArray
    step_s: FloatArray
    notes: tuple[str, ...] = ()


def read_measured(path: Path, result: int | None = None) -> MeasuredRun:
    """Return a result of ``vllm bench serve``.

    Parameters
    ----------
    result
        Number of the result in a file with several (``--append-result``), from 1.

    Raises
    ------
    DataError
        If the file is not such a result, has several results and ``result`` is None, or if all requests failed.
    """
    document = vllm_result(path, json_documents(path), result)
    completed, asked = document.get("completed"), document.get("num_prompts")
    if completed == 0:
        raise DataError(f"{path}: all requests of the benchmark failed (completed 0); nothing can be compared")
    figures = {key: float(value) for key in METRICS if _is_number(value := document.get(key))}
    if not figures:
        raise DataError(f"{path}: has no figure of `vllm bench serve` (expected {METRICS[1]}, {METRICS[3]}, ...)")
    notes = []
    if _is_number(completed) and _is_number(asked) and completed < asked:
        notes.append(
            f"{asked - completed:g} of {asked:g} measured requests failed; the figures are those of the successful ones"
        )
    arrays = _arrays(path, document)
    if arrays is None:
        itl, tpot = (figures.get(f"mean_{metric}_ms", 0.0) for metric in ("itl", "tpot"))
        if tpot and itl > 1.5 * tpot:
            notes.append(
                f"the measured ITL is {itl / tpot:.1f} times the TPOT: tokens may have been streamed in chunks, so "
                "that ITL is the time between chunks (--save-detailed shows it)"
            )
        empty = np.zeros(0)
        return MeasuredRun(figures, empty, empty, empty, tuple(notes))
    start_s, ttft_s, gap_sum_s, gaps, outputs = arrays
    with_gaps = gaps > 0
    later_tokens = np.maximum(outputs - 1.0, 0.0)
    due = float(later_tokens[with_gaps].sum())
    if due and gaps.sum() < _WHOLE_CHUNKS * due:
        per_chunk = due / float(gaps.sum())
        notes.append(
            f"measured tokens were streamed in chunks of {per_chunk:.2f} on average: the mean ITL is computed per "
            "token, and its percentiles are not compared"
        )
        figures = {key: value for key, value in figures.items() if not key.endswith("_itl_ms")}
        figures["mean_itl_ms"] = float(gap_sum_s[with_gaps].sum()) / due * 1e3
    step_s = np.full(len(ttft_s), math.nan)
    has_step = with_gaps & (later_tokens > 0)
    step_s[has_step] = gap_sum_s[has_step] / later_tokens[has_step]
    return MeasuredRun(figures, start_s, ttft_s, step_s, tuple(notes))


def _arrays(path: Path, document: Mapping[str, Any]) -> tuple[FloatArray, ...] | None:
    """Return start [s], TTFT [s], sum of gaps [s], number of gaps and output tokens of the successful requests.

    None if the file has no arrays; the array of starts is empty if the file has none.
    """
    ttfts, itls, outputs, starts = (document.get(key) for key in ("ttfts", "itls", "output_lens", "start_times"))
    errors = document.get("errors")
    if not ttfts or not itls or not outputs:
        return None
    lists = {"ttfts": ttfts, "itls": itls, "output_lens": outputs}
    lists |= {key: values for key, values in (("start_times", starts), ("errors", errors)) if values}
    for key, values in lists.items():
        if not isinstance(values, list):
            raise DataError(f"{path}: {key!r}: got {shown(values)}, expected a list")
    if len({len(values) for values in lists.values()}) > 1:
        sizes = ", ".join(f"{key} {len(values)}" for key, values in lists.items())
        raise DataError(f"{path}: lists of different lengths: {sizes}")
    rows = []
    for position, gaps in enumerate(itls):
        if errors and errors[position]:
            continue
        number = position + 1
        start, ttft = (
            time_ns(path, number, key, values[position]) / NS_PER_S if values else 0.0
            for key, values in (("start_times", starts), ("ttfts", ttfts))
        )
        output = token_count(path, number, "output_lens", outputs[position])
        rows.append((start, ttft, _sum_s(path, number, gaps), len(gaps), output))
    if not rows:
        raise DataError(f"{path}: all requests of the benchmark failed; nothing can be compared")
    rows.sort(key=lambda row: row[0])
    start_s, ttft_s, gap_sum_s, counts, tokens = np.array(rows, dtype=np.float64).T
    return start_s - start_s[0] if starts else np.zeros(0), ttft_s, gap_sum_s, counts, tokens


def _sum_s(path: Path, number: int, gaps: object) -> float:
    """Return the sum of the gaps of one request [s]."""
    try:
        array = np.array(gaps, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.array([math.nan])
    if not isinstance(gaps, list) or array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
        fault(path, number, "itls", f"got {shown(gaps)}, expected a list of finite times, 0 or more")
    return float(array.sum())


def relative_errors(simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Return simulated / measured - 1 of every metric in both, unless the measured value is 0."""
    return {
        key: simulated[key] / measured[key] - 1.0
        for key in METRICS
        if _is_number(measured.get(key)) and measured[key] and _is_number(simulated.get(key))
    }


def mean_loss(simulated: Sequence[FloatArray], measured: Sequence[FloatArray]) -> float:
    """Return the mean absolute logarithm of simulated over measured means; inf if none can be compared."""
    terms = [
        abs(math.log1p(error))
        for ours, theirs in zip(simulated, measured, strict=True)
        if (error := mean_error(ours, theirs)) is not None and error > -1
    ]
    return sum(terms) / len(terms) if terms else math.inf


def mean_error(simulated: FloatArray, measured: FloatArray) -> float | None:
    """Return simulated over measured mean - 1, without NaN entries; None if either has no mean above 0."""
    ours, theirs = (values[np.isfinite(values)] for values in (simulated, measured))
    if not len(ours) or not len(theirs) or not theirs.mean() > 0:
        return None
    return float(ours.mean() / theirs.mean() - 1.0)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
