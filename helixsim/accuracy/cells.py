"""Cells: points of one kind of setting, and how far off predictions are in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from helixsim.accuracy.points import MeasuredPoint
from helixsim.accuracy.run import PointResult
from helixsim.domain.family import family
from helixsim.hardware import catalog
from helixsim.metrics.error_cells import BATCHES, CONTEXTS, class_of, error_columns

METRICS = {"tpot": "tpot_ms", "throughput": "output_tokens_per_s", "ttft": "ttft_ms"}
"""Name of a metric -> its field in ``MeasuredPoint`` and ``Prediction``."""


@dataclass(frozen=True, slots=True)
class Error:
    """Number of points, median and 90th percentile of |predicted / measured - 1|, and the median with its sign."""

    count: int
    median: float
    p90: float
    bias: float


@cache
def family_of(point: MeasuredPoint) -> str:
    """Return the family of the model of a point."""
    return _model(point.model)[0]


@cache
def weights_of(point: MeasuredPoint) -> str:
    """Return the format of the weights of a point."""
    return point.weights or _model(point.model)[1]


@cache
def _model(name: str) -> tuple[str, str]:
    """Return the family of a model and the format of its checkpoint."""
    model = catalog.load_model(name)
    return family(model), model.precision


def cell_of(point: MeasuredPoint) -> dict[str, str]:
    """Return the cell of a point, as columns of the table that the package has."""
    return {
        "gpu": point.gpu,
        "engine": point.engine,
        "family": family_of(point),
        "weights": weights_of(point),
        "gpus": str(point.gpus),
        "batch": class_of(point.in_flight, BATCHES),
        "context": class_of(point.mean_context_tokens, CONTEXTS),
        "kind": point.kind,
    }


def ratio(result: PointResult, metric: str, predictor: str = "analytic") -> float | None:
    """Return predicted / measured of a metric, None without a prediction."""
    prediction = getattr(result, predictor)
    field = METRICS[metric]
    return None if prediction is None else float(getattr(prediction, field) / getattr(result.point, field))


def error(relative: Sequence[float]) -> Error:
    """Return the error of some points, at least one, from their predicted / measured - 1."""
    off = np.asarray(relative)
    sizes = np.abs(off)
    return Error(len(off), float(np.median(sizes)), float(np.quantile(sizes, 0.9)), float(np.median(off)))


def errors_by(
    results: Iterable[PointResult],
    key: Callable[[MeasuredPoint], tuple[str, ...]],
    metric: str = "tpot",
    predictor: str = "analytic",
) -> dict[tuple[str, ...], Error]:
    """Return the errors of the groups that ``key`` makes, in order of their names."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        known = ratio(result, metric, predictor)
        if known is not None:
            groups.setdefault(key(result.point), []).append(known - 1.0)
    return {name: error(groups[name]) for name in sorted(groups)}


def table(results: Iterable[PointResult]) -> list[dict[str, str | int | float]]:
    """Return the table of cells that the package has: columns as in ``profiles/accuracy/cells.csv``.

    Log errors are ln(analytic prediction / measured), with their mean and standard deviation (0 for one point).
    """
    groups: dict[tuple[tuple[str, str], ...], list[PointResult]] = {}
    for result in results:
        if result.analytic is not None:
            groups.setdefault(tuple(cell_of(result.point).items()), []).append(result)
    rows: list[dict[str, str | int | float]] = []
    for cell, members in sorted(groups.items()):
        row: dict[str, str | int | float] = {**dict(cell), "points": len(members)}
        for metric in METRICS:
            row |= error_columns(metric, [math.log(ratio(member, metric) or math.nan) for member in members])
        rows.append(row)
    return rows
