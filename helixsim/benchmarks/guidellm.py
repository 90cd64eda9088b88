"""Reports of GuideLLM (``guidellm benchmark``), JSON or YAML, with one benchmark for each rate or concurrency.

GuideLLM 0.3 to 0.8: ``benchmarks``, each with ``metrics`` by status of the requests. The strategy, which states rate or
concurrency, is in ``config.strategy`` of a benchmark (0.4 and later) or in ``args.strategy`` (0.3). Only successful
requests are read.

Its words differ: ``time_per_output_token_ms`` includes the time to the first token, so that ``inter_token_latency_ms``
of a request is TPOT; over requests it is weighted by tokens, so that its mean is that of ITL, and its percentiles are
those of no other tool. TPOT is therefore computed from the single requests where the report has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helixsim.benchmarks.benchmark import Benchmark, Load, Requests
from helixsim.benchmarks.collect import Collector, figures_of, mapping, nested
from helixsim.errors import DataError

TOOL = "GuideLLM"


def is_report(document: object) -> bool:
    """Return whether a document is a report with benchmarks."""
    benchmarks = mapping(document).get("benchmarks")
    return isinstance(benchmarks, list) and all("metrics" in mapping(one) for one in benchmarks)


def read(path: Path, document: Mapping[str, Any]) -> Iterator[Benchmark]:
    """Yield the benchmarks of a report.

    Raises
    ------
    DataError
        If there are none, or a figure has no sensible value.
    """
    benchmarks = document["benchmarks"]
    if not benchmarks:
        raise DataError(f"{path}: a report of {TOOL} without benchmarks")
    for number, one in enumerate(benchmarks, start=1):
        name = f"benchmark {number}" if len(benchmarks) > 1 else ""
        yield _read_one(Collector(path, name), document, one)


def _read_one(collected: Collector, report: Mapping[str, Any], one: Mapping[str, Any]) -> Benchmark:
    metrics = one["metrics"]
    if not isinstance(metrics, dict):
        collected.refuse("metrics", metrics, "a mapping")

    def of(key: str) -> Any:
        return nested(metrics, key, "successful")

    for key, source in (
        ("request_throughput", "requests_per_second"),
        ("output_throughput", "output_tokens_per_second"),
        ("total_token_throughput", "tokens_per_second"),
    ):
        collected.take(key, nested(of(source), "mean"), f"metrics.{source}")
    collected.statistics("ttft", of("time_to_first_token_ms"), "metrics.time_to_first_token_ms")
    collected.statistics("e2el", of("request_latency"), "metrics.request_latency", 1e3)
    collected.statistics("itl", of("inter_token_latency_ms"), "metrics.inter_token_latency_ms", only=("mean",))
    totals = mapping(metrics.get("request_totals"))
    collected.failures(totals.get("errored"), totals.get("total"))
    requests = _requests(collected, one)
    tpot = figures_of(requests, np.zeros(0), 0.0)
    collected.figures |= {key: value for key, value in tpot.items() if key.endswith("_tpot_ms")}
    if not len(requests.ttft_s):
        collected.notes.append("without single requests TPOT is not known: the ITL of GuideLLM is weighted by tokens")
    if not collected.figures:
        raise DataError(f"{collected.path}: {collected.name or TOOL}: no request was successful")
    load = _load(collected, one, of("prompt_token_count"), of("output_token_count"), totals)
    model = next(
        (
            model
            for place in (
                nested(one, "config", "backend"),
                nested(report, "config", "spec", "backend"),
                one.get("worker"),
            )
            for key in ("model", "backend_model")
            if isinstance(model := mapping(place).get(key), str)
        ),
        nested(report, "args", "model") or "",
    )
    return Benchmark(
        TOOL, collected.figures, load, requests, collected.name, str(model), tuple(collected.notes)
    )  # fmt: skip


def _load(
    collected: Collector, one: Mapping[str, Any], prompts: object, outputs: object, totals: Mapping[str, Any]
) -> Load:
    strategy = mapping(nested(one, "config", "strategy") or nested(one, "args", "strategy"))
    kind = strategy.get("type_")
    rate_rps = burstiness = concurrency = None
    if kind in ("constant", "poisson", "async"):
        rate_rps = collected.number(strategy.get("rate"), "strategy.rate")
        burstiness = 1.0 if kind == "poisson" else math.inf
    elif kind == "synchronous":
        concurrency = 1
    elif kind == "concurrent":
        concurrency = collected.count(strategy.get("streams"), "strategy.streams")
    elif kind == "throughput":
        cap = strategy.get("max_concurrency")
        concurrency = collected.count(cap, "strategy.max_concurrency")
        rate_rps = math.inf if concurrency is None else None
    elif kind is not None:
        collected.notes.append(f"the strategy {kind!r} of GuideLLM is not known: its load is not read")
    return Load(
        rate_rps,
        burstiness,
        concurrency,
        collected.count(totals.get("successful"), "metrics.request_totals.successful"),
        collected.lengths(prompts, "metrics.prompt_token_count"),
        collected.lengths(outputs, "metrics.output_token_count"),
    )


def _requests(collected: Collector, one: Mapping[str, Any]) -> Requests:
    """Return the single successful requests, none if the report has no or incomplete ones."""
    rows = nested(one, "requests", "successful")
    if not rows:
        return Requests()
    if not isinstance(rows, list):
        collected.refuse("requests.successful", rows, "a list")
    found = []
    for number, row in enumerate(rows, start=1):
        where = f"requests.successful row {number}"
        start = nested(row, "info", "timings", "request_start")
        start = nested(row, "request_start_time") if start is None else start
        values = {
            "start": nested(row, "start_time") if start is None else start,
            "prompt_tokens": nested(row, "prompt_tokens"),
            "output_tokens": nested(row, "output_tokens"),
            "time_to_first_token_ms": nested(row, "time_to_first_token_ms"),
        }
        numbers = [collected.number(value, f"{where}.{key}") for key, value in values.items()]
        step = collected.number(nested(row, "inter_token_latency_ms"), f"{where}.inter_token_latency_ms")
        if any(number is None for number in numbers):
            return Requests()
        found.append((*numbers, math.nan if step is None or numbers[2] == 1 else step))
    start_s, prompt, output, ttft_ms, step_ms = np.array(sorted(found), dtype=np.float64).T
    return Requests(start_s - start_s[0], prompt, output, ttft_ms / 1e3, step_ms / 1e3)
