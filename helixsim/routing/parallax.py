"""Parallax's routing: the path of least latency through the layers, by dynamic programming, for each request."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from helixsim.errors import ConfigError
from helixsim.plugins import NoOptions
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.walk import least_time


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
    is_by_site: ClassVar[bool] = True  # it finds the best next node for all nodes of a site at once

    def __init__(self, graph: RoutingGraph, options: NoOptions, rng: np.random.Generator) -> None:
        if graph.times is None:
            raise ConfigError("parallax: needs the step times of a placement")
        self._graph = graph
        self._times = graph.times

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        times = self._times

        def node_ns(hop: Hop) -> float:
            return self._node_ns(hop, prompt_tokens, view) if view.fits(hop) else math.inf

        def link_ns(source: int | None, node: int) -> float:
            return 2 * times.latency_ns(source, node)

        return least_time(self._graph, times.sites, node_ns, link_ns, lambda _last: 0.0)

    def _node_ns(self, hop: Hop, prompt: int, view: RoutingView) -> float:
        sequences = view.in_flight(hop.node) + 1
        context = view.in_flight_tokens(hop.node) + prompt
        return self._times.nodes[hop.node].step.decode_ns(sequences, context, hop.start)
