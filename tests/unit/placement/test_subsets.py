"""Placements on parts of the nodes."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check
from helixsim.placement.helix import _Search
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.heuristics import FEW_NODES
from helixsim.placement.select import Candidate, contenders
from helixsim.placement.subsets import part_of, subsets

LAYERS = 8


def problem_of(nodes) -> PlacementProblem:
    kinds = {most: builders.profile(f"k{most}", most, decode_ns=1e6 * (10 - most)) for most, _ in nodes}
    made = builders.fleet([kinds[most] for most, _ in nodes], num_layers=LAYERS, regions=[r for _, r in nodes])
    fleet = replace(made, model=replace(made.model, max_context_tokens=100))
    tables = {profile.kind: (100.0,) * len(profile.kv_blocks) for profile in fleet.profiles}
    return PlacementProblem(fleet, builders.capacity_of(fleet, tables))


def one_chain(part: PlacementProblem) -> list[Placement]:
    """A chain over the nodes in order, if they hold the model."""
    ranges, start = {}, 0
    for node, profile in zip(part.fleet.cluster.nodes, part.fleet.profiles, strict=True):
        end = min(LAYERS, start + len(profile.kv_blocks))
        if start < end:
            ranges[node.id] = LayerRange(start, end)
        start = end
    return [Placement("chain", LAYERS, ranges)] if start == LAYERS else []


def placement_of(fleet: Deployment, subset) -> Placement:
    order = fleet.cluster.index
    ranges = dict(sorted(subset.ranges.items(), key=lambda item: order[item[0]]))
    return Placement("subset", LAYERS, ranges, pipelines=subset.pipelines)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 9), st.sampled_from(["a", "b"])), min_size=1, max_size=9))
def test_all_are_valid_and_pipelines_share_no_nodes(nodes) -> None:
    problem = problem_of(nodes)
    seen = set()
    for subset in subsets(problem, one_chain):
        check(problem.fleet, placement_of(problem.fleet, subset))
        assert subset.name not in seen
        seen.add(subset.name)
        if subset.pipelines:
            assert set(subset.pipelines) == set(subset.ranges)
            for number in set(subset.pipelines.values()):
                held = sorted(r for node, r in subset.ranges.items() if subset.pipelines[node] == number)
                assert held[0].start == 0
                assert held[-1].end == LAYERS


def test_the_fastest_classes_come_first_and_the_others_are_searched() -> None:
    problem = problem_of([(4, "a"), (4, "a"), (8, "a"), (3, "b"), (3, "b"), (3, "b")])
    found = {subset.name: subset for subset in subsets(problem, one_chain)}
    assert list(found["replicas 1 k8"].ranges) == ["k8-0"]
    assert set(found["replicas 1 k8+2 k4"].ranges) == {"k8-0", "k4-0", "k4-1"}
    mixed = found["replicas 1 k8 and chain"]
    assert set(mixed.ranges) == {"k8-0", "k4-0", "k4-1"}  # the chain takes the nodes in their order
    assert mixed.pipelines["k8-0"] != mixed.pipelines["k4-0"] == mixed.pipelines["k4-1"]
    assert set(found["only b: chain"].ranges) == {"k3-0", "k3-1", "k3-2"}
    assert set(found["without 1 k8: chain"].ranges) == {"k4-0", "k4-1"}
    assert set(found["without 2 k4: chain"].ranges) == {"k8-0"}


def test_pipelines_that_are_found_beside_replicas_keep_apart_from_them_and_each_other() -> None:
    problem = problem_of([(4, "a"), (4, "a"), (4, "a"), (4, "a"), (8, "a")])

    def two_chains(part: PlacementProblem) -> list[Placement]:
        nodes = list(part.fleet.cluster.index)
        pairs = [nodes[start : start + 2] for start in range(0, len(nodes) - 1, 2)]
        ranges = {node: LayerRange(4 * at, 4 * at + 4) for pair in pairs for at, node in enumerate(pair)}
        return [Placement("pairs", LAYERS, ranges, pipelines={n: k for k, pair in enumerate(pairs) for n in pair})]

    mixed = {subset.name: subset for subset in subsets(problem, two_chains)}["replicas 1 k8 and pairs"]
    numbers = mixed.pipelines
    assert len(set(numbers.values())) == 3
    assert numbers["k4-0"] == numbers["k4-1"] != numbers["k4-2"] == numbers["k4-3"]


def test_a_part_has_its_nodes_and_their_profiles() -> None:
    problem = problem_of([(4, "a"), (8, "b"), (3, "b")])
    part = part_of(problem, ["k3-0", "k4-0"])
    assert [node.id for node in part.fleet.cluster.nodes] == ["k4-0", "k3-0"]
    assert [profile.kind for profile in part.fleet.profiles] == ["k4", "k3"]


def candidate(name: str, *ranges: tuple[int, int, int], is_searched: bool = True) -> Candidate:
    """A placement on a node for each start, end and number of its pipeline."""
    held = {f"n{at}": LayerRange(start, end) for at, (start, end, _) in enumerate(ranges)}
    pipelines = {f"n{at}": number for at, (_, _, number) in enumerate(ranges)}
    return Candidate(name, Placement(name, LAYERS, held, pipelines=pipelines), 1, 1.0, is_searched)


def test_contenders_are_the_best_estimates_of_each_kind_of_routes_without_duplicates() -> None:
    made = [
        *(candidate(f"chain {cut}", (0, cut, 0), (cut, 8, 0)) for cut in range(1, 6)),
        *(candidate(f"branching {cut}", (0, cut, 0), (0, cut, 0), (cut, 8, 0)) for cut in range(1, 6)),
        *(candidate(f"mixed {cut}", (0, 8, 0), (0, cut, 1), (0, cut, 1), (cut, 8, 1)) for cut in range(1, 6)),
    ]
    estimates = {one.name: float(number) for number, one in enumerate(made, start=1)}
    twin = candidate("heuristic", (0, 5, 3), (5, 8, 3), is_searched=False)  # by another number
    estimates[twin.name] = estimates["chain 5"]
    names = [one.name for one in contenders([*made, twin], estimates, 2)]
    assert names == ["mixed 5", "mixed 4", "branching 5", "branching 4", "heuristic", "chain 4"]
    far = {name: value - 12 for name, value in estimates.items()}
    assert [one.name for one in contenders(made, far, 2)] == ["mixed 5", "mixed 4"]
    hopeless = {name: value - 100 for name, value in estimates.items()}
    assert len(contenders(made, hopeless, 2)) == 6


def test_candidates_of_equal_names_are_told_apart() -> None:
    """Estimates and scores are kept by name."""
    search = _Search(problem_of([(8, "a"), (8, "a")]), HelixOptions())
    for name, node in (("rough", "k8-0"), ("rough", "k8-1"), ("rough-apart", "k8-0"), ("rough", "k8-0")):
        search._add(name, {node: LayerRange(0, LAYERS)})
    assert [candidate.name for candidate in search.candidates] == ["rough", "rough (2)", "rough-apart", "rough (3)"]


@pytest.mark.parametrize(("nodes", "is_tried"), [(FEW_NODES, False), (FEW_NODES + 1, True)])
def test_on_many_nodes_a_method_with_a_routing_of_its_own_is_a_contender(nodes: int, is_tried: bool) -> None:
    """The estimate of its flow says little of it there."""
    branches = [(0, 4, 0)] * (nodes // 2) + [(4, 8, 0)] * (nodes - nodes // 2)
    made = [candidate("blocks", *branches), candidate("parallax", (0, 3, 0), *branches[1:], is_searched=False)]
    found = contenders(made, {"blocks": 3.0, "parallax": 1.0}, 1)
    assert [one.name for one in found] == ["blocks", *(["parallax"] if is_tried else [])]
