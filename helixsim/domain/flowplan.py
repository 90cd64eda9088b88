"""The result of max-flow over a placement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.placement import LayerRange


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """Flow from ``src`` to ``dst`` (node ids or the coordinator) [tokens/s]."""

    src: str
    dst: str
    flow_tokens_per_s: float
    capacity_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class CutElement:
    """One saturated element of the min cut: a ``node``, ``link`` or ``nic``."""

    kind: str
    name: str
    capacity_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """The nodes a request visits with the layers it runs on each, which cover 0 .. num_layers without overlap."""

    hops: tuple[tuple[str, LayerRange], ...]


@dataclass(frozen=True)
class FlowPlan:
    """Max-flow of a placement.

    ``edges`` has all usable edges, including those without flow. ``node_flow_tokens_per_s`` and
    ``node_capacity_tokens_per_s`` are keyed by node id. ``routes`` is a decomposition of the flow into paths.
    """

    max_flow_tokens_per_s: float
    edges: tuple[FlowEdge, ...]
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

    @property
    def replicas(self) -> tuple[tuple[str, ...], ...]:
        """Nodes with flow, grouped by replica of the model; replicas exchange no tokens."""
        root: dict[str, str] = {}

        def group_of(node: str) -> str:
            while root.setdefault(node, node) != node:
                node = root[node]
            return node

        for edge in self.edges:
            if edge.flow_tokens_per_s > 0:
                ends = [group_of(end) for end in (edge.src, edge.dst) if end != COORDINATOR]
                root[ends[-1]] = ends[0]
        groups: dict[str, list[str]] = {}
        for node in root:
            groups.setdefault(group_of(node), []).append(node)
        return tuple(tuple(nodes) for nodes in groups.values())
