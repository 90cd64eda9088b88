"""Swarm, Petals, separate and homogeneous placements on fleets small enough to follow by hand."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from helixsim.domain.cluster import Deployment
from helixsim.domain.hardware import Ends
from helixsim.domain.placement import LayerRange
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.maxflow import max_flow
from helixsim.placement import registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.homogeneous import Homogeneous, HomogeneousOptions
from helixsim.placement.petals import Petals, PetalsOptions
from helixsim.placement.separate import Separate, SeparateOptions
from helixsim.placement.swarm import Swarm, SwarmOptions

BIG, SMALL = builders.profile("big", 6), builders.profile("small", 2)


def problem(fleet: Deployment) -> PlacementProblem:
    tables = {"big": (600.0, 300.0, 200.0, 150.0, 120.0, 100.0), "small": (100.0, 50.0)}
    kinds = {profile.kind for profile in fleet.profiles}
    table = builders.capacity_of(fleet, {kind: values for kind, values in tables.items() if kind in kinds})
    return PlacementProblem(fleet, table)


def test_swarm_gives_each_node_to_the_weakest_stage() -> None:
    fleet = builders.fleet([SMALL, SMALL, SMALL, BIG, BIG, SMALL], num_layers=8)
    placement = Swarm().solve(problem(fleet), SwarmOptions())
    # Stages of two layers; 300 and 300 open the first two, the small ones (50, last of the list first) fill the rest.
    assert {node: layers.start for node, layers in placement.ranges.items()} == {
        "big-1": 0, "big-0": 2, "small-3": 4, "small-2": 6, "small-1": 4, "small-0": 6,
    }  # fmt: skip
    assert placement.objective_tokens_per_s == pytest.approx(100.0)


def test_swarm_stages_differ_by_one_layer_where_they_must() -> None:
    fleet = builders.fleet([BIG, BIG, BIG], num_layers=8)
    placement = Swarm().solve(problem(fleet), SwarmOptions(stages=3))
    assert sorted(layers.layers for layers in placement.ranges.values()) == [2, 3, 3]


def test_swarm_leaves_out_nodes_too_small_for_a_stage_and_says_so() -> None:
    fleet = builders.fleet([BIG, BIG, SMALL], num_layers=8)
    placement = Swarm().solve(problem(fleet), SwarmOptions(stages=2))
    assert placement.notes["too_small_for_a_stage"] == ["small-0"]


@pytest.mark.parametrize(("stages", "message"), [(0, "allowed: 1 to 8"), (9, "allowed: 1 to 8"), (4, "need 4 nodes")])
def test_swarm_refuses_impossible_stages(stages: int, message: str) -> None:
    fleet = builders.fleet([BIG, BIG], num_layers=8)
    with pytest.raises(InfeasibleError, match=message):
        Swarm().solve(problem(fleet), SwarmOptions(stages=stages))


def test_petals_first_arrival_starts_at_layer_zero_and_windows_are_full() -> None:
    fleet = builders.fleet([BIG, BIG, SMALL, SMALL], num_layers=8)
    placement = Petals().solve(problem(fleet), PetalsOptions(seed=1))
    assert min(layers.start for layers in placement.ranges.values()) == 0
    assert {node: layers.layers for node, layers in placement.ranges.items()} == {
        "big-0": 6, "big-1": 6, "small-0": 2, "small-1": 2,
    }  # fmt: skip
    assert placement.partial_inference


def test_separate_splits_each_kind_evenly_with_larger_shares_last() -> None:
    fleet = builders.fleet([BIG] * 3 + [SMALL] * 4, num_layers=8)
    placement = Separate().solve(problem(fleet), SeparateOptions())
    assert [placement.ranges[f"big-{i}"] for i in range(3)] == [LayerRange(0, 2), LayerRange(2, 5), LayerRange(5, 8)]
    assert [placement.ranges[f"small-{i}"].layers for i in range(4)] == [2, 2, 2, 2]
    assert placement.objective_tokens_per_s == pytest.approx(200.0 + 50.0)


@pytest.mark.parametrize(
    ("num_layers", "shares"),
    [(8, [2, 2, 2, 2]), (9, [2, 2, 3, 2]), (10, [2, 3, 3, 2]), (11, [3, 3, 3, 2]), (12, [3, 3, 3, 3])],
)
def test_separate_spares_the_ends_where_they_hold_embedding_and_head(num_layers, shares) -> None:
    """vLLM's get_pp_indices gives layers that are left over to the stages before the last one."""
    ends = replace(BIG, ends_bytes=Ends(1, 1, 2), block_bytes=1.0)
    fleet = builders.fleet([ends] * 4, num_layers=num_layers)
    ranges = Separate().solve(problem(fleet), SeparateOptions()).ranges
    assert [held.layers for held in sorted(ranges.values(), key=lambda held: held.start)] == shares


def test_separate_pipelines_exchange_no_tokens() -> None:
    fleet = builders.fleet([BIG] * 4 + [SMALL] * 4, num_layers=8)  # both cut at 2, 4 and 6
    case = problem(fleet)
    placement = Separate().solve(case, SeparateOptions())
    plan = max_flow(fleet, placement, case.capacity)
    assert all(len({node.split("-")[0] for node, _ in route.hops}) == 1 for route, _ in plan.routes)


def test_separate_keeps_a_region_together() -> None:
    fleet = builders.fleet([BIG] * 4, num_layers=8, regions=["a", "b", "a", "b"])
    ranges = Separate().solve(problem(fleet), SeparateOptions()).ranges
    order = sorted(ranges, key=lambda node: ranges[node].start)
    assert order == ["big-0", "big-2", "big-1", "big-3"]


def test_separate_leaves_out_small_kinds_or_joins_them() -> None:
    medium = builders.profile("medium", 3)
    fleet = builders.fleet([BIG, BIG, SMALL, SMALL, medium, medium], num_layers=8)
    tables = {"big": (600.0,) * 6, "small": (100.0, 50.0), "medium": (100.0,) * 3}
    case = PlacementProblem(fleet, builders.capacity_of(fleet, tables))
    alone = Separate().solve(case, SeparateOptions())
    assert alone.notes["kinds_left_out"] == ["small", "medium"]
    joined = Separate().solve(case, SeparateOptions(leftover=True))
    assert len(joined.ranges) == 6
    assert joined.notes["pipelines"] == 2
    assert joined.objective_tokens_per_s == pytest.approx(650.0)


def test_separate_without_a_kind_that_holds_the_model_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="big: 6, small: 4"):
        Separate().solve(problem(builders.fleet([BIG, SMALL, SMALL], num_layers=8)), SeparateOptions())


def test_separate_with_more_nodes_than_layers_forms_several_pipelines() -> None:
    fleet = builders.fleet([SMALL] * 9, num_layers=4)
    placement = Separate().solve(problem(fleet), SeparateOptions())
    assert placement.notes["pipelines"] == 3
    assert len(placement.ranges) == 9


def test_homogeneous_fills_one_pipeline_after_the_other() -> None:
    fleet = builders.fleet([SMALL, SMALL, BIG, BIG, BIG], num_layers=8)
    placement = Homogeneous().solve(problem(fleet), HomogeneousOptions())
    assert placement.notes["pipelines"] == 2
    assert sorted(placement.pipelines.values()) == [0, 0, 1, 1]
    assert placement.notes["unused"] in (["small-0"], ["small-1"])


def test_homogeneous_without_a_complete_pipeline_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="hold 6 of the 8 layers"):
        Homogeneous().solve(problem(builders.fleet([BIG], num_layers=8)), HomogeneousOptions())


def test_registry_knows_every_strategy_and_suggests_names() -> None:
    for name in registry.names():
        found = registry.get(name)
        assert found.summary
        assert found.Options
    assert registry.get("helixsim.placement.swarm:Swarm") is Swarm
    with pytest.raises(ConfigError, match="did you mean 'petals'"):
        registry.get("petal")
