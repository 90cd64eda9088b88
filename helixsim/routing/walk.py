"""Searches of a route from the coordinator through all layers, shared by the built-in policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from helixsim.routing.base import Hop, RoutingGraph, RoutingView

Pick = Callable[[Sequence[Hop]], Hop]
"""Selects one of several next hops that all fit."""


def walk(graph: RoutingGraph, view: RoutingView, pick: Pick) -> tuple[Hop, ...] | None:
    """Return hops that cover all layers, selected with ``pick`` at each step; None if no route fits.

    The search backtracks from nodes without a successor that fits, so that a full node downstream does not hide a free
    one beside it.
    """
    chosen: list[Hop] = []
    dead: set[int] = set()
    options = graph.first
    while True:
        open_hops = [hop for hop in options if hop.node not in dead and view.fits(hop)]
        if open_hops:
            hop = pick(open_hops) if len(open_hops) > 1 else open_hops[0]
            chosen.append(hop)
            if hop.end == graph.num_layers:
                return tuple(chosen)
        elif chosen:
            dead.add(chosen.pop().node)
        else:
            return None
        options = graph.successors[chosen[-1].node] if chosen else graph.first


def least_time(
    graph: RoutingGraph,
    sites: Sequence[int],
    node_ns: Callable[[Hop], float],
    link_ns: Callable[[int | None, int], float],
    back_ns: Callable[[int], float],
) -> tuple[Hop, ...] | None:
    """Return the hops that cover all layers in the least time; None if each way has a node of infinite time.

    Parameters
    ----------
    sites
        Site of each node: links from nodes of one site are equal, so that the best hop after a node is found once for
        all nodes of a site that lead to the same nodes.
    node_ns, link_ns, back_ns
        Time at the node of a hop, infinite where it does not fit; on the link between two nodes (None: from the
        coordinator); and from the last node to the end of the route.
    """
    behind: dict[int, tuple[float, int]] = {}  # the time to the end, and which of the hops to take
    known: dict[tuple[int, int], tuple[float, int]] = {}
    through: dict[tuple[int, int], float] = {}

    def best(source: int | None, hops: Sequence[Hop]) -> tuple[float, int]:
        least, which = math.inf, -1
        for at, hop in enumerate(hops):
            key = (hop.node, hop.start)
            time_ns = through.get(key)
            if time_ns is None:
                rest_ns = behind[hop.node][0] if hop.end < graph.num_layers else back_ns(hop.node)
                time_ns = through[key] = rest_ns if rest_ns == math.inf else rest_ns + node_ns(hop)
            if time_ns < least and (total := time_ns + link_ns(source, hop.node)) < least:
                least, which = total, at
        return least, which

    for node in graph.order:
        key = (id(graph.targets[node]), sites[node])
        if key not in known:
            known[key] = best(node, graph.successors[node])
        behind[node] = known[key]
    which = best(None, graph.first)[1]
    if which < 0:
        return None
    route = [graph.first[which]]
    while route[-1].end < graph.num_layers:
        node = route[-1].node
        route.append(graph.successors[node][behind[node][1]])
    return tuple(route)
