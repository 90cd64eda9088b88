"""``autoscaling`` of a system as plain values, and its checks across keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from helixsim import units
from helixsim.config.autoscaling_schema import OF_POLICY, REQUIRED, AutoscalingSection, ShortageSection, SpotSection
from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source
from helixsim.domain.autoscaling import AutoscalingSpec, Entry, PolicySpec, PoolSpec
from helixsim.domain.cluster import Node, node_type
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import FeedMode
from helixsim.domain.spot import Shortage, SpotSpec
from helixsim.errors import Problem, unknown_name
from helixsim.workload.arrivals import PROCESSES
from helixsim.workload.spec import WorkloadSpec
from helixsim.yamlio import KeyPath

LEAST_INTERVAL_S = 1e-3
"""Least time between two looks [s]: each is an event of the run, whose number should stay below that of its steps."""

_THRESHOLDS = {"queue": (1.0, 0.1), "kv_use": (0.8, 0.4)}


def autoscaling_of(
    section: AutoscalingSection | None,
    policy_name: str | None = None,
    options: Any = None,
    spot_name: str | None = None,
    spot_options: Any = None,
) -> AutoscalingSpec | None:
    """Return the autoscaling of a system; None: all replicas serve all the time.

    ``policy_name``, ``options``: import path and options of a policy of the user's own. ``spot_name``,
    ``spot_options``: of the policy of spot machines.
    """
    if section is None:
        return None
    high, low = _THRESHOLDS.get(section.policy, (1.0, 0.0))
    policy = PolicySpec(
        policy_name or section.policy,
        metric=section.metric or "in_flight",
        target=section.target or 1.0,
        tolerance=0.1 if section.tolerance is None else section.tolerance,
        high=high if section.high is None else section.high,
        low=low if section.low is None else section.low,
        least=section.least or 0.99,
        entries=tuple(Entry(_seconds(one.at), one.replicas) for one in section.schedule or ()),
        period_s=_seconds(section.period or "24 h"),
        options=options,
    )
    pools = (
        PoolSpec(name, one.floor, one.ceiling, one.start, one.target, one.activation or 1.0)
        for name, one in (section.pools or {}).items()
    )
    startup = section.startup
    return AutoscalingSpec(
        policy,
        tuple(pools),
        interval_s=_seconds(section.interval),
        stabilisation_s=_seconds(section.stabilisation),
        machine_s=_seconds(startup.machine),
        engine_s=_seconds(startup.engine),
        weights_bps=units.parse(startup.weights, "bandwidth"),
        window_s=_seconds(section.window),
        spot=_spot_of(section.spot, spot_name, spot_options),
    )


def _spot_of(section: SpotSection | None, name: str | None, options: Any) -> SpotSpec | None:
    if section is None:
        return None
    return SpotSpec(
        name or section.policy,
        options,
        section.price,
        section.zones,
        _seconds(section.available),
        _seconds(section.short),
        _seconds(section.notice),
        tuple(sorted(Shortage(one.zone - 1, *_span_ns(one)) for one in section.shortages or ())),
    )


def _span_ns(shortage: ShortageSection) -> tuple[int, int]:
    from_ns = units.seconds_to_ns(_seconds(shortage.at))
    return from_ns, from_ns + units.seconds_to_ns(_seconds(shortage.for_))


def _seconds(text: str) -> float:
    return units.parse(text, "time")


def check_autoscaling(
    section: ExperimentSection,
    nodes: Sequence[Sequence[Node]],
    workload: WorkloadSpec | None,
    engine: EngineSpec,
    source: Source,
) -> Iterator[Problem]:
    """Check the autoscaling of each system, whose nodes are given, against its policy, nodes, load and engine."""
    for number, system in enumerate(section.systems):
        own, path = system.autoscaling, ("systems", number, "autoscaling")
        if own is None:
            continue
        if _seconds(own.interval) < LEAST_INTERVAL_S:
            yield source.problem(
                (*path, "interval"), f"must be {LEAST_INTERVAL_S * 1e3:g} ms or more, got {own.interval}"
            )
        if not engine.loops_inside:
            message = f"needs an engine with return: engine (here {engine.name} with return: coordinator)"
            yield source.problem(path, message)
        yield from _check_policy(own, path, source)
        yield from _check_pools(own, path, nodes[number], source)
        if own.spot is not None:
            yield from _check_spot(own, own.spot, path, nodes[number], source)
        if workload is not None:
            process = (workload.arrivals if system.arrivals is None else system.arrivals).process or "trace"
            if process in PROCESSES and PROCESSES[process].mode is not FeedMode.OPEN:
                yield source.problem(
                    path,
                    f"{process} arrivals adapt to the replicas; expected arrivals that do not depend on the system",
                )
        if own.policy == "goodput" and not section.slo.model_fields_set:
            yield source.problem((*path, "policy"), "goodput needs objectives: slo: {ttft: 1 s, tpot: 50 ms}")


def _check_policy(own: AutoscalingSection, path: KeyPath, source: Source) -> Iterator[Problem]:
    used = OF_POLICY.get(own.policy, ())
    for key in dict.fromkeys(key for keys in OF_POLICY.values() for key in keys):
        if key not in used and getattr(own, key) is not None:
            allowed = ", ".join(used) or "none"
            yield source.problem((*path, key), f"{own.policy} does not use it (it uses: {allowed})")
    if own.options is not None and own.policy in OF_POLICY:
        yield source.problem((*path, "options"), f"{own.policy} has no options (only policies of your own have)")
    required = REQUIRED.get(own.policy)
    if required is not None and getattr(own, required) is None:
        yield source.problem((*path, required), f"required by {own.policy}")
    spec = autoscaling_of(own)
    assert spec is not None
    if own.policy in _THRESHOLDS and spec.policy.low >= spec.policy.high:
        message = f"{spec.policy.low:g} is not below high ({spec.policy.high:g})"
        yield source.problem((*path, "low" if own.low is not None else "high"), message)
    times_s = [one.at_s for one in spec.policy.entries]
    for index, at_s in enumerate(times_s):
        if at_s >= spec.policy.period_s or (index and at_s <= times_s[index - 1]):
            message = f"{at_s:g} s: expected times in ascending order, below the period of {spec.policy.period_s:g} s"
            yield source.problem((*path, "schedule", index, "at"), message)


def _check_spot(
    own: AutoscalingSection, section: SpotSection, path: KeyPath, nodes: Sequence[Node], source: Source
) -> Iterator[Problem]:
    """Refuse policies that count from the replicas that serve, which spare ones are among, and shortages of no zone."""
    if own.policy in ("queue", "kv_use", "goodput"):
        message = f"{own.policy} counts from the replicas that serve; with spot: fixed, schedule, target or your own"
        yield source.problem((*path, "policy"), message)
    zones = section.zones or len({node.region for node in nodes})
    for number, shortage in enumerate(section.shortages or ()):
        if nodes and shortage.zone > zones:
            at = (*path, "spot", "shortages", number, "zone")
            yield source.problem(at, f"there are {zones} zones, got {shortage.zone}")
    pools = own.pools or {}
    spot = _spot_of(own.spot, None, None)
    for one, other in pairwise(() if spot is None else spot.stated):
        if one.zone == other.zone and other.from_ns < one.until_ns:
            message = f"two shortages of zone {one.zone + 1} overlap at {other.from_ns / units.NS_PER_S:g} s"
            yield source.problem((*path, "spot", "shortages"), message)
    if own.policy == "fixed" and (not pools or any(pool.start is None for pool in pools.values())):
        message = "required by fixed with spot, in each pool: the replicas to keep; the others are room for spare ones"
        yield source.problem((*path, "pools"), message)


def _check_pools(own: AutoscalingSection, path: KeyPath, nodes: Sequence[Node], source: Source) -> Iterator[Problem]:
    types = sorted({node_type(node.gpu, node.tp or node.gpus) for node in nodes})
    for name, pool in (own.pools or {}).items():
        at = (*path, "pools", name)
        if types and name not in types:
            yield source.problem(at, unknown_name("type of nodes", name, types))
        if pool.ceiling is not None and pool.ceiling < pool.floor:
            yield source.problem((*at, "ceiling"), f"{pool.ceiling} is below floor ({pool.floor})")
        if pool.activation is not None and (
            pool.floor or own.policy in ("fixed", "schedule") or own.policy not in OF_POLICY
        ):
            message = "of pools with floor: 0 under target, queue, kv_use and goodput"
            yield source.problem((*at, "activation"), message)
        if pool.target is not None and own.policy != "target":
            yield source.problem((*at, "target"), f"{own.policy} does not use it (target does)")
        most = pool.ceiling if pool.ceiling is not None else max(pool.start or 0, pool.floor)
        if pool.start is not None and not pool.floor <= pool.start <= most:
            yield source.problem((*at, "start"), f"{pool.start} is not within floor and ceiling")
