"""Times against the size of a batch: piecewise linear curves, and tables of attention made of them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Curve:
    """Time of one layer [ns] against batch size, piecewise linear.

    Between knots it interpolates, below the first knot it keeps the first value (a batch never costs less than
    reading the weights once), beyond the last it continues the last slope, never downwards. Zero work costs zero.
    A table that contains the point (0, 0) is taken at its word.
    """

    x: tuple[float, ...]
    y_ns: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y_ns) or not self.x:
            raise ValueError(
                f"a curve needs as many x as y values and at least one, got {len(self.x)} and {len(self.y_ns)}"
            )
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("the x values of a curve must increase")

    def __call__(self, x: float) -> float:
        """Return the time of one layer [ns] for a batch of ``x``."""
        if x <= 0:
            return 0.0
        xs, ys = self.x, self.y_ns
        right = bisect_right(xs, x)
        if right == 0:
            return ys[0]
        if right == len(xs):
            if right == 1:
                return ys[0]
            slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
            return ys[-1] + max(slope, 0.0) * (x - xs[-1])
        x0, y0 = xs[right - 1], ys[right - 1]
        return y0 + (ys[right] - y0) * (x - x0) / (xs[right] - x0)


@dataclass(frozen=True, slots=True)
class AttentionTable:
    """Attention of one layer by measured kernels, which follow no simple law.

    Times [ns] are linear between the knots and go on beyond the last ones.

    Parameters
    ----------
    decode
        (sequences, time against the context of each of them), by sequences.
    first, further
        (past, time against the tokens of a prompt's chunk behind ``past`` tokens of context), by past: of one prompt in
        the batch, and of each prompt more.
    digest
        Stands for all numbers in the text of the table, which is long otherwise.
    """

    decode: tuple[tuple[float, Curve], ...] = field(repr=False)
    first: tuple[tuple[float, Curve], ...] = field(repr=False)
    further: tuple[tuple[float, Curve], ...] = field(repr=False)
    digest: str

    def decode_curve(self, seqs: float) -> Curve:
        """Return the time of a decode step of ``seqs`` sequences against the mean of their contexts."""
        lower, upper, share = _between(self.decode, seqs)
        if share == 0.0:
            return lower
        times = (low + share * (high - low) for low, high in zip(lower.y_ns, upper.y_ns, strict=True))
        return Curve(lower.x, tuple(max(time, 0.0) for time in times))

    def prompts_ns(self, tokens: float, past: float, seqs: float) -> float:
        """Return the time of ``seqs`` chunks of ``tokens`` tokens each, behind ``past`` tokens of context each."""
        if tokens <= 0 or seqs <= 0:
            return 0.0
        more = max(seqs - 1.0, 0.0)
        return _at(self.first, past, tokens) + (more * _at(self.further, past, tokens) if more else 0.0)


def _at(rows: tuple[tuple[float, Curve], ...], where: float, x: float) -> float:
    lower, upper, share = _between(rows, where)
    low = lower(x)
    return low if share == 0.0 else max(low + share * (upper(x) - low), 0.0)


def _between(rows: tuple[tuple[float, Curve], ...], where: float) -> tuple[Curve, Curve, float]:
    """Return the curves around ``where`` and how far it lies between them: 0 below the first, above 1 beyond."""
    right = bisect_right(rows, where, key=lambda row: row[0])
    if right == 0 or len(rows) == 1:
        return rows[0][1], rows[0][1], 0.0
    right = min(right, len(rows) - 1)
    (x0, lower), (x1, upper) = rows[right - 1], rows[right]
    return lower, upper, (where - x0) / (x1 - x0)


def values(curve: Curve, xs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a curve at many points above zero, each to the last bit as the curve has it."""
    knots, ys = np.array(curve.x), np.array(curve.y_ns)
    if len(knots) == 1:
        return np.full(len(xs), ys[0])
    right = np.searchsorted(knots, xs, side="right")
    upper = np.clip(right, 1, len(knots) - 1)
    x0, y0, x1, y1 = knots[upper - 1], ys[upper - 1], knots[upper], ys[upper]
    inside = y0 + (y1 - y0) * (xs - x0) / (x1 - x0)
    beyond = y1 + np.maximum((y1 - y0) / (x1 - x0), 0.0) * (xs - x1)
    found: NDArray[np.float64] = np.where(right == 0, ys[0], np.where(right == len(knots), beyond, inside))
    return found
