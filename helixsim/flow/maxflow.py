"""Max-flow of a placement: value, min cut, balanced flow and routes.

Method: Helix (ASPLOS'25) section 4.2. Value and min cut come from Dinic's algorithm. A max-flow is rarely unique;
``balance`` returns the one that loads parallel nodes and links in proportion to capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS, CutElement, FlowPlan, JunctionFlow, Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.dinic import FlowGraph
from helixsim.flow.network import FlowNetwork, build_network

_RELATIVE_ZERO = 1e-7
"""Flows below this share of the max-flow are rounding errors."""

_MAX_FIXED_POINT_LINKS = 200
"""Most links for which ``balanced_flows`` uses the quadratic program: fixed points compute many flows."""


def max_flow(fleet: Deployment, placement: Placement, capacity: CapacityTable, *, balanced: bool = True) -> FlowPlan:
    """Return the max-flow of a placement.

    Parameters
    ----------
    placement
        Without a complete route the plan is empty and its value 0.
    capacity
        Tokens/s of each node for its number of layers.
    balanced
        Return the max-flow that is balanced by capacity; else any max-flow.
    """
    return plan_of(build_network(fleet, placement, capacity), balanced=balanced)


def plan_of(network: FlowNetwork, *, balanced: bool = True) -> FlowPlan:
    """Return the max-flow of a capacity graph."""
    value, flows, cut = _solve(network)
    if balanced and value > 0:
        from helixsim.flow.balance import balance  # deferred: loads the solver, which searches do not need

        flows = balance(network, value)
    zero = _RELATIVE_ZERO * value
    flows = [flow if flow > zero else 0.0 for flow in flows]
    through = [0.0] * network.num_vertices
    for arc, flow in zip(network.arcs, flows, strict=True):
        through[arc.head] += flow
    number = {node: at for at, one in enumerate(network.classes) for node in one.nodes}
    return FlowPlan(
        max_flow_tokens_per_s=value,
        classes=network.classes,
        junctions=network.junctions,
        flows=_by_junction(network, flows),
        node_flow_tokens_per_s={node: through[number[node]] / network.size(number[node]) for node in network.order},
        node_capacity_tokens_per_s={node: network.compute_tokens_per_s[number[node]] for node in network.order},
        min_cut=cut,
        routes=_routes(network, flows, zero),
    )


def max_flow_value(fleet: Deployment, placement: Placement, capacity: CapacityTable) -> float:
    """Return the value of the max-flow only [tokens/s]; fast, for searches."""
    network = build_network(fleet, placement, capacity)
    return _graph(network).maximise(_SOURCE, _SINK) if network.classes else 0.0


def max_flow_without_network(plan: FlowPlan) -> float:
    """Return the max-flow [tokens/s] of the placement of a plan over links and NICs of unlimited speed."""
    if all(cut.kind == "node" for cut in plan.min_cut):
        return plan.max_flow_tokens_per_s
    network = FlowNetwork(
        plan.classes,
        tuple(replace(junction, capacity_tokens_per_s=math.inf) for junction in plan.junctions),
        (math.inf, *(plan.node_capacity_tokens_per_s[one.nodes[0]] for one in plan.classes[1:])),
        (math.inf,) * len(plan.classes),
        tuple(plan.node_flow_tokens_per_s),
    )
    return _graph(network).maximise(_SOURCE, _SINK)


def balanced_flows(network: FlowNetwork, copies: Sequence[int] | None = None) -> list[float]:
    """Return the balanced max-flow on each arc [tokens/s]; for fixed points that change capacities.

    ``copies``: classes that each class stands for (``alike``); None: one each.
    """
    from helixsim.flow.balance import balance

    if not network.classes:
        return []
    graph = _graph(network)
    value = entering = graph.maximise(_SOURCE, _SINK)
    if value <= 0:
        return [0.0] * len(network.arcs)
    if copies is not None:
        arcs = enumerate(network.arcs, start=len(network.node_classes))
        entering += sum((copies[arc.head] - 1) * graph.flow(at) for at, arc in arcs if arc.tail == COORDINATOR_CLASS)
    return balance(network, value, max_quadratic_links=_MAX_FIXED_POINT_LINKS, coordinator_tokens_per_s=entering)


_SOURCE, _SINK = 0, 1
_FIRST_VERTEX = 2


def _graph(network: FlowNetwork) -> FlowGraph:
    """Return the graph, with the arcs of the classes, then those of the network, then the NIC of the coordinator.

    Each class of nodes is two vertices, joined by an arc of their capacity. Those of the coordinator are the source and
    the sink, or are joined to them by its NIC.
    """
    # Capacities are cut at twice the sum of the nodes': no flow reaches it, and rounding of fast links stays small.
    limits = [network.size(number) * network.node_limit(number)[1] for number in network.node_classes]
    largest = 2 * sum(limits)
    graph = FlowGraph(_FIRST_VERTEX + 2 * network.num_vertices)
    has_nic = network.nic_tokens_per_s[COORDINATOR_CLASS] < float("inf")
    sender, receiver = (_FIRST_VERTEX, _FIRST_VERTEX + 1) if has_nic else (_SOURCE, _SINK)
    heads = [_FIRST_VERTEX + 2 * number for number in range(network.num_vertices)]
    tails = [head + 1 for head in heads]
    for number in range(len(network.classes), network.num_vertices):
        tails[number] = heads[number]
    heads[COORDINATOR_CLASS], tails[COORDINATOR_CLASS] = receiver, sender
    for number, limit in zip(network.node_classes, limits, strict=True):
        graph.add(heads[number], tails[number], limit)
    for arc in network.arcs:
        graph.add(tails[arc.tail], heads[arc.head], min(arc.capacity_tokens_per_s, largest))
    if has_nic:
        nic = min(network.nic_tokens_per_s[COORDINATOR_CLASS], largest)
        graph.add(_SOURCE, sender, nic)
        graph.add(receiver, _SINK, nic)
    return graph


def _solve(network: FlowNetwork) -> tuple[float, list[float], tuple[CutElement, ...]]:
    if not network.classes:
        return 0.0, [], ()
    graph = _graph(network)
    value = graph.maximise(_SOURCE, _SINK)
    first = len(network.node_classes)
    return value, [graph.flow(first + number) for number in range(len(network.arcs))], _cut(network, graph)


def _cut(network: FlowNetwork, graph: FlowGraph) -> tuple[CutElement, ...]:
    inside = graph.source_side(_SOURCE)
    cut: list[CutElement] = []
    arc_number = 0
    for number in network.node_classes:
        kind, limit = network.node_limit(number)
        if graph.crosses(arc_number, inside):
            cut += [CutElement(kind, node, limit) for node in network.classes[number].nodes]
        arc_number += 1
    for arc in network.arcs:
        if graph.crosses(arc_number, inside):
            tail, head = network.classes[arc.tail], network.classes[arc.head]
            links = len(tail.nodes) * len(head.nodes)
            cut.append(CutElement("link", f"{tail.nodes[0]} -> {head.nodes[0]}", arc.capacity_tokens_per_s, links))
        arc_number += 1
    nic = network.nic_tokens_per_s[COORDINATOR_CLASS]
    if nic < float("inf"):
        cut += [CutElement("nic", COORDINATOR, nic) for at in range(2) if graph.crosses(arc_number + at, inside)]
    return tuple(cut)


def _by_junction(network: FlowNetwork, flows: Sequence[float]) -> tuple[JunctionFlow, ...]:
    found = []
    at = 0
    for junction in network.junctions:
        if junction.is_hub:
            middle = at + len(junction.sources)
            end = middle + len(junction.targets)
            found.append(JunctionFlow(tuple(flows[at:middle]), tuple(flows[middle:end])))
            at = end
        else:
            found.append(JunctionFlow((flows[at],), (flows[at],)))
            at += 1
    return tuple(found)


def _routes(network: FlowNetwork, flows: Sequence[float], zero: float) -> tuple[tuple[Route, float], ...]:
    """Decompose the flow into paths: follow the largest remaining flow, subtract the flow of the path, repeat.

    Every path exhausts at least one arc, so there are at most as many paths as arcs.
    """
    remaining: dict[int, dict[int, float]] = {}
    for arc, flow in zip(network.arcs, flows, strict=True):
        if flow > 0:
            remaining.setdefault(arc.tail, {})[arc.head] = flow
    routes: dict[Route, float] = {}
    while True:
        path: list[tuple[int, int]] = []
        carried = float("inf")
        here = COORDINATOR_CLASS
        while not path or here != COORDINATOR_CLASS:
            following = remaining.get(here)
            if not following:
                break
            there = max(following, key=following.__getitem__)
            carried = min(carried, following[there])
            path.append((here, there))
            here = there
        if not path:
            break
        for src, dst in path:
            left = remaining[src][dst] - carried
            if left > zero:
                remaining[src][dst] = left
            else:
                del remaining[src][dst]
        if here == COORDINATOR_CLASS:  # else a remainder of rounding
            route = _route(network, [dst for _, dst in path[:-1]])
            routes[route] = routes.get(route, 0.0) + carried
    return tuple(sorted(routes.items(), key=lambda item: (-item[1], item[0].hops)))


def _route(network: FlowNetwork, vertices: Sequence[int]) -> Route:
    hops: list[tuple[str, LayerRange]] = []
    done = 0
    for vertex in vertices:
        if vertex < len(network.classes):
            one = network.classes[vertex]
            hops.append((one.nodes[0], LayerRange(done, one.layers.end)))
            done = one.layers.end
    return Route(tuple(hops))
