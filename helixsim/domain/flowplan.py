"""The result of max-flow over a placement.

Nodes that are equal to a max-flow form a class, and flows are those between classes: each node of a class has an equal
share of its flow, so that a plan for thousands of nodes does not list millions of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.placement import LayerRange

COORDINATOR_CLASS = 0
"""Number of the class of the coordinator, which holds no layers."""


@dataclass(frozen=True, slots=True)
class NodeClass:
    """Nodes that hold the same layers and have equal capacities and links, in the order of the placement."""

    nodes: tuple[str, ...]
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class Junction:
    """Links of equal capacity from every node of some classes to every node of others.

    Parameters
    ----------
    layer
        Layers that requests have completed on these links.
    sources, targets
        Numbers of the classes. With several of both, no link is slower than the slower one of its nodes.
    capacity_tokens_per_s
        Capacity of each link.
    """

    layer: int
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    capacity_tokens_per_s: float

    @property
    def is_hub(self) -> bool:
        """Whether several classes meet here; if not, it is the links between two classes."""
        return len(self.sources) > 1 or len(self.targets) > 1


@dataclass(frozen=True, slots=True)
class JunctionFlow:
    """Flow from each source and to each target of a junction [tokens/s].

    What comes from a source is divided over the targets in proportion to their flows.
    """

    out_of: tuple[float, ...]
    into: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """Flow from ``src`` to ``dst`` (node ids or the coordinator) [tokens/s]."""

    src: str
    dst: str
    flow_tokens_per_s: float
    capacity_tokens_per_s: float


class Departure(NamedTuple):
    """A link that leaves a node: where it leads, the layers completed, and its flow and capacity [tokens/s]."""

    dst: str
    layer: int
    flow_tokens_per_s: float
    capacity_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class CutElement:
    """A saturated ``node`` or ``nic`` of the min cut, or ``count`` equal ``link`` named by the first of them.

    ``capacity_tokens_per_s`` is that of all of them.
    """

    kind: str
    name: str
    capacity_tokens_per_s: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """The nodes a request visits with the layers it runs on each, which cover 0 .. num_layers without overlap."""

    hops: tuple[tuple[str, LayerRange], ...]


@dataclass(frozen=True)
class FlowPlan:
    """Max-flow of a placement.

    Parameters
    ----------
    classes
        Classes of equal nodes; the first one is the coordinator.
    junctions, flows
        All usable links, including those without flow, and the flow on them.
    node_flow_tokens_per_s, node_capacity_tokens_per_s
        By node id; nodes by ascending end of their range.
    routes
        A decomposition of the flow into paths from class to class; the first node of a class stands for all of them.
    """

    max_flow_tokens_per_s: float
    classes: tuple[NodeClass, ...]
    junctions: tuple[Junction, ...]
    flows: tuple[JunctionFlow, ...]
    node_flow_tokens_per_s: Mapping[str, float]
    node_capacity_tokens_per_s: Mapping[str, float]
    min_cut: tuple[CutElement, ...]
    routes: tuple[tuple[Route, float], ...]

    @property
    def mean_hops(self) -> float:
        """Nodes per request, weighted by flow."""
        total = sum(flow for _, flow in self.routes)
        return sum(flow * len(route.hops) for route, flow in self.routes) / total if total else 0.0

    @property
    def max_hops(self) -> int:
        """Nodes on the longest route that carries flow."""
        return max((len(route.hops) for route, _ in self.routes), default=0)

    @cached_property
    def class_of(self) -> Mapping[str, int]:
        """Number of the class of each node and of the coordinator."""
        return {node: number for number, one in enumerate(self.classes) for node in one.nodes}

    @cached_property
    def _leaving(self) -> list[list[tuple[int, int]]]:
        """Return the junctions of which each class is a source, with its place among the sources."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.classes]
        for number, junction in enumerate(self.junctions):
            for place, source in enumerate(junction.sources):
                found[source].append((number, place))
        return found

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {node: number for number, node in enumerate((*self.node_flow_tokens_per_s, COORDINATOR))}

    def departures(self, number: int) -> list[Departure]:
        """Return the links that leave each node of a class, in the order of ``node_flow_tokens_per_s``."""
        found = []
        size = len(self.classes[number].nodes)
        for at, place in self._leaving[number]:
            junction, flow = self.junctions[at], self.flows[at]
            total = sum(flow.into)
            own = flow.out_of[place] / size
            for target, into in zip(junction.targets, flow.into, strict=True):
                nodes = self.classes[target].nodes
                share = own * (into / total) / len(nodes) if total else 0.0
                found += [Departure(node, junction.layer, share, junction.capacity_tokens_per_s) for node in nodes]
        order = self._order
        return sorted(found, key=lambda one: order[one.dst])

    @cached_property
    def edges(self) -> tuple[FlowEdge, ...]:
        """All links one by one, from the coordinator, between nodes, and to the coordinator, in that order.

        Their number grows with the square of the number of nodes.
        """
        rows = [self.departures(number) for number in range(len(self.classes))]
        nodes = list(self.node_flow_tokens_per_s)
        links = [
            FlowEdge(src, one.dst, one.flow_tokens_per_s, one.capacity_tokens_per_s)
            for src in ([COORDINATOR, *nodes] if self.classes else [])
            for one in rows[self.class_of[src]]
        ]
        return (*(one for one in links if one.dst != COORDINATOR), *(one for one in links if one.dst == COORDINATOR))

    @property
    def replicas(self) -> tuple[tuple[str, ...], ...]:
        """Nodes with flow, grouped by replica of the model; replicas exchange no tokens."""
        root: dict[int, int] = {}

        def group_of(number: int) -> int:
            while root.setdefault(number, number) != number:
                number = root[number]
            return number

        joined: set[int] = set()
        for junction, flow in zip(self.junctions, self.flows, strict=True):
            ends = [
                *(one for one, amount in zip(junction.sources, flow.out_of, strict=True) if amount > 0),
                *(one for one, amount in zip(junction.targets, flow.into, strict=True) if amount > 0),
            ]
            inner = [one for one in ends if one != COORDINATOR_CLASS]
            for one in inner:
                root[group_of(one)] = group_of(inner[0])
            if len(inner) == len(ends):
                joined.update(inner)
        groups: dict[object, list[str]] = {}
        for node, amount in sorted(self.node_flow_tokens_per_s.items(), key=self._by_start):
            number = self.class_of[node]
            if amount > 0:  # the nodes of a class that sends nothing to other nodes are a replica each
                groups.setdefault(group_of(number) if number in joined else node, []).append(node)
        return tuple(tuple(nodes) for nodes in groups.values())

    def _by_start(self, item: tuple[str, float]) -> int:
        return self.classes[self.class_of[item[0]]].layers.start
