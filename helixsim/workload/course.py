"""The course of a load over time: arrivals at a constant mean rate, moved to where a varying rate has them.

A course is a factor on the rate, linear between its corners. With ``F`` its integral, arrivals of any process at times
``s`` are moved to ``t`` with ``F(t) = s``: Poisson arrivals become those of rate ``rate * factor(t)`` (Cinlar,
"Introduction to Stochastic Processes", 1975, section 4.7), and other processes keep their burstiness per request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from helixsim.errors import DataError
from helixsim.units import NS_PER_S
from helixsim.workload.spec import Corner, Course

_DIURNAL_CORNERS = 96
"""Corners of a period of a diurnal course: one in a quarter of an hour of a day; its mean is exact."""

Values = NDArray[np.float64]


class Warp:
    """The integral of a course and its inverse.

    Parameters
    ----------
    course
        Corners at increasing times, the first at 0; two at one time are a jump. Behind the last one the factor stays,
        or, with a period, the course begins again.
    """

    def __init__(self, course: Course) -> None:
        times_s, factors = (np.array(values, dtype=np.float64) for values in zip(*course.corners, strict=True))
        self._period_s = course.period_s
        if course.period_s is not None and times_s[-1] < course.period_s:
            times_s, factors = np.append(times_s, course.period_s), np.append(factors, factors[0])
        widths_s = np.diff(times_s)
        self._starts_s = times_s
        self._factors = factors
        is_jump = widths_s < 1.0 / NS_PER_S  # times are whole nanoseconds
        self._slopes = np.divide(np.diff(factors), widths_s, out=np.zeros_like(widths_s), where=~is_jump)
        self._sums = np.concatenate([[0.0], np.cumsum(widths_s * (factors[1:] + factors[:-1]) / 2)])

    @property
    def period_sum_s(self) -> float:
        """Integral up to the last corner [s]."""
        return float(self._sums[-1])

    def integral_s(self, time_s: float) -> float:
        """Return the integral of the factor from 0 to a time [s]."""
        periods, rest_s = self._periods(time_s, self._period_s)
        at = int(np.searchsorted(self._starts_s, rest_s, side="right")) - 1
        into_s = rest_s - self._starts_s[at]
        slope = self._slopes[at] if at < len(self._slopes) else 0.0
        inside = self._sums[at] + into_s * (self._factors[at] + slope * into_s / 2)
        return periods * self.period_sum_s + float(inside)

    def times_s(self, sums_s: Values) -> Values:
        """Return the times at which the integral reaches values in ascending order [s]; infinite: never."""
        whole = None if self._period_s is None else self.period_sum_s
        periods = np.zeros_like(sums_s) if whole is None else np.floor(sums_s / whole)
        rest = sums_s - periods * (whole or 0.0)
        at = np.minimum(np.searchsorted(self._sums, rest, side="right") - 1, len(self._starts_s) - 1)
        slopes, factors = np.append(self._slopes, 0.0)[at], self._factors[at]
        missing = rest - self._sums[at]
        roots = factors + np.sqrt(np.maximum(factors * factors + 2 * slopes * missing, 0.0))
        into_s = np.divide(2 * missing, roots, out=np.full_like(roots, math.inf), where=roots > 0)
        found: Values = self._starts_s[at] + np.where(missing == 0, 0.0, into_s)
        return found if self._period_s is None else found + periods * self._period_s

    @staticmethod
    def _periods(time_s: float, period_s: float | None) -> tuple[float, float]:
        return (0.0, time_s) if period_s is None else divmod(time_s, period_s)


def moved(chunks: Iterator[NDArray[np.int64]], warp: Warp) -> Iterator[NDArray[np.int64]]:
    """Yield arrival times moved by a course [ns]; ends where no more come."""
    for chunk in chunks:
        times_s = warp.times_s(chunk / NS_PER_S)
        kept = times_s[np.isfinite(times_s)]
        yield np.rint(kept * NS_PER_S).astype(np.int64)
        if len(kept) < len(times_s):
            return


def diurnal(amplitude: float, peak_s: float, period_s: float) -> Course:
    """Return ``1 + amplitude * cos(2 pi (t - peak) / period)`` in straight pieces, with a mean of 1."""
    times_s = [period_s * corner / _DIURNAL_CORNERS for corner in range(_DIURNAL_CORNERS)]
    waves = (math.cos(2 * math.pi * (time_s - peak_s) / period_s) for time_s in times_s)
    return Course(
        tuple(Corner(at, max(0.0, 1 + amplitude * wave)) for at, wave in zip(times_s, waves, strict=True)), period_s
    )


def of_counts(times_ns: NDArray[np.int64], bins: int, period_s: float) -> Course:
    """Return the course of recorded arrivals, stretched to a period: a constant factor in each of equal bins, mean 1.

    Raises
    ------
    DataError
        If all arrive at once.
    """
    span_ns = int(times_ns[-1]) if len(times_ns) else 0
    if span_ns <= 0:
        raise DataError("arrivals.over_time: the trace has no two arrival times, so that it has no course")
    counts = np.bincount(np.minimum(times_ns * bins // (span_ns + 1), bins - 1), minlength=bins)
    factors = counts * (bins / len(times_ns))
    ends = ((number / bins, (number + 1) / bins, float(factors[number])) for number in range(bins))
    return Course(
        tuple(Corner(period_s * share, factor) for low, high, factor in ends for share in (low, high)), period_s
    )
