"""Placements that keep a route after the loss of any one failure domain."""

from __future__ import annotations

from itertools import product

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.capacity import paper_capacity, upper_bound_share
from helixsim.flow.losses import Domain, domains_of, worst_loss
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement import registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.helix import Helix
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.milp import solve_exact


@st.composite
def problems(draw: st.DrawFn, most: int, longest: int) -> PlacementProblem:
    kinds = [
        builders.profile(name, draw(st.integers(1, 4)), prefill_ns_per_token=draw(st.floats(500.0, 20_000.0)))
        for name in "ab"
    ]
    count = draw(st.integers(2, most))
    fleet = builders.fleet(
        [draw(st.sampled_from(kinds)) for _ in range(count)],
        num_layers=draw(st.integers(2, longest)),
        regions=["here", *(draw(st.sampled_from(["here", "there"])) for _ in range(count - 2)), "there"],
        inter=LinkSpec(draw(st.floats(1e5, 1e9)), 1),
    )
    return PlacementProblem(fleet, paper_capacity(fleet, 300, 60))


def kept_by_enumeration(problem: PlacementProblem, placement: Placement, kind: Domain) -> float:
    """The least max-flow over all losses, each computed on the cluster without its nodes."""
    flows = []
    for nodes in domains_of(problem.fleet.cluster, kind).values():
        left = problem.fleet.without(set(nodes), paid=set())
        flows.append(max_flow_value(left, placement.part(set(left.cluster.index)), problem.capacity))
    return min(flows)


@pytest.mark.parametrize("kind", ["host", "site"])
@pytest.mark.parametrize("name", ["petals", "swarm", "replicas", "separate", "homogeneous", "parallax"])
@settings(max_examples=5, deadline=None)
@given(problem=problems(8, 8))
def test_worst_loss_is_the_minimum_over_all_losses(name: str, kind: Domain, problem: PlacementProblem) -> None:
    strategy = registry.get(name)
    try:
        placement = strategy().solve(problem, strategy.Options())
    except InfeasibleError:
        return
    worst = worst_loss(problem.fleet, placement, problem.capacity, kind)
    assert worst.max_flow_tokens_per_s == pytest.approx(kept_by_enumeration(problem, placement, kind), rel=1e-9)
    assert worst.max_flow_tokens_per_s <= placement.objective_tokens_per_s * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["host", "site"])
@settings(max_examples=25, deadline=None)
@given(problem=problems(6, 7))
def test_what_helix_keeps_is_exact_within_its_bound_and_no_less_than_heuristics_keep(
    kind: Domain, problem: PlacementProblem
) -> None:
    kept = {}
    for name in ("petals", "swarm", "separate", "homogeneous"):
        strategy = registry.get(name)
        try:
            made = strategy().solve(problem, strategy.Options())
        except InfeasibleError:
            continue
        kept[name] = kept_by_enumeration(problem, made, kind)
    try:
        placement = Helix().solve(problem, HelixOptions(survive=kind, partial_inference=True))
    except InfeasibleError:
        assert max(kept.values(), default=0.0) == 0.0
        return
    notes = placement.notes["survival"]
    assert notes["kept_tokens_per_s"] == pytest.approx(kept_by_enumeration(problem, placement, kind), rel=1e-9)
    assert 0 < notes["kept_tokens_per_s"] <= notes["bound_tokens_per_s"] * (1 + 1e-9)
    assert notes["kept_tokens_per_s"] >= max(kept.values(), default=0.0) * (1 - 1e-9)
    assert notes["price"] == pytest.approx(1 - placement.objective_tokens_per_s / notes["most_tokens_per_s"])


@pytest.mark.parametrize("kind", ["host", "site"])
def test_exact_program_finds_the_best_of_all_placements(kind: Domain) -> None:
    long, short = builders.profile("long", 2), builders.profile("short", 1)
    fleet = builders.fleet([long, long, short, short], num_layers=2, regions=["a", "b", "a", "b"])
    table = builders.capacity_of(fleet, {"long": (90.0, 50.0), "short": (40.0,)})
    problem = PlacementProblem(fleet, table)
    ranges = {"long": (None, (0, 1), (1, 2), (0, 2)), "short": (None, (0, 1), (1, 2))}
    best = 0.0
    for held in product(*(ranges[node.node_type] for node in fleet.cluster.nodes)):
        pairs = zip(fleet.cluster.index, held, strict=True)
        placement = Placement("all", 2, {node: LayerRange(*pair) for node, pair in pairs if pair is not None})
        best = max(best, kept_by_enumeration(problem, placement, kind))
    exact = solve_exact(problem, upper_bound_share(fleet, table), survive=kind, time_limit_s=60.0)
    assert exact.is_optimal
    assert exact.objective_tokens_per_s == pytest.approx(best, rel=1e-6)
    placement = Placement("exact", 2, exact.ranges)
    assert kept_by_enumeration(problem, placement, kind) == pytest.approx(best, rel=1e-6)
    searched = Helix().solve(problem, HelixOptions(survive=kind)).notes["survival"]
    assert searched["kept_tokens_per_s"] <= best * (1 + 1e-9) <= searched["bound_tokens_per_s"] * (1 + 2e-9)
    found = Helix().solve(problem, HelixOptions(survive=kind, method="exact")).notes["survival"]
    assert found["kept_tokens_per_s"] == pytest.approx(best, rel=1e-6)
    assert found["gap"] <= 1e-4


def test_equal_nodes_keep_what_one_less_in_each_stage_carries() -> None:
    """Six nodes of two layers each for four layers: three in each half; without one, two carry 2 * 50, and no more."""
    kind = builders.profile("n", 2)
    fleet = builders.fleet([kind] * 6, num_layers=4)
    problem = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (80.0, 50.0)}))
    placement = Helix().solve(problem, HelixOptions(survive="host"))
    assert placement.notes["survival"]["kept_tokens_per_s"] == pytest.approx(100.0)
    assert placement.notes["survival"]["bound_tokens_per_s"] == pytest.approx(100.0, rel=0.01)
    assert placement.objective_tokens_per_s == pytest.approx(150.0)
    assert placement.notes["survival"]["price"] == pytest.approx(0.0)


def test_surviving_has_a_price_where_the_largest_flow_has_no_second_node() -> None:
    """One fast node holds all layers at 100 tokens/s, two slow ones together 20: a chain of the slow ones is added."""
    fast, slow = builders.profile("fast", 4), builders.profile("slow", 2)
    fleet = builders.fleet([fast, slow, slow, slow], num_layers=4)
    table = builders.capacity_of(fleet, {"fast": (400.0, 300.0, 200.0, 100.0), "slow": (120.0, 110.0)})
    problem = PlacementProblem(fleet, table)
    free = Helix().solve(problem, HelixOptions())
    placement = Helix().solve(problem, HelixOptions(survive="host"))
    notes = placement.notes["survival"]
    assert kept_by_enumeration(problem, free, "host") < notes["kept_tokens_per_s"]
    assert 0 < notes["price"] < 1
    assert notes["most_tokens_per_s"] == pytest.approx(free.objective_tokens_per_s)


def test_no_placement_survives_where_the_rest_cannot_hold_the_model() -> None:
    kind = builders.profile("n", 2)
    fleet = builders.fleet([kind] * 2, num_layers=4)
    problem = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (80.0, 50.0)}))
    with pytest.raises(InfeasibleError, match=r"survive: host.*loses its last route"):
        Helix().solve(problem, HelixOptions(survive="host"))


def test_a_domain_must_have_another_beside_it() -> None:
    fleet = builders.fleet([builders.profile("n", 4)] * 2, num_layers=4)
    problem = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (80.0, 50.0, 40.0, 30.0)}))
    with pytest.raises(ConfigError, match="survive: the cluster has one site"):
        Helix().solve(problem, HelixOptions(survive="site"))
