"""Percentiles and confidence intervals.

``t_interval`` is the one interval of independent values: those of several seeds, or the means of batches. Batches cut
the window into up to 20 consecutive parts, whose means are treated as independent; within a batch the observations may
be as correlated as queues make them (Law, "Simulation Modeling and Analysis", section 9.5).

Student's interval of a quantity that cannot be negative may reach below zero where values scatter widely. It is then
cut at zero (``floor``): the true mean is never below, so the shorter interval covers it just as often.
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
"""Batches of a window."""

MIN_BATCHES = 5
"""With fewer batches an interval says nothing and is left out."""

CONFIDENCE = 0.95
"""Level of every interval that is reported."""

PERCENTILES = (50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of ``count`` values with its confidence limits, in the unit of what was averaged."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half of Student's interval: the lower limit may be cut at zero, the upper one never is."""
        return self.high - self.mean


def describe(values: FloatArray) -> dict[str, float]:
    """Return mean, median, std (population) and percentiles (linear interpolation); NaN without values."""
    names = ("mean", "median", "std", *(f"p{q}" for q in PERCENTILES))
    if not values.size:
        return dict.fromkeys(names, math.nan)
    percentiles = np.percentile(values, (50, *PERCENTILES))
    return dict(zip(names, (values.mean(), percentiles[0], values.std(), *percentiles[1:]), strict=True))


def histogram_percentile(gaps: GapHistogram, q: float) -> float:
    """Return percentile ``q`` (0..100) of a histogram [ns], as ``numpy.percentile`` would of its bin centres.

    It is off by at most half the resolution. NaN for an empty histogram.
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
    """Return the same keys as ``describe`` [ns]; mean and std are exact, percentiles within half a bin."""
    total = int(gaps.count.sum())
    mean = gaps.sum_ns / total if total else math.nan
    variance = max(gaps.sum_squares_ns2 / total - mean * mean, 0.0) if total else math.nan
    result = {"mean": mean, "median": histogram_percentile(gaps, 50), "std": math.sqrt(variance)}
    return result | {f"p{q}": histogram_percentile(gaps, q) for q in PERCENTILES}


def student_t_cdf(t: float, degrees: int) -> float:
    """Return P(T <= t) of Student's t, by the finite series for whole degrees of freedom.

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
    """Return Student's interval of the mean of independent values, or None for fewer than two.

    Parameters
    ----------
    floor
        Least value the mean can have: the lower limit is not below. None for what may be negative, as differences are.
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
    """Return the means of consecutive batches of equal size (within one), of at least two observations each.

    ``values`` are in order of time.
    """
    batches = min(batches, values.size // 2)
    if batches < 1:
        return np.empty(0)
    return np.array([part.mean() for part in np.array_split(values, batches)])


def batch_rates(times_ns: IntArray, cumulative: IntArray, batches: int = BATCHES) -> FloatArray:
    """Return the rates [1/s] of a cumulative count in equal parts of the time it spans.

    There are never more parts than sampling intervals, so that no part is made of interpolation alone.
    """
    batches = min(batches, len(times_ns) - 1)
    if batches < 1 or times_ns[-1] <= times_ns[0]:
        return np.empty(0)
    edges = np.linspace(times_ns[0], times_ns[-1], batches + 1)
    return np.diff(np.interp(edges, times_ns, cumulative)) / (np.diff(edges) / NS_PER_S)
