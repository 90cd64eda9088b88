"""Laws every strategy obeys on random fleets."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.placement import Placement
from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import paper_capacity, upper_bound_share
from helixsim.flow.maxflow import max_flow, max_flow_value
from helixsim.placement import registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.bounds import configuration_bound
from helixsim.placement.check import check
from helixsim.placement.milp import solve_exact

STRATEGIES = [name for name in registry.names() if name != "fixed"]


@st.composite
def problems(
    draw: st.DrawFn, most: int = 9, longest: int = 12, inter_bps: tuple[float, float] = (1e6, 1e9)
) -> PlacementProblem:
    kinds = [
        builders.profile(
            name,
            draw(st.integers(1, 5)),
            prefill_ns_per_token=draw(st.floats(500.0, 20_000.0)),
            decode_ns=draw(st.floats(1e5, 5e6)),
        )
        for name in "abc"
    ]
    count = draw(st.integers(2, most))
    fleet = builders.fleet(
        [draw(st.sampled_from(kinds)) for _ in range(count)],
        num_layers=draw(st.integers(2, longest)),
        regions=[draw(st.sampled_from(["here", "there"])) for _ in range(count)],
        inter=LinkSpec(draw(st.floats(*inter_bps)), 1),
    )
    return PlacementProblem(fleet, paper_capacity(fleet, 300, 60))


def small_problems(most: int, longest: int) -> st.SearchStrategy[PlacementProblem]:
    """Links between regions from far below what a node passes to far above."""
    return st.one_of(problems(most, longest), problems(most + 1, longest, inter_bps=(1e3, 1e6)))


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
@given(problem=problems(most=7))
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


def assert_bound_holds(problem: PlacementProblem) -> None:
    share = upper_bound_share(problem.fleet, problem.capacity)
    bound = configuration_bound(problem.fleet, problem.capacity)
    assert bound <= share * (1 + 1e-9)
    if share > 0:
        exact = solve_exact(problem, share, max_nodes=3000)
        assert exact.objective_tokens_per_s <= bound * (1 + 1e-6)


@settings(max_examples=20, deadline=None)
@given(problem=small_problems(3, 5))
def test_bound_is_no_lower_than_the_exact_optimum(problem: PlacementProblem) -> None:
    assert_bound_holds(problem)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(problem=small_problems(5, 7))
def test_bound_is_no_lower_than_the_exact_optimum_of_more_nodes(problem: PlacementProblem) -> None:
    assert_bound_holds(problem)


def barely_linked() -> PlacementProblem:
    """Two sites with slow links: without the last node, their share bounds add up to more than that of all nodes."""
    tables = {"a": (5500.0, 2750.0, 1830.0), "b": (5300.0, 2650.0), "c": (58_000.0,)}
    kinds = {name: builders.profile(name, len(table)) for name, table in tables.items()}
    here, there = "babac", "aaa"
    fleet = builders.fleet(
        [kinds[name] for name in there + here],
        num_layers=7,
        regions=["there"] * len(there) + ["here"] * len(here),
        inter=LinkSpec(1e5, 1),
    )
    return PlacementProblem(fleet, builders.capacity_of(fleet, tables))


@settings(max_examples=25, deadline=None)
@given(problem=st.one_of(problems(), problems(inter_bps=(1e3, 1e6))))
@example(problem=barely_linked())
def test_another_node_never_lowers_the_bound(problem: PlacementProblem) -> None:
    """Among equal tables: the capacities of other nodes are held as they are."""
    fleet = problem.fleet
    fewer = replace(fleet, cluster=replace(fleet.cluster, nodes=fleet.cluster.nodes[:-1]), profiles=fleet.profiles[:-1])
    less = configuration_bound(fewer, problem.capacity)
    assert less <= configuration_bound(fleet, problem.capacity) * (1 + 1e-4)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_helix_never_loses_to_a_baseline_by_any_score(problem: PlacementProblem) -> None:
    """The judge scores flow for each hop here; every heuristic the search knows is among those judged."""

    def judge(placement: Placement) -> float:
        plan = max_flow(problem.fleet, placement, problem.capacity)
        return plan.max_flow_tokens_per_s / plan.mean_hops if plan.mean_hops else 0.0

    helix = registry.get("helix")
    scores = []
    for name in ("swarm", "separate", "homogeneous"):
        strategy = registry.get(name)
        try:
            scores.append(judge(strategy().solve(problem, strategy.Options())))
        except InfeasibleError:
            continue
    if scores:
        found = helix().solve(replace(problem, evaluator=judge), helix.Options())
        assert judge(found) >= max(scores) * (1 - 1e-9)
