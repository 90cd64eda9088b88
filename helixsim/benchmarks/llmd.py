"""Benchmark reports of llm-d, YAML or JSON, into which results of several tools are converted.

Schema 0.1, 0.2 and 0.2.1 (``llmd-benchmark-report`` 0.2.1 on PyPI). Each statistic has its ``units``. Of schema 0.1 the
load is not read: its arguments are those of the tool behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.benchmarks.benchmark import Benchmark, Load, Requests
from helixsim.benchmarks.collect import Collector, mapping, nested
from helixsim.errors import DataError

TOOL = "llm-d benchmark report"

VERSIONS = ("0.1", "0.2", "0.2.1")

_TIMES = {
    "ttft": "time_to_first_token",
    "tpot": "time_per_output_token",
    "itl": "inter_token_latency",
    "e2el": "request_latency",
}


def is_report(document: object) -> bool:
    """Return whether a document is such a report."""
    found = mapping(document)
    return "version" in found and "scenario" in found and ("metrics" in found or "results" in found)


def read(path: Path, document: Mapping[str, Any], name: str) -> Benchmark:
    """Return the benchmark of a report.

    Raises
    ------
    DataError
        If its version is not known, a figure has no sensible value, or all requests failed.
    """
    version = str(document["version"])
    if version not in VERSIONS:
        raise DataError(f"{path}: version {version!r} of the {TOOL} is not known (known: {', '.join(VERSIONS)})")
    collected = Collector(path, name)
    if version == "0.1":
        found = mapping(document.get("metrics"))
        rates = mapping(found.get("throughput"))
        throughput = {key: rates.get(f"{key}_per_sec") for key in ("requests", "output_tokens", "total_tokens")}
    else:
        found = mapping(nested(document, "results", "request_performance", "aggregate"))
        throughput = {
            key: nested(found, "throughput", source, "mean")
            for key, source in (
                ("requests", "request_rate"),
                ("output_tokens", "output_token_rate"),
                ("total_tokens", "total_token_rate"),
            )
        }
    for metric, key in _TIMES.items():
        source = nested(found, "latency", key)
        if source is None:
            continue
        unit_ms = collected.unit_ms(mapping(source).get("units"), f"latency.{key}.units")
        collected.statistics(metric, source, f"latency.{key}", unit_ms)
    for figure, key in (
        ("request_throughput", "requests"),
        ("output_throughput", "output_tokens"),
        ("total_token_throughput", "total_tokens"),
    ):
        collected.take(figure, throughput[key], f"throughput.{key}")
    requests = mapping(found.get("requests"))
    collected.failures(requests.get("failures"), requests.get("total"))
    if not collected.figures:
        raise DataError(f"{path}: the report has no figures of latency or throughput")
    load = _load(collected, document, requests)
    return Benchmark(
        TOOL, collected.figures, load, Requests(), name, _model(document), tuple(collected.notes)
    )  # fmt: skip


def _load(collected: Collector, document: Mapping[str, Any], requests: Mapping[str, Any]) -> Load:
    stated = mapping(nested(document, "scenario", "load", "standardized"))
    rate, concurrency = stated.get("rate_qps"), stated.get("concurrency")
    if isinstance(concurrency, float) and math.isinf(concurrency):
        concurrency = None
    if rate is None and concurrency is None:
        collected.notes.append("the report states neither rate nor concurrency")
    return Load(
        collected.number(rate, "scenario.load.standardized.rate_qps"),
        None,
        collected.count(concurrency, "scenario.load.standardized.concurrency"),
        collected.count(requests.get("total"), "requests.total"),
        collected.lengths(requests.get("input_length"), "requests.input_length"),
        collected.lengths(requests.get("output_length"), "requests.output_length"),
    )


def _model(document: Mapping[str, Any]) -> str:
    name = nested(document, "scenario", "model", "name")
    stack = nested(document, "scenario", "stack")
    for component in stack if isinstance(stack, list) else []:
        name = name or nested(component, "standardized", "model", "name")
    return name if isinstance(name, str) else ""
