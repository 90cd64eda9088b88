"""Columns of the two-commodity flow: prompts, decodes, and KV caches between them (``flow.two_commodity``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from helixsim import solver
from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvSizes, KvTransfer
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.domain.placement import LayerRange, Placement, Role
from helixsim.flow.network import Arc, build_network
from helixsim.flow.operating import stations_of
from helixsim.flow.phase_rates import DecodeRates, decode_rates
from helixsim.flow.station import OperatingLoad, Station, capacities
from helixsim.units import BITS_PER_BYTE, NS_PER_S

Columns = Mapping[int, float]
"""Coefficients by column."""

ZERO = 1e-9
"""Duals and flows below this are rounding errors."""


@dataclass(frozen=True, slots=True)
class KvFlow:
    """KV caches of some layers from one node, or each node of a class, to another [requests/s, B/s]."""

    src: str
    dst: str
    layers: LayerRange
    requests_per_s: float
    bytes_per_s: float


class PhaseProgram:
    """Graph and rows of the program; classes of equal nodes are one vertex, as in ``flow.network``."""

    def __init__(
        self,
        fleet: Deployment,
        placement: Placement,
        load: OperatingLoad,
        transfer: KvTransfer | None,
        tpot_s: float | None,
        mixed_nodes_send: bool,
    ) -> None:
        self.fleet, self.load, self.transfer, self.tpot_s = fleet, load, transfer, tpot_s
        self.mixed_nodes_send = mixed_nodes_send
        stations = stations_of(fleet, placement, load)
        roles: dict[str, Role] = {node: fleet.cluster.node(node).role for node in placement.ranges}
        self.network = build_network(
            fleet, placement, capacities(placement, dict.fromkeys(placement.ranges, 1.0)),
            kinds={node: (roles[node], id(stations[node])) for node in placement.ranges},
            most_class_links=len(placement.ranges) ** 2 + 1,
        )  # fmt: skip
        classes = self.network.classes
        self.stations = {number: stations[classes[number].nodes[0]] for number in self.network.node_classes}
        self.roles = {number: roles[classes[number].nodes[0]] for number in self.network.node_classes}
        self.program = solver.Program(maximise=True)
        self.names: list[str] = []
        self.value = self.program.column(1.0)

    def row(self, entries: Columns, name: str = "", lower: float = -math.inf, upper: float = math.inf) -> None:
        """Add a row; ``name`` says what binds where it does."""
        self.program.row(entries, lower, upper)
        self.names.append(name)

    def title(self, number: int) -> str:
        """Return a class in words."""
        nodes = self.network.classes[number].nodes
        return nodes[0] if len(nodes) == 1 else f"{nodes[0]} and {len(nodes) - 1} like it"

    def kv_tokens(self, number: int) -> int:
        """Return the tokens that the KV memory of a node of a class holds, at least one."""
        one = self.network.classes[number]
        blocks = self.fleet.kv_blocks(one.nodes[0], one.layers)
        return max(1, blocks * self.fleet.profile(one.nodes[0]).block_tokens)

    def nic_bps(self, number: int) -> float | None:
        """Return the bandwidth of the NIC of a class [bit/s]; None: unlimited, or that of a machine with several parts.

        What a part sends to another of its machine does not pass the NIC.
        """
        if number == COORDINATOR_CLASS:
            return self.fleet.cluster.network.coordinator_nic_bps
        node = self.fleet.cluster.node(self.network.classes[number].nodes[0])
        return node.nic_bps if node.machine is None else None

    def link_bps(self, src: int, dst: int) -> float:
        """Return the bandwidth of a link between two classes [bit/s]."""
        classes = self.network.classes
        return self.fleet.cluster.link(classes[src].nodes[0], classes[dst].nodes[0]).bandwidth_bps

    def link_s(self, arc: Arc) -> float:
        """Return the latency of a link [s]."""
        ends = [self.network.classes[number].nodes[0] for number in (arc.tail, arc.head)]
        return self.load.latency_s(self.fleet.cluster.link(*ends))


class Commodity:
    """Columns and conservation of one phase: requests/s on each arc between nodes that serve it."""

    def __init__(self, owner: PhaseProgram, phase: Role) -> None:
        self._owner, self._phase = owner, phase
        network = owner.network

        def serves(number: int) -> bool:
            return number == COORDINATOR_CLASS or owner.roles[number] in (phase, "both")

        self.columns = [(arc, owner.program.column()) for arc in network.arcs if serves(arc.tail) and serves(arc.head)]
        self.numbers = [number for number in network.node_classes if serves(number)]
        self._into: dict[int, dict[int, float]] = {}
        for arc, column in self.columns:
            self._into.setdefault(arc.head, {})[column] = 1.0
        for number in self.numbers:
            leaving = {column: -1.0 for arc, column in self.columns if arc.tail == number}
            owner.row(add(leaving, self.through(number)), lower=0.0, upper=0.0)
        entering = {column: 1.0 for arc, column in self.columns if arc.tail == COORDINATOR_CLASS}
        owner.row(add(entering, {owner.value: -1.0}), lower=0.0, upper=0.0)
        self._routes = self._shortest()

    def through(self, number: int) -> Columns:
        """Return the requests/s that pass the nodes of a class."""
        return self._into.get(number, {})

    def tokens(self, arc: Arc) -> float:
        """Return the tokens of a request that pass a link."""
        load, is_prefill = self._owner.load, self._phase == "prefill"
        if arc.head == COORDINATOR_CLASS:
            return 1.0 if is_prefill else load.mean_output_tokens
        if arc.tail == COORDINATOR_CLASS:  # the tokens that are decoded stay in the engine
            return load.mean_prompt_tokens if is_prefill else 0.0
        return load.mean_prompt_tokens if is_prefill else load.mean_steps

    def trip_s(self, number: int) -> float:
        """Return the time of a prompt on its way through a class [s]."""
        if number not in self._routes or self._phase != "prefill":
            return 0.0
        return sum(self._owner.stations[one].prompt_s for one in self._routes[number][0]) + self._routes[number][1]

    def rates(self, number: int) -> DecodeRates | None:
        """Return the rates of decode on a class of nodes, on the shortest route through it."""
        if number not in self._routes:
            return None
        route, links_s = self._routes[number]
        stations = [self._owner.stations[one] for one in route]
        owner = self._owner
        return decode_rates(stations, route.index(number), links_s, owner.load, owner.tpot_s)

    def by_node(self, values: Sequence[float]) -> dict[str, float]:
        """Return the requests/s of each node that serves the phase."""
        network = self._owner.network
        passed = {n: sum(values[column] for column in self.through(n)) / network.size(n) for n in self.numbers}
        return {node: passed[n] for n in self.numbers for node in network.classes[n].nodes}

    def _shortest(self) -> dict[int, tuple[list[int], float]]:
        """Return the classes of the fastest route through each class, for steps of one request, and its links' time.

        Arcs lead from lower numbers to higher ones, but for those to the coordinator.
        """
        own_s = {n: self._own_s(self._owner.stations[n]) for n in self.numbers}
        there: dict[int, tuple[float, list[int], float]] = {COORDINATOR_CLASS: (0.0, [], 0.0)}
        for arc, _ in sorted(self.columns, key=lambda pair: pair[0].head):
            if arc.head != COORDINATOR_CLASS and arc.tail in there:
                _extend(there, arc.tail, arc.head, own_s[arc.head], self._links_s(arc), is_onward=True)
        back: dict[int, tuple[float, list[int], float]] = {}
        for arc, _ in sorted(self.columns, key=lambda pair: -pair[0].tail):
            if arc.head == COORDINATOR_CLASS:
                back.setdefault(arc.tail, (own_s.get(arc.tail, 0.0), [arc.tail], 0.0))
        for arc, _ in sorted(self.columns, key=lambda pair: -pair[0].tail):
            if COORDINATOR_CLASS not in (arc.head, arc.tail) and arc.head in back:
                _extend(back, arc.head, arc.tail, own_s[arc.tail], self._links_s(arc), is_onward=False)
        return {
            number: (there[number][1][:-1] + back[number][1], there[number][2] + back[number][2])
            for number in self.numbers
            if number in there and number in back
        }

    def _own_s(self, station: Station) -> float:
        return station.prompt_s if self._phase == "prefill" else station.step_s(1.0)

    def _links_s(self, arc: Arc) -> float:
        """Return the time on a link; from the coordinator, that back from the last node of a pipeline to its first."""
        return 0.0 if COORDINATOR_CLASS in (arc.tail, arc.head) else self._owner.link_s(arc)


def _extend(
    found: dict[int, tuple[float, list[int], float]], by: int, to: int, own_s: float, link_s: float, *, is_onward: bool
) -> None:
    time_s, route, links_s = found[by]
    total_s = time_s + own_s + link_s
    if to not in found or total_s < found[to][0]:
        found[to] = (total_s, [*route, to] if is_onward else [to, *route], links_s + link_s)


class KvCaches:
    """Columns of the KV caches from nodes that compute prompts to those that decode them.

    ``bytes_between``: columns of each pair of classes with the bytes of a request.
    """

    def __init__(self, owner: PhaseProgram, prefill: Commodity, decode: Commodity) -> None:
        self._owner = owner
        network, transfer = owner.network, owner.transfer
        self.efficiency = 1.0 if transfer is None else transfer.efficiency
        self._latency_s = 0.0 if transfer is None else transfer.latency_ns / NS_PER_S
        self._sizes = KvSizes(owner.fleet.model, None if transfer is None else transfer.bits)
        self._columns: list[tuple[int, int, LayerRange, int]] = []
        self.bytes_between: dict[tuple[int, int], dict[int, float]] = {}
        ends = sorted({end for one in network.classes[1:] for end in (one.layers.start, one.layers.end)})
        for layers in (LayerRange(*pair) for pair in pairwise(ends)):
            self._add(layers, prefill, decode)

    def _add(self, layers: LayerRange, prefill: Commodity, decode: Commodity) -> None:
        """Add the transport of some layers."""
        owner = self._owner

        def holders(commodity: Commodity) -> list[int]:
            held = {number: owner.network.classes[number].layers for number in commodity.numbers}
            return [number for number, one in held.items() if one.start <= layers.start and layers.end <= one.end]

        sources, targets = holders(prefill), holders(decode)
        sent: dict[int, dict[int, float]] = {number: {} for number in sources}
        got: dict[int, dict[int, float]] = {number: {} for number in targets}
        for src in sources:
            for dst in targets:
                if src == dst or self._may_send(src):
                    column = owner.program.column()
                    sent[src][column] = got[dst][column] = -1.0
                    self._columns.append((src, dst, layers, column))
                    if src != dst:
                        self.bytes_between.setdefault((src, dst), {})[column] = self.bytes_of(dst, layers)
        for commodity, columns in ((prefill, sent), (decode, got)):
            for number, own in columns.items():
                owner.row(add(own, commodity.through(number)), lower=0.0, upper=0.0)

    def _may_send(self, src: int) -> bool:
        owner = self._owner
        return owner.transfer is not None and (owner.mixed_nodes_send or owner.roles[src] == "prefill")

    def bytes_of(self, dst: int, layers: LayerRange) -> float:
        """Return the bytes of the cache of some layers for a mean prompt at a receiver."""
        owner = self._owner
        node, tokens = owner.network.classes[dst].nodes[0], round(owner.load.mean_prompt_tokens)
        gpus = owner.fleet.cluster.node(node).gpus // owner.fleet.profile(node).compute.ranks
        return float(self._sizes.of(layers, 0, tokens, tokens, gpus))

    def sent_s(self, number: int) -> float:
        """Return the least time that what a node sends is on the way [s]; 0 from nodes that keep it."""
        return self._least_s[0].get(number, 0.0)

    def received_s(self, number: int) -> float:
        """Return the least time that what a node gets is on the way [s]."""
        return self._least_s[1].get(number, 0.0)

    @cached_property
    def _least_s(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return the least time on the way by node that sends, and by node that gets [s]."""
        sent: dict[int, float] = {}
        got: dict[int, float] = {}
        for pair, columns in self.bytes_between.items():
            own_s = sum(columns.values()) * BITS_PER_BYTE / (self.efficiency * self._owner.link_bps(*pair))
            for least, number in zip((sent, got), pair, strict=True):
                least[number] = min(self._latency_s + own_s, least.get(number, math.inf))
        return sent, got

    def flows(self, values: Sequence[float]) -> tuple[KvFlow, ...]:
        """Return the caches that travel."""
        names = {number: one.nodes[0] for number, one in enumerate(self._owner.network.classes)}
        return tuple(
            KvFlow(names[src], names[dst], layers, values[column], values[column] * self.bytes_of(dst, layers))
            for src, dst, layers, column in self._columns
            if src != dst and values[column] > ZERO
        )


def scaled(columns: Columns, factor: float) -> dict[int, float]:
    """Return columns times a factor."""
    return {column: factor * value for column, value in columns.items()}


def add(to: dict[int, float], columns: Columns, factor: float = 1.0) -> dict[int, float]:
    """Add columns times a factor to others, in place, and return these."""
    for column, value in columns.items():
        to[column] = to.get(column, 0.0) + factor * value
    return to
