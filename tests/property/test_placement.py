"""Laws every strategy obeys on random fleets."""

from __future__ import annotations

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import LinkSpec
from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import paper_capacity
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement import registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check

STRATEGIES = [name for name in registry.names() if name != "fixed"]


@st.composite
def problems(draw: st.DrawFn) -> PlacementProblem:
    kinds = [
        builders.profile(
            name,
            draw(st.integers(1, 5)),
            prefill_ns_per_token=draw(st.floats(500.0, 20_000.0)),
            decode_ns=draw(st.floats(1e5, 5e6)),
        )
        for name in "abc"
    ]
    count = draw(st.integers(2, 9))
    fleet = builders.fleet(
        [draw(st.sampled_from(kinds)) for _ in range(count)],
        num_layers=draw(st.integers(2, 12)),
        regions=[draw(st.sampled_from(["here", "there"])) for _ in range(count)],
        inter=LinkSpec(draw(st.floats(1e6, 1e9)), 1),
    )
    return PlacementProblem(fleet, paper_capacity(fleet, 300, 60))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=12, deadline=None)
@given(problem=problems())
def test_result_is_legal_exact_and_within_its_bound(name: str, problem: PlacementProblem) -> None:
    strategy = registry.get(name)
    try:
        placement = strategy().solve(problem, strategy.Options())
    except InfeasibleError:
        return
    check(problem.fleet, placement)
    flow = max_flow_value(problem.fleet, placement, problem.capacity)
    assert placement.objective_tokens_per_s == pytest.approx(flow, rel=1e-9)
    assert flow <= placement.upper_bound_tokens_per_s * (1 + 1e-6)
    order = [problem.fleet.cluster.index[node] for node in placement.ranges]
    assert order == sorted(order)


@settings(max_examples=12, deadline=None)
@given(problem=problems())
def test_helix_is_no_worse_than_the_heuristics(problem: PlacementProblem) -> None:
    helix = registry.get("helix")
    best = 0.0
    for name in ("swarm", "separate", "homogeneous"):
        strategy = registry.get(name)
        try:
            best = max(best, strategy().solve(problem, strategy.Options()).objective_tokens_per_s)
        except InfeasibleError:
            continue
    if best > 0:
        found = helix().solve(problem, helix.Options())
        assert found.objective_tokens_per_s >= best * (1 - 1e-9)
