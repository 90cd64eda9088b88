"""Laws of max-flow on random placements: two methods agree, cut = flow, conservation, routes add up."""

from __future__ import annotations

import itertools

import builders
import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import COORDINATOR, Deployment, LinkSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable, upper_bound_share
from helixsim.flow.maxflow import max_flow, max_flow_value

NUM_LAYERS = 6


@st.composite
def placed_fleets(draw: st.DrawFn) -> tuple[Deployment, CapacityTable, Placement]:
    kinds = [builders.profile(name, 4) for name in "abc"]
    count = draw(st.integers(3, 9))
    chosen = [draw(st.sampled_from(kinds)) for _ in range(count)]
    speeds = st.floats(1.0, 500.0)
    fleet = builders.fleet(
        chosen,
        num_layers=NUM_LAYERS,
        regions=[draw(st.sampled_from(["here", "there"])) for _ in range(count)],
        inter=LinkSpec(8.0 * 1002 * draw(speeds), 1),
        nic_bps=draw(st.none() | st.floats(1e5, 1e7)),
    )
    table = builders.capacity_of(fleet, {kind.kind: [draw(speeds) for _ in range(4)] for kind in kinds})
    ranges = {}
    for node in fleet.cluster.nodes:
        start = draw(st.sampled_from([0, 0, 1, 2, 3, 4]))
        ranges[node.id] = (start, min(NUM_LAYERS, start + draw(st.integers(1, 4))))
    return fleet, table, builders.placement_of(fleet, ranges, partial_inference=draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(placed_fleets())
def test_value_agrees_with_networkx_and_the_min_cut(case: tuple[Deployment, CapacityTable, Placement]) -> None:
    fleet, table, placement = case
    plan = max_flow(fleet, placement, table)
    assert max_flow_value(fleet, placement, table) == plan.max_flow_tokens_per_s
    graph = nx.DiGraph()
    graph.add_node("source")
    graph.add_node("sink")
    for node, layers in placement.ranges.items():
        graph.add_edge((node, "in"), (node, "out"), capacity=table.tokens_per_s(node, layers.layers))
    for edge in plan.edges:
        tail = "source" if edge.src == COORDINATOR else (edge.src, "out")
        head = "sink" if edge.dst == COORDINATOR else (edge.dst, "in")
        graph.add_edge(tail, head, capacity=edge.capacity_tokens_per_s)
    # Pushing flow back and forth need not end with real capacities; augmenting paths do.
    without_cards = nx.maximum_flow_value(graph, "source", "sink", flow_func=nx.algorithms.flow.edmonds_karp)
    if all(node.nic_bps is None for node in fleet.cluster.nodes):
        assert plan.max_flow_tokens_per_s == pytest.approx(without_cards, rel=1e-9, abs=1e-9)
    else:
        assert plan.max_flow_tokens_per_s <= without_cards * (1 + 1e-9) + 1e-9
    if plan.max_flow_tokens_per_s > 0:
        cut = sum(element.capacity_tokens_per_s for element in plan.min_cut)
        assert cut == pytest.approx(plan.max_flow_tokens_per_s, rel=1e-9)
        assert plan.max_flow_tokens_per_s <= upper_bound_share(fleet, table) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(placed_fleets(), st.booleans())
def test_flow_is_conserved_within_capacities_and_routes_add_up(
    case: tuple[Deployment, CapacityTable, Placement], balanced: bool
) -> None:
    fleet, table, placement = case
    plan = max_flow(fleet, placement, table, balanced=balanced)
    value = plan.max_flow_tokens_per_s
    slack = 1e-5 * value
    for node, flow in plan.node_flow_tokens_per_s.items():
        out = sum(edge.flow_tokens_per_s for edge in plan.edges if edge.src == node)
        assert out == pytest.approx(flow, abs=slack)
        assert flow <= plan.node_capacity_tokens_per_s[node] + slack
    for edge in plan.edges:
        assert 0 <= edge.flow_tokens_per_s <= edge.capacity_tokens_per_s + slack
    assert sum(flow for _, flow in plan.routes) == pytest.approx(value, abs=10 * slack)
    for route, _ in plan.routes:
        steps = [layers for _, layers in route.hops]
        assert steps[0].start == 0
        assert steps[-1].end == NUM_LAYERS
        assert all(a.end == b.start for a, b in itertools.pairwise(steps))
        for node, layers in route.hops:
            held = placement.ranges[node]
            assert held.start <= layers.start < layers.end == held.end


@settings(max_examples=40, deadline=None)
@given(placed_fleets())
def test_partial_inference_never_lowers_the_flow(case: tuple[Deployment, CapacityTable, Placement]) -> None:
    fleet, table, placement = case
    if any(node.nic_bps is not None for node in fleet.cluster.nodes):
        return  # a card counts every token as its largest message, which more neighbours can only make larger
    values = [
        max_flow_value(
            fleet,
            Placement(strategy="x", num_layers=NUM_LAYERS, ranges=placement.ranges, partial_inference=partial),
            table,
        )
        for partial in (False, True)
    ]
    assert values[0] <= values[1] * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=4), min_size=1, max_size=4))
def test_stages_of_ample_links_carry_their_weakest_stage_in_proportion(stages: list[list[float]]) -> None:
    """Closed form: a chain of fully connected stages carries the least sum, each node its share of its stage."""
    kinds, tables, ranges = [], {}, {}
    for number, stage in enumerate(stages):
        for position, speed in enumerate(stage):
            kind = f"k{number}{position}"
            kinds.append(builders.profile(kind, 1))
            tables[kind] = (speed,)
            ranges[f"{kind}-0"] = LayerRange(number, number + 1)
    fleet = builders.fleet(kinds, num_layers=len(stages))
    plan = max_flow(fleet, Placement("x", len(stages), ranges), builders.capacity_of(fleet, tables))
    value = min(map(sum, stages))
    assert plan.max_flow_tokens_per_s == pytest.approx(value)
    for number, stage in enumerate(stages):
        for position, speed in enumerate(stage):
            own = plan.node_flow_tokens_per_s[f"k{number}{position}-0"]
            assert own == pytest.approx(value * speed / sum(stage), rel=1e-3)
