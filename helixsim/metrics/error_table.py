"""Likeness of measured cells to a system, and what a difference from them adds to its error.

A cell weighs less for each kind of difference (``LIKENESS``) and with few points. What a difference adds to the
variance of the log error is found from the cells themselves: those of one GPU (engine, family ...) are left out and
predicted from the others, and the variance is that with which their bands contain 80 % of their points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.metrics.error_cells import METRICS, Cell, one_format

LEVEL = 0.8
"""Share of measurements that a band is to contain."""

Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)

KINDS = {
    "gpu": "GPU",
    "engine": "engine",
    "family": "family of the model",
    "weights": "format of the weights",
    "kind": "prefill and decode on different nodes",
    "stages": "pipeline of several nodes",
    "regions": "links between regions",
    "timings": "source of step times",
    "gpus": "GPUs per instance",
    "batch": "batch",
    "context": "context",
}
"""What a system can differ in from measured points, with names for sentences."""

ORDERED = ("gpus", "batch", "context")
"""Kinds in which a system may lie between points."""

LIKENESS = {
    "gpu": 0.01,
    "engine": 0.001,
    "family": 0.01,
    "weights": 0.04,
    "kind": 0.04,
    "stages": 0.01,
    "regions": 0.01,
    "timings": 0.01,
    "gpus": 0.25,
    "batch": 0.1,
    "context": 0.1,
}
"""Weight of a cell with one difference over that of a cell without; of ``gpus`` for a factor of two, of ``batch`` and
``context`` for one class."""

FEW_POINTS = 3
"""A cell with so many points has half the weight of one with very many, and half of its variance is its own; the other
half is the median over the cells."""

UNKNOWN = 0.15
"""What a difference adds that the cells do not tell, as a standard deviation of the log error of TPOT; of other metrics
in proportion to the spread within cells."""

LEAST = 0.02
"""Least standard deviation of errors within cells and of what a difference adds, whatever the cells say."""


@dataclass(frozen=True)
class MetricErrors:
    """Errors of one metric in the cells; ``counts`` is 0 in cells without it.

    Parameters
    ----------
    mean, variance
        Of the log error in each cell; the variance has that of the mean, which few points do not tell well.
    within
        Standard deviation of the log error within cells, the median over points.
    """

    counts: FloatArray
    mean: FloatArray
    variance: FloatArray
    within: float

    @classmethod
    def of(cls, cells: Sequence[Cell], metric: str) -> MetricErrors:
        """Return the errors of a metric."""
        counts = np.array([cell.points if metric in cell.errors else 0 for cell in cells], dtype=float)
        mean, sd = np.array([cell.errors.get(metric, (0.0, 0.0)) for cell in cells], dtype=float).T
        several = counts > 1
        within = _weighted_median(sd[several] ** 2, counts[several]) if several.any() else UNKNOWN**2
        within = max(within, LEAST**2)
        own = (counts * sd**2 + FEW_POINTS * within) / (counts + FEW_POINTS)
        return cls(counts, mean, own * (1.0 + 1.0 / np.maximum(counts, 1.0)), math.sqrt(within))

    def weights(self, likeness: FloatArray) -> FloatArray:
        """Return the weights of the cells, whose sum is 1, for rows of likenesses; 0 for rows without any cell."""
        raw = likeness * (self.counts / (self.counts + FEW_POINTS))
        return np.asarray(raw / np.maximum(raw.sum(axis=-1, keepdims=True), 1e-300))

    def moments(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the log error over the cells, by rows of weights."""
        mean = weights @ self.mean
        return mean, weights @ (self.variance + self.mean**2) - mean**2


class Cells:
    """Cells with their distances from each other, and what differences add."""

    def __init__(self, cells: Sequence[Cell], added: Mapping[str, dict[str, float]] | None = None) -> None:
        self.cells = tuple(cells)
        self._known_added = added
        self.errors = {metric: MetricErrors.of(self.cells, metric) for metric in METRICS}

    @cached_property
    def added(self) -> dict[str, dict[str, float]]:
        """Variance of the log error that a difference adds, by metric and kind; what was given, else found."""
        if self._known_added is not None:
            return dict(self._known_added)
        away = {kind: np.abs(one) for kind, one in self._distances().items()}
        likeness = likeness_of(away)
        alone = _differing_alone(away)
        return {
            metric: _fitted(errors, away, likeness, alone, self._unknown(metric))
            for metric, errors in self.errors.items()
        }

    def _unknown(self, metric: str) -> float:
        return (UNKNOWN * self.errors[metric].within / self.errors["tpot"].within) ** 2

    def _distances(self) -> dict[str, FloatArray]:
        """Return how far cells (columns) are from each other (rows), by kind."""
        gpus = sorted({name for cell in self.cells for name in cell.gpu})
        has = np.array([[name in cell.gpu for name in gpus] for cell in self.cells], dtype=float)
        named = {
            "engine": [cell.engine for cell in self.cells],
            "family": [cell.family for cell in self.cells],
            "weights": [one_format(cell.weights) for cell in self.cells],
            "timings": ["+".join(cell.timings) for cell in self.cells],
            "kind": [cell.is_disaggregated for cell in self.cells],
            "stages": [cell.stages > 1 for cell in self.cells],
        }
        numbers = {
            "gpus": [math.log2(cell.gpus) for cell in self.cells],
            "batch": [cell.batch for cell in self.cells],
            "context": [cell.context for cell in self.cells],
        }
        found = {"gpu": (has @ has.T == 0).astype(float)}
        for kind, values in named.items():
            codes = np.unique(np.array(values), return_inverse=True)[1]
            found[kind] = (codes[:, None] != codes[None, :]).astype(float)
        for kind, ordered in numbers.items():
            column = np.array(ordered, dtype=float)
            found[kind] = np.abs(column[None, :] - column[:, None])
        return found


def likeness_of(away: Mapping[str, FloatArray]) -> FloatArray:
    """Return the likeness of cells that are so far away in each kind, 0..1."""
    logarithm = sum(math.log(LIKENESS[kind]) * np.abs(one) for kind, one in away.items())
    return np.asarray(np.exp(logarithm))


def _differing_alone(away: Mapping[str, FloatArray]) -> tuple[str, ...]:
    """Return the kinds in which some two cells differ that differ in no other kind that is named."""
    differing = {kind: one > 0 for kind, one in away.items()}
    named = sum(differing[kind].astype(np.int8) for kind in away if kind not in ORDERED)
    return tuple(kind for kind, one in differing.items() if (one & (named == (0 if kind in ORDERED else 1))).any())


def _fitted(
    errors: MetricErrors,
    away: Mapping[str, FloatArray],
    likeness: FloatArray,
    alone: Sequence[str],
    unknown: float,
) -> dict[str, float]:
    """Return the variance that each kind of difference adds to the log error of a metric.

    For each kind, every cell is predicted from those that differ in it. In rounds, as these also differ in others. A
    kind in which cells differ only together with another one cannot be told from it, and adds what is ``unknown``.
    """
    named = [kind for kind in away if kind not in ORDERED]
    tests: dict[str, tuple[FloatArray, FloatArray, dict[str, FloatArray], FloatArray]] = {}
    for kind in alone:
        one = away[kind]
        weights = errors.weights(np.where(one > 0, likeness, 0.0))
        predictable = (weights.sum(axis=1) > 0) & (errors.counts > 0)
        if predictable.any():
            weights = weights[predictable]
            mean, variance = errors.moments(weights)
            distance = {other: np.einsum("ij,ij->i", weights, away[other][predictable]) for other in away}
            tests[kind] = (errors.mean[predictable] - mean, variance, distance, predictable)
    added = dict.fromkeys(KINDS, unknown) | dict.fromkeys(tests, LEAST**2)
    for _ in range(3):
        for kind, (gap, variance, distance, predictable) in tests.items():
            others = sum(added[other] * one for other, one in distance.items() if other != kind)
            counts, spread = errors.counts[predictable], np.sqrt(errors.variance[predictable])
            added[kind] = _variance_for_level(gap, variance + others, distance[kind], spread, counts)
    return added | {kind: added[kind] * _of_few(away[kind]) for kind in tests if kind in named}


def _of_few(away: FloatArray) -> float:
    """Return what a variance among few values, as of families, is multiplied by for a further one: (n + 1) / (n - 1).

    The variance of the prediction of one more normal value over the variance of the ``n`` known (twice, for the
    variance itself is uncertain).
    """
    count = round(float((1.0 / np.count_nonzero(away == 0, axis=1)).sum()))  # a value of m cells counts m times 1 / m
    return (count + 1) / max(count - 1, 1)


def _variance_for_level(
    gap: FloatArray, variance: FloatArray, distance: FloatArray, spread: FloatArray, counts: FloatArray
) -> float:
    """Return the added variance with which bands contain ``LEVEL`` of the points of cells, by bisection.

    Points of a cell lie around ``gap`` from the centre of its band, with the standard deviation ``spread``.
    """
    low, high = 2 * math.log(LEAST), 2 * math.log(10.0)
    for _ in range(20):
        middle = (low + high) / 2
        half = Z * np.sqrt(variance + math.exp(middle) * distance)
        inside = _normal((half - gap) / spread) - _normal((-half - gap) / spread)
        low, high = (middle, high) if float((counts * inside).sum() / counts.sum()) < LEVEL else (low, middle)
    return math.exp(high)


def _normal(values: FloatArray) -> FloatArray:
    """Return the normal distribution function, to four digits (Abramowitz and Stegun 26.2.19)."""
    x = np.abs(values)
    powers = 1 + x * (
        0.0498673470
        + x * (0.0211410061 + x * (0.0032776263 + x * (0.0000380036 + x * (0.0000488906 + x * 0.0000053830))))
    )
    upper = 0.5 * powers**-16
    return np.asarray(np.where(values >= 0, 1 - upper, upper))


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
