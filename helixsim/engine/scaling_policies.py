"""How many replicas a pool should have, by what a controller sees of it at one look."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from helixsim.autoscaling import registry
from helixsim.autoscaling.base import Decide, PoolState
from helixsim.domain.autoscaling import BUILT_IN, Metric, PolicySpec
from helixsim.errors import PluginError

LOOKS = 8
"""Looks over which ``goodput`` takes rates and shares: two minutes at Kubernetes' interval of 15 s."""


_METRICS: dict[str, Metric] = {"queue": "waiting", "kv_use": "kv_use"}
"""Metrics of policies with two limits."""


def scheduled(spec: PolicySpec, now_s: float) -> int:
    """Return the replicas of a schedule at a time [s]; before its first entry, those of its last one."""
    at_s = now_s % spec.period_s
    return next((one.replicas for one in reversed(spec.entries) if one.at_s <= at_s), spec.entries[-1].replicas)


def measured(spec: PolicySpec, state: PoolState) -> tuple[float, float]:
    """Return the metric of a policy, summed over the replicas that serve, and the most that one of them should have."""
    if spec.name == "target":
        return state.total(spec.metric), spec.target
    if spec.name == "goodput":
        return state.serving * (1.0 - state.good / state.decided if state.decided else 0.0), 1.0 - spec.least
    if spec.name in _METRICS:
        return state.total(_METRICS[spec.name]), spec.high
    return float(state.in_flight), 1.0


def decider(spec: PolicySpec, activation: float = 1.0) -> Decide | None:
    """Return what decides under a policy; None: the number never changes.

    Without a replica that serves or starts there is nothing to measure: the first one is started when requests wait, or
    when the load of the others is more than ``activation`` times what they should have.
    """
    if spec.name not in BUILT_IN:
        return _own(spec.name, registry.get(spec.name)(spec.options))
    if spec.name == "schedule":
        return lambda state: scheduled(spec, state.now_s)
    if spec.name == "target":
        return _from_zero(spec, activation, lambda state: _target(spec, state))
    if spec.name == "goodput":
        return _from_zero(spec, activation, _Goodput(spec.least))
    if spec.name in _METRICS:
        return _from_zero(spec, activation, lambda state: _threshold(spec, _METRICS[spec.name], state))
    return None


def _own(name: str, policy: Any) -> Decide:
    """Return a policy of the user's own, whose numbers are checked."""

    def decide(state: PoolState) -> int:
        want = policy.decide(state)
        if isinstance(want, bool) or not isinstance(want, int):
            raise PluginError(f"autoscaling policy {name!r}: returned {want!r}, expected a number of replicas")
        return want

    return decide


def _from_zero(spec: PolicySpec, activation: float, decide: Decide) -> Decide:
    """Return a policy that starts the first replica of a pool, and gives up its last one, as KEDA's activation does.

    The first one is started when requests wait at the coordinator, or when the others have too much load and none of
    them starts; while it starts, the number stays. The last one is given up when it has no request and has been sent
    none, or when the others could do with its requests as well (never under ``goodput``, which cannot tell).
    """

    def extended(state: PoolState) -> int:
        others = state.others
        if not state.serving:
            is_pressed = others is not None and others.starting == 0 and others.load > activation * others.serving
            return max(state.replicas, min(1, state.unrouted + is_pressed))
        want = decide(state)
        is_idle = state.replicas == 1 and not state.in_flight and not state.sent
        return 0 if is_idle or (want <= 1 and _is_spare(state)) else max(want, 1)

    def _is_spare(state: PoolState) -> bool:
        others = state.others
        if others is None or not others.serving or spec.name == "goodput":
            return False
        load = others.load + measured(spec, state)[0] / others.limit
        return load <= activation * (1.0 - spec.tolerance) * others.serving

    return extended


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
