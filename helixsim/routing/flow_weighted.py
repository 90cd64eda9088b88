"""Helix's request scheduling: interleaved weighted round robin by max-flow (paper section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.errors import ConfigError, unknown_name
from helixsim.routing.base import Hop, LazyRows, RoutingGraph, RoutingView
from helixsim.routing.walk import walk

NEGLIGIBLE_FLOW_SHARE = 1e-6
"""Edges with less than this share of the max-flow are unused: such flow is a rounding error of the LP."""


@dataclass(frozen=True, slots=True)
class FlowWeightedOptions:
    """Options of ``flow_weighted``.

    Parameters
    ----------
    decay
        Whether the counter of an edge that was masked for lack of KV memory is raised to that of the others. The
        paper's counters are not, so a node that was full receives a burst afterwards.
    shares
        Node (or ``coordinator``) -> next node -> weight, instead of the max-flow for the listed nodes. A max-flow is
        rarely unique: the default loads equal nodes evenly, others may send all requests through one of them.
    """

    decay: bool = True
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict, metadata={"ge": 0, "le": 1e12})

    def faults(self, fleet: Deployment) -> Iterator[tuple[str, str]]:
        """Yield (option, message) for shares that are invalid for a fleet."""
        names = [COORDINATOR, *fleet.cluster.index]
        for node, weights in self.shares.items():
            for name in (node, *weights):
                if name not in names:
                    yield "shares", unknown_name("node", name, names)
            if not sum(weights.values()) > 0:
                yield "shares", f"{node}: all weights are 0"


class FlowWeighted:
    """Each vertex sends requests over its edges in proportion to their flow, and skips nodes with full KV memory.

    The load of an edge is the number of tokens sent over it divided by its flow; a request takes the edge with the
    least load after it. Its tokens are prompt and expected output, added once, at admission.
    """

    summary: ClassVar[str] = "Helix: weighted round robin by max-flow, skipping nodes with full KV memory"
    Options: ClassVar[type[Any]] = FlowWeightedOptions

    def __init__(self, graph: RoutingGraph, options: FlowWeightedOptions, rng: np.random.Generator) -> None:
        self.graph = _edges_with_flow(_with_shares(graph, options.shares) if options.shares else graph)
        self.options = options
        self.load = [0.0] * graph.num_edges

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        load, flow = self.load, self.graph.flow_tokens_per_s

        def pick(hops: Sequence[Hop]) -> Hop:
            return min(hops, key=lambda hop: load[hop.edge] + expected_tokens / flow[hop.edge])

        route = walk(self.graph, view, pick)
        if route is None:
            return None
        siblings = self.graph.first
        for hop in route:
            if self.options.decay and len(siblings) > 1:
                self._level(hop, siblings, view)
            load[hop.edge] += expected_tokens / flow[hop.edge]
            siblings = self.graph.successors[hop.node]
        return route

    def _level(self, taken: Hop, siblings: Sequence[Hop], view: RoutingView) -> None:
        """Raise the loads of masked edges to that of the edge just taken, so that they accumulate no credit."""
        level = self.load[taken.edge]
        for hop in siblings:
            if self.load[hop.edge] < level and not view.fits(hop):
                self.load[hop.edge] = level


def _edges_with_flow(graph: RoutingGraph) -> RoutingGraph:
    """Return the graph without edges that carry no flow."""
    floor = NEGLIGIBLE_FLOW_SHARE * graph.plan.max_flow_tokens_per_s

    def kept(hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        return tuple(hop for hop in hops if graph.flow_tokens_per_s[hop.edge] > floor)

    successors = LazyRows(len(graph.node_ids), lambda node: kept(graph.successors[node]))
    return replace(graph, first=kept(graph.first), successors=successors)


def _with_shares(graph: RoutingGraph, shares: Mapping[str, Mapping[str, float]]) -> RoutingGraph:
    """Return the graph with the flow out of the listed nodes divided by the given weights; others have weight 0."""
    numbers = {node: number for number, node in enumerate(graph.node_ids)}
    flows = list(graph.flow_tokens_per_s)
    for node, weights in shares.items():
        if node != COORDINATOR and node not in numbers:
            raise ConfigError(f"flow_weighted: shares: {unknown_name('node', node, [COORDINATOR, *numbers])}")
        leaving = graph.first if node == COORDINATOR else graph.successors[numbers[node]]
        names = [graph.node_ids[hop.node] for hop in leaving]
        for follower in weights:
            if follower not in names:
                raise ConfigError(f"flow_weighted: shares: {node}: {unknown_name('next node', follower, names)}")
            if weights[follower] < 0:
                raise ConfigError(f"flow_weighted: shares: {node}: {follower}: {weights[follower]} is negative")
        if not sum(weights.values()) > 0:
            raise ConfigError(f"flow_weighted: shares: {node}: all weights are 0")
        scale = graph.plan.max_flow_tokens_per_s / sum(weights.values())
        for hop, name in zip(leaving, names, strict=True):
            flows[hop.edge] = scale * weights.get(name, 0.0)
    return replace(graph, flow_tokens_per_s=tuple(flows))
