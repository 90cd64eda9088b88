"""Search of a route from the coordinator through all layers, shared by the built-in policies."""

from __future__ import annotations

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
