"""SWARM's stochastic wiring (Ryabinin et al. 2023), as in the paper's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.walk import walk
from helixsim.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """``initial_s``: assumed time of a hop before the first observation [s]. ``smoothing``: weight of the newest."""

    initial_s: float = field(default=0.05, metadata={"gt": 0, "le": 1e6})
    smoothing: float = field(default=0.8, metadata={"ge": 0, "lt": 1})


class Swarm:
    """Each vertex prefers the next nodes with the shortest response times, in weighted turns.

    Every edge has a moving average of the time from sending a request to the end of its computation. A request takes
    the edge with the least priority value, which then grows by the average of the edge. Unlike in the paper's baseline,
    the whole route is selected at admission, and KV memory limits apply, as for every policy here.
    """

    summary: ClassVar[str] = "SWARM: prefers next nodes with short response times, by a moving average per edge"
    Options: ClassVar[type[Any]] = SwarmOptions

    def __init__(self, graph: RoutingGraph, options: SwarmOptions, rng: np.random.Generator) -> None:
        self.graph = graph
        self.smoothing = options.smoothing
        self.average_s = [options.initial_s] * graph.num_edges
        self.priority = [options.initial_s] * graph.num_edges

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        priority = self.priority

        def pick(hops: Sequence[Hop]) -> Hop:
            return min(hops, key=lambda hop: priority[hop.edge])

        route = walk(self.graph, view, pick)
        for hop in route or ():
            priority[hop.edge] += self.average_s[hop.edge]
        return route

    def observe(self, edge: int, elapsed_ns: int, requests: int) -> None:
        """Update the average of the edge, once per message, as its requests are computed together."""
        elapsed_s = elapsed_ns / NS_PER_S
        self.average_s[edge] = self.smoothing * elapsed_s + (1.0 - self.smoothing) * self.average_s[edge]
