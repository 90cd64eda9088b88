"""The order of systems: the criteria that decide, one after the other, in races of plans and in the verdict alike.

With objectives: the share of requests within them (where loads differ, the requests within them per second), then the
latency, then the price. Without: at a given rate the latency, those that are not overloaded first; under saturation, in
closed loops and if all are overloaded the output throughput; then latency and price. The price is that of the nodes
with layers, and decides before the latency where a plan was asked for by cost, or where replicas come and go, which is
for the price: then shares of ``SERVED`` and more count alike, those of all requests and then those of the class that is
served least, and of these systems those that are not overloaded come first, as a short queue that grows costs nothing
yet. Goodputs that differ by no more than the interval of their
difference are equal; so are shares if they also differ by no more than ``SAME_SHARE``, throughputs within
``SAME_THROUGHPUT`` and latencies within ``ALIKE``: of two plans that a short run cannot tell apart, the one that showed
much more is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from helixsim.domain.result import FloatArray
from helixsim.metrics.score import SAME_SHARE, Score, is_above
from helixsim.metrics.tenants import SERVED

ALIKE = 0.05
"""Latencies that differ by no more than this share, and by no more than their interval, are taken to be equal."""

SAME_THROUGHPUT = 0.02
"""Output tokens/s that differ by no more than this share, and by no more than their interval, are taken to be equal."""


class Criterion(StrEnum):
    """What decides between two systems."""

    STABILITY = "stability"
    GOODPUT = "goodput"
    ATTAINMENT = "requests within the SLO"
    CLASSES = "requests of a class within the SLO"
    LATENCY = "latency"
    PRICE = "price"
    NODES = "nodes with layers"
    THROUGHPUT = "output throughput"


@dataclass(frozen=True)
class Step:
    """A criterion: the figure of a score, more is better if ``sign`` is 1.

    ``parts``: the figure in each part of the window; only what exceeds the interval of a difference decides then.
    ``alike``: figures that differ from the best one by no more than what it returns for that one need a difference
    beyond the interval, too. ``enough``: figures from this one on are equal.
    """

    criterion: Criterion
    figure: Callable[[Score], float]
    parts: Callable[[Score], FloatArray] | None = None
    sign: int = 1
    alike: Callable[[float], float] | None = None
    enough: float = math.inf

    def left_behind(self, names: Sequence[str], scores: Mapping[str, Score]) -> set[str]:
        """Return the systems that are worse than the one with the best figure."""
        top = max(
            (scores[name] for name in names), key=lambda score: (self.sign * self.figure(score), -score.latency_s)
        )
        return {name for name in names if self._is_behind(scores[name], top)}

    def is_sure(self, one: Score, other: Score) -> bool:
        """Return whether two figures differ by more than the interval of their difference, where it has one."""
        if self.parts is None or not (math.isfinite(self.figure(one)) and math.isfinite(self.figure(other))):
            return True
        gap = self.parts(one) - self.parts(other)
        return is_above(gap) or is_above(-gap)

    def _is_behind(self, score: Score, top: Score) -> bool:
        mine, best = self.figure(score), self.figure(top)
        if self.parts is None or not (math.isfinite(mine) and math.isfinite(best)):
            return mine < best if self.sign > 0 else mine > best
        if mine >= self.enough:
            return False
        if self.alike is not None and abs(mine - best) > self.alike(best):
            return True
        return is_above(self.sign * (self.parts(top) - self.parts(score)))


def steps(
    *, has_slo: bool, is_open: bool, same_load: bool, all_overloaded: bool, by_cost: bool, is_scaled: bool = False
) -> list[Step]:
    """Return the criteria in their order.

    Parameters
    ----------
    has_slo
        Whether objectives are stated.
    is_open, same_load
        Whether requests arrive at their own times, and whether all systems have the same load.
    all_overloaded
        Whether no system keeps up.
    by_cost
        Whether the price decides before the latency.
    is_scaled
        Whether replicas of some come and go.
    """
    latency = Step(
        Criterion.LATENCY,
        lambda one: one.latency_s,
        lambda one: one.log_latency,
        sign=-1,
        alike=lambda best: ALIKE * best,
    )
    price = Step(Criterion.PRICE, lambda one: one.cost[0], sign=-1)
    nodes = Step(Criterion.NODES, lambda one: float(one.cost[1]), sign=-1)
    exact = Step(Criterion.LATENCY, lambda one: one.latency_s, sign=-1)
    last = [price, latency, nodes, exact] if by_cost or is_scaled else [latency, price, nodes, exact]
    stability = Step(Criterion.STABILITY, lambda one: -float(one.is_overloaded))
    if has_slo and is_open and same_load:
        share = Step(
            Criterion.ATTAINMENT,
            lambda one: one.share,
            lambda one: one.shares,
            alike=lambda _: SAME_SHARE,
            enough=SERVED if is_scaled else math.inf,
        )
        if not is_scaled:
            return [share, *last]
        return [share, Step(Criterion.CLASSES, lambda one: min(one.least_share, SERVED)), stability, *last]
    if has_slo:
        return [
            Step(
                Criterion.GOODPUT, lambda one: one.goodput_per_s, lambda one: one.good * len(one.good) / one.duration_s
            ),
            *last,
        ]
    if is_open and not all_overloaded:
        return [stability, *last]
    tokens = Step(
        Criterion.THROUGHPUT,
        lambda one: one.output_tokens_per_s,
        lambda one: one.output_tokens * len(one.output_tokens) / one.duration_s,
        alike=lambda best: SAME_THROUGHPUT * best,
    )
    return [tokens, *last]


def ranked(names: Sequence[str], scores: Mapping[str, Score], chain: Sequence[Step]) -> list[str]:
    """Return the names, the best first, each chosen among those that remain; equal ones in the order given."""
    left, ranking = list(names), []
    while left:
        kept = left
        for step in chain:
            behind = step.left_behind(kept, scores)
            kept = [name for name in kept if name not in behind]
        ranking.append(kept[0])
        left = [name for name in left if name != kept[0]]
    return ranking


def race_steps(scores: Mapping[str, Score], *, has_slo: bool, is_open: bool = True) -> list[Step]:
    """Return the criteria for plans that are compared on the same requests at a given rate, or under saturation."""
    return steps(
        has_slo=has_slo,
        is_open=is_open,
        same_load=True,
        all_overloaded=all(one.is_overloaded for one in scores.values()),
        by_cost=any(one.cost_first for one in scores.values()),
    )
