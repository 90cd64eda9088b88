"""Routing policies that depend only on the state of the next nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from helixsim.plugins import NoOptions
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.walk import walk


class _Memoryless(ABC):
    """A policy that selects each hop by the view alone."""

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, graph: RoutingGraph, options: NoOptions, rng: np.random.Generator) -> None:
        self.graph = graph
        self.rng = rng

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        return walk(self.graph, view, lambda hops: self.pick(hops, view))

    @abstractmethod
    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """Select one of several hops that fit."""

    def least(self, hops: Sequence[Hop], keys: list[float]) -> Hop:
        """Return the hop with the least key, at random among equals."""
        lowest = min(keys)
        if keys.count(lowest) == 1:
            return hops[keys.index(lowest)]
        best = [hop for hop, value in zip(hops, keys, strict=True) if value == lowest]
        return best[int(self.rng.integers(len(best)))]


class Random(_Memoryless):
    """Uniform over all next nodes that fit (the paper's version draws among idle links only)."""

    summary: ClassVar[str] = "uniformly random among the next nodes that fit"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        return hops[int(self.rng.integers(len(hops)))]


class ShortestQueue(_Memoryless):
    """The next node with the fewest requests waiting for a batch."""

    summary: ClassVar[str] = "the next node with the fewest requests waiting"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        return self.least(hops, [view.queue_length(hop.node) for hop in hops])


class RoundRobin(_Memoryless):
    """The next nodes in turn, as Dynamo's frontend selects workers by default (``--router-mode round-robin``).

    One that does not fit is passed over, and is the first again when it does.
    """

    summary: ClassVar[str] = "the next nodes in turn"

    def __init__(self, graph: RoutingGraph, options: NoOptions, rng: np.random.Generator) -> None:
        super().__init__(graph, options, rng)
        self._picks = 0
        self._last_pick: dict[int, int] = {}

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        self._picks += 1
        hop = min(hops, key=lambda one: self._last_pick.get(one.node, 0))
        self._last_pick[hop.node] = self._picks
        return hop


class LeastLoaded(_Memoryless):
    """The next node with the fewest expected tokens in flight relative to its estimated capacity."""

    summary: ClassVar[str] = "the next node with the fewest tokens in flight relative to its capacity"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        capacity = self.graph.capacity_tokens_per_s
        return self.least(hops, [view.in_flight_tokens(hop.node) / capacity[hop.node] for hop in hops])
