"""What grows with the number of nodes, counted: arcs, columns of programs, hops and lines; none with its square."""

from __future__ import annotations

import json
from dataclasses import replace

import builders
import pytest
from routing_view import View

from helixsim import solver
from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow import operating
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import balanced_flows, max_flow, plan_of
from helixsim.flow.network import build_network
from helixsim.flow.station import OperatingLoad
from helixsim.metrics.bottleneck import cut_sentence
from helixsim.report.tables import placement_text
from helixsim.results.placement_json import placement_document
from helixsim.rng import stream
from helixsim.routing import registry
from helixsim.routing.graph import routing_graph
from helixsim.runtime.identity import content_key

STAGES = 4


def crowd(size: int, *, different: bool = False) -> tuple[Deployment, CapacityTable, Placement]:
    """``size`` nodes in each of four stages, half of them of each of two kinds; or each of a kind of its own."""
    kinds = [builders.profile(f"k{at}" if different else f"k{at % 2}", 1) for at in range(size)]
    fleet = builders.fleet(kinds * STAGES, num_layers=STAGES, intra=LinkSpec(1e12, 0))
    table = builders.capacity_of(fleet, {kind.kind: (100.0 + at,) for at, kind in enumerate(kinds)})
    ranges = {node.id: LayerRange(at // size, at // size + 1) for at, node in enumerate(fleet.cluster.nodes)}
    return fleet, table, Placement("crowd", STAGES, ranges)


def columns_solved(monkeypatch: pytest.MonkeyPatch, case: tuple[Deployment, CapacityTable, Placement]) -> int:
    """The columns of the programs behind a balanced flow."""
    columns = []
    solve = solver.solve

    def counted(program: solver.Program) -> solver.Solution:
        columns.append(program.num_columns)
        return solve(program)

    with monkeypatch.context() as patched:
        patched.setattr(solver, "solve", counted)
        max_flow(case[0], case[2], case[1])
    return sum(columns)


def test_equal_nodes_cost_the_programs_nothing(monkeypatch):
    few, many = (columns_solved(monkeypatch, crowd(size)) for size in (6, 60))
    assert few == many == STAGES * 4 - 4 + 4  # two classes a stage: 2 first links, 3 x 4 between stages, 2 last ones


def test_nodes_that_all_differ_cost_an_arc_each_way(monkeypatch):
    """With a pair of arcs for each two nodes it would be a hundred times as many for ten times the nodes."""
    sizes = (30, 300)
    few, many = (build_network(case[0], case[2], case[1]) for case in (crowd(n, different=True) for n in sizes))
    assert len(many.arcs) == 10 * len(few.arcs) == 2 * STAGES * sizes[1]
    assert sum(junction.is_hub for junction in many.junctions) == STAGES - 1
    least, most = (columns_solved(monkeypatch, crowd(n, different=True)) for n in sizes)
    assert most == 10 * least
    fleet, table, placement = crowd(sizes[0], different=True)
    apart = {node: node for node in placement.ranges}
    pairs = build_network(fleet, placement, table, kinds=apart, most_class_links=10**6)
    assert plan_of(few).max_flow_tokens_per_s == pytest.approx(plan_of(pairs).max_flow_tokens_per_s)


@pytest.mark.parametrize(
    ("engine", "home", "kinds_of_parts"),
    [
        (IDEAL, "elsewhere", 1),
        (IDEAL, "site-0", 2),
        (EngineSpec(loops_inside=True, chunks_prompts=True), "elsewhere", 2),
    ],
    ids=["equal", "latency of the coordinator", "returns to any region"],
)
def test_equal_pipelines_cost_the_estimate_nothing(monkeypatch, engine, home, kinds_of_parts):
    """A stage of two nodes and one of one: no chain, whose law is another one. Half of them is in another region."""
    monkeypatch.setattr(operating, "_MOST_APART", 10)
    solved = []
    for copies in (10, 100):
        kinds = [builders.profile("k", 1)] * 3 * copies
        regions = [f"site-{2 * at // len(kinds)}" for at in range(len(kinds))]
        links = {"intra": LinkSpec(1e12, 0), "inter": LinkSpec(1e12, 1_000_000)}
        fleet = builders.fleet(kinds, num_layers=2, regions=regions, **links)
        fleet = replace(fleet, cluster=replace(fleet.cluster, coordinator_region=home))
        ids = [node.id for node in fleet.cluster.nodes]
        ranges = {node: LayerRange(at % 3 // 2, at % 3 // 2 + 1) for at, node in enumerate(ids)}
        placement = Placement("drawn", 2, ranges, pipelines={node: at // 3 for at, node in enumerate(ids)})
        networks = []
        monkeypatch.setattr(
            operating, "balanced_flows", lambda *given, to=networks: to.append(given[0]) or balanced_flows(*given)
        )
        operating.operating_point(fleet, placement, OperatingLoad(400.0, 40.0, 0.9, 40.0, engine))
        solved.append({len(network.arcs) for network in networks})
    assert solved == [{3 * kinds_of_parts}] * 2


def test_hops_are_made_for_the_nodes_that_requests_pass():
    size = 50
    fleet, table, placement = crowd(size)
    graph = routing_graph(placement, max_flow(fleet, placement, table))
    assert graph.num_edges == size + (STAGES - 1) * size * size
    assert graph.successors.num_made == 0
    policy = registry.get("flow_weighted")
    route = policy(graph, policy.Options(), stream(0, "routing")).route(10, 20, View())
    assert [hop.end for hop in route] == [1, 2, 3, 4]
    assert graph.successors.num_made == (STAGES - 1) * size


def test_files_and_tables_list_classes_and_no_pairs():
    texts, rows = [], []
    for size in (30, 300):
        fleet, table, placement = crowd(size)
        plan = max_flow(fleet, placement, table)
        document = placement_document(placement, plan, fleet)
        assert {node for nodes in document["equal_nodes"] for node in nodes} == set(placement.ranges)
        texts.append(json.dumps(document))
        rows.append(placement_text("crowd", document).splitlines())
        assert {entry["route"].split()[0] for entry in document["routes"]} == {"k1-0[0:1]", "k0-0[0:1]"}
        assert len(document["routes"]) <= STAGES * 4
    assert len(texts[1]) < 11 * len(texts[0])
    assert len(rows[1]) == len(rows[0]) < 20
    assert any(line.startswith("k0-0 and 149 more") for line in rows[1])


def test_equal_links_of_the_min_cut_are_one_element_with_their_number():
    fleet, table, placement = crowd(6)
    slow = LinkSpec(8 * 1002 * 2.0, 0)  # 2 tokens/s of 1000 + 2 bytes
    network = replace(fleet.cluster.network, intra_region=slow)
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    plan = max_flow(fleet, placement, table)
    assert plan.max_flow_tokens_per_s == pytest.approx(2.0 * 36)
    assert sum(element.count for element in plan.min_cut) == 36
    assert len(plan.min_cut) == 4
    assert "36 network links (k0-0 -> k0-3, " in cut_sentence(plan, fleet.cluster)
    assert " and 33 more: 72.0 tokens/s)" in cut_sentence(plan, fleet.cluster)


def test_a_link_of_its_own_makes_sites_of_its_ends_alone():
    fleet, table, placement = crowd(6)
    odd = LinkSpec(1e12, 5)
    same = fleet.cluster.network.intra_region
    pairs = {("k0-0", "k0-3"): odd, ("k1-0", "k1-3"): same, ("k1-1", "k1-4"): odd, ("k1-2", "k1-4"): odd}
    cluster = replace(fleet.cluster, network=replace(fleet.cluster.network, pairs=pairs))
    sites = cluster.sites
    alike = {site: {node for node, other in sites.items() if other == site} for site in sites.values()}
    assert {frozenset(nodes) for nodes in alike.values() if len(nodes) < 4} == {
        frozenset({"k0-0"}), frozenset({"k0-3"}), frozenset({"k1-1", "k1-2"}), frozenset({"k1-4"}),
    }  # fmt: skip
    assert sites["k1-0"] == sites["k1-3"] == sites["k0-1"]
    plain, odd_plan = (max_flow(replace(fleet, cluster=one), placement, table) for one in (fleet.cluster, cluster))
    assert odd_plan.max_flow_tokens_per_s == pytest.approx(plain.max_flow_tokens_per_s)
    assert len(odd_plan.classes) > len(plain.classes)


def test_what_a_cluster_remembers_is_no_part_of_its_key():
    fleet, *_ = crowd(2)
    before = content_key("cluster", fleet)
    assert fleet.cluster.sites
    assert content_key("cluster", fleet) == before
