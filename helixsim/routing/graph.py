"""The routing graph of a placement: usable edges of its flow plan, by node number."""

from __future__ import annotations

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.routing.base import Hop, RoutingGraph
from helixsim.routing.times import RoutingTimes


def routing_graph(placement: Placement, plan: FlowPlan, times: RoutingTimes | None = None) -> RoutingGraph:
    """Return the routing graph of a placement.

    Nodes are numbered in the order of ``placement.ranges``, edges in that of ``plan.edges``. A request that enters a
    node inside its layer range runs the rest of the range (partial inference). Nodes on no complete route have no
    edges.
    """
    node_ids = tuple(placement.ranges)
    number = {node_id: position for position, node_id in enumerate(node_ids)}
    first: list[Hop] = []
    successors: list[list[Hop]] = [[] for _ in node_ids]
    flows: list[float] = []
    for edge in plan.edges:
        if edge.dst == COORDINATOR:
            continue
        target = placement.ranges[edge.dst]
        start = 0 if edge.src == COORDINATOR else placement.ranges[edge.src].end
        hop = Hop(len(flows), number[edge.dst], start, target.end)
        flows.append(edge.flow_tokens_per_s)
        (first if edge.src == COORDINATOR else successors[number[edge.src]]).append(hop)
    return RoutingGraph(
        num_layers=placement.num_layers,
        num_edges=len(flows),
        node_ids=node_ids,
        first=tuple(first),
        successors=tuple(tuple(hops) for hops in successors),
        flow_tokens_per_s=tuple(flows),
        capacity_tokens_per_s=tuple(plan.node_capacity_tokens_per_s.get(node_id, 0.0) for node_id in node_ids),
        plan=plan,
        times=times,
    )


def chains(graph: RoutingGraph) -> list[list[int]] | None:
    """Return the nodes of each chain that holds all layers, where all routes are such chains without common nodes.

    None: routes branch, merge, or enter a node in the middle of its layers.
    """
    found: list[list[int]] = []
    seen: set[int] = set()
    for first in graph.first:
        hop, chain = first, [first.node]
        while hop.end < graph.num_layers:
            following = graph.successors[hop.node]
            if len(following) != 1 or following[0].start != hop.end:
                return None
            (hop,) = following
            chain.append(hop.node)
        if graph.successors[hop.node] or seen & set(chain):
            return None
        seen |= set(chain)
        found.append(chain)
    return found
