"""The routing graph of a placement: usable links of its flow plan, by node number."""

from __future__ import annotations

from array import array

from helixsim.domain.chains import chains as domain_chains
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.flowplan import COORDINATOR_CLASS, FlowPlan
from helixsim.domain.placement import Placement
from helixsim.routing.base import Hop, LazyRows, RoutingGraph, Target
from helixsim.routing.times import RoutingTimes


def routing_graph(placement: Placement, plan: FlowPlan, times: RoutingTimes | None = None) -> RoutingGraph:
    """Return the routing graph of a placement.

    Nodes are numbered in the order of ``placement.ranges``, edges in that of ``plan.edges``. A request that enters a
    node inside its layer range runs the rest of the range (partial inference). Nodes on no complete route have no
    edges. The hops after a node are made when they are first asked for: there are many, and equal nodes lead to the
    same ones.
    """
    node_ids = tuple(placement.ranges)
    number = {node_id: position for position, node_id in enumerate(node_ids)}
    rows: list[tuple[Target, ...]] = []
    known: dict[tuple[Target, ...], tuple[Target, ...]] = {}
    shares: list[list[float]] = []
    for at in range(len(plan.classes)):
        departures = [one for one in plan.departures(at) if one.dst != COORDINATOR]
        row = tuple(Target(number[one.dst], one.layer, placement.ranges[one.dst].end) for one in departures)
        rows.append(known.setdefault(row, row))
        shares.append([one.flow_tokens_per_s for one in departures])
    flows = array("d", shares[COORDINATOR_CLASS] if shares else ())
    offsets = [0] * len(node_ids)
    targets: list[tuple[Target, ...]] = [()] * len(node_ids)
    for node_id in plan.node_flow_tokens_per_s:
        node, own = number[node_id], plan.class_of[node_id]
        targets[node], offsets[node] = rows[own], len(flows)
        flows.extend(shares[own])

    def hops(row: tuple[Target, ...], offset: int) -> tuple[Hop, ...]:
        return tuple(Hop(offset + at, *one) for at, one in enumerate(row))

    return RoutingGraph(
        num_layers=placement.num_layers,
        num_edges=len(flows),
        node_ids=node_ids,
        first=hops(rows[COORDINATOR_CLASS], 0) if rows else (),
        successors=LazyRows(len(node_ids), lambda node: hops(targets[node], offsets[node])),
        flow_tokens_per_s=flows,
        capacity_tokens_per_s=tuple(plan.node_capacity_tokens_per_s.get(node_id, 0.0) for node_id in node_ids),
        targets=tuple(targets),
        plan=plan,
        times=times,
        enters_inside=any(one.start != placement.ranges[node_ids[one.node]].start for row in rows for one in row),
    )


def chains(graph: RoutingGraph) -> list[list[int]] | None:
    """Return the nodes of each chain that holds all layers, where all routes are such chains without common nodes.

    None: routes branch, merge, or enter a node in the middle of its layers.
    """
    found = domain_chains((hop.node for hop in graph.first), lambda node: [one.node for one in graph.targets[node]])
    return None if graph.enters_inside else found
