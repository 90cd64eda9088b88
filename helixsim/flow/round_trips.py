"""Round trips of requests through a placement, for given flows: the part of the operating point that knows of routes.

Times are those of a node, or a link, of each class: equal nodes have equal shares of the flow, so equal times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helixsim.domain.cluster import Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.flow.network import FlowNetwork
from helixsim.flow.station import OperatingLoad, Station
from helixsim.flow.steps_in_a_row import Wire
from helixsim.units import NS_PER_S

_FULLEST_LINK = 0.95
"""Evenly shared links are taken to be busy for at most this share of time; at one, sending would last for ever."""


@dataclass(slots=True)
class _Passing:
    """Requests that pass a vertex, by the means over those of all its nodes.

    ``before_s``: time since the coordinator; ``caught``: probability that the step of a request is behind a prompt that
    goes the same way, to one of the next nodes; ``slowest_s``: longest chunk so far; ``evenness``: share of a node of
    the last class in the flow, for the mean flow on a link.
    """

    before_s: float
    caught: float
    slowest_s: float
    evenness: float


class RoundTrips:
    """Round trips of the requests at each class of nodes, for flows on the arcs of a network."""

    def __init__(
        self,
        fleet: Deployment,
        network: FlowNetwork,
        stations: Mapping[str, Station],
        load: OperatingLoad,
        copies: Sequence[int] | None = None,
    ) -> None:
        """Take ``copies`` as the number of classes that each class stands for (``alike``); None: one each."""
        self._network = network
        self._load = load
        self._is_shared = fleet.cluster.network.is_shared
        classes = network.classes
        self.stations = {number: stations[classes[number].nodes[0]] for number in network.node_classes}
        self._into: list[list[int]] = [[] for _ in range(network.num_vertices)]
        self._out_of: list[list[int]] = [[] for _ in range(network.num_vertices)]
        for number, arc in enumerate(network.arcs):
            self._into[arc.head].append(number)
            self._out_of[arc.tail].append(number)
        entries = [network.arcs[number].head for number in self._out_of[COORDINATOR_CLASS]]
        self._copies = None if copies is None else [copies[first] for first in entries]
        self._wires = self._wires_of(fleet)
        self._num_links = self._links_of_arcs()
        self._entry_layers = [
            junction.layer
            for junction in network.junctions
            for _ in range(len(junction.sources) + len(junction.targets) if junction.is_hub else 1)
        ]
        self._order = self._vertices_in_order()
        self._budgets = self._least_budgets()
        self._returns_s: dict[int, list[float]] = {}
        if load.engine.loops_inside:
            for number in self._into[COORDINATOR_CLASS]:
                last = network.arcs[number].tail
                self._returns_s[number] = [self._return_s(fleet, last, first) for first in entries]

    def _wires_of(self, fleet: Deployment) -> list[Wire]:
        """Return the links behind each arc; arcs of a junction of several classes have those of the junction."""
        classes = self._network.classes
        wires: list[Wire] = []
        for junction in self._network.junctions:
            src, dst = classes[junction.sources[0]].nodes[0], classes[junction.targets[0]].nodes[0]
            wire = Wire.between(fleet, src, dst, self._load)
            wires += [wire] * (len(junction.sources) + len(junction.targets) if junction.is_hub else 1)
        return wires

    def _links_of_arcs(self) -> list[float]:
        """Return the number of links behind each arc."""
        network = self._network
        found: list[float] = []
        for junction in network.junctions:
            sources = [network.size(number) for number in junction.sources]
            targets = [network.size(number) for number in junction.targets]
            if junction.is_hub:
                found += [float(size * sum(targets)) for size in sources]
            found += [float(sum(sources) * size) for size in targets]
        return found

    def entries(self, number: int, flows: Sequence[float]) -> dict[int, float]:
        """Return the shares of a class' requests that enter it at each layer."""
        found: dict[int, float] = {}
        for arc, share in self._shares(self._into[number], flows):
            if share:
                found[self._entry_layers[arc]] = found.get(self._entry_layers[arc], 0.0) + share
        return found

    def _alone(self, number: int, flows: Sequence[float]) -> float:
        """Return the share of a class' requests that pass no other node."""
        into = sum(
            s for n, s in self._shares(self._into[number], flows) if self._network.arcs[n].tail == COORDINATOR_CLASS
        )
        out = sum(
            s for n, s in self._shares(self._out_of[number], flows) if self._network.arcs[n].head == COORDINATOR_CLASS
        )
        return into * out

    def _return_s(self, fleet: Deployment, last: int, first: int) -> float:
        """Return the time from the last node of a route to the first, on average over the nodes of both classes."""
        here, there = self._network.classes[last].nodes, self._network.classes[first].nodes
        others = len(here) if last != first else len(here) - 1
        if not others:
            return 0.0
        link = fleet.cluster.link(here[0], there[0] if last != first else there[1])
        return others / len(here) * (link.latency_ns + self._load.engine.message_overhead_ns) / NS_PER_S

    def _vertices_in_order(self) -> list[int]:
        """Return the vertices but the coordinator in the order of the layers completed there."""
        network = self._network
        ends = [one.layers.end for one in network.classes]
        ends += [junction.layer for junction in network.junctions if junction.is_hub]
        return sorted(range(1, network.num_vertices), key=lambda vertex: (ends[vertex], vertex))

    def _least_budgets(self) -> dict[int, float]:
        """Return the least token budget on the routes through each class: a chunk fits all nodes of its route."""
        arcs = self._network.arcs
        own = {number: float(station.token_budget) for number, station in self.stations.items()}
        before: dict[int, float] = {COORDINATOR_CLASS: float("inf")}
        after: dict[int, float] = {COORDINATOR_CLASS: float("inf")}
        for vertex in self._order:
            before[vertex] = min(
                [own.get(vertex, float("inf")), *(before[arcs[number].tail] for number in self._into[vertex])]
            )
        for vertex in reversed(self._order):
            after[vertex] = min(
                [own.get(vertex, float("inf")), *(after[arcs[number].head] for number in self._out_of[vertex])]
            )
        return {number: min(before[number], after[number]) for number in own}

    def of(self, flows: Sequence[float]) -> tuple[dict[int, float], float]:
        """Return the mean round trip of the requests at each class, and of all [s]."""
        network, load = self._network, self._load
        sent = [sum(flows[number] for number in numbers) for numbers in self._out_of]
        entering = self._shares(self._out_of[COORDINATOR_CLASS], flows, self._copies)
        visits_s: dict[int, float] = {}
        passing = {COORDINATOR_CLASS: _Passing(0.0, 0.0, 0.0, 1.0)}
        for vertex in self._order:
            shares = self._shares(self._into[vertex], flows)
            if vertex >= len(network.classes):
                passing[vertex] = self._met(shares, flows, sent, passing, visits_s)
                continue
            arriving, caught, size = 0.0, 0.0, network.size(vertex)
            for number, share in shares:
                source = network.arcs[number].tail
                came = passing[source]
                is_first = source == COORDINATOR_CLASS
                link_s = self._link_s(number, flows[number] / size * came.evenness, is_first=is_first)
                arriving += share * (came.before_s + visits_s.get(source, 0.0) + link_s)
                # The prompt in front goes the same way with the probability that anything does.
                caught += share * came.caught * (flows[number] / sent[source] / size if sent[source] else 0.0)
            steps_per_s = sent[vertex] / size / load.tokens_per_step
            station = self.stations[vertex]
            chunk = station.longest_chunk(self._budgets[vertex], steps_per_s)
            visit_s, leaves_caught = station.visit_s(steps_per_s, caught, chunk, self._alone(vertex, flows))
            # The first round trip of a request is its prompt; its chunks pass the slowest node one after the other.
            chunk_s = station.chunk_s(chunk)
            slowest_before_s = max(passing[network.arcs[number].tail].slowest_s for number, _ in shares)
            slowest_s = max(slowest_before_s, chunk_s)
            further_chunks = station.prompt_s / chunk_s - 1 if chunk_s else 0.0
            own_s = chunk_s + further_chunks * (slowest_s - slowest_before_s)
            visits_s[vertex] = visit_s + own_s / load.mean_steps
            passing[vertex] = _Passing(arriving, leaves_caught, slowest_s, 1 / size)
        after_s = self._after_s(flows, visits_s, [share for _, share in entering])
        found = {number: passing[number].before_s + visits_s[number] + after_s[number] for number in self.stations}
        return found, sum(share * found[network.arcs[number].head] for number, share in entering)

    def _met(
        self,
        shares: Sequence[tuple[int, float]],
        flows: Sequence[float],
        sent: Sequence[float],
        passing: Mapping[int, _Passing],
        visits_s: Mapping[int, float],
    ) -> _Passing:
        """Return what leaves a junction, whose links divide what comes from each source in the same proportions."""
        met = _Passing(0.0, 0.0, 0.0, 0.0)
        for number, share in shares:
            source = self._network.arcs[number].tail
            came = passing[source]
            met.before_s += share * (came.before_s + visits_s[source])
            met.caught += share * came.caught * (flows[number] / sent[source] if sent[source] else 0.0)
            met.slowest_s = max(met.slowest_s, came.slowest_s)
            met.evenness += share * share * came.evenness
        return met

    def _after_s(
        self, flows: Sequence[float], visits_s: Mapping[int, float], entering: Sequence[float]
    ) -> dict[int, float]:
        """Return the time of a round trip that is left after each vertex."""
        network = self._network
        after_s = {COORDINATOR_CLASS: 0.0}
        evenness: dict[int, float] = {COORDINATOR_CLASS: 1.0}
        for vertex in reversed(self._order):
            shares = self._shares(self._out_of[vertex], flows)
            is_hub = vertex >= len(network.classes)
            evenness[vertex] = (
                sum(share * share * evenness[network.arcs[number].head] for number, share in shares)
                if is_hub
                else 1 / network.size(vertex)
            )
            after_s[vertex] = 0.0
            for number, share in shares:
                target = network.arcs[number].head
                link_s = 0.0
                if number in self._returns_s:
                    link_s = sum(s * part for s, part in zip(self._returns_s[number], entering, strict=True))
                elif not is_hub:
                    link_s = self._link_s(number, flows[number] / network.size(vertex) * evenness[target])
                after_s[vertex] += share * (link_s + visits_s.get(target, 0.0) + after_s[target])
        return after_s

    def _shares(
        self, numbers: Sequence[int], flows: Sequence[float], copies: Sequence[int] | None = None
    ) -> list[tuple[int, float]]:
        """Return each arc's share of the flow over these arcs; equal shares of all links where there is none.

        ``copies``: how often each of them counts.
        """
        weights = [flows[number] for number in numbers]
        if not sum(weights):
            weights = [self._num_links[number] for number in numbers]
        if copies is not None:
            weights = [weight * count for weight, count in zip(weights, copies, strict=True)]
        total = sum(weights)
        return [(number, weight / total) for number, weight in zip(numbers, weights, strict=True)]

    def _link_s(self, number: int, tokens_per_s: float, *, is_first: bool = False) -> float:
        """Return the time a step spends on a link with this mean flow, with its share of the prompt."""
        wire, load = self._wires[number], self._load
        if is_first and load.engine.loops_inside:
            # Tokens go from the last node to the first, the coordinator sends prompts.
            return (wire.fixed_s + load.mean_prompt_tokens * wire.token_s) / load.mean_steps
        if self._is_shared:
            busy = min(_FULLEST_LINK, tokens_per_s * wire.token_s)
            return wire.fixed_s + wire.token_s * load.tokens_per_step / (1 - busy)
        prompt_s = load.mean_prompt_tokens * wire.token_s
        prompts_per_s = tokens_per_s / (load.mean_prompt_tokens + load.mean_output_tokens)
        # Half of the prompt it finds under way.
        waiting_s = prompts_per_s * prompt_s * prompt_s * load.prompt_spread / 2
        return wire.fixed_s + wire.token_s * load.tokens_per_step + waiting_s
