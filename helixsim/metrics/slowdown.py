"""The capacity of a system whose steps all take longer, or shorter, than simulated by one factor.

Such a system behaves as the simulated one in slow motion: at a rate lower by the factor, with all latencies larger by
it. So its capacity is the simulated rate at which the objectives are met with that much slack, over the factor. The
factor has the model error of TPOT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from helixsim.metrics.model_error import ModelError

METRIC = "tpot"
"""Metric whose error is taken as that of all steps."""

Band = tuple[float | None, float | None]
"""Low and high end; None: not known, as no simulation lies there."""


@dataclass(frozen=True, slots=True)
class SlackCurve:
    """Simulations that meet a target.

    Parameters
    ----------
    points
        (Rate [1/s], tightest objective over its measured value), by rate; the last is at the capacity.
    """

    points: tuple[tuple[float, float], ...] = ()

    def and_at(self, rate_rps: float, slack: float) -> SlackCurve:
        """Return the curve with one more simulation that meets the target, if its rate is below all others."""
        is_below = bool(self.points) and rate_rps < self.points[0][0]  # False if the rate is not known
        return SlackCurve(((rate_rps, slack), *self.points)) if is_below and math.isfinite(slack) else self

    def share_left(self, factor: float) -> float | None:
        """Return the capacity with steps that take ``factor`` times as long, over that as simulated.

        None: at no simulated rate is there so much slack. Shorter steps raise the capacity by the factor alone; what
        they might add at rates above the simulated capacity is not counted.
        """
        rate = _rate_with_slack(self.points, max(1.0, factor))
        return None if rate is None else rate / self.points[-1][0] / factor

    def band(self, rate_rps: float, error: ModelError | None) -> Band | None:
        """Return the band of a capacity [1/s]; None if nothing meets the target or the error is not known."""
        if error is None or not self.points:
            return None
        shares = (self.share_left(factor) for factor in reversed(error.band(METRIC)))
        low, high = (None if share is None else rate_rps * share for share in shares)
        return low, high

    def share_serving(self, rate_rps: float, error: ModelError | None, needed_rps: float) -> float | None:
        """Return in what share of draws of the model error a capacity is at least a rate; None as for ``band``."""
        if error is None or not self.points:
            return None
        mean, sd = error.errors[METRIC]
        low, high = -mean - 8 * sd, -mean + 8 * sd
        for _ in range(60):  # the capacity falls with the factor, so that one factor divides those that serve
            middle = (low + high) / 2
            share = self.share_left(math.exp(middle))
            serves = share is not None and rate_rps * share >= needed_rps
            low, high = (middle, high) if serves else (low, middle)
        return NormalDist(-mean, sd).cdf(low)


NO_SLACK = SlackCurve()
"""Of a system that was not searched, or that meets the target at no rate."""


def _rate_with_slack(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Return the highest rate with some slack, between simulated rates by interpolation; None: no rate has it."""
    if points and points[-1][1] >= wanted:
        return points[-1][0]
    for (lower, more), (upper, less) in reversed(list(pairwise(points))):
        if more >= wanted:
            return lower + (upper - lower) * (more - wanted) / (more - less)
    return None
