"""What a routing policy sees and decides.

A policy chooses, at admission, the route of one request: which node runs which layers. It never sees an output
length, and it cannot admit a request whose KV does not fit: admission and KV rules are the engine's, the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from helixsim.domain.flowplan import FlowPlan


@dataclass(frozen=True, slots=True)
class Hop:
    """A possible next step: run layers ``start`` .. ``end - 1`` on node number ``node``.

    ``edge`` numbers the edge it takes (0 .. RoutingGraph.num_edges - 1).
    """

    edge: int
    node: int
    start: int
    end: int


@dataclass(frozen=True)
class RoutingGraph:
    """Where a request can go, by node number (position among the placed nodes).

    ``first`` are the entries from the coordinator; ``successors[node]`` the hops after a node, empty where the node
    ends the model. ``flow_tokens_per_s[edge]`` is the max-flow on each edge, ``capacity_tokens_per_s[node]`` the
    planner's node capacity.
    """

    num_layers: int
    num_edges: int
    node_ids: tuple[str, ...]
    first: tuple[Hop, ...]
    successors: tuple[tuple[Hop, ...], ...]
    flow_tokens_per_s: tuple[float, ...]
    capacity_tokens_per_s: tuple[float, ...]
    plan: FlowPlan


class RoutingView(Protocol):
    """The state of the cluster as the coordinator knows it."""

    def fits(self, hop: Hop) -> bool:
        """Return whether the KV of the request now being routed fits on the hop's node."""
        ...

    def queue_length(self, node: int) -> int:
        """Return the requests that wait for a batch on the node."""
        ...

    def in_flight(self, node: int) -> int:
        """Return the admitted, unfinished requests whose route includes the node."""
        ...

    def in_flight_tokens(self, node: int) -> int:
        """Return the expected KV tokens, at the node, of those requests."""
        ...


class RoutingPolicy(Protocol):
    """Chooses routes. One instance serves one run and may keep counters of its own decisions."""

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """Return hops that cover all layers, each of which fits; None if there is none now.

        ``expected_tokens`` is prompt plus expected output.
        """
        ...


@runtime_checkable
class HopObserver(Protocol):
    """A routing policy that learns how long hops take; having this method is asking for it, and costs time."""

    def observe(self, edge: int, elapsed_ns: int, requests: int) -> None:
        """Learn that ``requests`` requests took ``elapsed_ns`` from being sent over ``edge`` to being computed."""
        ...


class RoutingPolicyFactory(Protocol):
    """A registered policy class.

    ``Options`` is a frozen dataclass; its fields become keys of ``routing:`` in exp.yaml, checked with positions.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def __call__(self, graph: RoutingGraph, options: Any, rng: np.random.Generator) -> RoutingPolicy:
        """Return a policy for one run."""
        ...
