"""Interface of routing policies.

At admission a policy selects the route of a request: the nodes that run its layers. Output lengths are not visible to
it. Admission and KV memory rules belong to the engine and are the same for all policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, overload, runtime_checkable

from helixsim.domain.flowplan import FlowPlan
from helixsim.routing.times import RoutingTimes


@dataclass(frozen=True, slots=True)
class Hop:
    """A possible next hop: layers ``start`` .. ``end - 1`` on node number ``node``.

    ``edge`` is the number of its edge (0 .. RoutingGraph.num_edges - 1).
    """

    edge: int
    node: int
    start: int
    end: int


class Target(NamedTuple):
    """A node that can follow: layers ``start`` .. ``end - 1`` on node number ``node``."""

    node: int
    start: int
    end: int


class LazyRows(Sequence[tuple[Hop, ...]]):
    """Hops by node, made when they are first asked for."""

    def __init__(self, length: int, make: Callable[[int], tuple[Hop, ...]]) -> None:
        self._made: list[tuple[Hop, ...] | None] = [None] * length
        self._make = make

    def __len__(self) -> int:
        return len(self._made)

    @property
    def num_made(self) -> int:
        """Number of hops that exist."""
        return sum(len(row) for row in self._made if row is not None)

    @overload
    def __getitem__(self, index: int) -> tuple[Hop, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[Hop, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[Hop, ...] | tuple[tuple[Hop, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        row = self._made[index]
        if row is None:
            row = self._made[index] = self._make(index % len(self))
        return row


@dataclass(frozen=True)
class RoutingGraph:
    """The possible hops of a placement, by node number (position among the placed nodes).

    ``first`` are the hops from the coordinator, ``successors[node]`` the hops after a node, empty after the last layer.
    ``targets[node]`` are the same without the numbers of edges, one object where they are equal.
    ``flow_tokens_per_s[edge]`` is the max-flow on each edge, ``capacity_tokens_per_s[node]`` the estimated capacity,
    ``times`` the step times and links, which tests of other policies leave out. ``enters_inside``: some hop enters a
    node in the middle of its layers.
    """

    num_layers: int
    num_edges: int
    node_ids: tuple[str, ...]
    first: tuple[Hop, ...]
    successors: Sequence[tuple[Hop, ...]]
    flow_tokens_per_s: Sequence[float]
    capacity_tokens_per_s: tuple[float, ...]
    targets: tuple[tuple[Target, ...], ...]
    plan: FlowPlan
    times: RoutingTimes | None = None
    enters_inside: bool = False

    @cached_property
    def target_rows(self) -> tuple[tuple[Target, ...], ...]:
        """The different objects among ``targets``, and the nodes after the coordinator."""
        first = tuple(Target(hop.node, hop.start, hop.end) for hop in self.first)
        return (first, *{id(row): row for row in self.targets}.values())

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The nodes on complete routes, each after those that it leads to."""
        return tuple(sorted(self.ends, key=lambda node: -self.ends[node]))

    @cached_property
    def ends(self) -> Mapping[int, int]:
        """The end of the layers of each node on a complete route."""
        return {target.node: target.end for row in self.target_rows for target in row}


class RoutingView(Protocol):
    """The state of the cluster as known to the coordinator."""

    def fits(self, hop: Hop) -> bool:
        """Return whether the KV memory of the current request fits on the node of the hop."""
        ...

    def queue_length(self, node: int) -> int:
        """Return the number of requests that wait for a batch on the node, and at a replica those on their way too."""
        ...

    def prompt_backlog(self, node: int) -> int:
        """Return the prompt tokens that the node, or its replica, has to compute before those of a new request."""
        ...

    def in_flight(self, node: int) -> int:
        """Return the number of admitted, unfinished requests whose route includes the node."""
        ...

    def in_flight_tokens(self, node: int) -> int:
        """Return the expected KV tokens, at the node, of those requests."""
        ...

    def kv_usage(self, node: int) -> float:
        """Return the share of the node's KV memory that running requests hold, 0..1; cached prefixes are not in use."""
        ...

    def cached_tokens(self, node: int) -> int:
        """Return how many tokens of the current request the node need not compute; 0 without a prefix cache."""
        ...

    def transfer_ns(self, node: int) -> float:
        """Return how long the KV of the current request would take to come to the node [ns]; 0 if none has to."""
        ...


class RoutingPolicy(Protocol):
    """A routing policy; each run has its own instance, which may keep state."""

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """Return hops that cover all layers and fit; None if there are none at present.

        ``expected_tokens`` is prompt plus expected output [tokens].
        """
        ...


@runtime_checkable
class HopObserver(Protocol):
    """A routing policy that receives the times of hops; they are recorded only for policies with this method."""

    def observe(self, edge: int, elapsed_ns: int, requests: int) -> None:
        """Receive the time of ``requests`` requests from sending over ``edge`` to the end of their computation [ns]."""
        ...
