"""The strategy ``replicas``: laws over random fleets, and messages."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment
from helixsim.domain.hardware import Ends
from helixsim.domain.placement import LayerRange
from helixsim.errors import InfeasibleError
from helixsim.flow.maxflow import max_flow
from helixsim.placement import registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check
from helixsim.placement.replicas import Replicas, ReplicasOptions

LAYERS = 8
WHOLE, HALF, THIRD = (builders.profile(kind, most) for kind, most in (("whole", 8), ("half", 4), ("third", 3)))


def fleet_of(kinds, **how) -> Deployment:
    """A fleet whose model has contexts of 100 tokens, for which every node of the tests has room."""
    made = builders.fleet(kinds, num_layers=LAYERS, **how)
    return replace(made, model=replace(made.model, max_context_tokens=100))


def problem(fleet: Deployment) -> PlacementProblem:
    tables = {profile.kind: (100.0,) * len(profile.kv_blocks) for profile in fleet.profiles}
    return PlacementProblem(fleet, builders.capacity_of(fleet, tables))


def solved(fleet: Deployment, **options):
    return Replicas().solve(problem(fleet), ReplicasOptions(**options))


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["a", "b"])), min_size=1, max_size=12),
)
def test_laws(nodes: list[tuple[int, str]]) -> None:
    """Replicas hold each layer once, are as small as can be, of equal nodes of one region, and nothing else is idle."""
    kinds = {most: builders.profile(f"k{most}", most) for most, _ in nodes}
    fleet = fleet_of([kinds[most] for most, _ in nodes], regions=[r for _, r in nodes])
    classes: dict[tuple[str, str], int] = {}
    for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
        classes[profile.kind, node.region] = classes.get((profile.kind, node.region), 0) + 1
    sizes = {key: -(-LAYERS // int(key[0][1:])) for key in classes}
    expected = {key: classes[key] // sizes[key] for key in classes}
    if not any(expected.values()):
        with pytest.raises(InfeasibleError):
            solved(fleet)
        return
    placement = solved(fleet)
    check(fleet, placement)
    members: dict[int, list[str]] = {}
    for node, number in placement.pipelines.items():
        members.setdefault(number, []).append(node)
    found = dict.fromkeys(classes, 0)
    for replica in members.values():
        keys = {(fleet.profile(node).kind, fleet.cluster.region_of(node)) for node in replica}
        assert len(keys) == 1
        (key,) = keys
        found[key] += 1
        assert len(replica) == sizes[key]
        held = sorted(placement.ranges[node] for node in replica)
        assert [one.start for one in held] == [0, *(one.end for one in held[:-1])]
        assert held[-1].end == LAYERS
        assert max(one.layers for one in held) - min(one.layers for one in held) <= 1
    assert found == expected
    assert set(placement.notes["idle"]) == set(fleet.cluster.index) - set(placement.ranges)
    plan = max_flow(fleet, placement, problem(fleet).capacity)
    assert len(plan.replicas) == sum(expected.values())


def test_a_group_needs_kv_memory_for_a_context_beside_embedding_and_output_head() -> None:
    """Two nodes have 100 blocks beside four layers each, of which the ends take 8; three have 300 beside three each."""
    ends = replace(
        HALF, kv_blocks=(1000, 500, 300, 100), ends_bytes=Ends(256_000, 256_000, 512_000), block_bytes=8_000.0
    )
    for context, nodes in ((1400, 2), (1500, 3), (4096, 3), (100_000, 3)):
        fleet = fleet_of([ends] * 3)
        placement = solved(replace(fleet, model=replace(fleet.model, max_context_tokens=context)))
        assert len(placement.ranges) == nodes
    fleet = fleet_of([ends] * 2)
    with pytest.raises(InfeasibleError, match="not with KV memory for 4096 tokens beside embedding and output head"):
        solved(replace(fleet, model=replace(fleet.model, max_context_tokens=5000)))


def test_a_node_of_several_gpus_is_one_replica() -> None:
    fleet = fleet_of([WHOLE, WHOLE, HALF])
    placement = solved(fleet)
    assert placement.ranges == {"whole-0": LayerRange(0, 8), "whole-1": LayerRange(0, 8)}
    assert placement.notes["idle"] == {
        "half-0": "too small: one node of type half holds 4 of 8 layers in here",
    }


def test_nodes_of_a_group_are_equal_in_network_and_limits() -> None:
    fleet = fleet_of([HALF] * 4)
    first, *others = fleet.cluster.nodes
    for change in ({"nic_bps": 1e9}, {"max_requests": 3}, {"kv_blocks": 50}):
        cluster = replace(fleet.cluster, nodes=(replace(first, **change), *others))
        placement = solved(replace(fleet, cluster=cluster))
        assert set(placement.ranges) == {"half-1", "half-2"}
        assert placement.notes["idle"]["half-3"] == "left over: a replica takes 2 nodes"


def test_a_limit_of_nodes_excludes_pipelines() -> None:
    fleet = fleet_of([WHOLE, HALF, HALF])
    assert set(solved(fleet, max_nodes=1).ranges) == {"whole-0"}
    assert set(solved(fleet, max_nodes=2).ranges) == {"whole-0", "half-0", "half-1"}


def test_without_any_group_the_error_says_why_and_what_to_do() -> None:
    fleet = fleet_of([HALF, THIRD, THIRD])
    with pytest.raises(InfeasibleError) as raised:
        solved(fleet)
    message = str(raised.value)
    assert "one node of type half holds 4 of 8 layers" in message
    assert "2 nodes of type third hold 6 of 8 layers" in message
    assert "strategy helix" in message


def test_it_is_registered() -> None:
    assert registry.get("replicas") is Replicas
