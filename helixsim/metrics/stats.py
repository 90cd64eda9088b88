"""Percentiles and confidence intervals.

``t_interval`` is the interval of the mean of independent values: results of several seeds, or batch means. Up to 20
consecutive batches divide the window; their means are treated as independent, while observations within a batch may be
correlated (Law, "Simulation Modeling and Analysis", section 9.5).

The interval of a quantity that cannot be negative is cut at zero (``floor``): the true mean is never below, so the
coverage is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from helixsim.domain.result import FloatArray, GapHistogram, IntArray
from helixsim.units import NS_PER_S

BATCHES = 20
"""Number of batches in a window."""

MIN_BATCHES = 5
"""Least number of batches for an interval."""

CONFIDENCE = 0.95
"""Level of all intervals."""

PERCENTILES = (50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean of ``count`` values with its confidence limits, in the unit of the values."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval before the lower limit is cut at zero."""
        return self.high - self.mean


def describe(values: FloatArray) -> dict[str, float]:
    """Return mean, median, std (population) and percentiles (linear interpolation); NaN without values."""
    names = ("mean", "median", "std", *(f"p{q}" for q in PERCENTILES))
    if not values.size:
        return dict.fromkeys(names, math.nan)
    percentiles = np.percentile(values, (50, *PERCENTILES))
    return dict(zip(names, (values.mean(), percentiles[0], values.std(), *percentiles[1:]), strict=True))


def histogram_percentile(gaps: GapHistogram, q: float) -> float:
    """Return percentile ``q`` (0..100) of a histogram [ns], as ``numpy.percentile`` of its bin centres.

    The error is at most half the resolution. NaN for an empty histogram.
    """
    total = int(gaps.count.sum())
    if not total:
        return math.nan
    centres = gaps.value_ns + gaps.resolution_ns / 2
    cumulative = np.cumsum(gaps.count)
    position = (total - 1) * q / 100
    below = math.floor(position)
    low, high = (
        float(centres[np.searchsorted(cumulative, rank, side="right")]) for rank in (below, math.ceil(position))
    )
    return low + (high - low) * (position - below)


def describe_histogram(gaps: GapHistogram) -> dict[str, float]:
    """Return the statistics of ``describe`` for a histogram [ns]; mean and std are exact."""
    total = int(gaps.count.sum())
    mean = gaps.sum_ns / total if total else math.nan
    variance = max(gaps.sum_squares_ns2 / total - mean * mean, 0.0) if total else math.nan
    result = {"mean": mean, "median": histogram_percentile(gaps, 50), "std": math.sqrt(variance)}
    return result | {f"p{q}": histogram_percentile(gaps, q) for q in PERCENTILES}


def student_t_cdf(t: float, degrees: int) -> float:
    """Return P(T <= t) of Student's t, by the finite series for integer degrees of freedom.

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    theta = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2 == 1
    # The series runs over cos^1, cos^3 ... or cos^0, cos^2 ... up to cos^(degrees - 2).
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    two_sided = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return 0.5 + math.copysign(two_sided / 2, t)


@lru_cache(maxsize=256)
def student_t_quantile(probability: float, degrees: int) -> float:
    """Return t with P(T <= t) = ``probability`` (between 0.5 and 1), by bisection."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, degrees) < probability else (low, middle)
    return high


def t_interval(values: Sequence[float] | FloatArray, *, floor: float | None = 0.0) -> Interval | None:
    """Return Student's t interval of the mean of independent values, or None for fewer than two.

    Parameters
    ----------
    floor
        Least possible value of the mean, at which the lower limit is cut; None if there is none, e.g. for differences.
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_t_quantile((1 + CONFIDENCE) / 2, count - 1) * deviation / math.sqrt(count)
    low = mean - half
    return Interval(mean, low if floor is None else max(floor, low), mean + half, count)


def interval_of_batches(means: FloatArray, *, floor: float | None = 0.0) -> Interval | None:
    """Return the interval of the mean of batch means, or None for too few batches; ``floor`` as for ``t_interval``."""
    return None if len(means) < MIN_BATCHES else t_interval(means, floor=floor)


def batch_means(values: FloatArray, batches: int = BATCHES) -> FloatArray:
    """Return the means of consecutive batches of equal size (within one) with at least two observations each.

    ``values`` are in order of time.
    """
    batches = min(batches, values.size // 2)
    if batches < 1:
        return np.empty(0)
    return np.array([part.mean() for part in np.array_split(values, batches)])


def batch_rates(times_ns: IntArray, cumulative: IntArray, batches: int = BATCHES) -> FloatArray:
    """Return the rates [1/s] of a cumulative count in equal parts of its time span.

    There are at most as many parts as sampling intervals, so that no part consists of interpolated values only.
    """
    batches = min(batches, len(times_ns) - 1)
    if batches < 1 or times_ns[-1] <= times_ns[0]:
        return np.empty(0)
    edges = np.linspace(times_ns[0], times_ns[-1], batches + 1)
    return np.diff(np.interp(edges, times_ns, cumulative)) / (np.diff(edges) / NS_PER_S)
