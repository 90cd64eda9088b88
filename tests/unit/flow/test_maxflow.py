"""Max-flow, min cut, balance and routes of small placements worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from helixsim.domain.cluster import COORDINATOR, LinkSpec
from helixsim.domain.placement import LayerRange
from helixsim.flow.balance import balance
from helixsim.flow.maxflow import max_flow, max_flow_value, max_flow_without_network
from helixsim.flow.network import build_network


def test_two_node_pipeline() -> None:
    fleet, table, placement = builders.two_node_pipeline()
    plan = max_flow(fleet, placement, table)
    assert plan.max_flow_tokens_per_s == pytest.approx(100.0)
    assert [element.name for element in plan.min_cut] in (["n-0"], ["n-1"])
    assert [route.hops for route, _ in plan.routes] == [(("n-0", LayerRange(0, 2)), ("n-1", LayerRange(2, 4)))]
    assert plan.mean_hops == plan.max_hops == 2


def test_parallel_nodes_share_in_proportion_to_capacity() -> None:
    slow, fast, wide = builders.profile("slow", 4), builders.profile("fast", 4), builders.profile("wide", 4)
    fleet = builders.fleet([slow, fast, wide, slow, fast], num_layers=8)
    table = builders.capacity_of(fleet, {"slow": (100.0,) * 4, "fast": (300.0,) * 4, "wide": (200.0,) * 4})
    ranges = {"slow-0": (0, 2), "fast-0": (0, 2), "wide-0": (2, 4), "slow-1": (4, 8), "fast-1": (4, 8)}
    plan = max_flow(fleet, builders.placement_of(fleet, ranges), table)
    assert plan.max_flow_tokens_per_s == pytest.approx(200.0)
    assert dict(plan.node_flow_tokens_per_s) == pytest.approx(
        {"slow-0": 50, "fast-0": 150, "wide-0": 200, "slow-1": 50, "fast-1": 150}, rel=1e-4
    )


def test_links_between_groups_carry_the_product_of_shares() -> None:
    fleet, table, placement = builders.tiny_fleet()
    plan = max_flow(fleet, placement, table)
    inner = [edge.flow_tokens_per_s for edge in plan.edges if edge.src.startswith("small") and edge.dst != COORDINATOR]
    assert inner == pytest.approx([25.0] * 4, rel=1e-4)
    assert [route.hops for route, _ in plan.routes] == [
        (("big-0", LayerRange(0, 4)), ("small-0", LayerRange(4, 6)), ("small-2", LayerRange(6, 8)))
    ]
    assert [one.nodes for one in plan.classes[2:]] == [("small-0", "small-1"), ("small-2", "small-3")]


def test_piecewise_linear_balance_loads_no_node_needlessly() -> None:
    fleet, table, placement = builders.tiny_fleet()
    network = build_network(fleet, placement, table)
    flows = balance(network, 100.0, max_quadratic_links=0)
    small = [at for at, one in enumerate(network.classes) if one.nodes[0].startswith("small")]
    loads = [flow for arc, flow in zip(network.arcs, flows, strict=True) if arc.head in small]
    assert sum(loads) == pytest.approx(200.0, rel=1e-6)
    assert max(flows) <= 100.0 + 1e-6


def test_slow_link_binds_and_is_named() -> None:
    fleet, table, placement = builders.two_node_pipeline()
    slow = LinkSpec(8 * 1002 * 40.0, 1)  # 40 tokens/s of 1000 + 2 bytes
    network = replace(fleet.cluster.network, pairs={("n-0", "n-1"): slow})
    plan = max_flow(replace(fleet, cluster=replace(fleet.cluster, network=network)), placement, table)
    assert plan.max_flow_tokens_per_s == pytest.approx(40.0)
    assert [(element.kind, element.name) for element in plan.min_cut] == [("link", "n-0 -> n-1")]
    fast = max_flow(fleet, placement, table)
    assert fast.max_flow_tokens_per_s > 40.0
    assert max_flow_without_network(plan) == pytest.approx(fast.max_flow_tokens_per_s)
    assert max_flow_without_network(fast) == fast.max_flow_tokens_per_s


def test_network_card_of_a_node_binds() -> None:
    kind = builders.profile("n", 2)
    fleet = builders.fleet([kind, kind], num_layers=4, nic_bps=8 * 1002 * 30.0)
    table = builders.capacity_of(fleet, {"n": (200.0, 100.0)})
    plan = max_flow(fleet, builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4)}), table)
    assert plan.max_flow_tokens_per_s == pytest.approx(30.0)
    assert plan.min_cut[0].kind == "nic"


def test_network_card_of_the_coordinator_counts_token_ids() -> None:
    kind = builders.profile("n", 2)
    fleet = builders.fleet([kind, kind], num_layers=4, coordinator_nic_bps=8 * 2 * 30.0)
    table = builders.capacity_of(fleet, {"n": (200.0, 100.0)})
    plan = max_flow(fleet, builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4)}), table)
    assert plan.max_flow_tokens_per_s == pytest.approx(30.0)
    assert [(element.kind, element.name) for element in plan.min_cut] == [("nic", COORDINATOR)]


def test_partial_inference_enters_in_the_middle() -> None:
    kind = builders.profile("n", 4)
    fleet = builders.fleet([kind] * 3, num_layers=6)
    table = builders.capacity_of(fleet, {"n": (100.0,) * 4})
    ranges = {"n-0": (0, 3), "n-1": (2, 5), "n-2": (4, 6)}
    assert max_flow_value(fleet, builders.placement_of(fleet, ranges), table) == 0.0
    plan = max_flow(fleet, builders.placement_of(fleet, ranges, partial_inference=True), table)
    assert plan.max_flow_tokens_per_s == pytest.approx(100.0)
    assert plan.routes[0][0].hops == (
        ("n-0", LayerRange(0, 3)),
        ("n-1", LayerRange(3, 5)),
        ("n-2", LayerRange(5, 6)),
    )


def test_nodes_without_a_way_through_are_left_out() -> None:
    fleet, table, placement = builders.tiny_fleet()
    stranded = replace(placement, ranges={**placement.ranges, "small-3": LayerRange(5, 7)})
    plan = max_flow(fleet, stranded, table)
    assert "small-3" not in plan.node_flow_tokens_per_s
    assert plan.max_flow_tokens_per_s == pytest.approx(60.0)


def test_pipelines_do_not_mix() -> None:
    fast, slow = builders.profile("fast", 4), builders.profile("slow", 4)
    fleet = builders.fleet([fast, slow, slow, fast], num_layers=4)
    table = builders.capacity_of(fleet, {"fast": (100.0,) * 4, "slow": (10.0,) * 4})
    ranges = {"fast-0": (0, 2), "slow-0": (2, 4), "slow-1": (0, 2), "fast-1": (2, 4)}
    together = builders.placement_of(fleet, ranges)
    apart = replace(together, pipelines={"fast-0": 0, "slow-0": 0, "slow-1": 1, "fast-1": 1})
    assert max_flow_value(fleet, together, table) == pytest.approx(110.0)
    assert max_flow_value(fleet, apart, table) == pytest.approx(20.0)
    assert all({edge.src, edge.dst} != {"fast-0", "fast-1"} for edge in max_flow(fleet, apart, table).edges)


def test_placement_without_a_route_has_no_flow() -> None:
    fleet, table, _ = builders.two_node_pipeline()
    plan = max_flow(fleet, builders.placement_of(fleet, {"n-0": (0, 2)}), table)
    assert (plan.max_flow_tokens_per_s, plan.edges, plan.routes, plan.min_cut) == (0.0, (), (), ())
