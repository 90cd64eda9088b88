"""Node capacities and the bounds that follow from them."""

from __future__ import annotations

import builders
import pytest

from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import paper_capacity, upper_bound_share, upper_bound_simple


def test_capacity_of_one_node_alone_is_the_iteration_rate() -> None:
    """A node that holds the whole model has every resident sequence: the share of the round trip is one."""
    node = builders.profile("solo", 4, kv_blocks=(250, 250, 250, 250))
    table = paper_capacity(builders.fleet([node], num_layers=4), 100.0, 100.0, kv_occupancy=0.5)
    # 2000 tokens fit into half of the memory: 10 sequences of 200. For each prompt of 100 tokens (0.1 ms a layer)
    # there are 10 decode rounds of 10 tokens (1 ms a layer each): 200 tokens in 4 x 10.1 ms.
    assert table.tokens_per_s("solo-0", 4) == pytest.approx(200 / (4 * 10.1e-3))


def test_node_ids_and_kinds_name_the_same_table() -> None:
    fleet, table, _ = builders.tiny_fleet()
    assert table.tokens_per_s("small-3", 2) == table.tokens_per_s("small", 2) == 60.0
    assert table.tokens_per_s("small-3", 3) == 0.0
    assert {node.id for node in fleet.cluster.nodes} == set(table.kinds)


def test_more_kv_memory_never_lowers_capacity() -> None:
    few, many = (
        paper_capacity(builders.fleet([builders.profile("n", 4, kv_blocks=(blocks,) * 4)] * 3), 100, 50)
        for blocks in (400, 4000)
    )
    assert all(a < b for a, b in zip(few.of("n"), many.of("n"), strict=True))


def test_with_tiny_kv_memory_sequences_decode_one_after_another() -> None:
    """The artifact's rounding would make decoding free. A prompt (0.4 ms a layer) comes with 400 steps of 1 ms."""
    table = paper_capacity(builders.fleet([builders.profile("n", 4, kv_blocks=(9, 9, 9, 9))] * 8), 400, 400)
    assert table.of("n") == pytest.approx([800 / (layers * 0.4004) for layers in range(1, 5)])


def test_bound_of_a_fleet_that_holds_the_model_exactly_is_its_full_table() -> None:
    fleet = builders.fleet([builders.profile("n", 4)] * 3, num_layers=12)
    table = builders.capacity_of(fleet, {"n": (7.7, 5.5, 3.3, 1.1)})
    # At F = 1.1 three nodes supply 3 x 4 x 1.1 = 12 x 1.1; above it none supplies four times the flow.
    assert upper_bound_share(fleet, table) == pytest.approx(1.1)


def test_bound_of_a_fleet_that_cannot_hold_the_model_is_zero() -> None:
    fleet = builders.fleet([builders.profile("n", 4)] * 2, num_layers=12)
    assert upper_bound_share(fleet, builders.capacity_of(fleet, {"n": (7.7, 5.5, 3.3, 1.1)})) == 0.0


def test_kind_that_holds_nothing_has_an_empty_table() -> None:
    table = paper_capacity(builders.fleet([builders.profile("n"), builders.profile("none", 0)]), 100, 50)
    assert table.of("none") == ()
    assert table.tokens_per_s("none-0", 1) == 0.0


def test_fleet_that_holds_nothing_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="can hold one layer"):
        paper_capacity(builders.fleet([builders.profile("none", 0)]), 100, 50)


def test_bounds_of_a_fleet_by_hand() -> None:
    """One node of 400, 200, 150, 100 tokens/s and four of 120, 60 around eight layers."""
    fleet, table, _ = builders.tiny_fleet()
    assert upper_bound_simple(fleet, table) == pytest.approx((450 + 4 * 120) / 8)
    # At F: the big node gives max(3 x min(150, F), 4 x 100), a small one 120. 8 F = 3 F + 480 at F = 96: too low,
    # since there it gives 400; 8 F = 400 + 480 at F = 110, where 3 x 110 < 400.
    assert upper_bound_share(fleet, table) == pytest.approx(110.0)
