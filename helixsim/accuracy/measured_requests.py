"""Latencies of measured requests: results of ``vllm bench serve``, and CSV files with the times of each request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helixsim.benchmarks.read import read_benchmark
from helixsim.domain.result import FloatArray
from helixsim.errors import DataError
from helixsim.units import NS_PER_S
from helixsim.workload.readers.base import Reading, ReadLog
from helixsim.workload.readers.files import csv_rows, listed, position
from helixsim.workload.readers.log import NAMES
from helixsim.workload.readers.values import time_ns, token_count
from helixsim.workload.spec import TIME_UNITS, TraceSpec

TIMES = {
    "first token": ("first_token",),
    "last token": ("last_token", "finish"),
    "ttft": ("ttft",),
    "tpot": ("tpot",),
    "e2el": ("e2el", "latency"),
}
"""Names of columns without their unit: times of two tokens on the clock of the arrivals, or durations."""

NEEDED = (
    "expected a result of `vllm bench serve --save-result --save-detailed`, or a CSV with the columns first_token_s "
    "and last_token_s (on the clock of the arrivals), or ttft_s and tpot_s or e2el_s; units: " + ", ".join(TIME_UNITS)
)


@dataclass(frozen=True)
class RequestTimes:
    """Latencies [s] of the requests of a run, NaN where a request has no TPOT (one output token).

    ``output_tokens_per_s``: all output tokens over the time from the first arrival to the last token; None: not known.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    output_tokens_per_s: float | None

    def __len__(self) -> int:
        return len(self.ttft_s)


def read_request_times(trace: TraceSpec) -> RequestTimes:
    """Return the latencies in the file of a trace, which holds them beside arrivals and lengths.

    Raises
    ------
    DataError
        If the file has none.
    """
    if trace.format == "vllm":
        measured = read_benchmark(trace.path, trace.reading.result)
        requests = measured.requests
        if not len(requests.ttft_s):
            raise DataError(f"{trace.path}: no latencies of single requests; {NEEDED}")
        return RequestTimes(requests.ttft_s, requests.step_s, measured.figures.get("output_throughput"))
    if trace.format != "csv":
        raise DataError(f"{trace.path}: a trace of the format {trace.format} has no latencies; {NEEDED}")
    return _of_csv(trace)


def _of_csv(trace: TraceSpec) -> RequestTimes:
    reading = Reading(trace.path, trace.reading, "required", ReadLog())
    columns: list[tuple[str, int] | None] = []
    named: list[str] = []

    def pick(names: list[str]) -> list[int | None]:
        stated = dict(trace.reading.columns)
        named[:] = [stated.get(part) or _known(names, part) for part in ("arrival", "output")]
        columns[:] = [_timed(names, bases) for bases in TIMES.values()]
        first, last, ttft, tpot, e2el = columns
        if not (ttft or first) or not (last or tpot or e2el):
            raise DataError(f"{trace.path}: no latencies: {listed(names)}; {NEEDED}")
        present = [None if one is None else names.index(one[0]) for one in columns]
        return [*(position(trace.path, names, name) for name in named), *present]

    rows = []
    for line, (arrival, output, *texts) in csv_rows(reading, pick):
        unit = trace.reading.unit
        arrival_ns = time_ns(trace.path, line, named[0], arrival, TIME_UNITS[unit] if unit else _unit_ns(named[0]))
        tokens = token_count(trace.path, line, named[1], output)
        times = [
            time_ns(trace.path, line, column[0], text, column[1]) if column is not None and text else None
            for column, text in zip(columns, texts, strict=True)
        ]
        found = _latencies(arrival_ns, tokens, times)
        if found is not None:
            if found[0] < 0 or found[1] < 0:
                raise DataError(f"{trace.path}: row {line}: a token before the arrival or the first token")
            rows.append((arrival_ns, tokens, *found))
    if not rows:
        raise DataError(f"{trace.path}: no request with a first and a last token")
    arrivals, tokens_of, ttft_ns, tpot_ns, end_ns = np.array(rows, dtype=np.float64).T
    span_ns = end_ns.max() - arrivals.min()
    rate = float(tokens_of.sum() / span_ns * NS_PER_S) if span_ns > 0 else None
    return RequestTimes(ttft_ns / NS_PER_S, tpot_ns / NS_PER_S, rate)


def _latencies(arrival_ns: int, tokens: int, times: Sequence[int | None]) -> tuple[float, float, float] | None:
    """Return TTFT, TPOT (NaN with one token) and time of the last token [ns]; None if the request did not finish."""
    first, last, ttft, tpot, e2el = times
    if ttft is None:
        if first is None:
            return None
        ttft = first - arrival_ns
    steps = max(tokens - 1, 0)
    if last is not None:
        e2el = last - arrival_ns
    if e2el is not None:
        return ttft, (e2el - ttft) / steps if steps else math.nan, arrival_ns + e2el
    if tpot is None:
        return None
    return ttft, tpot if steps else math.nan, arrival_ns + ttft + tpot * steps


def _known(names: Sequence[str], part: str) -> str:
    """Return the column of a part of a request, which the reader of the trace has found before."""
    return next(name for tier in NAMES[part] for name in tier if name in names)


def _timed(names: Sequence[str], bases: Sequence[str]) -> tuple[str, int] | None:
    """Return the column of a time and its unit [ns]; None if there is none."""
    for base in bases:
        for unit, size_ns in TIME_UNITS.items():
            if f"{base}_{unit}" in names:
                return f"{base}_{unit}", size_ns
    return None


def _unit_ns(column: str) -> int:
    """Return the unit in the name of a column [ns]; seconds without one."""
    return next((size for unit, size in TIME_UNITS.items() if column.endswith(f"_{unit}")), NS_PER_S)
