"""Errors of points, predicted / measured - 1, with the names and units of the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from helixsim.accuracy.cells import Error, ratio
from helixsim.accuracy.cells import error as error_of_all
from helixsim.accuracy.run import PointResult

TITLES = {"tpot": "TPOT", "throughput": "Throughput", "ttft": "TTFT"}
"""Titles of ``cells.METRICS``."""

UNITS = {"tpot": "ms", "throughput": "output tokens/s", "ttft": "ms"}


def error(result: PointResult, metric: str, predictor: str = "analytic") -> float | None:
    """Return predicted / measured - 1 of one of ``cells.METRICS``; None without a prediction above 0."""
    found = ratio(result, metric, predictor)
    return found - 1.0 if found is not None and 0 < found < math.inf else None


def errors(results: Sequence[PointResult], metric: str, predictor: str = "analytic") -> list[float]:
    """Return the errors of all points that have one."""
    return [found for result in results if (found := error(result, metric, predictor)) is not None]


def summarised(values: Sequence[float]) -> Error | None:
    """Return the summary of errors; None if there are none."""
    return error_of_all(values) if values else None
