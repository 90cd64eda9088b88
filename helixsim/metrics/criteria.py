"""The criteria by which systems are ranked, in the order in which they decide (``metrics.verdict``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from helixsim.domain.figures import Figure, Limits
from helixsim.domain.request import FeedMode
from helixsim.domain.summary import Summary
from helixsim.metrics.saturation import Saturation


class Criterion(StrEnum):
    """What decides between two systems."""

    OBJECTIVES = "objectives"
    STABILITY = "stability"
    GOODPUT = "goodput"
    ATTAINMENT = "requests within the SLO"
    PRICE = "price"
    LATENCY = "mean latency"
    THROUGHPUT = "output throughput"


@dataclass(frozen=True)
class Step:
    """A criterion: figures of systems, more is better if ``sign`` is 1, with half widths of their intervals.

    Systems that differ by no more than both half widths are equal; with ``is_point`` the figures alone decide.
    ``display`` is the figure in texts, where it is another one; the half widths are then those of it.
    """

    criterion: Criterion
    figure: Callable[[str], float]
    half: Callable[[str], float | None] = lambda _: None
    sign: int = 1
    is_point: bool = False
    display: Callable[[str], Figure] | None = None

    def shown(self, name: str) -> Figure:
        """Return the figure for texts."""
        return self.figure(name) if self.display is None else self.display(name)

    def left_behind(self, names: Sequence[str]) -> set[str]:
        """Return the systems that are worse than another one."""
        return {name for name in names if any(self._is_behind(name, other) for other in names)}

    def difference(self, name: str, other: str) -> Limits | None:
        """Return the interval of the difference of the figures shown; None: unknown."""
        (mine, theirs), halves = (self.shown(name), self.shown(other)), (self.half(name), self.half(other))
        if mine is None or theirs is None or halves[0] is None or halves[1] is None:
            return None
        half = math.hypot(halves[0], halves[1])
        return Limits(mine - theirs - half, mine - theirs + half)

    def _is_behind(self, name: str, other: str) -> bool:
        gap = self.sign * (self.figure(other) - self.figure(name))
        allowed = 0.0 if self.is_point else math.hypot(*(self.half(one) or 0.0 for one in (name, other)))
        return gap > allowed


def ranked(names: Sequence[str], chain: Sequence[Step]) -> list[str]:
    """Return the names, the best first, each chosen among those that remain; equal ones by name."""
    left, ranking = sorted(names), []
    while left:
        kept = left
        for step in chain:
            behind = step.left_behind(kept)
            kept = [name for name in kept if name not in behind]
        ranking.append(kept[0])
        left = [name for name in left if name != kept[0]]
    return ranking


def chain_of(summaries: Mapping[str, Summary], is_met: Mapping[str, bool], *, has_slo: bool) -> list[Step]:
    """Return the criteria in their order; ``is_met``: whether a system meets every objective."""
    loads = {(one.load.feed, one.load.offered_per_s) for one in summaries.values()}
    is_overloaded = {name: one.load.saturation == Saturation.OVERLOADED for name, one in summaries.items()}
    is_open = all(feed is FeedMode.OPEN for feed, _ in loads)

    def output(name: str) -> Figure:
        return summaries[name].throughput.output_tokens_per_s

    throughput = Step(
        Criterion.THROUGHPUT, lambda name: _or(output(name), 0.0), lambda name: _output_half(summaries[name])
    )
    price = Step(Criterion.PRICE, lambda name: summaries[name].cost.usd_per_hour, sign=-1)
    latency = Step(
        Criterion.LATENCY,
        lambda name: _or(summaries[name].e2el.mean_s, math.inf),
        lambda name: _latency_half(summaries[name]),
        sign=-1,
        is_point=True,
        display=lambda name: summaries[name].e2el.mean_s,
    )
    stable = replace(
        throughput,
        criterion=Criterion.STABILITY,
        figure=lambda name: -float(is_overloaded[name]),
        is_point=True,
        display=output,
    )
    if not has_slo:
        if is_open and not all(is_overloaded[name] for name in summaries):
            return [stable, latency, price]
        return [throughput, price, latency]
    if is_open and len(loads) == 1:
        goodput = Step(
            Criterion.ATTAINMENT,
            lambda name: _or(summaries[name].throughput.slo_attainment, 0.0),
            lambda name: _attainment_half(summaries[name]),
        )
    else:
        goodput = Step(
            Criterion.GOODPUT,
            lambda name: _or(summaries[name].throughput.goodput_per_s, 0.0),
            lambda name: _goodput_half(summaries[name]),
        )

    def tier(name: str) -> float:
        return float(is_met[name] and not (is_overloaded[name] and is_open))

    met = replace(goodput, criterion=Criterion.OBJECTIVES, figure=tier, is_point=True, display=goodput.figure)
    met_if_overloaded = replace(met, figure=lambda name: float(is_met[name]))
    return [met, met_if_overloaded, goodput, price, latency]


def _or(value: Figure, other: float) -> float:
    return other if value is None else value


def _half(mean: Figure, limits: Limits | None) -> float | None:
    """Return half the width of an interval; the upper half unless it has been cut, as the lower one may be, too."""
    return None if mean is None or limits is None else max(limits.high - mean, mean - limits.low, 0.0)


def _output_half(summary: Summary) -> float | None:
    return _half(summary.throughput.output_tokens_per_s, summary.throughput.output_interval)


def _latency_half(summary: Summary) -> float | None:
    return _half(summary.e2el.mean_s, summary.e2el.mean_interval_s)


def _attainment_half(summary: Summary) -> float | None:
    return _half(summary.throughput.slo_attainment, summary.throughput.attainment_interval)


def _goodput_half(summary: Summary) -> float | None:
    """Return half the interval of goodput, which varies as its share of requests and as the throughput."""
    done = summary.throughput
    parts = (_attainment_half(summary), done.slo_attainment), (_output_half(summary), done.output_tokens_per_s)
    if done.goodput_per_s is None or any(half is None or not mean for half, mean in parts):
        return None
    return done.goodput_per_s * math.hypot(*(half / mean for half, mean in parts if half is not None and mean))
