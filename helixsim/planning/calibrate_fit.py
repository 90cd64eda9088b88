"""Weighted least squares of a few constants with uncertainty: which ones the errors tell, and their best values.

A constant is a shift from its profile in units of its uncertainty; ``slopes`` are the derivatives of the errors (rows)
by the shifts (columns), ``expected`` the errors that remain if the constants are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_TOLD = 0.5
"""Least share of its uncertainty that the errors must remove for a constant to be fitted."""

MOST_SHIFT = 20.0
_ITERATIONS = 6
_TOLERANCE = 2.0
"""Errors, in units of the expected or the median one, whichever is larger, beyond which they are weighted down."""


def identified(names: Sequence[str], slopes: Floats, expected: Floats) -> tuple[list[int], Floats, list[str]]:
    """Return which constants the points tell, how much they tell of each, and why others are kept.

    Of constants that change all points alike, the one of which less is told is kept; what is told of the others is then
    more.
    """
    scaled = slopes / expected[:, None]
    told, kept = np.zeros(len(names)), [""] * len(names)
    alone = 1.0 - 1.0 / (1.0 + (scaled**2).sum(axis=0))
    fitted = []
    for index in range(len(names)):
        if alone[index] >= LEAST_TOLD:
            fitted.append(index)
            continue
        told[index] = alone[index]
        kept[index] = "has no effect on these points" if alone[index] < 1e-3 else "the points hardly depend on it"
    while fitted:
        covariance = np.linalg.inv(scaled[:, fitted].T @ scaled[:, fitted] + np.eye(len(fitted)))
        left = np.diag(covariance)
        told[fitted] = 1.0 - left
        worst = int(np.argmax(left))
        if 1.0 - left[worst] >= LEAST_TOLD:
            break
        alike = np.abs(covariance[worst]) / np.sqrt(left * left[worst])
        alike[worst] = 0.0
        other = names[fitted[int(np.argmax(alike))]]
        kept[fitted[worst]] = f"not distinguishable from {other}"
        del fitted[worst]
    return fitted, told, kept


def solve(
    errors_at: Callable[[Floats], Floats], expected: Floats, errors: Floats, slopes: Floats, fitted: list[int]
) -> tuple[Floats, Floats]:
    """Return the best shifts and the slopes there, which are corrected by what each step really changed."""
    shifts = np.zeros(slopes.shape[1])
    slopes = slopes.copy()
    if not fitted:
        return shifts, slopes
    everything = np.ones(len(errors), dtype=bool)
    for _ in range(_ITERATIONS):
        tolerance = _tolerance(errors / expected)
        aim = linear(errors, slopes, expected, shifts, fitted, everything)
        step = aim - shifts
        if np.abs(step).max() < 0.01:
            break
        for shorter in (1.0, 0.5, 0.25):
            trial = shifts + shorter * step
            found = errors_at(trial)
            moved = trial - shifts
            slopes += np.outer(found - errors - slopes @ moved, moved) / float(moved @ moved)
            if _cost(found / expected, trial, tolerance) < _cost(errors / expected, shifts, tolerance):
                break
        else:
            break
        shifts, errors = trial, found
    return shifts, slopes


def linear(
    errors: Floats, slopes: Floats, expected: Floats, shifts: Floats, fitted: list[int], rows: NDArray[np.bool_]
) -> Floats:
    """Return the shifts that are best for some rows if errors are linear around ``shifts``."""
    best = shifts.copy()
    if not fitted:
        return best
    scaled, start = slopes[rows][:, fitted] / expected[rows][:, None], errors[rows] / expected[rows]
    moved: Floats = np.zeros(len(fitted))
    tolerance = _tolerance(start)
    for _ in range(20):
        weights = 1.0 / np.maximum(1.0, np.abs(start + scaled @ moved) / tolerance)
        curvature = scaled.T @ (weights[:, None] * scaled) + np.eye(len(fitted))
        moved = np.asarray(-np.linalg.solve(curvature, scaled.T @ (weights * start) + shifts[fitted]), np.float64)
    best[fitted] = np.clip(shifts[fitted] + moved, -MOST_SHIFT, MOST_SHIFT)
    return best


def _tolerance(scaled: Floats) -> float:
    return _TOLERANCE * max(1.0, float(np.median(np.abs(scaled))))


def _cost(scaled: Floats, shifts: Floats, tolerance: float) -> float:
    """Return the sum of Huber's losses of the errors and of the squares of the shifts."""
    size = np.abs(scaled)
    losses = np.where(size <= tolerance, size**2, 2 * tolerance * size - tolerance**2)
    return float(losses.sum() + (shifts**2).sum())
