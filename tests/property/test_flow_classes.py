"""Laws of flows between classes of equal nodes: they are those of the graph of all pairs of nodes."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import COORDINATOR, Deployment, LinkSpec
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow import operating
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import plan_of
from helixsim.flow.network import build_network
from helixsim.flow.operating import operating_point, stations_of
from helixsim.flow.round_trips import RoundTrips
from helixsim.flow.station import OperatingLoad
from helixsim.routing.graph import routing_graph

NUM_LAYERS = 4
ENGINES = (IDEAL, EngineSpec(loops_inside=True, chunks_prompts=True))
AMPLE_BPS = 1e15


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Deployment, CapacityTable, Placement]:
    """Many nodes of two kinds that hold one of a few ranges, in one to three sites, some links unlike the others."""
    kinds = [builders.profile(name, NUM_LAYERS, prefill_ns_per_token=1e5) for name in "ab"]
    ranges = draw(st.sampled_from([[(0, 2), (2, 4)], [(0, 1), (1, 4), (0, 2), (2, 4)], [(0, 4), (0, 3), (3, 4)]]))
    sites = draw(st.sampled_from([1, 1, 2, 3]))
    groups = st.tuples(
        st.sampled_from(kinds), st.sampled_from(ranges), st.integers(0, sites - 1), st.integers(1, 4), st.integers(0, 1)
    )
    drawn = draw(st.lists(groups, min_size=3, max_size=8))
    if draw(st.booleans()):  # both kinds in each range of one site, so that classes meet in junctions
        drawn = [(kind, held, 0, count, 0) for kind in kinds for held, count in zip(ranges, (1, 2, 3, 2), strict=False)]
    members = [one for one in drawn for _ in range(one[3])]
    order = draw(st.permutations(members))
    speeds = st.floats(1.0, 500.0)
    fleet = builders.fleet(
        [kind for kind, *_ in order],
        num_layers=NUM_LAYERS,
        regions=[f"site-{site}" for _, _, site, _, _ in order],
        intra=LinkSpec(8.0 * 1002 * draw(st.floats(20.0, 500.0)), 1_000_000),
        inter=LinkSpec(8.0 * 1002 * draw(speeds), 10_000_000),
        nic_bps=draw(st.none() | st.floats(1e5, 1e7)),
        coordinator_nic_bps=draw(st.none() | st.floats(1e3, 1e5)),
    )
    ids = [node.id for node in fleet.cluster.nodes]
    ends = st.sampled_from([COORDINATOR, *ids])
    odd = draw(st.lists(st.tuples(ends, ends, st.sampled_from([0.0, 8e3, 8e5, 8e8])), max_size=3))
    pairs = {(src, dst): LinkSpec(speed, 1_000_000) for src, dst, speed in odd if src != dst}
    cluster = replace(fleet.cluster, network=replace(fleet.cluster.network, pairs=pairs))
    table = builders.capacity_of(fleet, {kind.kind: [draw(speeds) for _ in range(NUM_LAYERS)] for kind in kinds})
    placement = Placement(
        "drawn", NUM_LAYERS, {node: LayerRange(*one[1]) for node, one in zip(ids, order, strict=True)},
        partial_inference=draw(st.booleans()),
        pipelines=draw(st.sampled_from([{}, {node: one[4] for node, one in zip(ids, order, strict=True)}])),
    )  # fmt: skip
    return replace(fleet, cluster=cluster), table, placement


def plans(case: tuple[Deployment, CapacityTable, Placement], *, balanced: bool = True) -> list[FlowPlan]:
    """The plans by pairs of nodes, by pairs of classes, and with as many junctions as there can be."""
    placement = case[2]
    apart = {node: node for node in placement.ranges}
    networks = [
        build_network(*(case[0], placement, case[1]), kinds=apart),
        build_network(*(case[0], placement, case[1])),
        build_network(*(case[0], placement, case[1]), most_class_links=0),
    ]
    return [plan_of(network, balanced=balanced) for network in networks]


def pair_flows(plan: FlowPlan) -> dict[tuple[str, str], float]:
    return {(edge.src, edge.dst): edge.flow_tokens_per_s for edge in plan.edges}


@settings(max_examples=80, deadline=None)
@given(crowds(), st.booleans())
def test_classes_and_junctions_carry_what_pairs_of_nodes_do(case, balanced):
    by_pair, by_class, by_junction = plans(case, balanced=balanced)
    value = by_pair.max_flow_tokens_per_s
    for plan in (by_class, by_junction):
        assert plan.max_flow_tokens_per_s == pytest.approx(value, rel=1e-9)
        assert list(plan.node_flow_tokens_per_s) == list(by_pair.node_flow_tokens_per_s)
        assert [(e.src, e.dst, e.capacity_tokens_per_s) for e in plan.edges] == [
            (e.src, e.dst, e.capacity_tokens_per_s) for e in by_pair.edges
        ]
        cut = sum(element.capacity_tokens_per_s for element in plan.min_cut)
        assert cut == pytest.approx(value, rel=1e-9)
        slack = 1e-5 * value
        assert sum(flow for _, flow in plan.routes) == pytest.approx(value, abs=10 * slack)
        for edge in plan.edges:
            assert 0 <= edge.flow_tokens_per_s <= edge.capacity_tokens_per_s + slack
        flows = pair_flows(plan)
        for node, flow in plan.node_flow_tokens_per_s.items():
            assert flow <= plan.node_capacity_tokens_per_s[node] + slack
            assert sum(one for (src, _), one in flows.items() if src == node) == pytest.approx(flow, abs=slack)
            assert sum(one for (_, dst), one in flows.items() if dst == node) == pytest.approx(flow, abs=slack)


@settings(max_examples=80, deadline=None)
@given(crowds())
def test_routing_weights_are_those_of_the_pairs(case):
    by_pair, by_class, _ = plans(case)
    placement = case[2]
    slack = 1e-5 * by_pair.max_flow_tokens_per_s
    assert pair_flows(by_class) == pytest.approx(pair_flows(by_pair), abs=slack)
    ours, theirs = (routing_graph(placement, plan) for plan in (by_class, by_pair))
    assert (ours.first, list(ours.successors)) == (theirs.first, list(theirs.successors))
    assert list(ours.flow_tokens_per_s) == pytest.approx(list(theirs.flow_tokens_per_s), abs=slack)
    assert {frozenset(nodes) for nodes in by_class.replicas} == {frozenset(nodes) for nodes in by_pair.replicas}
    named = [{(e.kind, e.name) for e in plan.min_cut if e.kind == "node"} for plan in (by_pair, by_class)]
    assert named[0] == named[1]
    assert sum(e.count for e in by_class.min_cut) == sum(e.count for e in by_pair.min_cut)


@settings(max_examples=40, deadline=None)
@given(crowds(), st.sampled_from(ENGINES), st.floats(1.0, 100.0))
def test_the_operating_point_is_that_of_single_nodes(case, engine, offered):
    """NICs that are ample, but of different speeds, keep equal nodes apart.

    Equally long outputs keep runs of cohorts out of it, whose routes are drawn.
    """
    fleet, _, placement = case
    assume(all(node.nic_bps is None for node in fleet.cluster.nodes))
    different = tuple(replace(node, nic_bps=AMPLE_BPS + at) for at, node in enumerate(fleet.cluster.nodes))
    apart = replace(fleet, cluster=replace(fleet.cluster, nodes=different))
    load = OperatingLoad(400.0, 40.0, 0.9, 40.0, engine, output_spread=1.0)
    ours, theirs = (operating_point(one, placement, load, offered_output_per_s=offered) for one in (fleet, apart))
    assert ours.output_tokens_per_s == pytest.approx(theirs.output_tokens_per_s, rel=1e-3)
    assert ours.offered_round_trip_s == pytest.approx(theirs.offered_round_trip_s, rel=1e-3)


def multiplied(
    case: tuple[Deployment, CapacityTable, Placement], copies: int, *, in_one_place: bool
) -> tuple[Deployment, Placement]:
    """So many copies of a fleet with its placement, which exchange no tokens, away from the coordinator."""
    fleet, _, placement = case
    nodes, ranges, pipelines = [], {}, {}
    for copy in range(copies):
        for node in fleet.cluster.nodes:
            name, place = f"{node.id}-{copy}", 0 if in_one_place else copy
            nodes.append(replace(node, id=name, region=f"{node.region}-{place}"))
            ranges[name] = placement.ranges[node.id]
            pipelines[name] = 2 * copy + placement.pipelines.get(node.id, 0)
    network = replace(fleet.cluster.network, pairs={}, coordinator_nic_bps=None)
    cluster = replace(fleet.cluster, nodes=tuple(nodes), network=network, coordinator_region="elsewhere")
    many = replace(fleet, cluster=cluster, profiles=fleet.profiles * copies)
    return many, replace(placement, ranges=ranges, pipelines=pipelines)


@settings(max_examples=25, deadline=None)
@given(crowds(), st.integers(2, 3), st.booleans(), st.sampled_from(ENGINES), st.floats(1.0, 100.0))
def test_one_of_the_equal_parts_settles_as_all_of_them(case, copies, in_one_place, engine, offered):
    fleet, placement = multiplied(case, copies, in_one_place=in_one_place)
    load = OperatingLoad(400.0, 40.0, 0.9, 40.0, engine, output_spread=1.0)
    points = []
    for most in (0, 10**6):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(operating, "_MOST_APART", most)
            points.append(operating.operating_point(fleet, placement, load, offered_output_per_s=offered))
    ours, theirs = points
    for figure in ("output_tokens_per_s", "requests", "round_trip_s", "offered_round_trip_s"):
        assert getattr(ours, figure) == pytest.approx(getattr(theirs, figure), rel=1e-5)
    for node, held in placement.ranges.items():
        mine, other = (one.capacity.tokens_per_s(node, held.layers) for one in points)
        assert mine == pytest.approx(other, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(crowds(), st.sampled_from(ENGINES))
def test_round_trips_through_junctions_are_those_over_their_links(case, engine):
    """A junction divides what comes from each class in the same proportions; the means over its links are exact."""
    fleet, table, placement = case
    load = OperatingLoad(400.0, 40.0, 0.9, 40.0, engine)
    stations = stations_of(fleet, placement, load)
    kinds = {node: id(station) for node, station in stations.items()}
    met = build_network(fleet, placement, table, kinds=kinds, most_class_links=0)
    plan = plan_of(met)
    assume(plan.max_flow_tokens_per_s > 0)
    assume(min(plan.node_flow_tokens_per_s.values()) > 0)  # idle nodes have no mean
    by_pair = build_network(fleet, placement, table, kinds={node: node for node in placement.ranges})
    flows = [
        flow
        for junction, one in zip(met.junctions, plan.flows, strict=True)
        for flow in ((*one.out_of, *one.into) if junction.is_hub else one.into)
    ]
    between = pair_flows(plan)
    names = [one.nodes[0] for one in by_pair.classes]
    pair = [between[names[arc.tail], names[arc.head]] for arc in by_pair.arcs]
    found, mean_s = RoundTrips(fleet, met, stations, load).of(flows)
    single, single_mean_s = RoundTrips(fleet, by_pair, stations, load).of(pair)
    by_name = {names[number]: seconds for number, seconds in single.items()}
    assert mean_s == pytest.approx(single_mean_s, rel=1e-4)
    for number, seconds in found.items():
        assert [by_name[node] for node in met.classes[number].nodes] == pytest.approx(
            [seconds] * met.size(number), rel=1e-4
        )
