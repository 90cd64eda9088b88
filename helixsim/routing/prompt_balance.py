"""How much of a prompt the nodes that prefill compute, where those that decode compute the rest.

The rule is that of Cronus (arXiv 2509.17357): both sides shall take as long, the one for the beginning of the prompt,
the other for the rest of it in chunks beside its decode steps. What waits on each side counts as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from helixsim.domain.step_time import BatchShape, prefill_pairs
from helixsim.routing.base import RoutingGraph, RoutingView
from helixsim.routing.graph import chains
from helixsim.routing.times import RoutingTimes


class PromptBalance:
    """The share of each prompt by the state of both sides; ``prefill``, ``decode``: their replicas, chains of nodes."""

    def __init__(self, prefill: RoutingGraph, decode: RoutingGraph) -> None:
        self._sending, self._receiving = _replicas(prefill), _replicas(decode)

    def first_tokens(
        self, prompt_tokens: int, block_tokens: int, source: str, sending: RoutingView, receiving: RoutingView
    ) -> int:
        """Return how many tokens of a prompt a replica computes that prefills.

        Whole blocks, at least one; the most with which it does not take longer than the rest on the replica that
        decodes with the fewest tokens in flight.

        Parameters
        ----------
        source
            Id of the first node of the replica that prefills.
        sending, receiving
            What both sides are doing.
        """
        first = self._sending[source]
        second = min(self._receiving.values(), key=lambda one: receiving.in_flight_tokens(one.first))

        def ends_first(tokens: int) -> bool:
            rest_ns = second.prompt_ns(prompt_tokens - tokens, tokens, receiving, decodes=True)
            return first.prompt_ns(tokens, 0, sending, decodes=False) <= rest_ns

        low, high = 1, -(-prompt_tokens // block_tokens)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if ends_first(min(prompt_tokens, middle * block_tokens)) else (low, middle - 1)
        return min(prompt_tokens, low * block_tokens)


def _replicas(graph: RoutingGraph) -> dict[str, _Replica]:
    assert graph.times is not None
    return {graph.node_ids[nodes[0]]: _Replica(graph.times, nodes) for nodes in chains(graph) or ()}


class _Replica:
    """Prompts on a chain of nodes, as fast as the slowest of them; ``first``: the number of the first one."""

    def __init__(self, times: RoutingTimes, nodes: Sequence[int]) -> None:
        self.first = nodes[0]
        self._nodes = [times.nodes[node] for node in nodes]
        self._budget = min(node.budget for node in self._nodes)
        self._most = min(self._budget, *(node.max_sequences for node in self._nodes))

    def prompt_ns(self, new: int, past: int, view: RoutingView, *, decodes: bool) -> float:
        """Return the time for the prompts that wait and so many tokens behind ``past`` ones [ns].

        ``decodes``: the sequences in flight decode beside them.
        """
        if not new:
            return 0.0
        tokens = view.prompt_backlog(self.first) + new
        count = view.in_flight(self.first) if decodes else 0
        batch = min(count, self._most) / len(self._nodes)
        context = batch * view.in_flight_tokens(self.first) / max(1, count)
        chunks = max(1, math.ceil(tokens / max(1.0, self._budget - batch)))
        pairs = prefill_pairs(tokens / chunks, past)
        step = BatchShape(tokens / chunks, pairs, 1, batch, context, batch + 1)
        return chunks * max(node.step.ns(step) for node in self._nodes)
