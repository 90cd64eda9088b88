"""How a search chooses among what it has: moves, idle nodes, swaps."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import builders
import pytest

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement.base import PlacementProblem
from helixsim.placement.select import Candidate, best, finalists, frontier
from helixsim.placement.stages import NodeGroup, SegmentNode, StageGroup, lay_out
from helixsim.placement.swaps import swapped


def candidate(name: str, flow: float, moved_bytes: int = 0, *, hops: int = 2) -> Candidate:
    return Candidate(name, Placement("x", 8, {}, objective_tokens_per_s=flow), hops, hops, True, moved_bytes)


MOVES = [candidate("a", 100.0, 30), candidate("b", 99.2, 20), candidate("c", 97.0, 10), candidate("d", 50.0, 0)]


@pytest.mark.parametrize(("tolerance", "chosen"), [(0.0, "a"), (0.005, "a"), (0.01, "b"), (0.05, "c"), (0.6, "d")])
@pytest.mark.parametrize("is_judged", [False, True])
def test_of_those_within_the_tolerance_the_one_that_moves_least_is_taken(tolerance, chosen, is_judged) -> None:
    scores = {one.name: one.flow_tokens_per_s / 7 for one in MOVES} if is_judged else {}
    assert best(MOVES, scores, tolerance).name == chosen


def test_the_tolerance_is_a_share_of_scores_below_zero_too() -> None:
    scores = {"a": -1.0, "b": -1.005, "c": -1.03}
    assert best(MOVES[:3], scores, 0.01).name == "b"
    assert best(MOVES[:3], scores, 0.0).name == "a"


def test_what_was_not_judged_is_not_near_the_best() -> None:
    assert best(MOVES, {"b": 5.0, "c": 1.0}, 0.1).name == "b"


def test_without_moves_score_decides_then_flow_then_hops() -> None:
    made = [candidate("a", 10.0, hops=3), candidate("b", 10.0, hops=2), candidate("c", 9.0)]
    assert best(made, {}, 0.5).name == "b"
    assert best(made, {"a": 1.0, "b": 1.0, "c": 2.0}, 0.5).name == "c"


def test_the_frontier_has_no_candidate_that_another_beats_in_both() -> None:
    made = [
        candidate(f"{flow}-{hops}", flow, hops=hops) for flow, hops in ((9, 5), (9, 6), (7, 3), (8, 5), (5, 3), (4, 1))
    ]
    assert [one.name for one in frontier(made)] == ["9-5", "7-3", "4-1"]
    assert [one.name for one in finalists(made, 2)] == ["9-5", "4-1"]  # thinned evenly: both ends stay


def test_every_heuristic_is_judged_whatever_its_flow() -> None:
    heuristics = [replace(candidate(name, flow), is_searched=False) for name, flow in (("x", 1), ("y", 2), ("z", 3))]
    judged = finalists([*heuristics, candidate("found", 9.0)], 2)
    assert {one.name for one in judged} == {"x", "y", "z", "found"}


def groups(*, idle: int, kv: tuple[int, int] = (100, 1000)) -> tuple[NodeGroup, ...]:
    """Kinds x and y in region a, ``idle`` more x than are used; z in region b is the bottleneck."""
    return (
        NodeGroup("x", "a", tuple(f"x{n}" for n in range(1 + idle)), (500.0, 500.0), (kv[0], kv[0])),
        NodeGroup("y", "a", ("y0",), (300.0, 300.0), (kv[1], kv[1])),
        NodeGroup("z", "b", ("z0",), (100.0, 100.0), (50, 50)),
    )


def row(*numbers: int) -> list[StageGroup]:
    """Stages of two layers, one node each."""
    return [StageGroup.of(2, [(SegmentNode(number, 2),)]) for number in numbers]


@pytest.mark.parametrize("kv", [(100, 1000), (1000, 100)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_idle_nodes_that_raise_no_flow_go_where_memory_is_scarcest(kv, order) -> None:
    placed = lay_out(groups(idle=1, kv=kv), [row(*order)])
    scarce = "x0" if kv[0] < kv[1] else "y0"
    assert placed["x1"] == placed[scarce]


def test_idle_nodes_first_raise_the_flow_where_they_can() -> None:
    """Without the far bottleneck y is the slowest: the idle node goes there, memory or not."""
    placed = lay_out(groups(idle=1, kv=(100, 1000)), [row(0, 1)])
    assert placed["x1"] == placed["y0"]
    assert "z0" not in placed  # no range in its region


def test_each_idle_node_counts_for_the_next() -> None:
    """Two more nodes: the first makes x's range hold 200, still less than 300 of y, so the second joins it too."""
    placed = lay_out(groups(idle=2, kv=(100, 300)), [row(0, 1, 2)])
    assert placed["x1"] == placed["x2"] == placed["x0"]
    placed = lay_out(groups(idle=2, kv=(100, 150)), [row(0, 1, 2)])
    assert {placed["x1"], placed["x2"]} == {placed["x0"], placed["y0"]}
    assert set(lay_out(groups(idle=2), [row(0, 1, 2)], use_idle=False)) == {"x0", "y0", "z0"}


def test_swaps_cross_plateaus() -> None:
    """Five stages in a row carry what their slowest link does, so that nothing is gained before all links are fast.

    The order of the nodes is four exchanges away from the right one, more than are tried at once.
    """
    node = builders.profile("n", 1)
    slow, fast = LinkSpec(8 * 1002 * 1.0, 1), LinkSpec(8 * 1002 * 1000.0, 1)
    row = [f"n-{number}" for number in range(5)]
    friends = dict.fromkeys(pairwise(row), fast)
    fleet = builders.fleet([node] * 5, num_layers=5, intra=slow, pairs=friends)
    case = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (200.0,)}))
    shuffled = {row[(number + 1) % 5]: LayerRange(number, number + 1) for number in range(5)}
    before = max_flow_value(fleet, Placement("x", 5, shuffled), case.capacity)
    good, flow = swapped(case, shuffled, 200.0, steps=3000, time_left_s=lambda: math.inf)
    assert before < 10
    assert flow == pytest.approx(200.0)
    assert good == {name: LayerRange(number, number + 1) for number, name in enumerate(row)}


def test_swaps_stop_when_the_time_is_up_or_the_target_is_met() -> None:
    node = builders.profile("n", 1)
    fleet = builders.fleet([node] * 2, num_layers=2)
    case = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (200.0,)}))
    ranges = {"n-0": LayerRange(0, 1), "n-1": LayerRange(1, 2)}
    for target, left in ((200.0, math.inf), (900.0, 0.0)):
        assert swapped(case, ranges, target, steps=50, time_left_s=lambda left=left: left) == (ranges, 200.0)


def test_swaps_never_lose_flow() -> None:
    """The right order of three nodes, of which any exchange breaks a fast link, and a target out of reach."""
    node = builders.profile("n", 1)
    slow, fast = LinkSpec(8 * 1002 * 1.0, 1), LinkSpec(8 * 1002 * 1000.0, 1)
    row = ["n-0", "n-1", "n-2"]
    fleet = builders.fleet([node] * 3, num_layers=3, intra=slow, pairs=dict.fromkeys(pairwise(row), fast))
    case = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (200.0,)}))
    right = {name: LayerRange(number, number + 1) for number, name in enumerate(row)}
    for steps in range(1, 12):
        found, flow = swapped(case, right, 900.0, steps=steps, time_left_s=lambda: math.inf)
        assert flow == max_flow_value(fleet, Placement("x", 3, found), case.capacity) == pytest.approx(200.0)


@pytest.mark.parametrize("replicas", [{"n-0": 0, "n-1": 0, "n-2": 1, "n-3": 1}, {"n-0": 0, "n-1": 0}])
def test_nodes_exchange_roles_within_their_replica_only(replicas: dict[str, int]) -> None:
    """Every exchange leaves the flow as it is, and the target is out of reach: all steps are taken."""
    fleet = builders.fleet([builders.profile("n", 1)] * 6, num_layers=2)
    case = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (200.0,)}))
    ranges = {node: LayerRange(number % 2, number % 2 + 1) for number, node in enumerate(replicas)}
    seen = set()
    for steps in range(1, 40):
        found, _ = swapped(case, ranges, 900.0, replicas=replicas, steps=steps, time_left_s=lambda: math.inf)
        assert set(found) == set(ranges)  # nodes of no replica hold nothing
        for replica in set(replicas.values()):
            held = [found[node].start for node in replicas if replicas[node] == replica]
            assert sorted(held) == [0, 1]
        seen.add(tuple(found[node].start for node in replicas))
    assert len(seen) > len(set(replicas.values()))  # each replica has exchanged some
