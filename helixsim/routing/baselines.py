"""Routing policies that depend only on the state of the next nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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

    def least(self, hops: Sequence[Hop], key: Callable[[Hop], float]) -> Hop:
        """Return the hop with the least ``key``, at random among equals."""
        keys = [key(hop) for hop in hops]
        lowest = min(keys)
        best = [hop for hop, value in zip(hops, keys, strict=True) if value == lowest]
        return best[int(self.rng.integers(len(best)))] if len(best) > 1 else best[0]


class Random(_Memoryless):
    """Uniform over all next nodes that fit (the paper's version draws among idle links only, helix-spec 6.4)."""

    summary: ClassVar[str] = "uniformly random among the next nodes that fit"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        return hops[int(self.rng.integers(len(hops)))]


class ShortestQueue(_Memoryless):
    """The next node with the fewest requests waiting for a batch."""

    summary: ClassVar[str] = "the next node with the fewest requests waiting"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        return self.least(hops, lambda hop: view.queue_length(hop.node))


class LeastLoaded(_Memoryless):
    """The next node with the fewest expected tokens in flight relative to its estimated capacity."""

    summary: ClassVar[str] = "the next node with the fewest tokens in flight relative to its capacity"

    def pick(self, hops: Sequence[Hop], view: RoutingView) -> Hop:
        """See ``_Memoryless.pick``."""
        capacity = self.graph.capacity_tokens_per_s
        return self.least(hops, lambda hop: view.in_flight_tokens(hop.node) / capacity[hop.node])
