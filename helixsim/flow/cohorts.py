"""Round trips where nodes form steps of their own of what has reached them, by playing the steps of the nodes.

A step takes all that waits at a node, so requests that meet there leave together. Those that go on together meet the
same queues and never part again; those behind catch up with them at the next slow node. So the requests of a route end
up in few cohorts, about as many as it has nodes, as many buses on one line end up in a row (Newell and Potts,
"Maintaining a bus schedule", 1964). How large they are depends on how routes branch and join. No closed form is known
for that, so a short run of cohorts is played: a few rounds, without requests, memory and routing policies. Decodes of a
route that wait at one node are one number, prompts are drawn like those of pipelines (``steps_in_a_row``), links and
network cards are first in, first out. Requests are sent to routes in proportion to their flow, so a route whose round
trips are long has more of them at a time (Little's law); round trips are known from the run before.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.flow.network import FlowNetwork
from helixsim.flow.station import OperatingLoad, Station
from helixsim.flow.steps_in_a_row import Wire
from helixsim.units import NS_PER_S

_ROUTES = 32
"""Most routes that requests are spread over."""

_FULL = 0.95
"""A node with more than this share of the requests that its memory holds preempts some."""

_LENGTHS = 1024
"""Different prompt lengths."""

_SETTLING, _ROUNDS = 4, 12
"""Round trips before steps are counted, and until the end."""

_EVENTS, _MOST_EVENTS = 5000, 10_000
"""Events at least, so that the steps of few nodes are played for longer, and at most, where nodes differ by far."""


Classes = tuple[int, ...]
"""The classes of the nodes of a route, in turn."""

Place = TypeVar("Place")


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

    def wait(self, decodes: dict[int, float]) -> None:
        """Let decodes wait."""
        if not self.decodes:
            self.decodes = decodes
            return
        for route, count in decodes.items():
            self.decodes[route] = self.decodes.get(route, 0.0) + count


@dataclass(slots=True)
class _Channel:
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


def _trips_s(passing: Iterable[tuple[Place, float, float]]) -> dict[Place, float]:
    """Return requests over steps/s of all that pass each place, the round trip by Little's law."""
    requests: dict[Place, float] = defaultdict(float)
    per_s: dict[Place, float] = defaultdict(float)
    for place, number, rate in passing:
        requests[place] += number
        per_s[place] += rate
    return {place: requests[place] / rate for place, rate in per_s.items() if rate}


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


class RoundTripsPlayed(NamedTuple):
    """Mean round trips in a run: of the requests at each class of nodes, on the routes of the same classes, of all."""

    at_classes_s: dict[int, float]
    on_routes_s: dict[Classes, float]
    mean_s: float


class Cohorts:
    """A run of so many requests on routes that are drawn by flow.

    ``known_s`` are round trips of routes by the classes of their nodes [s]; others take as long as these on average.
    All routes that are drawn pass equally many requests per second, so each has as many as its round trip is long.
    """

    def __init__(
        self,
        fleet: Deployment,
        network: FlowNetwork,
        stations: Mapping[int, Station],
        load: OperatingLoad,
        flows: Sequence[float],
        requests: float,
        known_s: Mapping[Classes, float],
    ) -> None:
        self._fleet, self._load = fleet, load
        of_class = [number for number in network.node_classes for _ in network.classes[number].nodes]
        self._names = [name for number in network.node_classes for name in network.classes[number].nodes]
        self._class_of = of_class
        self._nodes = [Node(stations[number]) for number in of_class]
        self._nic_token_s = [1 / network.nic_tokens_per_s[number] for number in of_class]
        self._out_s, self._in_s = [0.0] * len(of_class), [0.0] * len(of_class)
        self.routes = drawn_routes(network, flows, max(1, min(_ROUTES, int(requests))))
        self._classes = [tuple(of_class[node] for node in route) for route in self.routes]
        mean_s = sum(known_s.values()) / len(known_s) if known_s else 1.0
        trips_s = [known_s.get(classes, mean_s) for classes in self._classes]
        # Whole numbers, as requests end one by one; those of like routes add up to what they have together.
        order = sorted(range(len(trips_s)), key=self._classes.__getitem__)
        ends = np.cumsum([0.0, *(trips_s[route] for route in order)]) * (max(1.0, requests) / sum(trips_s))
        whole = np.diff(np.rint(ends).astype(int)).tolist()
        self.requests: list[int] = [number for _, number in sorted(zip(order, whole, strict=True))]
        budgets = [float(node.station.token_budget) for node in self._nodes]
        threshold = load.engine.long_prefill_token_threshold or math.inf
        self._longest = [min(threshold, *(budgets[node] for node in route)) for route in self.routes]
        self._budgets = budgets
        self._after: list[dict[int, int]] = [dict(pairwise(route)) for route in self.routes]
        self._wires: dict[tuple[int, int], _Channel] = {}
        self._ending = _spread(len(self.routes))
        residing = [0.0] * len(of_class)
        for route, number in zip(self.routes, self.requests, strict=True):
            for node in route:
                residing[node] += number
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

    def played(self, expected_s: float) -> RoundTripsPlayed:
        """Return the mean round trips; ``expected_s``: about as long as they take."""
        for route, (first, *_) in enumerate(self.routes):
            if self.requests[route]:
                self._post(route / len(self.routes) * expected_s, first, {route: self.requests[route]}, [])
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
                waiting.wait(decodes)
                waiting.chunks += chunks
                if not waiting.is_busy:
                    self._begin_step(now_s, node)
        rates = [(late - early) / (now_s - begin_s) for late, early in zip(self.steps, settled, strict=True)]
        on_routes = list(zip(self._classes, self.requests, rates, strict=True))
        at_classes = [(one, requests, rate) for classes, requests, rate in on_routes for one in classes]
        return RoundTripsPlayed(_trips_s(at_classes), _trips_s(on_routes), sum(self.requests) / sum(rates))

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
        done: dict[int, float] = {}
        for route, count in decodes.items():
            if (after := self._after[route].get(number)) is None:
                done[route] = count
            else:
                onward.setdefault(after, {})[route] = count
        for target, sent in onward.items():
            self._send(now_s, number, target, sum(sent.values()), sent, [])
        for chunk in chunks:
            if (after := self._after[chunk.route].get(number)) is not None:
                self._send(now_s, number, after, chunk.tokens, {}, [chunk])
            elif chunk.is_last:
                done[chunk.route] = done.get(chunk.route, 0.0) + 1.0
        if done:
            self._return(now_s, number, done)
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

    def _return(self, now_s: float, last: int, done: Mapping[int, float]) -> None:
        """Return tokens to the first nodes of their routes; prompts take the place of requests that end."""
        back: dict[int, dict[int, float]] = {}
        for route, count in done.items():
            first = self.routes[route][0]
            self.steps[route] += count
            self._ending[route] += count * self._prompts_per_step[route]
            ended = min(int(count), int(self._ending[route]))
            self._ending[route] -= ended
            if count > ended:
                back.setdefault(first, {})[route] = count - ended
            if ended:
                prompts = [Chunk(route, next(self._lengths)) for _ in range(ended)]
                link = self._fleet.cluster.link(COORDINATOR, self._names[first])
                fixed_s = 0.0 if first == last else self._wire(last, first).fixed_s
                self._post(now_s + fixed_s + 2 * link.latency_ns / NS_PER_S, first, {}, prompts)
        for first, decodes in back.items():
            if first == last:
                self._nodes[first].wait(decodes)
            else:
                self._post(now_s + self._wire(last, first).fixed_s, first, decodes, [])

    def _wire(self, src: int, dst: int) -> _Channel:
        if (src, dst) not in self._wires:
            wire = Wire.between(self._fleet, self._names[src], self._names[dst], self._load)
            self._wires[src, dst] = _Channel(wire.token_s, wire.fixed_s)
        return self._wires[src, dst]
