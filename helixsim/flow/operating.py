"""Tokens per second of nodes at their operating point: KV memory caps the requests, round trips set their pace.

A request keeps its KV memory on every node of its route and returns to each of them once per output token, after a
round trip of ``R`` seconds. A node with room for ``N`` requests therefore passes at most ``N / R`` steps per second
(Little's law), however fast it computes; and what it passes fills its batches, which sets ``R``. The fixed point of the
two is the operating point. ``R`` is the sum, over the hops of a route, of

- the link: latency, transmission, and waiting for the prompt that is on it (a link that is shared evenly slows down by
  its idle share instead),
- one decode step of the batch that has gathered while the one before was computed,
- under engines of today half of a decode step that is being computed when it comes (``loops_inside``), and
- prompts in the way, or the chunks of them that these engines cut at the first stage of a route. A prompt takes many
  times longer on a node than a decode step, and steps that have once caught up with one stay behind it on every node
  they go to together, as behind a lorry on a road without overtaking. Deep chains suffer most.

Where tokens stay in the engine, a step returns from the last node to the first, and a node runs no more sequences than
one step can hold ("Branching routes" in docs/engine.md).

Left out: how arrivals cluster, and that long outputs tend to have long prompts. How close it comes to simulations is in
``experiments/paper/PLACEMENT.md``. Replicas of an engine, whose sequences share their steps, have laws of their own
(``replicas``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from helixsim.domain.cluster import COORDINATOR, Cluster, Deployment
from helixsim.domain.data_parallel import step_time
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.step_time import StepTime
from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import CapacityTable, typical_layers
from helixsim.flow.maxflow import balanced_flows
from helixsim.flow.network import FlowNetwork, build_network, token_bytes
from helixsim.flow.replicas import chains_of, replicas_point
from helixsim.flow.station import OperatingLoad, OperatingPoint, Station, capacities
from helixsim.units import BITS_PER_BYTE, NS_PER_S

_ROUNDS, _SETTLED = 16, 0.005
"""Most rounds of the fixed point of a placement, which ends where no round trip is off by more than this share."""

_HALVINGS = 50

_FULLEST_LINK = 0.95
"""Evenly shared links are taken to be busy for at most this share of time; at one, sending would last for ever."""


def operating_point(
    fleet: Deployment, placement: Placement, load: OperatingLoad, *, offered_output_per_s: float | None = None
) -> OperatingPoint:
    """Return where a placement settles under saturation; all zero where it leaves no complete route.

    ``offered_output_per_s`` is the load for ``offered_round_trip_s`` [output tokens/s]; None: saturation.
    """
    stations = _stations(fleet, placement, load)
    most = {node: station.most_steps_per_s * load.tokens_per_step for node, station in stations.items()}
    network = build_network(fleet, placement, capacities(placement, most))
    # Nothing travels over a link without bandwidth, and no time can be given for it.
    network = replace(network, links=tuple(link for link in network.links if link.capacity_tokens_per_s > 0))
    if not network.nodes:
        return OperatingPoint(0.0, 0.0, 0.0, math.inf, math.inf, capacities(placement, dict.fromkeys(stations, 0.0)))
    chains = chains_of(network) if load.engine.loops_inside else None
    if chains is not None:
        return replicas_point(fleet, placement, chains, stations, load, most, offered_output_per_s)
    trips = _RoundTrips(fleet.cluster, network, stations, load, {
        (link.src, link.dst): token_bytes(fleet, link.src, link.dst) for link in network.links
    })  # fmt: skip
    first_s = sum(stations[node].step_s(1.0) + stations[node].prompt_s for node in network.nodes)
    round_trip_s = dict.fromkeys(network.nodes, first_s)
    flows: list[float] = []
    mean_s = math.inf
    for number in range(_ROUNDS):
        passed = {n: stations[n].capacity(round_trip_s[n]) * load.tokens_per_step for n in network.nodes}
        flows = balanced_flows(replace(network, compute_tokens_per_s=passed))
        found_s, mean_s = trips.of(flows)
        if all(abs(found_s[n] / round_trip_s[n] - 1) <= _SETTLED for n in network.nodes):
            break
        # Part of the way, as longer trips lower the flow, which shortens them: full steps would swing.
        step = 1 / (2 + number / 4)
        round_trip_s = {n: round_trip_s[n] * (found_s[n] / round_trip_s[n]) ** step for n in network.nodes}
    total = sum(flow for flow, link in zip(flows, network.links, strict=True) if link.src == COORDINATOR)
    steps = total / load.tokens_per_step
    capacity = {n: stations[n].capacity(round_trip_s[n]) * load.tokens_per_step for n in network.nodes}
    offered_s = mean_s
    if offered_output_per_s is not None and offered_output_per_s < steps:
        _, offered_s = trips.of([flow * offered_output_per_s / steps for flow in flows])
    return OperatingPoint(steps, total, steps * mean_s, mean_s, offered_s, capacities(placement, {**most, **capacity}))


def _stations(fleet: Deployment, placement: Placement, load: OperatingLoad) -> dict[str, Station]:
    """Return the station of each node; equal nodes with like layers share one."""
    found: dict[tuple[object, ...], Station] = {}
    stations = {}
    for node, held in placement.ranges.items():
        profile = fleet.profile(node)
        kv_tokens = fleet.kv_blocks(node, held) * profile.block_tokens
        is_last = held.end == fleet.model.num_layers
        most = fleet.cluster.node(node).max_requests
        key = (profile.kind, held if profile.compute.layers else (held.layers, is_last), kv_tokens, most)
        if key not in found:
            time = step_time(profile.compute, load.engine, held, fleet.model.num_layers)
            found[key] = Station(profile, held.layers, kv_tokens, load, time, most)
        stations[node] = found[key]
    return stations


def _mean_step_time(profile: NodeProfile, layers: int, engine: EngineSpec) -> StepTime:
    """Return the law for so many layers, evenly drawn from those of the model, without its output head."""
    known = profile.compute.layers
    experts = profile.compute.experts
    order = [(2 * number + 1) * max(len(known), len(experts)) // (2 * layers) for number in range(layers)]
    drawn = replace(
        profile.compute,
        layers=tuple(known[index] for index in order) if known else (),
        experts=tuple(experts[index] for index in order) if experts else (),
        head=None,
    )
    return step_time(drawn, engine, LayerRange(0, layers), layers)


class _RoundTrips:
    """Round trips of the requests at each node of a placement, for given flows."""

    def __init__(
        self,
        cluster: Cluster,
        network: FlowNetwork,
        stations: Mapping[str, Station],
        load: OperatingLoad,
        sizes: Mapping[tuple[str, str], int],
    ) -> None:
        self._nodes = network.nodes
        self._links = network.links
        self._stations = stations
        self._load = load
        self._is_shared = cluster.network.is_shared
        self._into: dict[str, list[int]] = {node: [] for node in (*network.nodes, COORDINATOR)}
        self._out_of: dict[str, list[int]] = {node: [] for node in (*network.nodes, COORDINATOR)}
        self._fixed_s: list[float] = []
        self._token_s: list[float] = []
        for number, link in enumerate(network.links):
            self._into[link.dst].append(number)
            self._out_of[link.src].append(number)
            spec = cluster.link(link.src, link.dst)
            self._fixed_s.append((spec.latency_ns + load.engine.message_overhead_ns) / NS_PER_S)
            self._token_s.append(BITS_PER_BYTE * sizes[link.src, link.dst] / spec.bandwidth_bps)
        self._budgets = self._least_budgets()
        self._returns_s: dict[int, list[float]] = {}
        if load.engine.loops_inside:
            entries = [network.links[number].dst for number in self._out_of[COORDINATOR]]
            for number in self._into[COORDINATOR]:
                last = network.links[number].src
                self._returns_s[number] = [
                    0.0
                    if last == first
                    else (cluster.link(last, first).latency_ns + load.engine.message_overhead_ns) / NS_PER_S
                    for first in entries
                ]

    def _least_budgets(self) -> dict[str, float]:
        """Return the least token budget on the routes through each node: every chunk fits all nodes of its route."""
        own = {node: float(self._stations[node].token_budget) for node in self._nodes}
        before, after = dict(own), dict(own)
        for node in self._nodes:
            sources = [self._links[number].src for number in self._into[node]]
            before[node] = min([own[node], *(before[src] for src in sources if src != COORDINATOR)])
        for node in reversed(self._nodes):
            targets = [self._links[number].dst for number in self._out_of[node]]
            after[node] = min([own[node], *(after[dst] for dst in targets if dst != COORDINATOR)])
        return {node: min(before[node], after[node]) for node in self._nodes}

    def of(self, flows: list[float]) -> tuple[dict[str, float], float]:
        """Return the mean round trip of the requests at each node, and of all [s]."""
        links_s = [self._link_s(number, flow) for number, flow in enumerate(flows)]
        entering = self._shares(self._out_of[COORDINATOR], flows)
        if self._load.engine.loops_inside:  # tokens go from the last node to the first, the coordinator sends prompts
            for number, _ in entering:
                prompt_s = self._fixed_s[number] + self._load.mean_prompt_tokens * self._token_s[number]
                links_s[number] = prompt_s / self._load.mean_steps
            for number, returns_s in self._returns_s.items():
                links_s[number] = sum(s * share for s, (_, share) in zip(returns_s, entering, strict=True))
        visits_s: dict[str, float] = {}
        before_s: dict[str, float] = {COORDINATOR: 0.0}
        leaves_caught: dict[str, float] = {COORDINATOR: 0.0}
        slowest_s: dict[str, float] = {COORDINATOR: 0.0}
        sent = {node: sum(flows[number] for number in numbers) for node, numbers in self._out_of.items()}
        for node in self._nodes:
            shares = self._shares(self._into[node], flows)
            arriving, caught = 0.0, 0.0
            for number, share in shares:
                source = self._links[number].src
                arriving += share * (before_s[source] + visits_s.get(source, 0.0) + links_s[number])
                # The prompt in front goes the same way with the probability that anything does.
                caught += share * leaves_caught[source] * (flows[number] / sent[source] if sent[source] else 0.0)
            before_s[node] = arriving
            steps_per_s = sent[node] / self._load.tokens_per_step
            station = self._stations[node]
            chunk = station.longest_chunk(self._budgets[node], steps_per_s)
            visit_s, leaves_caught[node] = station.visit_s(steps_per_s, caught, chunk)
            # The first round trip of a request is its prompt; its chunks pass the slowest node one after the other.
            chunk_s = station.chunk_s(chunk)
            slowest_before_s = max(slowest_s[self._links[number].src] for number, _ in shares)
            slowest_s[node] = max(slowest_before_s, chunk_s)
            further_chunks = station.prompt_s / chunk_s - 1 if chunk_s else 0.0
            own_s = chunk_s + further_chunks * (slowest_s[node] - slowest_before_s)
            visits_s[node] = visit_s + own_s / self._load.mean_steps
        after_s: dict[str, float] = {COORDINATOR: 0.0}
        for node in reversed(self._nodes):
            after_s[node] = sum(
                share
                * (links_s[number] + visits_s.get(self._links[number].dst, 0.0) + after_s[self._links[number].dst])
                for number, share in self._shares(self._out_of[node], flows)
            )
        found = {node: before_s[node] + visits_s[node] + after_s[node] for node in self._nodes}
        return found, sum(share * found[self._links[number].dst] for number, share in entering)

    def _shares(self, numbers: list[int], flows: list[float]) -> list[tuple[int, float]]:
        """Return each link's share of the flow over these links; equal shares where there is none."""
        total = sum(flows[number] for number in numbers)
        return [(number, flows[number] / total if total else 1 / len(numbers)) for number in numbers]

    def _link_s(self, number: int, tokens_per_s: float) -> float:
        """Return the time a step spends on a link, with its share of the prompt."""
        token_s = self._token_s[number]
        if self._is_shared:
            busy = min(_FULLEST_LINK, tokens_per_s * token_s)
            return self._fixed_s[number] + token_s * self._load.tokens_per_step / (1 - busy)
        prompt_s = self._load.mean_prompt_tokens * token_s
        prompts_per_s = tokens_per_s / (self._load.mean_prompt_tokens + self._load.mean_output_tokens)
        waiting_s = (
            prompts_per_s * prompt_s * prompt_s * self._load.prompt_spread / 2
        )  # half of the prompt it finds under way
        return self._fixed_s[number] + token_s * self._load.tokens_per_step + waiting_s


def busy_capacity(fleet: Deployment, load: OperatingLoad) -> CapacityTable:
    """Return what kinds of nodes pass that compute all the time, in batches as large as their KV memory allows.

    No node passes more under the step time law at mean lengths, whatever the placement, the routing and the network.

    Raises
    ------
    InfeasibleError
        If no node of the fleet can hold a single layer.
    """
    return CapacityTable(
        tables={
            kind: tuple(station.most_steps_per_s * load.tokens_per_step for station in found)
            for kind, found in _stations_by_kind(fleet, load).items()
        },
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        assumptions=("Node capacities: always busy, with the largest batches that KV memory holds.",),
    )


def _stations_by_kind(fleet: Deployment, load: OperatingLoad) -> dict[str, list[Station]]:
    """Return the station of each kind of node with 1, 2, ... layers."""
    stations = {
        profile.kind: [
            Station(profile, layers, profile.kv_tokens(layers), load, _mean_step_time(profile, layers, load.engine))
            for layers in range(1, len(profile.kv_blocks) + 1)
        ]
        for profile in {profile.kind: profile for profile in fleet.profiles}.values()
    }
    if not any(stations.values()):
        raise InfeasibleError(f"no node of the fleet can hold one layer of {fleet.model.name} and any KV cache")
    return stations


def operating_capacity(fleet: Deployment, load: OperatingLoad) -> CapacityTable:
    """Return what kinds of nodes sustain at the operating point of an average deployment of the fleet.

    For searches, which need a table before there is a placement: every kind is taken to hold its typical number of
    layers and to work at its capacity, routes pass the kinds in proportion to that, links are those inside a region.

    Raises
    ------
    InfeasibleError
        If no node of the fleet can hold a single layer.
    """
    stations = _stations_by_kind(fleet, load)
    typical = typical_layers(fleet)
    counts = {kind: sum(profile.kind == kind for profile in fleet.profiles) for kind in typical}
    budget = min(stations[kind][layers - 1].token_budget for kind, layers in typical.items())
    link = fleet.cluster.network.intra_region
    token_s = BITS_PER_BYTE * fleet.model.activation_bytes_per_token / link.bandwidth_bps
    link_s = (link.latency_ns + load.engine.message_overhead_ns) / NS_PER_S + token_s * load.tokens_per_step

    def trip_s(round_trip_s: float) -> float:
        """Return the round trip that follows from capacities that follow from ``round_trip_s``."""
        steps = {kind: stations[kind][layers - 1].capacity(round_trip_s) for kind, layers in typical.items()}
        visits = {kind: counts[kind] * layers * steps[kind] for kind, layers in typical.items()}
        hops = {
            kind: fleet.model.num_layers * visits[kind] / sum(visits.values()) / layers
            for kind, layers in typical.items()
        }
        width = max(1.0, sum(counts[kind] * layers for kind, layers in typical.items()) / fleet.model.num_layers)
        # Where tokens stay in the engine, they return over a link like those between nodes.
        total_s = 0.0 if load.engine.loops_inside else link_s
        caught, depth = 0.0, max(1, round(sum(hops.values())))
        for _ in range(depth):
            spent = {}
            for kind, layers in typical.items():
                station = stations[kind][layers - 1]
                chunk = station.longest_chunk(budget, steps[kind])
                visit_s, leaves_caught = station.visit_s(steps[kind], caught / width, chunk)
                spent[kind] = visit_s + station.chunk_s(chunk) / load.mean_steps, leaves_caught
            total_s += sum(hops[kind] / depth * (spent[kind][0] + link_s) for kind in typical)
            caught = sum(hops[kind] * spent[kind][1] for kind in typical) / sum(hops.values())
        return total_s

    low, high = 1e-9, 1.0
    while trip_s(high) > high:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if trip_s(middle) > middle else (low, middle)
    tables = {
        kind: tuple(station.capacity(high) * load.tokens_per_step for station in found)
        for kind, found in stations.items()
    }
    return CapacityTable(
        tables=tables,
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        assumptions=(
            f"Node capacities: mean prompt {load.mean_prompt_tokens:g} and output {load.mean_output_tokens:g} tokens, "
            f"KV memory filled to {load.kv_share:.0%}, requests back after {high:.3g} s (operating point of an average "
            "deployment).",
        ),
    )
