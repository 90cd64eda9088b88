"""Max-flow over the states in which failure domains are down."""

from __future__ import annotations

from itertools import product
from math import prod

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.faults import FaultKind, RandomFaults
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.reliability import Reliability, single_losses
from helixsim.flow.availability import flow_availability
from helixsim.flow.losses import Domain, domains_of, flow_without
from helixsim.flow.maxflow import max_flow_value
from helixsim.units import NS_PER_S

HALF = (LayerRange(0, 2), LayerRange(2, 4))


@st.composite
def cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    count = draw(st.integers(2, 7))
    kinds = [builders.profile("a", 4), builders.profile("b", 4)]
    chosen = [draw(st.sampled_from(kinds)) for _ in range(count)]
    regions = [draw(st.sampled_from(["here", "there", "far"])) for _ in range(count)]
    fleet = builders.fleet(chosen, num_layers=4, regions=regions)
    tables = {"a": (90.0, 60.0, 40.0, 30.0), "b": (70.0, 35.0, 20.0, 10.0)}
    table = builders.capacity_of(fleet, {kind.kind: tables[kind.kind] for kind in chosen})
    held = [draw(st.sampled_from([*HALF, LayerRange(0, 4)])) for _ in range(count)]
    placement = Placement("random", 4, dict(zip(fleet.cluster.index, held, strict=True)))
    mtbf_s = draw(st.floats(1.0, 100.0))
    return fleet, table, placement, Reliability(mtbf_s, draw(st.floats(0.1, 30.0)), {"b": mtbf_s / 2})


def by_enumeration(fleet, table, placement, reliability, kind: Domain):  # type: ignore[no-untyped-def]
    """(flow, share of time) of all 2^n states."""
    domains = domains_of(fleet.cluster, kind)
    shares = [
        reliability.down_share(fleet.cluster.node(nodes[0]).node_type if kind == "host" else None)
        for nodes in domains.values()
    ]
    for state in product((False, True), repeat=len(domains)):
        lost = [node for is_down, nodes in zip(state, domains.values(), strict=True) if is_down for node in nodes]
        share = prod(u if is_down else 1 - u for is_down, u in zip(state, shares, strict=True))
        yield flow_without(fleet, placement, table, lost), share


@pytest.mark.parametrize("kind", ["host", "site"])
@settings(max_examples=15, deadline=None)
@given(case=cases(), limit=st.integers(1, 6))
def test_mean_flow_is_the_sum_over_all_states_and_within_bounds_of_a_part(kind: Domain, case, limit: int) -> None:  # type: ignore[no-untyped-def]
    fleet, table, placement, reliability = case
    states = list(by_enumeration(fleet, table, placement, reliability, kind))
    mean = sum(flow * share for flow, share in states)
    whole = flow_availability(fleet, placement, table, reliability, kind)
    assert whole.mean[0] == pytest.approx(mean, rel=1e-5, abs=1e-9)
    assert whole.mean[1] == pytest.approx(mean, rel=1e-5, abs=1e-9)
    level = max_flow_value(fleet, placement, table) * 0.6
    often = sum(share for flow, share in states if flow >= level * (1 - 1e-9))
    if level:
        low, high = whole.share_at_least(level)
        assert low - 1e-6 <= often <= high + 1e-6
    part = flow_availability(fleet, placement, table, reliability, kind, most_flows=limit)
    assert part.mean[0] <= mean * (1 + 1e-9) + 1e-9
    assert part.mean[1] >= mean * (1 - 1e-9) - 1e-9


def test_mean_flow_agrees_with_random_failures_over_time() -> None:
    """Two halves of two nodes each, down a sixth of the time: a schedule of failures has the same mean flow."""
    kind = builders.profile("n", 2)
    fleet = builders.fleet([kind] * 4, num_layers=4)
    table = builders.capacity_of(fleet, {"n": (80.0, 50.0)})
    placement = Placement(
        "by-hand", 4, dict(zip(fleet.cluster.index, [HALF[0], HALF[0], HALF[1], HALF[1]], strict=True))
    )
    reliability = Reliability(50.0, 10.0)
    expected, _ = flow_availability(fleet, placement, table, reliability).mean
    means, end_ns = [], 4000 * NS_PER_S
    known: dict[frozenset[str], float] = {}
    for seed in range(30):
        faults = RandomFaults(50.0, 10.0, tuple((node,) for node in fleet.cluster.index)).drawn(seed, end_ns)
        down, last_ns, total = frozenset[str](), 0, 0.0
        for fault in [*sorted(faults, key=lambda one: one.at_ns), None]:
            at_ns = end_ns if fault is None else min(fault.at_ns, end_ns)
            if down not in known:
                known[down] = flow_without(fleet, placement, table, sorted(down))
            total += known[down] * (at_ns - last_ns)
            last_ns = at_ns
            if fault is not None:
                down = down | set(fault.nodes) if fault.kind is FaultKind.DOWN else down - set(fault.nodes)
        means.append(total / end_ns)
    error = np.std(means, ddof=1) / len(means) ** 0.5
    assert abs(np.mean(means) - expected) < 3 * error + 0.01 * expected  # all nodes are up at the beginning


def test_single_losses_bound_the_mean_of_two_equal_nodes() -> None:
    """Either serves 1 of 2, together 2, each down a tenth of the time: 2 * 0.81 + 1 * 0.18; neither: 0.01."""
    found = single_losses(2.0, [(1.0, 2, 0.1)])
    assert found.mean == pytest.approx((1.8, 1.81))
    assert found.rest_share == pytest.approx(0.01)
    assert found.share_at_least(1.0) == pytest.approx((0.99, 1.0))
    assert found.share_at_least(2.0) == pytest.approx((0.81, 0.81))
