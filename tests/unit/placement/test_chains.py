"""Chains of nodes: limits of layers, shares by water-filling, and the split with the fastest bottleneck."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.hardware import Ends
from helixsim.domain.placement import LayerRange
from helixsim.placement.chains import (
    LayerLimits,
    balanced_split,
    chain_flow,
    chain_ranges,
    in_order,
    node_memory_bytes,
    split_chain,
    water_fill,
)


def test_water_rises_to_one_level_and_stops_at_limits() -> None:
    """Of ten layers by 3 : 1 : 1 the first node would get six; it holds four, and the others share six."""
    assert water_fill(10, [3, 1, 1], [4, 8, 8]) == [4, 3, 3]
    assert water_fill(10, [3, 1, 1], [9, 9, 9]) == [6, 2, 2]
    assert water_fill(10, [5, 3, 2], [9, 9, 9]) == [5, 3, 2]
    assert water_fill(5, [100, 1, 1], [9, 9, 9]) == [5, 0, 0]
    assert water_fill(5, [100, 1, 1], [9, 9, 9], least=1) == [3, 1, 1]


NODES = st.lists(st.tuples(st.floats(0.1, 100), st.integers(1, 30)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(nodes=NODES, share=st.floats(0, 1), least=st.integers(0, 1))
def test_shares_keep_limits_and_are_equal_for_their_weight(nodes, share: float, least: int) -> None:
    weights, most = zip(*nodes, strict=True)
    total = max(least * len(most), round(share * sum(most)))
    shares = water_fill(total, weights, most, least)
    assert sum(shares) == total
    assert all(least <= held <= limit for held, limit in zip(shares, most, strict=True))
    inside = [(held, weight) for held, weight, limit in zip(shares, weights, most, strict=True) if least < held < limit]
    for (mine, weight), (theirs, other) in product(inside, inside):
        assert mine - 1 <= weight * (theirs + 1) / other + 1e-6


def test_a_total_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="10 cannot be shared"):
        water_fill(10, [1, 1], [4, 5])
    with pytest.raises(ValueError, match="at least 1"):
        water_fill(1, [1, 1], [4, 5], least=1)


@settings(max_examples=60, deadline=None)
@given(
    tables=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=1, max_size=4),
    total=st.integers(1, 8),
)
def test_the_balanced_split_has_the_fastest_bottleneck(tables, total: int) -> None:
    tables = [sorted(table, reverse=True) for table in tables]
    most = [len(table) for table in tables]
    best = max(
        (
            min(table[held - 1] for table, held in zip(tables, split, strict=True) if held)
            for split in product(*(range(limit + 1) for limit in most))
            if sum(split) == total
        ),
        default=0,
    )
    layers, flow = balanced_split(total, tables, most)
    assert flow == best
    if best:
        assert sum(layers) == total
        assert min(table[held - 1] for table, held in zip(tables, layers, strict=True) if held) == best


def test_the_ends_of_the_model_take_room_from_the_nodes_that_hold_them() -> None:
    """400 blocks lie beside three layers, of which an end takes 100; a context needs 256 blocks."""
    kind = replace(
        builders.profile("n", 3, kv_blocks=(1000, 700, 400)), ends_bytes=Ends(2_400_000, 2_400_000, 4_800_000),
        block_bytes=8_000.0,
    )  # fmt: skip
    fleet = builders.fleet([kind] * 3, num_layers=8)
    limits = LayerLimits(fleet)
    node = fleet.cluster.nodes[0]
    assert limits.of(node) == 3
    assert limits.of(node, is_first=True) == limits.of(node, is_last=True) == 3
    assert fleet.kv_blocks(node.id, LayerRange(0, 3)) == 300
    assert limits.of_chain(fleet.cluster.nodes) == [3, 3, 3]
    tight = replace(kind, kv_blocks=(1000, 700, 350))
    fleet = builders.fleet([tight] * 3, num_layers=8)
    assert LayerLimits(fleet).of_chain(fleet.cluster.nodes) == [2, 3, 2]


def test_a_share_of_memory_limits_weights() -> None:
    fleet = builders.fleet([builders.profile("n", 8)], num_layers=8)
    node = fleet.cluster.nodes[0]
    whole = node_memory_bytes(fleet, node) / fleet.model.weight_bytes_per_layer
    share = 3.5 / whole
    assert LayerLimits(fleet, share).of(node) == 3


def test_nodes_without_layers_leave_the_chain() -> None:
    fleet = builders.fleet([builders.profile("n", 8)] * 3, num_layers=8)
    nodes = fleet.cluster.nodes
    kept, layers = split_chain(LayerLimits(fleet), nodes, lambda some, most: [5, 3, 0][: len(some)])
    assert [node.id for node in kept] == ["n-0", "n-1"]
    assert layers == [5, 3]
    assert chain_ranges(kept, layers) == {"n-0": LayerRange(0, 5), "n-1": LayerRange(5, 8)}
    assert split_chain(LayerLimits(fleet), nodes, lambda some, most: []) == ([], [])


def test_the_slowest_node_or_link_limits_a_chain() -> None:
    """A token takes 1000 B, so 1 Mbit/s passes 125 tokens/s."""
    fleet = builders.fleet(
        [builders.profile("n", 8)] * 3, num_layers=8, regions=["a", "b", "a"],
        intra=LinkSpec(1e9, 0), inter=LinkSpec(1e6, 0),
    )  # fmt: skip
    capacity = builders.capacity_of(fleet, {"n": [900, 800, 700, 600, 500, 400, 300, 200]})
    first, far, near = fleet.cluster.nodes
    assert chain_flow(fleet, [first, near], [5, 3], capacity) == 500
    assert chain_flow(fleet, [first, far], [5, 3], capacity) == pytest.approx(125)
    assert chain_flow(fleet, [], [], capacity) == 0
    assert [node.id for node in in_order([near, far, first], fleet)] == ["n-0", "n-2", "n-1"]
