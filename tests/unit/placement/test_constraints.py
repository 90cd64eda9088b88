"""What users ask of a placement beside flow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import builders
import pytest

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement.base import PlacementProblem
from helixsim.placement.constraints import moved_bytes, reassigned
from helixsim.placement.helix import Helix, HelixOptions
from helixsim.placement.select import Candidate, finalists, neighbours, promising
from helixsim.placement.swaps import swapped

BIG, SMALL = builders.profile("big", 4), builders.profile("small", 2)
TABLES = {"big": (400.0, 200.0, 150.0, 100.0), "small": (120.0, 60.0)}


def problem(big: int = 3, small: int = 6) -> PlacementProblem:
    fleet = builders.fleet([BIG] * big + [SMALL] * small, num_layers=8)
    return PlacementProblem(fleet, builders.capacity_of(fleet, TABLES))


def test_excluded_nodes_hold_nothing() -> None:
    placement = Helix().solve(problem(), HelixOptions(exclude=("big-1", "small-[45]")))
    assert not {"big-1", "small-4", "small-5"} & set(placement.ranges)
    assert "big-0" in placement.ranges


def test_layer_limits_hold_for_every_candidate() -> None:
    asked: list[Placement] = []

    def judge(placement: Placement) -> float:
        asked.append(placement)
        return placement.objective_tokens_per_s

    case = problem()
    limited = PlacementProblem(case.fleet, case.capacity, evaluator=judge)
    Helix().solve(limited, HelixOptions(max_layers={"big": 2}))
    assert asked
    assert all(held.layers <= 2 for placement in asked for held in placement.ranges.values())


def test_pinned_nodes_keep_their_ranges() -> None:
    pinned = {"big-2": [0, 4], "small-0": [6, 8]}
    placement = Helix().solve(problem(), HelixOptions(pinned=pinned))
    assert {node: [placement.ranges[node].start, placement.ranges[node].end] for node in pinned} == pinned
    assert placement.objective_tokens_per_s > 0


@pytest.mark.parametrize(
    "options",
    [
        HelixOptions(exclude=("bog-*",)),
        HelixOptions(exclude=("*",)),
        HelixOptions(max_layers={"bog": 2}),
        HelixOptions(max_layers={"big": 0}),
        HelixOptions(pinned={"big-9": [0, 2]}),
        HelixOptions(pinned={"small-0": [0, 3]}),
    ],
)
def test_impossible_wishes_are_refused(options: HelixOptions) -> None:
    with pytest.raises(ConfigError, match="helix: "):
        Helix().solve(problem(), options)


def test_running_placement_is_kept_where_it_is_as_good(tmp_path: Path) -> None:
    """The same layout with roles mirrored among equal nodes moves nothing; without ``previous`` it would."""
    case = problem()
    free = Helix().solve(case, HelixOptions(select="flow"))
    nodes = list(case.fleet.cluster.index)
    mirror = dict(zip(nodes[:3] + nodes[3:], nodes[2::-1] + nodes[:2:-1], strict=True))
    running = {mirror[node]: held for node, held in free.ranges.items()}
    file = tmp_path / "running.json"
    file.write_text(json.dumps({"layers": {node: [held.start, held.end] for node, held in running.items()}}))
    kept = Helix().solve(case, HelixOptions(select="flow", previous=file))
    assert kept.notes["moved_bytes"] == 0
    assert kept.ranges == running
    assert moved_bytes(case.fleet, free.ranges, running) > 0
    assert kept.objective_tokens_per_s >= free.objective_tokens_per_s * 0.99


def test_roles_are_dealt_within_groups_only() -> None:
    case = problem()
    ranges = Helix().solve(case, HelixOptions(select="flow")).ranges
    dealt = reassigned(case.fleet, ranges, {"big-0": LayerRange(4, 8)}, {"small-5": LayerRange(0, 1)})
    assert dealt["small-5"] == LayerRange(0, 1)
    for kind in ("big", "small"):
        before = sorted(held for node, held in ranges.items() if node.startswith(kind))
        after = [held for node, held in dealt.items() if node.startswith(kind) and node != "small-5"]
        assert all(after.count(held) <= before.count(held) for held in after)


def test_judging_closes_in_on_the_best_of_the_frontier() -> None:
    """Eleven candidates, of which the judge sees few at first; the best is beside the best of those."""
    made = [
        Candidate(str(hops), Placement("x", 8, {}, objective_tokens_per_s=10.0 * hops), hops, hops, is_searched=True)
        for hops in range(1, 12)
    ]
    scores = {candidate.name: -abs(candidate.max_hops - 6.0) for candidate in finalists(made, 4)}
    assert "6" not in scores
    while more := neighbours(made, scores):
        scores[more[0].name] = -abs(more[0].max_hops - 6.0)
    assert max(scores, key=scores.__getitem__) == "6"
    assert len(scores) < len(made)


def test_the_promising_are_the_near_heuristics_and_the_best_estimates_each_layout_once() -> None:
    made = [
        Candidate(str(n), Placement("x", 8, {"a": LayerRange(0, 1 + n % 7)}), n, n, is_searched=n < 8)
        for n in range(12)
    ]
    estimates = {candidate.name: 100.0 - candidate.max_hops for candidate in made} | {"11": 10.0}
    chosen = [candidate.name for candidate in promising(made, estimates, 4)]
    assert chosen == ["0", "1", "2", "3"]  # 7 repeats the layout of 0, and 8 to 10 those of 1 to 3
    apart = [replace(c, placement=replace(c.placement, num_layers=8, pipelines={"a": c.max_hops})) for c in made]
    assert [candidate.name for candidate in promising(apart, estimates, 4)] == ["8", "9", "10", "0", "1"]


def test_those_searched_by_operating_capacities_take_turns_with_the_others() -> None:
    made = [
        Candidate(
            str(n),
            Placement("x", 8, {"a": LayerRange(0, 1 + n)}),
            n,
            n,
            is_searched=True,
            by_operating=n in {0, 1, 2, 6},
        )
        for n in range(8)
    ]
    estimates = {candidate.name: 100.0 - candidate.max_hops for candidate in made}
    assert [candidate.name for candidate in promising(made, estimates, 6)] == ["3", "0", "4", "1", "5", "2"]
    assert [candidate.name for candidate in promising(made[:3], estimates, 6)] == ["0", "1", "2"]


def test_missing_room_is_told_in_layers_and_bytes() -> None:
    with pytest.raises(
        InfeasibleError, match=r"hold 6 layers of the 8 of tiny: 2 layers \(6-7\), .*B of weights, do not fit"
    ):
        Helix().solve(problem(1, 1), HelixOptions())


@pytest.mark.parametrize(("nodes", "most", "given"), [(3, 6, 3), (2, 6, 6), (3, 8, 8)])
def test_strategies_without_a_search_leave_usual_room_for_kv(nodes: int, most: int, given: int) -> None:
    """Eight layers: three a node if that is enough nodes, the most that fit if not, all where all fit."""
    kind = replace(builders.profile("k", most), typical_layers_full=3)
    fleet = builders.fleet([kind] * nodes, num_layers=8)
    assert fleet.usual_layers() == {"k": given}


def test_missing_room_is_told_with_the_limit_that_binds() -> None:
    given = problem(1, 1)
    profiles = tuple(replace(profile, limited_by="the cap of the test") for profile in given.fleet.profiles)
    given = replace(given, fleet=replace(given.fleet, profiles=profiles))
    with pytest.raises(InfeasibleError, match=r"most layers of a node: \w+ \d \(the cap of the test\)"):
        Helix().solve(given, HelixOptions())


def test_swaps_find_the_fast_links() -> None:
    """Four equal nodes in two stages; only a-b and c-d are fast, so partners must follow each other."""
    node = builders.profile("n", 2)
    slow, fast = LinkSpec(8 * 1002 * 1.0, 1), LinkSpec(8 * 1002 * 1000.0, 1)
    friends = [("n-0", "n-2"), ("n-1", "n-3")]
    fleet = builders.fleet([node] * 4, num_layers=4, intra=slow, pairs=dict.fromkeys(friends, fast))
    case = PlacementProblem(fleet, builders.capacity_of(fleet, {"n": (200.0, 100.0)}))
    bad = {"n-0": LayerRange(0, 2), "n-2": LayerRange(0, 2), "n-1": LayerRange(2, 4), "n-3": LayerRange(2, 4)}
    assert max_flow_value(fleet, Placement("x", 4, bad), case.capacity) < 110.0
    good, flow = swapped(case, bad, 200.0, steps=200, time_left_s=lambda: 60.0)
    assert flow == pytest.approx(200.0)
    assert max_flow_value(fleet, Placement("x", 4, good), case.capacity) == pytest.approx(200.0)
