"""The helix strategy: its search, its frontier and its choice."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import builders
import pytest

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.placement import Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.capacity import CapacityTable, upper_bound_share
from helixsim.flow.maxflow import max_flow, max_flow_value
from helixsim.placement import outcome, tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.bounds import configuration_bound
from helixsim.placement.check import check
from helixsim.placement.helix import Helix, HelixOptions
from helixsim.placement.milp import solve_exact
from helixsim.report.selection import selection_sentences

BIG, SMALL = builders.profile("big", 4), builders.profile("small", 2)
TABLES = {"big": (400.0, 200.0, 150.0, 100.0), "small": (120.0, 60.0)}


def mixed_fleet(big: int, small: int, **options: object) -> tuple[Deployment, CapacityTable]:
    fleet = builders.fleet([BIG] * big + [SMALL] * small, num_layers=8, **options)  # type: ignore[arg-type]
    kinds = {profile.kind for profile in fleet.profiles}
    return fleet, builders.capacity_of(fleet, {kind: table for kind, table in TABLES.items() if kind in kinds})


def test_flow_is_exact_and_within_the_bound() -> None:
    fleet, table = mixed_fleet(2, 5)
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    check(fleet, placement)
    assert placement.objective_tokens_per_s == pytest.approx(max_flow_value(fleet, placement, table))
    assert placement.objective_tokens_per_s <= placement.upper_bound_tokens_per_s * (1 + 1e-9)
    assert placement.history[-1][1] == pytest.approx(placement.objective_tokens_per_s)
    assert placement.history[-1][2] <= upper_bound_share(fleet, table)


@pytest.mark.parametrize(("big", "small"), [(1, 4), (2, 2), (2, 3)])
def test_blocks_reach_the_exact_optimum_of_small_fleets(big: int, small: int) -> None:
    fleet, table = mixed_fleet(big, small)
    problem = PlacementProblem(fleet, table)
    found = Helix().solve(problem, HelixOptions(method="blocks"))
    exact = solve_exact(problem, upper_bound_share(fleet, table), start=found.ranges, time_limit_s=600.0)
    assert exact.is_optimal
    assert found.objective_tokens_per_s == pytest.approx(exact.objective_tokens_per_s, rel=1e-6)


def test_configuration_bound_lies_between_the_optimum_and_the_share_bound() -> None:
    fleet, table = mixed_fleet(3, 4)
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    bound = configuration_bound(fleet, table, 0.0)
    assert placement.objective_tokens_per_s <= bound * (1 + 1e-9)
    assert bound <= upper_bound_share(fleet, table) * (1 + 1e-9)


@pytest.mark.parametrize("method", ["exact", "blocks"])
def test_optimum_may_put_two_nodes_in_a_row_beside_one_longer_node(method: Literal["exact", "blocks"]) -> None:
    long, short = builders.profile("long", 4), builders.profile("short", 2)
    fleet = builders.fleet([long, short, short], num_layers=4)
    table = builders.capacity_of(fleet, {"long": (10.0, 10.0, 10.0, 10.0), "short": (100.0, 50.0)})
    problem = PlacementProblem(fleet, table)
    found = Helix().solve(problem, HelixOptions(method=method))
    assert found.objective_tokens_per_s == pytest.approx(60.0)
    assert found.status == "optimal"


def test_exact_method_respects_the_hop_limit() -> None:
    fleet, table = mixed_fleet(2, 1)
    problem = PlacementProblem(fleet, table)
    result = solve_exact(problem, upper_bound_share(fleet, table), max_hops=2, time_limit_s=20.0)
    placement = Placement("exact", 8, result.ranges)
    assert max_flow(fleet, placement, table).max_hops == 2
    assert result.objective_tokens_per_s == pytest.approx(100.0)


def test_exact_method_refuses_large_fleets() -> None:
    fleet, table = mixed_fleet(2, 9)
    with pytest.raises(ConfigError, match="at most 10 nodes"):
        Helix().solve(PlacementProblem(fleet, table), HelixOptions(method="exact"))


def test_a_hop_limit_that_nothing_meets_is_told_at_once() -> None:
    fleet, table = mixed_fleet(2, 6)
    options = HelixOptions(max_hops=1, time_limit_s=60.0)
    started_s = time.process_time()
    with pytest.raises(InfeasibleError, match="within 1 hops"):
        Helix().solve(PlacementProblem(fleet, table), options)
    assert time.process_time() - started_s < options.time_limit_s / 4


def test_fewer_hops_never_give_more_flow() -> None:
    fleet, table = mixed_fleet(3, 6)
    flows = [
        Helix().solve(PlacementProblem(fleet, table), HelixOptions(max_hops=hops)).objective_tokens_per_s
        for hops in (2, 3, 4, 6, 9)
    ]
    assert flows == sorted(flows)
    limited = Helix().solve(PlacementProblem(fleet, table), HelixOptions(max_hops=3))
    assert max_flow(fleet, limited, table).max_hops <= 3


def test_all_nodes_of_the_only_region_are_used() -> None:
    fleet, table = mixed_fleet(3, 6)
    assert len(Helix().solve(PlacementProblem(fleet, table), HelixOptions()).ranges) == 9


def test_judge_overrules_the_flow_and_its_scores_are_noted() -> None:
    fleet, table = mixed_fleet(3, 6)
    asked: list[Placement] = []

    def few_hops(placement: Placement) -> float:
        asked.append(placement)
        return -max_flow(fleet, placement, table).mean_hops

    problem = PlacementProblem(fleet, table, evaluator=few_hops)
    judged = Helix().solve(problem, HelixOptions(candidates=5))
    assert 2 <= len(asked) <= 5
    best = max(few_hops(placement) for placement in list(asked))
    scores = [entry["score"] for entry in judged.notes["candidates"] if entry["score"] is not None]
    assert max(scores) == pytest.approx(best)
    assert -max_flow(fleet, judged, table).mean_hops == pytest.approx(best)
    by_flow = Helix().solve(problem, HelixOptions(select="flow"))
    assert by_flow.objective_tokens_per_s >= judged.objective_tokens_per_s


def test_graphs_too_large_for_the_estimate_are_left_out_and_named(monkeypatch) -> None:
    """Where no estimate is asked for, and for the only candidate, there is no limit."""
    fleet, table = mixed_fleet(2, 2)
    by_flow = PlacementProblem(fleet, table)
    raced = replace(by_flow, estimate=lambda _: 1.0, evaluator=lambda _: 1.0)
    free = Helix().solve(by_flow, HelixOptions())
    names = [one["name"] for one in Helix().solve(raced, HelixOptions()).notes["candidates"]]
    monkeypatch.setattr(tuning, "MAX_ARCS", 0)
    monkeypatch.setattr(outcome, "max_flow_value", None)  # the search computes the flows of heuristics itself, once
    found = Helix().solve(raced, HelixOptions())
    assert [one["name"] for one in found.notes["candidates"]] == names[:1]
    assert set(names[1:]) <= set(found.notes["too_large"])
    assert any(f"{names[1]} (" in sentence for sentence in selection_sentences(found.notes))
    assert "too_large" not in free.notes
    assert Helix().solve(by_flow, HelixOptions()).notes == free.notes


def test_ctrl_c_keeps_what_was_found() -> None:
    fleet, table = mixed_fleet(3, 6)

    def interrupt(what: str, _seconds: float, _objective: float, _bound: float) -> None:
        if what.startswith("blocks"):
            raise KeyboardInterrupt

    placement = Helix().solve(PlacementProblem(fleet, table, progress=interrupt), HelixOptions())
    assert placement.notes["interrupted"]
    assert placement.status in {"feasible", "optimal"}
    check(fleet, placement)


def test_ctrl_c_while_judging_leaves_the_choice_to_the_flow() -> None:
    fleet, table = mixed_fleet(3, 6)

    def interrupt(_placement: Placement) -> float:
        raise KeyboardInterrupt

    kept = Helix().solve(PlacementProblem(fleet, table, evaluator=interrupt), HelixOptions())
    assert kept.notes["interrupted"]
    assert all(entry["score"] is None for entry in kept.notes["candidates"])
    largest = max(entry["max_flow_tokens_per_s"] for entry in kept.notes["candidates"])
    assert kept.objective_tokens_per_s == pytest.approx(largest)


@pytest.mark.parametrize(
    "options", [HelixOptions(max_hops=0), HelixOptions(candidates=0), HelixOptions(time_limit_s=0)]
)
def test_options_out_of_range_are_refused(options: HelixOptions) -> None:
    fleet, table = mixed_fleet(1, 4)
    with pytest.raises(ConfigError, match="allowed"):
        Helix().solve(PlacementProblem(fleet, table), options)


def test_model_that_does_not_fit_is_infeasible() -> None:
    fleet, table = mixed_fleet(1, 1)
    with pytest.raises(InfeasibleError, match="together hold 6 layers"):
        Helix().solve(PlacementProblem(fleet, table), HelixOptions())


def test_two_runs_agree() -> None:
    fleet, table = mixed_fleet(3, 7)
    first, second = (Helix().solve(PlacementProblem(fleet, table), HelixOptions()) for _ in range(2))
    assert first.ranges == second.ranges
    assert list(first.ranges) == list(second.ranges)
    assert first.notes == second.notes


def far_apart(fleet: Deployment, tokens_per_s: float) -> Deployment:
    slow = LinkSpec(8 * 1002 * tokens_per_s, 50_000_000)
    network = replace(fleet.cluster.network, inter_region=slow)
    return replace(fleet, cluster=replace(fleet.cluster, network=network, coordinator_region="elsewhere"))


def test_regions_that_hold_the_model_serve_on_their_own() -> None:
    fleet, table = mixed_fleet(4, 0, regions=["east", "west", "east", "west"])
    fleet = far_apart(fleet, 1.0)
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    assert placement.objective_tokens_per_s == pytest.approx(200.0, rel=0.02)


def test_replicas_that_exchange_no_tokens_are_a_candidate_of_their_own() -> None:
    """A judge that counts pipelines gets one for each region; max-flow alone may let regions mix."""
    fleet, table = mixed_fleet(4, 0, regions=["east", "west", "east", "west"])
    fleet = far_apart(fleet, 1.0)

    def pipelines(placement: Placement) -> float:
        return len(set(placement.pipelines.values())) * len(placement.ranges)

    placement = Helix().solve(PlacementProblem(fleet, table, evaluator=pipelines), HelixOptions(candidates=20))
    replicas = max_flow(fleet, placement, table).replicas
    regions = sorted(sorted({fleet.cluster.region_of(node) for node in nodes}) for nodes in replicas)
    assert regions == [["east"], ["west"]]
    assert placement.objective_tokens_per_s == pytest.approx(200.0, rel=0.02)


def test_chain_crosses_regions_where_enough_nodes_face_each_other() -> None:
    """Neither region holds the model; one link carries 30 of 100 tokens/s, two nodes facing two carry 120."""
    medium = builders.profile("medium", 4)
    fleet = builders.fleet([medium] * 4, num_layers=8, regions=["east", "east", "west", "west"])
    table = builders.capacity_of(fleet, {"medium": (400.0, 200.0, 150.0, 50.0)})
    fleet = far_apart(fleet, 30.0)
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    assert placement.objective_tokens_per_s == pytest.approx(100.0)


def test_large_fleets_are_searched_as_a_whole() -> None:
    fleet, table = mixed_fleet(40, 60)
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions(max_hops=4, select="flow"))
    check(fleet, placement)
    assert placement.objective_tokens_per_s > 0.6 * placement.upper_bound_tokens_per_s


def test_many_regions_are_joined_by_their_links() -> None:
    regions = ["a", "b", "c", "d", "e"] * 2
    fleet, table = mixed_fleet(5, 5, regions=regions)
    placement = Helix().solve(PlacementProblem(far_apart(fleet, 500.0), table), HelixOptions())
    check(fleet, placement)
    assert placement.objective_tokens_per_s > 0
