"""Which format a benchmark file has, and its benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from helixsim import yamlio
from helixsim.benchmarks import aiperf, guidellm, inference_perf, llmd, vllm
from helixsim.benchmarks.benchmark import Benchmark
from helixsim.errors import ConfigError, DataError
from helixsim.jsonio import shown
from helixsim.workload.readers.files import json_documents, listed, open_text

KNOWN = (
    "vllm bench serve --save-result",
    "sglang.bench_serving --output-file",
    "GuideLLM (benchmarks.json)",
    "AIPerf (profile_export_aiperf.json, profile_export.jsonl)",
    "GenAI-Perf (profile_export_genai_perf.json)",
    "inference-perf (stage_N_, summary_ or per_request_lifecycle_metrics.json)",
    "llm-d benchmark report (0.1, 0.2)",
)
"""What is read, with the names that users know it by."""


def read_benchmarks(path: Path) -> list[Benchmark]:
    """Return the benchmarks of a file, several of a sweep that is in one file.

    Raises
    ------
    DataError
        If the file cannot be read, has none of the formats that are ``KNOWN``, or holds impossible figures.
    """
    return list(_benchmarks(path))


def read_benchmark(path: Path, number: int | None = None) -> Benchmark:
    """Return one benchmark of a file.

    Parameters
    ----------
    number
        Its number from 1; None is an error if the file has several.

    Raises
    ------
    DataError
        As ``read_benchmarks``, or if there is no such benchmark.
    """
    found = read_benchmarks(path)
    if number is not None and not 1 <= number <= len(found):
        raise DataError(f"{path}: no result {number}, the file has {len(found)}")
    if number is None and len(found) > 1:
        known = "; ".join(f"{at}: {described(one)}" for at, one in enumerate(found[:20], start=1))
        raise DataError(f"{path}: has {len(found)} results; select one with --result N: {known}")
    return found[(number or 1) - 1]


def described(benchmark: Benchmark) -> str:
    """Return the load of a benchmark in a few words."""
    load, parts = benchmark.load, []
    if load.concurrency is not None:
        parts.append(f"concurrency {load.concurrency}")
    if load.is_open:
        parts.append(f"{load.rate_rps:g} requests/s")
    elif load.rate_rps is not None and load.concurrency is None:
        parts.append("all requests at once")
    lengths = (load.prompt_tokens, load.output_tokens)
    if all(one is not None for one in lengths):
        parts.append("/".join(f"{one.mean:.0f}" for one in lengths if one is not None) + " tokens")
    if load.requests is not None:
        parts.append(f"{load.requests} requests")
    return ", ".join(parts) or "load not stated"


def _benchmarks(path: Path) -> Iterator[Benchmark]:
    documents = _documents(path)
    if inference_perf.is_requests(documents[0]) and len(documents) == 1:
        yield inference_perf.read_requests(path, documents[0])
        return
    if aiperf.is_record(documents[0]):
        yield aiperf.read_records(path, documents)
        return
    for number, document in enumerate(documents, start=1):
        name = f"result {number}" if len(documents) > 1 else ""
        if guidellm.is_report(document):
            yield from guidellm.read(path, document)
        elif inference_perf.is_summary(document):
            yield inference_perf.read(path, document, name)
        elif llmd.is_report(document):
            yield llmd.read(path, document, name)
        elif aiperf.is_export(document):
            yield aiperf.read(path, document, name)
        elif vllm.is_result(document):
            yield vllm.read(path, document, name)
        else:
            _unknown(path, name, document)


def _documents(path: Path) -> list[Any]:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return json_documents(path)
    with open_text(path) as file:
        text = file.read()
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        return [yamlio.loads(text, str(path)).data]
    except ConfigError as error:
        raise DataError(str(error)) from error


def _unknown(path: Path, name: str, document: object) -> NoReturn:
    has = listed(list(document)) if isinstance(document, dict) else f"it has {shown(document)}"
    place = f"{name}: " if name else ""
    raise DataError(f"{path}: {place}no benchmark result of a known tool: {has}; known: {'; '.join(KNOWN)}")
