"""Round trips where nodes form steps of their own of what has reached them, by playing the steps of the nodes.

A step takes all that waits at a node, so requests that meet there leave together. Those that go on together meet the
same queues and never part again; those behind catch up with them at the next slow node. So the requests of a route end
up in few cohorts, about as many as it has nodes, as many buses on one line end up in a row (Newell and Potts,
"Maintaining a bus schedule", 1964). How large they are depends on how routes branch and join. No closed form is known
for that, so a short run of cohorts is played: a few rounds, without requests, memory and routing policies. Decodes of a
route that wait at one node are one number, prompts are drawn like those of pipelines (``steps_in_a_row``), links and
network cards are first in, first out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, pairwise

import numpy as np

from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.flow.network import FlowNetwork, token_bytes
from helixsim.flow.station import OperatingLoad, Station
from helixsim.units import BITS_PER_BYTE, NS_PER_S

_ROUTES = 96
"""Most routes that requests are spread over."""

_FULL = 0.95
"""A node with more than this share of the requests that its memory holds preempts some."""

_LENGTHS = 1024
"""Different prompt lengths."""

_SETTLING, _ROUNDS = 12, 36
"""Round trips before steps are counted, and until the end."""

_EVENTS, _MOST_EVENTS = 5000, 40_000
"""Events at least, so that the steps of few nodes are played for longer, and at most, where nodes differ by far."""


@dataclass(slots=True)
class Chunk:
    """A part of a prompt on its way; ``is_last``: its end gives the first token."""

    route: int
    tokens: float
    is_last: bool = True


@dataclass(slots=True)
class Node:
    """A node with what waits there: decodes by route, and chunks in the order in which they came."""

    station: Station
    decodes: dict[int, float] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    is_busy: bool = False


@dataclass(slots=True)
class Wire:
    """A direction of a link: time of a token [s], latency [s], and when all messages so far have left [s]."""

    token_s: float
    fixed_s: float
    free_s: float = 0.0


def _spread(count: int) -> list[float]:
    """Return evenly spaced numbers in (0, 1), any first ones of which are nearly even, too (van der Corput)."""
    bits = max(1, (count - 1).bit_length())
    turned = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits)]
    return [(one + 0.5) / 2**bits for one in turned[:count]]


@lru_cache(maxsize=8)
def _lengths(mean_tokens: float, spread: float) -> list[float]:
    """Return prompt lengths, gamma-distributed, any first ones of which are nearly distributed like all."""
    if spread <= 1:
        return [mean_tokens]
    drawn = np.sort(np.random.default_rng(0).gamma(1 / (spread - 1), size=2**13))
    picked = drawn[[int(one * drawn.size) for one in _spread(_LENGTHS)]]
    found: list[float] = np.maximum(1.0, picked * mean_tokens / picked.mean()).tolist()
    return found


def drawn_routes(network: FlowNetwork, flows: Sequence[float], count: int) -> list[tuple[int, ...]]:
    """Return so many routes, each the positions of its nodes in turn, spread evenly in proportion to flows."""
    out_of: dict[int, list[int]] = {}
    for number, arc in enumerate(network.arcs):
        if flows[number] > 0:
            out_of.setdefault(arc.tail, []).append(number)
    first = np.cumsum([0, 0, *(network.size(number) for number in network.node_classes)]).tolist()
    rng = np.random.default_rng(0)
    owed = dict.fromkeys(range(len(network.arcs)), 0.0)
    decks: dict[int, list[int]] = {}
    routes = []
    for _ in range(count):
        vertex, nodes = COORDINATOR_CLASS, []
        while True:
            arcs = out_of[vertex]
            total = sum(flows[number] for number in arcs)
            for number in arcs:
                owed[number] += flows[number] / total
            taken = max(arcs, key=owed.__getitem__)
            owed[taken] -= 1.0
            vertex = network.arcs[taken].head
            if vertex == COORDINATOR_CLASS:
                break
            if vertex < len(network.classes):
                if not decks.get(vertex):
                    decks[vertex] = rng.permutation(network.size(vertex)).tolist()
                nodes.append(first[vertex] + decks[vertex].pop())
        routes.append(tuple(nodes))
    return routes


class Cohorts:
    """A run of so many requests, spread evenly over routes that are drawn by flow."""

    def __init__(
        self,
        fleet: Deployment,
        network: FlowNetwork,
        stations: Mapping[int, Station],
        load: OperatingLoad,
        flows: Sequence[float],
        requests: float,
    ) -> None:
        self._fleet, self._load = fleet, load
        of_class = [number for number in network.node_classes for _ in network.classes[number].nodes]
        self._names = [name for number in network.node_classes for name in network.classes[number].nodes]
        self._class_of = of_class
        self._nodes = [Node(stations[number]) for number in of_class]
        self._nic_token_s = [1 / network.nic_tokens_per_s[number] for number in of_class]
        self._out_s, self._in_s = [0.0] * len(of_class), [0.0] * len(of_class)
        self.routes = drawn_routes(network, flows, max(1, min(_ROUTES, int(requests))))
        self._each = requests / len(self.routes)
        budgets = [float(node.station.token_budget) for node in self._nodes]
        threshold = load.engine.long_prefill_token_threshold or math.inf
        self._longest = [min(threshold, *(budgets[node] for node in route)) for route in self.routes]
        self._budgets = budgets
        self._after: list[dict[int, int]] = [dict(pairwise(route)) for route in self.routes]
        self._wires: dict[tuple[int, int], Wire] = {}
        self._ending = _spread(len(self.routes))
        residing = [0.0] * len(of_class)
        for route in self.routes:
            for node in route:
                residing[node] += self._each
        is_full = [
            node.station.is_bound_by_memory and number > _FULL * node.station.most_requests
            for node, number in zip(self._nodes, residing, strict=True)
        ]
        self._prompts_per_step = [
            (1 + any(is_full[node] for node in route) * load.recomputed_share) / load.mean_steps
            for route in self.routes
        ]
        self._lengths = cycle(_lengths(load.mean_prompt_tokens, load.prompt_spread))
        self._events: list[tuple[float, int, int, dict[int, float], list[Chunk]]] = []
        self._number = 0
        self.steps = [0.0] * len(self.routes)

    def round_trips_s(self, expected_s: float) -> tuple[dict[int, float], float]:
        """Return the mean round trip at each class of nodes, and of all requests [s]; ``expected_s``: about so long."""
        for route, (first, *_) in enumerate(self.routes):
            self._post(route / len(self.routes) * expected_s, first, {route: self._each}, [])
        settled, end_s = [0.0] * len(self.routes), _ROUNDS * expected_s
        begin_s, is_settled = _SETTLING * expected_s, False
        now_s = 0.0
        while (now_s < end_s or self._number < _EVENTS) and self._number < _MOST_EVENTS:
            now_s, _, node, decodes, chunks = heapq.heappop(self._events)
            if not is_settled and (now_s >= begin_s or self._number > _MOST_EVENTS / 3):
                begin_s, settled, is_settled = now_s, list(self.steps), True
            if node < 0:
                self._end_step(now_s, -1 - node, decodes, chunks)
            else:
                waiting = self._nodes[node]
                for route, number in decodes.items():
                    waiting.decodes[route] = waiting.decodes.get(route, 0.0) + number
                waiting.chunks += chunks
                if not waiting.is_busy:
                    self._begin_step(now_s, node)
        rates = [(late - early) / (now_s - begin_s) for late, early in zip(self.steps, settled, strict=True)]
        passing: dict[int, list[float]] = {}
        for nodes, rate in zip(self.routes, rates, strict=True):
            for node in nodes:
                passing.setdefault(self._class_of[node], []).append(rate)
        found = {number: self._each * len(of) / sum(of) for number, of in passing.items() if sum(of)}
        return found, self._each * len(self.routes) / sum(rates)

    def _post(self, at_s: float, node: int, decodes: dict[int, float], chunks: list[Chunk]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, node, decodes, chunks))

    def _begin_step(self, now_s: float, number: int) -> None:
        node = self._nodes[number]
        decodes, node.decodes = node.decodes, {}
        seqs, most = sum(decodes.values()), node.station.most_batch
        if seqs > most:
            node.decodes = {route: count * (1 - most / seqs) for route, count in decodes.items()}
            decodes, seqs = {route: count * most / seqs for route, count in decodes.items()}, most
        room = self._budgets[number] - seqs
        taken: list[Chunk] = []
        while node.chunks:
            chunk = node.chunks[0]
            cut = chunk.tokens
            if self.routes[chunk.route][0] == number:
                cut = min(cut, self._longest[chunk.route], room)
            elif cut > room and taken:
                break
            if cut <= 0:
                break
            room -= cut
            if cut < chunk.tokens:
                chunk.tokens -= cut
                taken.append(Chunk(chunk.route, cut, is_last=False))
                if room <= 0 or cut == self._longest[chunk.route]:
                    break
            else:
                taken.append(node.chunks.pop(0))
        if not decodes and not taken:
            return
        tokens = sum(chunk.tokens for chunk in taken)
        node.is_busy = True
        self._post(now_s + node.station.mixed_s(seqs, tokens), -1 - number, decodes, taken)

    def _end_step(self, now_s: float, number: int, decodes: dict[int, float], chunks: list[Chunk]) -> None:
        """Send on what has been computed: decodes in one message for each next node, then chunks, each in its own."""
        onward: dict[int, dict[int, float]] = {}
        for route, count in decodes.items():
            if (after := self._after[route].get(number)) is None:
                self._return(now_s, route, count)
            else:
                onward.setdefault(after, {})[route] = count
        for target, sent in onward.items():
            self._send(now_s, number, target, sum(sent.values()), sent, [])
        for chunk in chunks:
            if (after := self._after[chunk.route].get(number)) is not None:
                self._send(now_s, number, after, chunk.tokens, {}, [chunk])
            elif chunk.is_last:
                self._return(now_s, chunk.route, 1.0)
        self._nodes[number].is_busy = False
        self._begin_step(now_s, number)

    def _send(
        self, now_s: float, src: int, dst: int, tokens: float, decodes: dict[int, float], chunks: list[Chunk]
    ) -> None:
        wire = self._wire(src, dst)
        wire.free_s = end_s = max(now_s, wire.free_s) + tokens * wire.token_s
        for free_s, place in ((self._out_s, src), (self._in_s, dst)):
            if self._nic_token_s[place]:
                free_s[place] = max(now_s, free_s[place]) + tokens * self._nic_token_s[place]
                end_s = max(end_s, free_s[place])
        self._post(end_s + wire.fixed_s, dst, decodes, chunks)

    def _return(self, now_s: float, route: int, count: float) -> None:
        """Return tokens to the first node of their route; prompts take the place of requests that end."""
        self.steps[route] += count
        nodes = self.routes[route]
        self._ending[route] += count * self._prompts_per_step[route]
        ended = min(int(count), int(self._ending[route]))
        self._ending[route] -= ended
        back_s = now_s if len(nodes) == 1 else now_s + self._wire(nodes[-1], nodes[0]).fixed_s
        if count > ended:
            self._post(back_s, nodes[0], {route: count - ended}, [])
        if ended:
            prompts = [Chunk(route, next(self._lengths)) for _ in range(ended)]
            link = self._fleet.cluster.link(COORDINATOR, self._names[nodes[0]])
            self._post(back_s + 2 * link.latency_ns / NS_PER_S, nodes[0], {}, prompts)

    def _wire(self, src: int, dst: int) -> Wire:
        if (src, dst) not in self._wires:
            ends = self._names[src], self._names[dst]
            link = self._fleet.cluster.link(*ends)
            self._wires[src, dst] = Wire(
                BITS_PER_BYTE * token_bytes(self._fleet, *ends) / link.bandwidth_bps,
                (link.latency_ns + self._load.engine.message_overhead_ns) / NS_PER_S,
            )
        return self._wires[src, dst]
