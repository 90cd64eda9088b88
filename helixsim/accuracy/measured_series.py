"""Time series of a measured run: CSV files, and the throughput lines in the log of a vLLM server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.errors import DataError
from helixsim.hardware.vllm_log import is_log, read_log
from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading, ReadLog
from helixsim.workload.readers.files import csv_rows, listed
from helixsim.workload.readers.values import fault
from helixsim.workload.spec import AS_WRITTEN

TITLES = {
    "tokens_per_s": "output tokens/s",
    "running": "running requests",
    "waiting": "waiting requests",
    "kv_share": "KV memory in use",
}
"""Quantities of a series."""

_COLUMNS: dict[str, tuple[tuple[str, float], ...]] = {
    "time": (("t", 1.0), ("time_s", 1.0), ("elapsed_s", 1.0)),
    "tokens_per_s": (("gen_throughput", 1.0), ("generation_throughput", 1.0), ("output_tokens_per_s", 1.0)),
    "running": (("running", 1.0), ("num_requests_running", 1.0), ("vllm:num_requests_running", 1.0)),
    "waiting": (("waiting", 1.0), ("num_requests_waiting", 1.0), ("vllm:num_requests_waiting", 1.0)),
    "kv_share": (
        ("kv_cache_pct", 0.01), ("kv_cache_usage", 1.0), ("kv_used", 1.0), ("vllm:kv_cache_usage_perc", 1.0),
        ("vllm:gpu_cache_usage_perc", 1.0),
    ),
}  # fmt: skip
"""Names of the columns of each quantity, with the factor to its unit; vLLM's metrics ending in ``perc`` are shares."""


@dataclass(frozen=True)
class RunSeries:
    """A run over time: time since the first arrival [s], and the quantities of ``TITLES``; None: not measured.

    ``tokens_per_s`` is the mean since the sample before, ``kv_share`` the used share of the KV memory.
    """

    time_s: FloatArray
    tokens_per_s: FloatArray | None = None
    running: FloatArray | None = None
    waiting: FloatArray | None = None
    kv_share: FloatArray | None = None


def read_series(path: Path) -> RunSeries:
    """Return the series in a CSV file (times count from the first arrival) or the log of a vLLM server.

    The lines of a log count from the one before the first with a request. A KV use that is zero all along was not
    recorded, and is left out.

    Raises
    ------
    DataError
        If the file has no series.
    """
    columns = _of_log(path) if is_log(path) else _of_csv(path)
    time_s = columns.pop("time")
    if (np.diff(time_s) <= 0).any():
        raise DataError(f"{path}: times do not increase")
    if not columns.get("kv_share", np.ones(1)).any():
        del columns["kv_share"]
    return RunSeries(time_s, **columns)


def _of_csv(path: Path) -> dict[str, FloatArray]:
    found: dict[str, tuple[str, float]] = {}

    def pick(names: list[str]) -> list[int]:
        for part, known in _COLUMNS.items():
            chosen = next(((name, factor) for name, factor in known if name in names), None)
            if chosen is not None:
                found[part] = chosen
        if "time" not in found or len(found) < 2:
            wanted = "; ".join(f"{part} ({', '.join(name for name, _ in known)})" for part, known in _COLUMNS.items())
            raise DataError(f"{path}: not a time series: {listed(names)}; expected time and another of: {wanted}")
        return [names.index(name) for name, _ in found.values()]

    rows = []
    for line, fields in csv_rows(Reading(path, AS_WRITTEN, "optional", ReadLog()), pick):
        texts = zip(fields, found.values(), strict=True)
        rows.append([_number(path, line, name, text) * factor for text, (name, factor) in texts])
    if not rows:
        raise DataError(f"{path}: no row in the file")
    return dict(zip(found, np.array(rows, dtype=np.float64).T, strict=True))


def _of_log(path: Path) -> dict[str, FloatArray]:
    windows = read_log(path).windows
    engines = {window.engine for window in windows}
    if len(engines) > 1:
        raise DataError(f"{path}: lines of {len(engines)} engines; a series is that of one")
    timed = [(window.time_s, window) for window in windows if window.time_s is not None]
    if not timed:
        raise DataError(f"{path}: no throughput lines with a time (INFO 05-31 17:04:31 ... Avg prompt throughput: ...)")
    first = next((number for number, (_, window) in enumerate(timed) if window.running or window.waiting), 0)
    origin_s = timed[max(first - 1, 0)][0]
    chosen = timed[max(first - 1, 0) :]
    return {
        "time": _column([time_s - origin_s for time_s, _ in chosen]),
        "tokens_per_s": _column([window.generated_tokens_per_s for _, window in chosen]),
        "running": _column([window.running for _, window in chosen]),
        "waiting": _column([window.waiting for _, window in chosen]),
        "kv_share": _column([window.kv_usage for _, window in chosen]),
    }


def _column(values: Sequence[float]) -> FloatArray:
    return np.array(values, dtype=np.float64)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e15:
        fault(path, line, column, f"got {shown(text)}, expected a number, 0 or more")
    return value
