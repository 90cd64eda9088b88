"""The paper's placement program: its pruning and its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from helixsim.domain.cluster import COORDINATOR, Cluster, Deployment, LinkSpec

Edge = tuple[str, str]
"""Source and destination of a directed link; the coordinator at either end is called by its id."""

KEPT_LINKS = 12
"""Links that the paper's pruning keeps at every node, and at either side of the coordinator."""


@dataclass(frozen=True, slots=True)
class ProgramSize:
    """Rows, columns and entries of the paper's program; ``edges`` are the directed links that it knows."""

    rows: int
    columns: int
    nonzeros: int
    edges: int


def all_edges(cluster: Cluster) -> list[Edge]:
    """Return every directed link: from the coordinator, to it, and between nodes."""
    nodes = [node.id for node in cluster.nodes]
    pairs = [(a, b) for a in nodes for b in nodes if a != b]
    return [*((COORDINATOR, node) for node in nodes), *((node, COORDINATOR) for node in nodes), *pairs]


def pruned_edges(cluster: Cluster, kept: int = KEPT_LINKS) -> list[Edge]:
    """Return the directed links that survive the paper's pruning.

    Each node keeps its ``kept`` fastest links, and a link survives if either end keeps it; so does the coordinator for
    sending and for receiving. Equal links are told apart by name, as in the artifact: nodes are numbered in cluster
    order, the later text of ``i-j`` wins between nodes, the larger number at the coordinator.
    """
    nodes = [node.id for node in cluster.nodes]
    chosen: set[Edge] = set()
    for at, node in enumerate(nodes):
        others = [other for other in range(len(nodes)) if other != at]
        named = {other: f"{min(at, other)}-{max(at, other)}" for other in others}
        others.sort(key=lambda o: (cluster.link(node, nodes[o]).bandwidth_bps, named[o]), reverse=True)
        for other in others[:kept]:
            chosen |= {(node, nodes[other]), (nodes[other], node)}
    for outward in (True, False):
        ends = [(COORDINATOR, node) if outward else (node, COORDINATOR) for node in nodes]
        order = sorted(range(len(nodes)), key=lambda at: (cluster.link(*ends[at]).bandwidth_bps, at), reverse=True)
        chosen |= {ends[at] for at in order[:kept]}
    return [edge for edge in all_edges(cluster) if edge in chosen]


def without_links(fleet: Deployment, edges: Sequence[Edge]) -> Deployment:
    """Return the fleet with no bandwidth on any link but these."""
    kept, cluster = set(edges), fleet.cluster
    cut = {edge: LinkSpec(0.0, cluster.link(*edge).latency_ns) for edge in all_edges(cluster) if edge not in kept}
    network = replace(cluster.network, pairs={**cluster.network.pairs, **cut})
    return replace(fleet, cluster=replace(cluster, network=network))


def program_size(max_layers: Mapping[str, int], edges: Sequence[Edge]) -> ProgramSize:
    """Return the size of the paper's program without partial inference and redundant rows.

    Columns: per node the first layer and one binary for each number of layers it can hold, per link its flow and a
    switch. Rows: per node one number of layers, the last layer, balance and capacity; per link its capacity; validity,
    one row for a link of the coordinator and two for a link between nodes.

    Parameters
    ----------
    max_layers
        Node id -> most layers it can hold.
    edges
        The directed links; every node has at least one.
    """
    choices = dict(max_layers)
    nodes, total = len(choices), sum(choices.values())
    source = [dst for src, dst in edges if src == COORDINATOR]
    sink = [src for src, dst in edges if dst == COORDINATOR]
    between = [(src, dst) for src, dst in edges if COORDINATOR not in (src, dst)]
    nonzeros = (
        total  # one number of layers
        + nodes + total  # the last layer
        + 2 * len(between) + len(source) + len(sink)  # balance
        + len(between) + len(source) + total  # capacity of nodes
        + 2 * len(source)  # validity of links from the coordinator: first layer, switch
        + sum(2 + choices[src] for src in sink)  # to the coordinator: last layer, switch
        + 2 * sum(3 + choices[src] for src, _ in between)  # between nodes: last layer, first layer, switch
        + 2 * len(edges)  # capacity of links
    )  # fmt: skip
    return ProgramSize(
        rows=4 * nodes + len(source) + len(sink) + 2 * len(between) + len(edges),
        columns=nodes + total + 2 * len(edges),
        nonzeros=nonzeros,
        edges=len(edges),
    )
