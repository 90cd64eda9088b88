"""How many replicas a pool should have, by what a controller sees of it at one look."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from helixsim.domain.autoscaling import Metric, PolicySpec

LOOKS = 8
"""Looks over which ``goodput`` takes rates and shares: two minutes at Kubernetes' interval of 15 s."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at one look.

    ``in_flight``, ``waiting`` and ``kv_use`` are sums over the replicas that serve (``domain.autoscaling.Metric``);
    ``sent``, ``decided`` and ``good`` requests since the last look: sent to the pool, with a known outcome, and of
    these within their objectives.
    """

    now_s: float
    interval_s: float
    serving: int
    starting: int
    in_flight: int
    waiting: int
    kv_use: float
    sent: int
    decided: int
    good: int

    @property
    def replicas(self) -> int:
        """Replicas that serve or will."""
        return self.serving + self.starting

    def total(self, metric: Metric) -> float:
        """Return a metric, summed over the replicas that serve."""
        return self.sent / self.interval_s if metric == "rate" else float(getattr(self, metric))


Decide = Callable[[PoolState], int]


def scheduled(spec: PolicySpec, now_s: float) -> int:
    """Return the replicas of a schedule at a time [s]; before its first entry, those of its last one."""
    at_s = now_s % spec.period_s
    return next((one.replicas for one in reversed(spec.entries) if one.at_s <= at_s), spec.entries[-1].replicas)


def decider(spec: PolicySpec) -> Decide | None:
    """Return what decides under a policy; None: the number never changes."""
    if spec.name == "schedule":
        return lambda state: scheduled(spec, state.now_s)
    if spec.name == "target":
        return lambda state: _target(spec, state)
    if spec.name == "goodput":
        return _Goodput(spec.least)
    if spec.name in ("queue", "kv_use"):
        metric: Metric = "waiting" if spec.name == "queue" else "kv_use"
        return lambda state: _threshold(spec, metric, state)
    return None


def _target(spec: PolicySpec, state: PoolState) -> int:
    """Return Kubernetes' number: replicas that start count as idle before it grows, as on target before it shrinks."""
    total = state.total(spec.metric) / spec.target
    ratio = total / state.serving
    if abs(ratio - 1) <= spec.tolerance:
        return state.replicas
    if state.starting:
        cautious = (total if ratio > 1 else total + state.starting) / state.replicas
        if (cautious - 1) * (ratio - 1) <= 0 or abs(cautious - 1) <= spec.tolerance:
            return state.replicas
        ratio = cautious
    return math.ceil(round(ratio * state.replicas, 9))


def _threshold(spec: PolicySpec, metric: Metric, state: PoolState) -> int:
    """Return one more above a limit, unless one starts already, and one less below another."""
    mean = state.total(metric) / state.serving
    if mean > spec.high:
        return state.replicas if state.starting else state.replicas + 1
    return state.replicas - 1 if mean < spec.low else state.replicas


class _Goodput:
    """Follows the share of requests within their objectives, and the rate that replicas have served within them."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._known_rps = 0.0
        self._looks: deque[PoolState] = deque(maxlen=LOOKS)

    def __call__(self, state: PoolState) -> int:
        looks = self._looks
        if looks and looks[-1].serving != state.serving:
            looks.clear()  # what fewer or more replicas have shown says nothing of these
        looks.append(state)
        if len(looks) < LOOKS:
            return state.replicas
        decided, good = sum(one.decided for one in looks), sum(one.good for one in looks)
        rate_rps = sum(one.sent for one in looks) / sum(one.interval_s for one in looks)
        each_rps = rate_rps / state.serving
        if decided and good < self._least * decided:
            self._known_rps = min(self._known_rps, each_rps)
            return state.replicas if state.starting else state.replicas + 1
        self._known_rps = max(self._known_rps, each_rps)
        fewer = state.replicas - 1
        return fewer if fewer and rate_rps / fewer <= self._known_rps else state.replicas
