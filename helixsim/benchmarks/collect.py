"""Checked figures of one result, and figures from single requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np

from helixsim.benchmarks.benchmark import STATISTICS, Lengths, Requests
from helixsim.domain.result import FloatArray
from helixsim.errors import DataError
from helixsim.jsonio import shown

_LARGEST = 1e15
"""Largest accepted figure."""

_LARGEST_COUNT = 10**9

UNITS_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "ms/token": 1.0, "s/token": 1e3}
"""Milliseconds of the units of times."""

PERCENTILES = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99}


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number of a size that figures have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def nested(value: object, *keys: str) -> Any:
    """Return the value under nested keys, None if there is none."""
    for key in keys:
        value = mapping(value).get(key)
    return value


class Collector:
    """Collects the figures and notes of one result.

    Values that are None are not there. Infinite values and NaN, which tools write where nothing was measured, are left
    out with a note; anything else that is no number of 0 or more is an error.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name
        self.figures: dict[str, float] = {}
        self.notes: list[str] = []

    def number(self, value: object, where: str) -> float | None:
        """Return a value as a number of 0 or more, None if there is none."""
        if value is None:
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.notes.append(f"{where} is {value} in the file and left out")
            return None
        if not is_number(value) or value < 0:
            self.refuse(where, value, "a number, 0 or more")
        return float(value)

    def count(self, value: object, where: str) -> int | None:
        """Return a value as a whole number of 1 or more, None if there is none or 0 (none in several tools)."""
        found = self.number(value, where)
        if found is None or found == 0:
            return None
        if not found.is_integer() or found > _LARGEST_COUNT:
            self.refuse(where, value, f"a whole number, 1 .. {_LARGEST_COUNT}")
        return int(found)

    def take(self, key: str, value: object, where: str, factor: float = 1.0) -> None:
        """Keep a figure in another unit."""
        found = self.number(value, where)
        if found is not None:
            self.figures[key] = found * factor

    def statistics(
        self, metric: str, source: object, where: str, factor: float = 1.0, only: Sequence[str] = STATISTICS
    ) -> None:
        """Keep mean, median and percentiles of a time, which tools call ``mean`` or ``avg``, ``median`` or ``p50``.

        Parameters
        ----------
        metric
            ``ttft``, ``tpot``, ``itl`` or ``e2el``.
        source
            Statistics by name; GuideLLM has the percentiles in a mapping of their own.
        factor
            Milliseconds of its unit.
        only
            Statistics to keep.
        """
        if source is None:
            return
        if not isinstance(source, dict):
            self.refuse(where, source, "a mapping of statistics")
        values = {**mapping(source.get("percentiles")), **source}
        median = values.get("median", values.get("p50"))
        values |= {"mean": values.get("mean", values.get("avg")), "median": median, "p50": median}
        for statistic in only:
            self.take(f"{statistic}_{metric}_ms", values.get(statistic), f"{where}.{statistic}", factor)

    def unit_ms(self, unit: object, where: str) -> float:
        """Return the milliseconds of a unit of times."""
        if not isinstance(unit, str) or unit not in UNITS_MS:
            self.refuse(where, unit, f"one of {', '.join(UNITS_MS)}")
        return UNITS_MS[unit]

    def lengths(self, source: object, where: str) -> Lengths | None:
        """Return mean and standard deviation of lengths from their statistics, None without a mean above 0.

        Without a standard deviation, that of an even distribution with the same 10th and 90th percentile.
        """
        stated = mapping(source)
        mean = self.number(stated.get("mean", stated.get("avg")), f"{where}.mean")
        if not mean:
            return None
        for key in ("std_dev", "stddev", "std"):
            if stated.get(key) is not None:
                return Lengths(mean, self.number(stated[key], f"{where}.{key}"))
        low, high = (self.number(stated.get(key), f"{where}.{key}") for key in ("p10", "p90"))
        if low is None or high is None:
            return Lengths(mean)
        return Lengths(mean, max(high - low, 0.0) / 0.8 / math.sqrt(12))

    def failures(self, failed: object, asked: object) -> None:
        """Note failed requests; all failed is an error."""
        if not is_number(failed) or not is_number(asked) or failed <= 0:
            return
        if failed >= asked:
            raise DataError(f"{self.path}: all requests of the benchmark failed; nothing can be compared")
        self.notes.append(
            f"{failed:g} of {asked:g} measured requests failed; the figures are those of the successful ones"
        )

    def refuse(self, where: str, got: object, expected: str) -> NoReturn:
        """Raise an error for a value."""
        place = f"{self.name}: " if self.name else ""
        raise DataError(f"{self.path}: {place}{where}: got {shown(got)}, expected {expected}")


def of_values(values: FloatArray) -> Lengths | None:
    """Return mean and standard deviation of single lengths."""
    return Lengths(float(values.mean()), float(values.std())) if len(values) else None


def figures_of(requests: Requests, end_to_end_s: FloatArray, duration_s: float) -> dict[str, float]:
    """Return the figures of single requests as ``vllm bench serve`` computes them; ITL is pooled over tokens.

    Parameters
    ----------
    end_to_end_s
        Latency of each request [s].
    duration_s
        From the first start to the last end [s].
    """
    steps = requests.step_s[np.isfinite(requests.step_s)]
    figures: dict[str, float] = {}
    if duration_s > 0:
        output, prompt = float(requests.output_tokens.sum()), float(requests.prompt_tokens.sum())
        figures["request_throughput"] = len(end_to_end_s) / duration_s
        if len(requests.output_tokens):
            figures["output_throughput"] = output / duration_s
        if len(requests.output_tokens) and len(requests.prompt_tokens):
            figures["total_token_throughput"] = (output + prompt) / duration_s
    for metric, values in (("ttft", requests.ttft_s), ("tpot", steps), ("e2el", end_to_end_s)):
        times_ms = values[np.isfinite(values)] * 1e3
        if len(times_ms):
            figures |= {f"mean_{metric}_ms": float(times_ms.mean()), f"median_{metric}_ms": float(np.median(times_ms))}
            figures |= {f"{key}_{metric}_ms": float(np.percentile(times_ms, at)) for key, at in PERCENTILES.items()}
    later = np.maximum(requests.output_tokens - 1, 0)
    counted = np.isfinite(requests.step_s) & (later > 0) if len(later) == len(requests.step_s) else np.zeros(0, bool)
    if counted.any():
        figures["mean_itl_ms"] = float((requests.step_s * later)[counted].sum() / later[counted].sum()) * 1e3
    return figures
