"""Tokens per second of nodes at their operating point: KV memory caps the requests, round trips set their pace.

A request keeps its KV memory on every node of its route and returns to each of them once per output token, after a
round trip of ``R`` seconds. A node with room for ``N`` requests therefore passes at most ``N / R`` steps per second
(Little's law), however fast it computes; and what it passes fills its batches, which sets ``R``. The fixed point of the
two is the operating point. ``R`` is the sum, over the hops of a route, of

- the link: latency, transmission, and waiting for the prompt that is on it (a link that is shared evenly slows down by
  its idle share instead),
- one decode step of the batch that has gathered while the one before was computed,
- prompts in the way. A prompt takes many times longer on a node than a decode step, and steps that have once caught up
  with one stay behind it on every node they go to together, as behind a lorry on a road without overtaking. Deep chains
  suffer most.
- Engines of today (``loops_inside``) compute decodes and chunks of prompts in one step: there it is half of the step,
  or of the chunk, that is being computed when it comes, and the chunks that share its own step.

Where tokens stay in the engine, a step returns from the last node to the first, and a node runs no more sequences than
one step can hold ("Branching routes" in docs/engine.md).

Requests that meet at a node go on together. Where few nodes form steps of their own, that decides how large batches
are, and runs of such cohorts (``cohorts``) replace the round trips of the closed form.

Left out: how arrivals cluster. How close it comes to simulations is in
``experiments/paper/PLACEMENT.md``. Replicas of an engine, whose sequences share their steps, have laws of their own
(``replicas``).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from helixsim.domain.cluster import Deployment
from helixsim.domain.data_parallel import step_time
from helixsim.domain.engine import EngineSpec
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.step_time import StepTime
from helixsim.errors import InfeasibleError
from helixsim.flow.alike import Alike, alike, whole
from helixsim.flow.capacity import CapacityTable, End, end_shares, kv_tokens_of, typical_layers
from helixsim.flow.cohorts import Classes, Cohorts
from helixsim.flow.maxflow import balanced_flows
from helixsim.flow.network import FlowNetwork, build_network
from helixsim.flow.replicas import chains_of, replicas_beside, settled_replicas
from helixsim.flow.round_trips import RoundTrips
from helixsim.flow.station import OperatingLoad, OperatingPoint, Settled, Station, capacities
from helixsim.units import BITS_PER_BYTE

_ROUNDS, _SETTLED = 16, 0.005
"""Most rounds of the fixed point of a placement, which ends where no round trip is off by more than this share."""

_RUNS = 2
"""Runs of cohorts, each with the round trips that follow from the runs before."""

_MOST_NODES = 40
"""Where more nodes form steps of their own, cohorts of many others reach each of them, nearly as evenly as requests."""

_MOST_APART = 1_000
"""Where there are more nodes, one of the parts that are equal stands for all (``alike``)."""

_LEAST_SPREAD = 1.2
"""Where outputs are nearly equal, requests that came together end together, which the runs of cohorts leave out."""

_HALVINGS = 50


def operating_point(
    fleet: Deployment, placement: Placement, load: OperatingLoad, *, offered_output_per_s: float | None = None
) -> OperatingPoint:
    """Return where a placement settles under saturation; all zero where it leaves no complete route.

    ``offered_output_per_s`` is the load for ``offered_round_trip_s`` [output tokens/s]; None: saturation.
    """
    found = settled(fleet, placement, load)
    output_per_s = found.steps_per_s * load.tokens_of_step
    round_trip_s = offered_s = found.requests / found.steps_per_s if found.steps_per_s else math.inf
    if offered_output_per_s is not None and offered_output_per_s < output_per_s:
        offered_s = found.round_trip_s(offered_output_per_s / output_per_s)
    most = {node: steps_per_s * load.tokens_per_step for node, steps_per_s in found.most_steps_per_s.items()}
    return OperatingPoint(
        output_per_s, found.steps_per_s * load.tokens_per_step, found.requests, round_trip_s, offered_s,
        capacities(placement, most),
    )  # fmt: skip


def settled(fleet: Deployment, placement: Placement, load: OperatingLoad) -> Settled:
    """Return where all routes of a placement settle under saturation; without a complete route no node passes any."""
    own, load = load.of_nodes(), load.of_replicas()
    stations = stations_of(fleet, placement, load)
    most = {node: station.most_steps_per_s for node, station in stations.items()}
    kinds = {node: id(station) for node, station in stations.items()}
    table = capacities(placement, {node: steps_per_s * load.tokens_per_step for node, steps_per_s in most.items()})
    network = build_network(fleet, placement, table, kinds=kinds)
    if not network.classes:
        return Settled(0.0, 0.0, dict.fromkeys(stations, 0.0), lambda share: math.inf)
    parts: list[Settled] = []
    chains = chains_of(network) if load.engine.loops_inside else None
    if chains is not None:
        parts.append(settled_replicas(fleet, chains, stations, load))
    else:
        alone = replicas_beside(network) if load.engine.loops_inside else []
        if alone:
            parts.append(settled_replicas(fleet, [[node] for node in alone], stations, load))
            others = placement.part(set(placement.ranges) - set(alone))
            network = build_network(fleet, others, table, kinds=kinds)
        if load.engine.loops_inside and load.engine.chunks_prompts:
            load, stations = own, stations_of(fleet, placement, own)
        parts.append(_settled_routes(fleet, network, stations, load, partial=placement.partial_inference))
    steps = sum(part.steps_per_s for part in parts)
    for part in parts:
        most.update(part.most_steps_per_s)
    return Settled(
        steps, sum(part.requests for part in parts), most,
        lambda share: sum(part.steps_per_s * part.round_trip_s(share) for part in parts) / steps,
    )  # fmt: skip


def _settled_routes(
    fleet: Deployment, network: FlowNetwork, stations: Mapping[str, Station], load: OperatingLoad, *, partial: bool
) -> Settled:
    """Return where routes settle whose nodes form steps of their own; ``partial``: requests enter between layers."""
    many = network
    equal = _equal_parts(fleet, network, stations, load, partial=partial)
    network = equal.network
    trips = RoundTrips(fleet, network, stations, load, equal.copies)
    numbers = network.node_classes
    whole = station_of = trips.stations
    first_s = sum(
        equal.copies[n] * network.size(n) * (station_of[n].step_s(1.0) + station_of[n].prompt_s) for n in numbers
    )
    round_trip_s = dict.fromkeys(numbers, first_s)
    flows: list[float] = []
    mean_s = math.inf

    def settled_flows() -> list[float]:
        passed = (math.inf, *(station_of[n].capacity(round_trip_s[n]) * load.tokens_per_step for n in numbers))
        return balanced_flows(replace(network, compute_tokens_per_s=passed), equal.copies)

    for number in range(_ROUNDS):
        flows = settled_flows()
        if partial:
            ends = {n: network.classes[n].layers.end for n in numbers}
            station_of = {n: whole[n].entered(trips.entries(n, flows), ends[n]) for n in numbers}
            trips.stations = station_of
        found_s, mean_s = trips.of(flows)
        if all(abs(found_s[n] / round_trip_s[n] - 1) <= _SETTLED for n in numbers):
            break
        # Part of the way, as longer trips lower the flow, which shortens them: full steps would swing.
        step = 1 / (2 + number / 4)
        round_trip_s = {n: round_trip_s[n] * (found_s[n] / round_trip_s[n]) ** step for n in numbers}
    if _meets_in_cohorts(many, load):
        known_s: Mapping[Classes, float] = {}
        for _ in range(_RUNS):
            mean_s /= _share_of_fullest(network, flows, round_trip_s, station_of, load)
            requests = _steps_per_s(equal, flows, load) * mean_s
            played = Cohorts(fleet, network, station_of, load, flows, requests, known_s).played(mean_s)
            known_s, mean_s = played.on_routes_s, played.mean_s
            round_trip_s |= played.at_classes_s
            flows = settled_flows()
    steps = _steps_per_s(equal, flows, load)
    most = {
        node: station_of[n].capacity(round_trip_s[n])
        for n in numbers
        for like in equal.stands_for[n]
        for node in many.classes[like].nodes
    }
    return Settled(steps, steps * mean_s, most, lambda share: trips.of([flow * share for flow in flows])[1])


def _meets_in_cohorts(network: FlowNetwork, load: OperatingLoad) -> bool:
    """Return whether few nodes form steps of their own."""
    if not (load.engine.loops_inside and load.engine.chunks_prompts) or load.output_spread < _LEAST_SPREAD:
        return False
    return sum(network.size(number) for number in network.node_classes) <= _MOST_NODES


def _share_of_fullest(
    network: FlowNetwork,
    flows: Sequence[float],
    round_trip_s: Mapping[int, float],
    stations: Mapping[int, Station],
    load: OperatingLoad,
) -> float:
    """Return how full the fullest node is, less than one where computing limits the flows: requests wait there, too."""
    passed = dict.fromkeys(network.node_classes, 0.0)
    for flow, arc in zip(flows, network.arcs, strict=True):
        if arc.head in stations:
            passed[arc.head] += flow / network.size(arc.head) / load.tokens_per_step
    return max(passed[n] * round_trip_s[n] / stations[n].most_requests for n in stations)


def _steps_per_s(equal: Alike, flows: Sequence[float], load: OperatingLoad) -> float:
    """Return the decode steps/s of flows on one of the equal parts each, of all parts together."""
    entering = (
        flow * equal.copies[arc.head]
        for flow, arc in zip(flows, equal.network.arcs, strict=True)
        if arc.tail == COORDINATOR_CLASS
    )
    return sum(entering) / load.tokens_per_step


def _equal_parts(
    fleet: Deployment, network: FlowNetwork, stations: Mapping[str, Station], load: OperatingLoad, *, partial: bool
) -> Alike:
    """Return one of the equal parts each of a network of many nodes; else the network as it is."""
    returns = load.engine.loops_inside
    meets = math.isfinite(network.nic_tokens_per_s[COORDINATOR_CLASS]) or (returns and partial)
    if len(network.order) <= _MOST_APART or meets:
        return whole(network)
    sites = fleet.cluster.sites

    def kind(number: int) -> Hashable:
        # Where tokens stay in the engine, they return to the first nodes of all parts alike.
        first = network.classes[number].nodes[0]
        return id(stations[first]), sites[first] if returns else None

    return alike(fleet, network, kind)


def stations_of(fleet: Deployment, placement: Placement, load: OperatingLoad) -> dict[str, Station]:
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
            sizes = profile.limits[held.layers - 1].graph_sizes
            time = step_time(profile.compute, load.engine, held, fleet.model.num_layers, sizes)
            found[key] = Station(profile, held.layers, kv_tokens, load, time, most)
        stations[node] = found[key]
    return stations


def mean_step_time(
    profile: NodeProfile, layers: int, engine: EngineSpec, *, has_head: bool = False, with_graphs: bool = False
) -> StepTime:
    """Return the law for so many layers, evenly drawn from those of the model, without its output head or with it."""
    known = profile.compute.layers
    experts = profile.compute.experts
    order = [(2 * number + 1) * max(len(known), len(experts)) // (2 * layers) for number in range(layers)]
    drawn = replace(
        profile.compute,
        layers=tuple(known[index] for index in order) if known else (),
        experts=tuple(experts[index] for index in order) if experts else (),
        head=profile.compute.head if has_head else None,
    )
    sizes = profile.limits[layers - 1].graph_sizes if with_graphs else ()
    return step_time(drawn, engine, LayerRange(0, layers), layers, sizes)


def _stations_by_kind(fleet: Deployment, load: OperatingLoad, *, with_graphs: bool = False) -> dict[str, list[Station]]:
    """Return the station of each kind of node with 1, 2, ... layers."""
    stations = {
        profile.kind: [
            Station(profile, layers, profile.kv_tokens(layers), load, mean_step_time(profile, layers, load.engine))
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
    link_s = load.latency_s(link) + token_s * load.tokens_per_step

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

    def speed(profile: NodeProfile, layers: int, end: End | None) -> float:
        if end is None:
            return stations[profile.kind][layers - 1].capacity(high)
        time = mean_step_time(profile, layers, load.engine, has_head=end == "last")
        kv_tokens = kv_tokens_of(profile, layers, end, fleet.model.num_layers)
        return Station(profile, layers, kv_tokens, load, time).capacity(high)

    return CapacityTable(
        tables=tables,
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        ends=end_shares({profile.kind: profile for profile in fleet.profiles}, speed, load.engine),
        assumptions=(
            f"Node capacities: mean prompt {load.mean_prompt_tokens:g} and output {load.mean_output_tokens:g} tokens, "
            f"KV memory filled to {load.kv_share:.0%}, requests back after {high:.3g} s (operating point of an average "
            "deployment).",
        ),
    )
