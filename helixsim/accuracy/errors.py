"""Errors of predicted against measured figures, and what many of them say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

METRICS = {"tpot": "tpot_ms", "throughput": "output_tokens_per_s", "ttft": "ttft_ms"}
"""Metrics of a point and their fields in ``MeasuredPoint`` and ``Prediction``."""

TITLES = {"tpot": "TPOT", "throughput": "Throughput", "ttft": "TTFT"}

UNITS = {"tpot": "ms", "throughput": "output tokens/s", "ttft": "ms"}

PREDICTORS = ("analytic", "operators", "static")
"""Predictions of a ``PointResult``."""


class PointFigures(Protocol):
    """Figures of a point: mean latencies [ms] and throughput."""

    @property
    def ttft_ms(self) -> float: ...  # noqa: D102
    @property
    def tpot_ms(self) -> float: ...  # noqa: D102
    @property
    def output_tokens_per_s(self) -> float: ...  # noqa: D102


class Point(PointFigures, Protocol):
    """A measured point."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def gpu(self) -> str: ...  # noqa: D102
    @property
    def tensor_parallel(self) -> int: ...  # noqa: D102
    @property
    def data_parallel(self) -> int: ...  # noqa: D102
    @property
    def engine(self) -> str: ...  # noqa: D102
    @property
    def engine_version(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def weights(self) -> str | None: ...  # noqa: D102
    @property
    def prompt_tokens(self) -> int: ...  # noqa: D102
    @property
    def output_tokens(self) -> int: ...  # noqa: D102
    @property
    def concurrency(self) -> int: ...  # noqa: D102


class PointResult(Protocol):
    """A measured point and its predictions; ``reason``: why there are none."""

    @property
    def point(self) -> Point: ...  # noqa: D102
    @property
    def analytic(self) -> PointFigures | None: ...  # noqa: D102
    @property
    def operators(self) -> PointFigures | None: ...  # noqa: D102
    @property
    def static(self) -> PointFigures | None: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102


class Inexpressible(Protocol):
    """A point of the source that is not simulated."""

    @property
    def reason(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors of some points: number, median and 90th percentile of their size, and bias.

    ``bias`` is the median of the signed errors: half of the predictions are above it.
    """

    count: int
    median: float
    p90: float
    bias: float


def error(result: PointResult, metric: str, predictor: str = "analytic") -> float | None:
    """Return predicted / measured - 1 of one of ``METRICS``; None without a measured value or prediction above 0."""
    prediction = getattr(result, predictor)
    predicted = None if prediction is None else getattr(prediction, METRICS[metric])
    measured = getattr(result.point, METRICS[metric])
    if predicted is None or not measured or not 0 < predicted < math.inf:
        return None
    return float(predicted / measured - 1.0)


def errors(results: Sequence[PointResult], metric: str, predictor: str = "analytic") -> list[float]:
    """Return the errors of all points that have one."""
    return [found for result in results if (found := error(result, metric, predictor)) is not None]


def summarised(values: Sequence[float]) -> ErrorSummary | None:
    """Return the summary of errors; None if there are none."""
    if not values:
        return None
    sizes = np.abs(values)
    return ErrorSummary(len(values), float(np.median(sizes)), float(np.quantile(sizes, 0.9)), statistics.median(values))
