"""Reports of inference-perf (kubernetes-sigs), one JSON file for each stage, for the whole run and for its requests.

inference-perf 0.2 to 0.7 (``reportgen/base.py``): ``stage_N_lifecycle_metrics.json`` and
``summary_lifecycle_metrics.json`` hold ``load_summary``, ``successes`` and ``failures``; only those of stages state the
rate. ``per_request_lifecycle_metrics.json`` is a list of requests. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helixsim.benchmarks.benchmark import Benchmark, Load, Requests
from helixsim.benchmarks.collect import Collector, figures_of, is_number, mapping, nested, of_values
from helixsim.errors import DataError

TOOL = "inference-perf"

_TIMES = {
    "ttft": "time_to_first_token",
    "tpot": "time_per_output_token",
    "itl": "inter_token_latency",
    "e2el": "request_latency",
}


def is_summary(document: object) -> bool:
    """Return whether a document is a summary of a stage or a run."""
    return "load_summary" in mapping(document) and "successes" in mapping(document)


def is_requests(document: object) -> bool:
    """Return whether a document is the list of requests."""
    if not isinstance(document, list) or not document:
        return False
    return all("start_time" in mapping(row) and "end_time" in mapping(row) for row in document)


def read(path: Path, document: Mapping[str, Any], name: str) -> Benchmark:
    """Return the benchmark of a summary.

    Raises
    ------
    DataError
        If a figure has no sensible value, or if all requests failed.
    """
    collected = Collector(path, name)
    successes, asked = document["successes"], mapping(document["load_summary"])
    for metric, key in _TIMES.items():
        collected.statistics(metric, nested(successes, "latency", key), f"successes.latency.{key}", 1e3)
    for figure, key in (
        ("request_throughput", "requests_per_sec"),
        ("output_throughput", "output_tokens_per_sec"),
        ("total_token_throughput", "total_tokens_per_sec"),
    ):
        collected.take(figure, nested(successes, "throughput", key), f"successes.throughput.{key}")
    failed, count = nested(document, "failures", "count"), asked.get("count")
    collected.failures(failed, count)
    if not collected.figures:
        raise DataError(f"{path}: no figures of successful requests; nothing can be compared")
    prompts, outputs = (
        next((stated[key] for key in keys if stated.get(key) is not None), None)
        for stated, keys in (
            (mapping(successes), ("prompt_tokens", "prompt_len")),
            (mapping(successes), ("output_tokens", "output_len")),
        )
    )
    concurrency = collected.count(asked.get("concurrency"), "load_summary.concurrency")
    rate = None if concurrency else collected.number(asked.get("requested_rate"), "load_summary.requested_rate")
    if rate is None and concurrency is None:
        collected.notes.append("the summary of a whole run states no load: stage_N_lifecycle_metrics.json does")
    load = Load(
        rate or None,
        None,
        concurrency,
        collected.count(count, "load_summary.count"),
        collected.lengths(prompts, "successes.prompt_tokens"),
        collected.lengths(outputs, "successes.output_tokens"),
    )
    return Benchmark(TOOL, collected.figures, load, Requests(), name, "", tuple(collected.notes))


def read_requests(path: Path, rows: Sequence[Mapping[str, Any]]) -> Benchmark:
    """Return the benchmark of a list of requests.

    Raises
    ------
    DataError
        If a row is damaged or no request was successful.
    """
    collected = Collector(path)
    found, failed = [], 0
    for number, row in enumerate(rows, start=1):
        if row.get("error") is not None:
            failed += 1
            continue
        where = f"row {number}"
        start, end = (collected.number(row[key], f"{where}: {key}") for key in ("start_time", "end_time"))
        if start is None or end is None or end < start:
            collected.refuse(where, (row["start_time"], row["end_time"]), "a start and a later end")
        stated = _stated(collected, row, where)
        found.append((start, *stated, end))
    if not found:
        raise DataError(f"{path}: no successful request among {len(rows)} rows; nothing can be compared")
    collected.failures(failed, len(rows))
    start_s, prompts, outputs, ttft_s, step_s, end_s = np.array(sorted(found), dtype=np.float64).T
    requests = Requests(start_s - start_s[0], prompts, outputs, ttft_s, step_s)
    figures = figures_of(requests, end_s - start_s, float(end_s.max() - start_s[0]))
    load = Load(requests=len(found), prompt_tokens=of_values(prompts), output_tokens=of_values(outputs))
    return Benchmark(TOOL, figures, load, requests, notes=tuple(collected.notes))


def _stated(collected: Collector, row: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    """Return prompt and output tokens, TTFT [s] and mean decode step [s] of a request.

    They are computed (``computed_metrics``, 0.7) or follow from the times of the tokens in ``info``.
    """
    computed, info = mapping(row.get("computed_metrics")), mapping(row.get("info"))
    prompts = (
        computed.get("input_tokens"),
        info.get("input_tokens"),
        nested(info, "request_metrics", "text", "input_tokens"),
    )
    outputs = (
        computed.get("output_tokens"),
        info.get("output_tokens"),
        nested(info, "response_metrics", "output_tokens"),
    )
    prompt, output = (
        collected.number(next((value for value in values if value is not None), None), f"{where}: {key}")
        for values, key in ((prompts, "input_tokens"), (outputs, "output_tokens"))
    )
    if prompt is None or output is None:
        raise DataError(f"{collected.path}: {where}: numbers of input and output tokens are needed of each request")
    ttft = collected.number(computed.get("time_to_first_token"), f"{where}: time_to_first_token")
    step = collected.number(computed.get("time_per_output_token"), f"{where}: time_per_output_token")
    times = info.get("output_token_times", nested(info, "response_metrics", "output_token_times"))
    if ttft is None and isinstance(times, list) and len(times) > 1:
        if not all(is_number(time) for time in times):
            collected.refuse(f"{where}: output_token_times", times, "a list of times")
        ttft = max(times[0] - row["start_time"], 0.0)
        step = (times[-1] - times[0]) / (output - 1) if output > 1 else None
    return prompt, output, math.nan if ttft is None else ttft, math.nan if step is None else step
