"""Results of ``vllm bench serve`` and of ``sglang.bench_serving``, which have the same layout.

vLLM 0.9 to 0.2x (``vllm/benchmarks/serve.py``): one JSON object for each run (``--save-result``), with lists of the
single requests after ``--save-detailed``; several objects in one file after ``--append-result``. SGLang 0.3 to 0.5
(``python/sglang/bench_serving.py``): one JSON object a line for each run, ``e2e_latency`` and ``total_throughput`` in
place of ``e2el`` and ``total_token_throughput``, and the lists after ``--output-details``.

Times of the statistics are milliseconds, those of the lists seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helixsim.benchmarks.benchmark import METRICS, Benchmark, Lengths, Load, Requests
from helixsim.benchmarks.collect import Collector, is_number, of_values
from helixsim.domain.result import FloatArray
from helixsim.errors import DataError
from helixsim.jsonio import shown
from helixsim.units import NS_PER_S
from helixsim.workload.readers.values import check_lists, fault, time_ns, token_count

VLLM = "vllm bench serve"
SGLANG = "sglang.bench_serving"

_WHOLE_CHUNKS = 0.99
"""Least ratio of gaps to later tokens at which each streamed chunk is assumed to be one token."""

_SGLANG_MARK = "median_e2e_latency_ms"


def is_result(document: object) -> bool:
    """Return whether a JSON document has figures of one of the two."""
    return isinstance(document, dict) and any(key in document for key in (*METRICS, _SGLANG_MARK, "ttfts"))


def read(path: Path, document: Mapping[str, Any], name: str) -> Benchmark:
    """Return the benchmark of one JSON object.

    Raises
    ------
    DataError
        If a figure has no sensible value, or if all requests failed.
    """
    tool = SGLANG if _SGLANG_MARK in document else VLLM
    collected = Collector(path, name)
    completed, asked = document.get("completed"), document.get("num_prompts")
    if completed == 0:
        raise DataError(f"{path}: all requests of the benchmark failed (completed 0); nothing can be compared")
    for key in METRICS:
        own = key.replace("_e2el_", "_e2e_latency_").replace("total_token_", "total_") if tool == SGLANG else key
        collected.take(key, document.get(own, document.get(key)), own)
    if not collected.figures:
        raise DataError(f"{path}: has no figure of `{tool}` (expected {METRICS[1]}, {METRICS[3]}, ...)")
    if is_number(completed) and is_number(asked):
        collected.failures(asked - completed, asked)
    lists = _lists(path, document)
    if lists is None:
        _note_chunks(collected)
        lengths = (_mean_length(collected, document, side) for side in ("input", "output"))
        return _benchmark(tool, document, collected, Requests(), *lengths)
    requests = lists.requests()
    _in_tokens(collected, lists)
    lengths = (of_values(tokens) for tokens in (requests.prompt_tokens, requests.output_tokens))
    return _benchmark(tool, document, collected, requests, *lengths)


def _benchmark(
    tool: str,
    document: Mapping[str, Any],
    collected: Collector,
    requests: Requests,
    prompt_tokens: Lengths | None,
    output_tokens: Lengths | None,
) -> Benchmark:
    rate = document.get("request_rate")
    if rate == "inf":
        rate = math.inf
    if rate == "trace" or rate is None:
        rate_rps = None
    elif isinstance(rate, float) and math.isinf(rate):
        rate_rps = math.inf
    else:
        rate_rps = collected.number(rate, "request_rate")
    asked = document.get("num_prompts", document.get("completed"))
    load = Load(
        rate_rps=rate_rps,
        burstiness=collected.number(document.get("burstiness"), "burstiness") or (1.0 if rate_rps else None),
        concurrency=collected.count(document.get("max_concurrency"), "max_concurrency"),
        requests=collected.count(asked, "num_prompts"),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    model = document.get("model_id") or ""
    return Benchmark(
        tool, collected.figures, load, requests, collected.name, str(model), tuple(collected.notes)
    )  # fmt: skip


def _mean_length(collected: Collector, document: Mapping[str, Any], side: str) -> Lengths | None:
    """Return the mean length, and how lengths spread if SGLang drew them: evenly from a share of the longest up."""
    total, completed = (collected.number(document.get(name), name) for name in (f"total_{side}_tokens", "completed"))
    if not total or not completed:
        return None
    drawn = str(document.get("dataset_name", "")).startswith("random")
    share, longest = (
        collected.number(document.get(name), name) if drawn else None
        for name in ("random_range_ratio", f"random_{side}_len")
    )
    if share is None or longest is None or share > 1:
        return Lengths(total / completed)
    return Lengths(total / completed, longest * (1 - share) / math.sqrt(12))


def _note_chunks(collected: Collector) -> None:
    itl, tpot = (collected.figures.get(f"mean_{metric}_ms", 0.0) for metric in ("itl", "tpot"))
    if tpot and itl > 1.5 * tpot:
        collected.notes.append(
            f"the measured ITL is {itl / tpot:.1f} times the TPOT: tokens may have been streamed in chunks, so "
            "that ITL is the time between chunks (--save-detailed shows it)"
        )


@dataclass(frozen=True)
class _Lists:
    """Single successful requests: sum of gaps [s] and number of gaps of each, besides what ``Requests`` has."""

    start_s: FloatArray
    ttft_s: FloatArray
    gap_sum_s: FloatArray
    gaps: FloatArray
    output_tokens: FloatArray
    prompt_tokens: FloatArray

    @property
    def later_tokens(self) -> FloatArray:
        """Output tokens after the first."""
        return np.maximum(self.output_tokens - 1.0, 0.0)

    def requests(self) -> Requests:
        """Return the requests with their mean decode steps."""
        step_s = np.full(len(self.ttft_s), math.nan)
        has_step = (self.gaps > 0) & (self.later_tokens > 0)
        step_s[has_step] = self.gap_sum_s[has_step] / self.later_tokens[has_step]
        return Requests(self.start_s, self.prompt_tokens, self.output_tokens, self.ttft_s, step_s)


def _in_tokens(collected: Collector, lists: _Lists) -> None:
    """Replace the ITL by one of tokens if chunks of several were streamed, whose percentiles are not known."""
    with_gaps = lists.gaps > 0
    due, gaps = float(lists.later_tokens[with_gaps].sum()), float(lists.gaps.sum())
    if not due or gaps >= _WHOLE_CHUNKS * due:
        return
    collected.notes.append(
        f"measured tokens were streamed in chunks of {due / gaps:.2f} on average: the mean ITL is computed per "
        "token, and its percentiles are not compared"
    )
    collected.figures = {key: value for key, value in collected.figures.items() if not key.endswith("_itl_ms")}
    collected.figures["mean_itl_ms"] = float(lists.gap_sum_s[with_gaps].sum()) / due * 1e3


def _lists(path: Path, document: Mapping[str, Any]) -> _Lists | None:
    """Return the lists of the successful requests, None if the file has none.

    vLLM before January 2026 writes no starts: the order is then that of the file.
    """
    ttfts, itls, outputs = (document.get(key) for key in ("ttfts", "itls", "output_lens"))
    if not ttfts or not itls or not outputs:
        return None
    lists = {"ttfts": ttfts, "itls": itls, "output_lens": outputs}
    lists |= {key: document[key] for key in ("start_times", "input_lens", "errors") if document.get(key)}
    check_lists(path, lists)
    starts, prompts, errors = (lists.get(key) for key in ("start_times", "input_lens", "errors"))
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
        prompt = token_count(path, number, "input_lens", prompts[position]) if prompts else 0
        rows.append((start, ttft, _sum_s(path, number, gaps), len(gaps), output, prompt))
    if not rows:
        raise DataError(f"{path}: all requests of the benchmark failed; nothing can be compared")
    rows.sort(key=lambda row: row[0])
    start_s, ttft_s, gap_sum_s, counts, tokens, prompt_tokens = np.array(rows, dtype=np.float64).T
    none = np.zeros(0)
    return _Lists(
        start_s - start_s[0] if starts else none, ttft_s, gap_sum_s, counts, tokens, prompt_tokens if prompts else none
    )


def _sum_s(path: Path, number: int, gaps: object) -> float:
    """Return the sum of the gaps of one request [s]."""
    try:
        array = np.array(gaps, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.array([math.nan])
    if not isinstance(gaps, list) or array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
        fault(path, number, "itls", f"got {shown(gaps)}, expected a list of finite times, 0 or more")
    return float(array.sum())
