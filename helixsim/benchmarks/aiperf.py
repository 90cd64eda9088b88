"""Exports of AIPerf and of its predecessor GenAI-Perf.

AIPerf 0.1 to 0.13 (schema 1.0 to 1.5, ``docs/reference/json-export-schema.md``): ``profile_export_aiperf.json`` has a
mapping of statistics with their ``unit`` for each metric, and ``profile_export.jsonl`` one request a line. GenAI-Perf
0.0.16: ``profile_export_genai_perf.json`` has the same metrics.

``inter_token_latency`` is that of a request, its decode time over its tokens after the first, which is TPOT;
``inter_chunk_latency`` is the time between answers of the server, which vLLM calls ITL.
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
from helixsim.units import NS_PER_S
from helixsim.workload.readers.aiperf import has_failed, is_warm_up
from helixsim.workload.readers.values import time_ns

AIPERF, GENAI_PERF = "AIPerf", "GenAI-Perf"

_TIMES = {
    "ttft": "time_to_first_token",
    "tpot": "inter_token_latency",
    "itl": "inter_chunk_latency",
    "e2el": "request_latency",
}


def is_export(document: object) -> bool:
    """Return whether a document is a summary of either tool."""
    latency = mapping(mapping(document).get("request_latency"))
    return "unit" in latency and "avg" in latency


def is_record(document: object) -> bool:
    """Return whether a document is one request of ``profile_export.jsonl``."""
    return isinstance(document, dict) and "request_start_ns" in mapping(document.get("metadata"))


def read(path: Path, document: Mapping[str, Any], name: str) -> Benchmark:
    """Return the benchmark of a summary.

    Raises
    ------
    DataError
        If a figure has no sensible value, or if all requests failed.
    """
    collected = Collector(path, name)
    for metric, key in _TIMES.items():
        if document.get(key) is not None:
            collected.statistics(
                metric, document[key], key, collected.unit_ms(mapping(document[key]).get("unit"), f"{key}.unit")
            )
    for figure, key in (
        ("request_throughput", "request_throughput"),
        ("output_throughput", "output_token_throughput"),
        ("total_token_throughput", "total_token_throughput"),
    ):
        collected.take(figure, nested(document, key, "avg"), f"{key}.avg")
    config = mapping(document.get("input_config"))
    done, failed = (nested(document, key, "avg") for key in ("request_count", "error_request_count"))
    if failed is None and isinstance(document.get("error_summary"), list):
        counts = [mapping(one).get("count") for one in document["error_summary"]]
        failed = sum(count for count in counts if is_number(count))
    if is_number(done) and is_number(failed):
        collected.failures(failed, failed + done)
    if document.get("is_complete") is False or document.get("was_cancelled") is True:
        collected.notes.append("the run was ended before it was complete")
    rate_rps, burstiness, concurrency = _asked(collected, config)
    load = Load(
        rate_rps,
        burstiness,
        concurrency,
        collected.count(done, "request_count"),
        collected.lengths(document.get("input_sequence_length"), "input_sequence_length"),
        collected.lengths(document.get("output_sequence_length"), "output_sequence_length"),
    )
    tool = AIPERF if "aiperf_version" in document or "schema_version" in document else GENAI_PERF
    return Benchmark(
        tool, collected.figures, load, Requests(), name, _model(config), tuple(collected.notes)
    )  # fmt: skip


def read_records(path: Path, documents: Sequence[Any]) -> Benchmark:
    """Return the benchmark of the requests of ``profile_export.jsonl``; those of the warm-up are left out.

    Raises
    ------
    DataError
        If a row is damaged or no request was successful.
    """
    collected = Collector(path)
    rows, failed, asked = [], 0, 0
    for number, document in enumerate(documents, start=1):
        where = f"row {number}"
        if not is_record(document):
            collected.refuse(where, document, "a request with metadata.request_start_ns")
        metadata, metrics = document["metadata"], mapping(document.get("metrics"))
        if is_warm_up(document):
            continue
        asked += 1
        if has_failed(document):
            failed += 1
            continue
        start_ns, end_ns = (
            time_ns(path, number, f"metadata.request_{key}_ns", metadata.get(f"request_{key}_ns"), 1)
            for key in ("start", "end")
        )
        ttft, step, latency = (
            _time_s(collected, metrics.get(_TIMES[metric]), f"{where}: {_TIMES[metric]}")
            for metric in ("ttft", "tpot", "e2el")
        )
        prompt, output = (
            collected.number(nested(metrics, f"{side}_sequence_length", "value"), f"{where}: {side}_sequence_length")
            for side in ("input", "output")
        )
        if ttft is None or prompt is None or output is None:
            raise DataError(f"{path}: {where}: time_to_first_token and lengths are needed of each request")
        total_s = (end_ns - start_ns) / NS_PER_S if latency is None else latency
        rows.append((start_ns, prompt, output, ttft, math.nan if step is None else step, total_s, end_ns))
    if not rows:
        raise DataError(f"{path}: no successful request among {len(documents)} rows; nothing can be compared")
    collected.failures(failed, asked)
    rows.sort()
    first_ns = rows[0][0]
    in_s = [((start - first_ns) / NS_PER_S, *values, (end - first_ns) / NS_PER_S) for start, *values, end in rows]
    start_s, prompts, outputs, ttft_s, step_s, latency_s, end_s = np.array(in_s, dtype=np.float64).T
    requests = Requests(start_s, prompts, outputs, ttft_s, step_s)
    figures = figures_of(requests, latency_s, float(end_s.max()))
    load = Load(requests=len(rows), prompt_tokens=of_values(prompts), output_tokens=of_values(outputs))
    return Benchmark(AIPERF, figures, load, requests, notes=tuple(collected.notes))


def _asked(collected: Collector, config: Mapping[str, Any]) -> tuple[float | None, float | None, int | None]:
    """Return rate, burstiness and concurrency that were asked for.

    They are in ``loadgen`` (AIPerf to 0.8), in the last of the ``phases`` (later), in ``perf_analyzer.stimulus``
    (GenAI-Perf) or at the top (older GenAI-Perf).
    """
    phases = config.get("phases")
    measured = [
        phase for phase in (phases if isinstance(phases, list) else []) if mapping(phase).get("name") != "warmup"
    ]
    places = (
        config.get("loadgen"),
        measured[-1] if measured else None,
        nested(config, "perf_analyzer", "stimulus"),
        config,
    )
    for place in map(mapping, places):
        rate = place.get("request_rate", place.get("rate"))
        concurrency = place.get("concurrency")
        pattern = place.get("request_rate_mode", place.get("arrival_pattern", place.get("type")))
        if rate is not None:
            burstiness = {"constant": math.inf, "gamma": None}.get(str(pattern), 1.0)
            return collected.number(rate, "request_rate"), burstiness, collected.count(concurrency, "concurrency")
        if concurrency is not None:
            return None, None, collected.count(concurrency, "concurrency")
    return None, None, None


def _model(config: Mapping[str, Any]) -> str:
    for names in (nested(config, "endpoint", "model_names"), config.get("model_names"), config.get("model")):
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
        if isinstance(names, str):
            return names
    return ""


def _time_s(collected: Collector, metric: object, where: str) -> float | None:
    value = collected.number(mapping(metric).get("value"), where)
    return None if value is None else value * collected.unit_ms(mapping(metric).get("unit"), f"{where}.unit") / 1e3
