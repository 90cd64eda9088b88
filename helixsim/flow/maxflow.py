"""Max-flow of a placement: value, min cut, balanced flow and routes.

Method: Helix (ASPLOS'25) section 4.2. Value and min cut come from Dinic's algorithm. A max-flow is rarely unique;
``balance`` returns the one that loads parallel nodes and links in proportion to capacity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import CutElement, FlowEdge, FlowPlan, Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.dinic import FlowGraph
from helixsim.flow.network import FlowNetwork, Link, build_network

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
    network = build_network(fleet, placement, capacity)
    value, flows, cut = _solve(network)
    if balanced and value > 0:
        from helixsim.flow.balance import balance  # deferred: loads the solver, which searches do not need

        flows = balance(network, value)
    flows = [flow if flow > _RELATIVE_ZERO * value else 0.0 for flow in flows]
    node_flow = dict.fromkeys(network.nodes, 0.0)
    for link, flow in zip(network.links, flows, strict=True):
        if link.dst != COORDINATOR:
            node_flow[link.dst] += flow
    return FlowPlan(
        max_flow_tokens_per_s=value,
        edges=tuple(
            FlowEdge(link.src, link.dst, flow, link.capacity_tokens_per_s)
            for link, flow in zip(network.links, flows, strict=True)
        ),
        node_flow_tokens_per_s=node_flow,
        node_capacity_tokens_per_s=dict(network.compute_tokens_per_s),
        min_cut=cut,
        routes=_routes(network, flows, placement.ranges, _RELATIVE_ZERO * value),
    )


def max_flow_value(fleet: Deployment, placement: Placement, capacity: CapacityTable) -> float:
    """Return the value of the max-flow only [tokens/s]; fast, for searches."""
    network = build_network(fleet, placement, capacity)
    return _graph(network)[0].maximise(_SOURCE, _SINK) if network.nodes else 0.0


def max_flow_without_network(plan: FlowPlan) -> float:
    """Return the max-flow [tokens/s] of the placement of a plan over links and NICs of unlimited speed."""
    if all(cut.kind == "node" for cut in plan.min_cut):
        return plan.max_flow_tokens_per_s
    links = tuple(Link(edge.src, edge.dst, math.inf) for edge in plan.edges)
    network = FlowNetwork(tuple(plan.node_capacity_tokens_per_s), links, plan.node_capacity_tokens_per_s, {})
    return _graph(network)[0].maximise(_SOURCE, _SINK)


def balanced_flows(network: FlowNetwork) -> list[float]:
    """Return the balanced max-flow on each link [tokens/s]; for fixed points that change capacities."""
    from helixsim.flow.balance import balance

    value, flows, _ = _solve(network)
    return balance(network, value, max_quadratic_links=_MAX_FIXED_POINT_LINKS) if value > 0 else flows


_SOURCE, _SINK = 0, 1
_FIRST_NODE = 2


_Arc = tuple[int, int, str, tuple[str, ...], float]
"""Tail, head, and the element it represents: kind (node, nic or link), ids, capacity [tokens/s]."""


def _graph(network: FlowNetwork) -> tuple[FlowGraph, list[_Arc]]:
    """Return the graph and its arcs: nodes, then links, then the NIC of the coordinator.

    Each node is two vertices, joined by an arc of its capacity.
    """
    position = {node: _FIRST_NODE + 2 * number for number, node in enumerate(network.nodes)}
    arcs: list[_Arc] = []
    for node, vertex in position.items():
        kind, limit = network.node_limit(node)
        arcs.append((vertex, vertex + 1, kind, (node,), limit))
    end = _FIRST_NODE + 2 * len(network.nodes)
    nic = network.nic_tokens_per_s.get(COORDINATOR)
    sender, receiver = (_SOURCE, _SINK) if nic is None else (end, end + 1)
    for link in network.links:
        tail = sender if link.src == COORDINATOR else position[link.src] + 1
        head = receiver if link.dst == COORDINATOR else position[link.dst]
        arcs.append((tail, head, "link", (link.src, link.dst), link.capacity_tokens_per_s))
    if nic is not None:
        arcs.append((_SOURCE, sender, "nic", (COORDINATOR,), nic))
        arcs.append((receiver, _SINK, "nic", (COORDINATOR,), nic))
    graph = FlowGraph(end + 2)
    # Capacities are cut at twice the sum of the nodes': no flow reaches it, and rounding of fast links stays small.
    largest = 2 * sum(network.node_limit(node)[1] for node in network.nodes)
    for tail, head, _, _, capacity_tokens_per_s in arcs:
        graph.add(tail, head, min(capacity_tokens_per_s, largest))
    return graph, arcs


def _solve(network: FlowNetwork) -> tuple[float, list[float], tuple[CutElement, ...]]:
    if not network.nodes:
        return 0.0, [], ()
    graph, arcs = _graph(network)
    value = graph.maximise(_SOURCE, _SINK)
    inside = graph.source_side(_SOURCE)
    cut = tuple(
        CutElement(kind, " -> ".join(ends), capacity_tokens_per_s)
        for tail, head, kind, ends, capacity_tokens_per_s in arcs
        if inside[tail] and not inside[head]
    )
    first_link = len(network.nodes)
    return value, [graph.flow(first_link + number) for number in range(len(network.links))], cut


def _routes(
    network: FlowNetwork, flows: Sequence[float], ranges: Mapping[str, LayerRange], zero: float
) -> tuple[tuple[Route, float], ...]:
    """Decompose the flow into paths: follow the largest remaining flow, subtract the flow of the path, repeat.

    Every path exhausts at least one link, so there are at most as many paths as links.
    """
    remaining: dict[str, dict[str, float]] = {}
    for link, flow in zip(network.links, flows, strict=True):
        if flow > 0:
            remaining.setdefault(link.src, {})[link.dst] = flow
    routes: dict[Route, float] = {}
    while True:
        path: list[tuple[str, str]] = []
        carried = float("inf")
        here = COORDINATOR
        while not path or here != COORDINATOR:
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
        if here == COORDINATOR:  # else a remainder of rounding
            route = _route([dst for _, dst in path[:-1]], ranges)
            routes[route] = routes.get(route, 0.0) + carried
    return tuple(sorted(routes.items(), key=lambda item: (-item[1], item[0].hops)))


def _route(nodes: Sequence[str], ranges: Mapping[str, LayerRange]) -> Route:
    hops: list[tuple[str, LayerRange]] = []
    done = 0
    for node in nodes:
        hops.append((node, LayerRange(done, ranges[node].end)))
        done = ranges[node].end
    return Route(tuple(hops))
