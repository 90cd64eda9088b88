"""Helix's request scheduling: interleaved weighted round robin over the max-flow (paper section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from helixsim.domain.cluster import COORDINATOR, Fleet
from helixsim.errors import ConfigError, unknown_name
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.walk import walk

NEGLIGIBLE_FLOW_SHARE = 1e-6
"""Edges that carry less than this share of the max-flow count as unused: the LP's rounding, not a route."""


@dataclass(frozen=True, slots=True)
class FlowWeightedOptions:
    """Options of ``flow_weighted``.

    Parameters
    ----------
    decay
        Whether an edge that was masked for lack of KV memory starts level with the others again. The paper's counters
        never decay, so a node that was full receives a burst afterwards (helix-spec Q22).
    shares
        Node (or ``coordinator``) -> following node -> weight: instead of the max-flow where a node is listed. A
        max-flow is rarely unique; the one taken by default loads equals evenly, others send all through one of them.
    """

    decay: bool = True
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict, metadata={"ge": 0, "le": 1e12})

    def faults(self, fleet: Fleet) -> Iterator[tuple[str, str]]:
        """Yield (option, message) for shares that do not fit a fleet."""
        names = [COORDINATOR, *fleet.cluster.index]
        for node, weights in self.shares.items():
            for name in (node, *weights):
                if name not in names:
                    yield "shares", unknown_name("node", name, names)
            if not sum(weights.values()) > 0:
                yield "shares", f"{node}: all weights are 0"


class FlowWeighted:
    """Each vertex sends requests over its edges in proportion to their flow, skipping nodes whose KV is full.

    An edge's load is the tokens sent over it divided by its flow; the request takes the edge whose load would be
    least. A request is charged once, at admission, with its prompt and its expected output.
    """

    summary: ClassVar[str] = "Helix: weighted round robin over the max-flow, nodes with full KV memory are skipped"
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
        """Let edges that were masked catch up with the one just taken, so that none hoards credit while it is full."""
        for hop in siblings:
            if hop is not taken and not view.fits(hop):
                self.load[hop.edge] = max(self.load[hop.edge], self.load[taken.edge])


def _edges_with_flow(graph: RoutingGraph) -> RoutingGraph:
    """Return the graph without edges that carry no flow."""
    floor = NEGLIGIBLE_FLOW_SHARE * graph.plan.max_flow_tokens_per_s

    def kept(hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        return tuple(hop for hop in hops if graph.flow_tokens_per_s[hop.edge] > floor)

    return replace(graph, first=kept(graph.first), successors=tuple(kept(hops) for hops in graph.successors))


def _with_shares(graph: RoutingGraph, shares: Mapping[str, Mapping[str, float]]) -> RoutingGraph:
    """Return the graph with the flow that leaves the listed nodes divided as wished; what is not listed gets none."""
    leaving = {COORDINATOR: graph.first, **dict(zip(graph.node_ids, graph.successors, strict=True))}
    flows = list(graph.flow_tokens_per_s)
    for node, weights in shares.items():
        if node not in leaving:
            raise ConfigError(f"flow_weighted: shares: {unknown_name('node', node, leaving)}")
        names = [graph.node_ids[hop.node] for hop in leaving[node]]
        for follower in weights:
            if follower not in names:
                raise ConfigError(f"flow_weighted: shares: {node}: {unknown_name('following node', follower, names)}")
            if weights[follower] < 0:
                raise ConfigError(f"flow_weighted: shares: {node}: {follower}: {weights[follower]} is negative")
        if not sum(weights.values()) > 0:
            raise ConfigError(f"flow_weighted: shares: {node}: all weights are 0")
        scale = graph.plan.max_flow_tokens_per_s / sum(weights.values())
        for hop, name in zip(leaving[node], names, strict=True):
            flows[hop.edge] = scale * weights.get(name, 0.0)
    return replace(graph, flow_tokens_per_s=tuple(flows))
