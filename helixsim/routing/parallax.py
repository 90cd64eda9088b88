"""Parallax's routing: the path of least latency through the layers, by dynamic programming, for each request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from helixsim.errors import ConfigError
from helixsim.plugins import NoOptions
from helixsim.routing.base import Hop, RoutingGraph, RoutingView


class Parallax:
    """Phase 2 of Parallax (Tong et al., arXiv 2509.26182; github.com/GradientHQ/parallax).

    A node costs the time of a decode step of its layers with the requests that are on it and this one, a link its round
    trip. A path may change from one pipeline to another where their ranges meet. Nodes without room for the request are
    no option.

    Differences: the step time is that of helixsim instead of a roofline or a report of the node, with the contexts that
    are there instead of the longest one. As in the paper the layers of a node add up (in the code a node costs one
    layer). A request waits where Parallax would refuse it for a full pipeline.
    """

    summary: ClassVar[str] = "the path of least latency by dynamic programming, with the load of each node (Parallax)"
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, graph: RoutingGraph, options: NoOptions, rng: np.random.Generator) -> None:
        if graph.times is None:
            raise ConfigError("parallax: needs the step times of a placement")
        self._graph = graph
        self._times = graph.times
        ends = {hop.node: hop.end for hops in (graph.first, *graph.successors) for hop in hops}
        self._order = sorted(ends, key=lambda node: -ends[node])

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        graph = self._graph
        behind: dict[int, tuple[float, Hop | None]] = {}
        on_node: dict[tuple[int, int], float] = {}

        def best(source: int | None, hops: Sequence[Hop]) -> tuple[float, Hop | None]:
            least: tuple[float, Hop | None] = (math.inf, None)
            for hop in hops:
                rest = behind[hop.node][0] if hop.end < graph.num_layers else 0.0
                if rest == math.inf:
                    continue
                key = (hop.node, hop.start)
                if key not in on_node:
                    on_node[key] = self._node_ns(hop, prompt_tokens, view) if view.fits(hop) else math.inf
                total = rest + on_node[key] + 2 * self._times.latency_ns(source, hop.node)
                if total < least[0]:
                    least = (total, hop)
            return least

        for node in self._order:
            behind[node] = best(node, graph.successors[node])
        hop = best(None, graph.first)[1]
        route: list[Hop] = []
        while hop is not None:
            route.append(hop)
            hop = behind[hop.node][1] if hop.end < graph.num_layers else None
        return tuple(route) or None

    def _node_ns(self, hop: Hop, prompt: int, view: RoutingView) -> float:
        sequences = view.in_flight(hop.node) + 1
        context = view.in_flight_tokens(hop.node) + prompt
        return self._times.nodes[hop.node].step.decode_ns(sequences, context, hop.start)
