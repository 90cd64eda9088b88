"""The max-flow that networkx, the solver of the paper's prototype, finds on the prototype's own graph."""

from __future__ import annotations

import networkx
from networkx.algorithms.flow import preflow_push

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.flowplan import FlowPlan
from helixsim.flow.maxflow import plan_of
from helixsim.flow.network import build_network
from helixsim.papers.helix.program import pruned_edges, without_links
from helixsim.study.placing import place_system
from helixsim.study.systems import capacity_table

LEAST_SHARE = 0.05
"""The artifact leaves out edges that carry less than this share of what leaves their node."""

CARD_BYTES_PER_S, TOKEN_ID_BYTES, ACTIVATION_BYTES = 1.25e9, 2, 16386
"""The artifact's network cards, and what a token is on links to the coordinator and between nodes."""


def pushed(plan: FlowPlan, limits: dict[str, float]) -> tuple[float, dict[str, dict[str, float]]]:
    """Return the value, and the flow from node to node, on the artifact's graph: three arcs a node.

    ``limits``: tokens/s of each node, in the order of the artifact's file.
    """
    graph = networkx.DiGraph()
    token_ids = CARD_BYTES_PER_S / TOKEN_ID_BYTES
    activations = CARD_BYTES_PER_S / ACTIVATION_BYTES
    graph.add_edge("source", (COORDINATOR, "out"), capacity=token_ids)
    for node, limit in limits.items():
        graph.add_edge((node, "in"), (node, "start"), capacity=activations)
        graph.add_edge((node, "start"), (node, "end"), capacity=limit)
        graph.add_edge((node, "end"), (node, "out"), capacity=activations)
    graph.add_edge((COORDINATOR, "in"), "sink", capacity=token_ids)
    position = {node: number for number, node in enumerate([COORDINATOR, *limits])}
    for link in sorted(plan.edges, key=lambda link: (position[link.src], position[link.dst])):
        graph.add_edge((link.src, "out"), (link.dst, "in"), capacity=link.capacity_tokens_per_s)
    value, flows = networkx.maximum_flow(graph, "source", "sink", flow_func=preflow_push)
    leaving: dict[str, dict[str, float]] = {}
    for link in plan.edges:
        if link.dst != COORDINATOR:
            leaving.setdefault(link.src, {})[link.dst] = flows[link.src, "out"][link.dst, "in"]
    return value, leaving


def prototype_shares(
    experiment: ResolvedExperiment, system: SystemSpec, *, is_pruned: bool = False
) -> tuple[float, float, dict[str, dict[str, float]]]:
    """Return the prototype's max-flow, helixsim's, and the shares [tokens/s] where there is a choice of followers."""
    fleet = system.fleet
    if is_pruned:
        fleet = without_links(fleet, pruned_edges(fleet.cluster))
    placed = place_system(experiment, system, by_flow=True)
    network = build_network(fleet, placed.placement, capacity_table(experiment, system))
    number = {node: at for at, one in enumerate(network.classes) for node in one.nodes}
    nodes = [node.id for node in fleet.cluster.nodes if node.id in network.order]
    value, leaving = pushed(plan_of(network), {node: network.node_limit(number[node])[1] for node in nodes})
    kept: dict[str, dict[str, float]] = {}
    for node, flows in leaving.items():
        total = sum(flows.values())
        followers = {follower: flow for follower, flow in flows.items() if flow >= LEAST_SHARE * total > 0}
        if len(flows) > 1 and followers:
            kept[node] = followers
    return value, placed.plan.max_flow_tokens_per_s, kept
