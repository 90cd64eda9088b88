"""The shares of the measured cells are the max-flow that networkx, the solver of the paper's prototype, finds."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest
from networkx.algorithms.flow import preflow_push

from helixsim.config.resolve import load_experiment
from helixsim.domain.cluster import COORDINATOR
from helixsim.flow.network import FlowNetwork, build_network
from helixsim.planning.placing import place_system
from helixsim.planning.registries import registries
from helixsim.planning.systems import capacity_table

CELLS = Path(__file__).parents[3] / "experiments" / "fidelity"
LEAST_SHARE = 0.05
"""The artifact leaves out edges that carry less than this share of what leaves their node."""

CARD_BYTES_PER_S, TOKEN_ID_BYTES, ACTIVATION_BYTES = 1.25e9, 2, 16386
"""The artifact's network cards, and what a token is on links to the coordinator and between nodes."""


def pushed(network: FlowNetwork, nodes: list[str]) -> tuple[float, dict[str, dict[str, float]]]:
    """Return the value, and the flow from node to node, on the artifact's graph: three arcs a node."""
    graph = networkx.DiGraph()
    token_ids = CARD_BYTES_PER_S / TOKEN_ID_BYTES
    activations = CARD_BYTES_PER_S / ACTIVATION_BYTES
    graph.add_edge("source", (COORDINATOR, "out"), capacity=token_ids)
    for node in nodes:
        graph.add_edge((node, "in"), (node, "start"), capacity=activations)
        graph.add_edge((node, "start"), (node, "end"), capacity=network.node_limit(node)[1])
        graph.add_edge((node, "end"), (node, "out"), capacity=activations)
    graph.add_edge((COORDINATOR, "in"), "sink", capacity=token_ids)
    position = {node: number for number, node in enumerate([COORDINATOR, *nodes])}
    for link in sorted(network.links, key=lambda link: (position[link.src], position[link.dst])):
        graph.add_edge((link.src, "out"), (link.dst, "in"), capacity=link.capacity_tokens_per_s)
    value, flows = networkx.maximum_flow(graph, "source", "sink", flow_func=preflow_push)
    leaving: dict[str, dict[str, float]] = {}
    for link in network.links:
        if link.dst != COORDINATOR:
            leaving.setdefault(link.src, {})[link.dst] = flows[link.src, "out"][link.dst, "in"]
    return value, leaving


@pytest.mark.parametrize("cell", ["70b-placement", "70b-helix-offline", "70b-helix-online", "70b-scheduling"])
def test_shares_are_those_of_preflow_push(cell: str) -> None:
    experiment = load_experiment(CELLS / f"{cell}.yaml", registries=registries())
    checked = 0
    for system in experiment.systems:
        if system.routing != "flow_weighted":
            continue
        placed = place_system(experiment, system, judged=False)
        network = build_network(system.fleet, placed.placement, capacity_table(experiment, system))
        nodes = [node.id for node in system.fleet.cluster.nodes if node.id in network.nodes]
        value, leaving = pushed(network, nodes)
        assert value == pytest.approx(placed.plan.max_flow_tokens_per_s)
        shares = system.routing_options.shares
        for node, flows in leaving.items():
            total = sum(flows.values())
            kept = {follower: flow for follower, flow in flows.items() if flow >= LEAST_SHARE * total > 0}
            if len(flows) > 1 and kept:
                assert shares[node] == pytest.approx(kept, rel=1e-3), node
                checked += 1
    assert checked
