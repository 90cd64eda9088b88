"""The operating point of replicas of an engine, each a chain of nodes that one scheduler fills (docs/engine.md)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

from helixsim.domain.chains import chains
from helixsim.domain.cluster import Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.domain.placement import Placement
from helixsim.flow.network import FlowNetwork, token_bytes
from helixsim.flow.station import OperatingLoad, OperatingPoint, Station, capacities
from helixsim.units import BITS_PER_BYTE, NS_PER_S

_HALVINGS = 50


def chains_of(network: FlowNetwork) -> list[list[str]] | None:
    """Return the nodes of each route, first to last, where no two routes share a node; None: some do."""
    following: dict[int, list[int]] = {}
    for arc in network.arcs:
        if arc.head != COORDINATOR_CLASS:
            following.setdefault(arc.tail, []).append(arc.head)
    of_classes = chains(following[COORDINATOR_CLASS], lambda number: following.get(number, []))
    if of_classes is None:
        return None
    found: list[list[str]] = []
    for chain in of_classes:
        is_alone = len(chain) == 1
        if any(number >= len(network.classes) or (not is_alone and network.size(number) > 1) for number in chain):
            return None  # several classes meet, or nodes that may be exchanged
        nodes = [network.classes[number].nodes for number in chain]
        found += [[node] for node in nodes[0]] if is_alone else [[node for (node,) in nodes]]
    return found


def replicas_point(
    fleet: Deployment,
    placement: Placement,
    chains: Sequence[Sequence[str]],
    stations: Mapping[str, Station],
    load: OperatingLoad,
    most: Mapping[str, float],
    offered_output_per_s: float | None,
) -> OperatingPoint:
    """Return where replicas of an engine settle that schedules each as a whole (docs/engine.md).

    All running sequences take part in every step, or in one of as many steps as there are stages: nothing waits for a
    prompt but behind the step that computes it.
    """
    sites = fleet.cluster.sites
    known: dict[Hashable, Replica] = {}
    replicas: list[Replica] = []
    for chain in chains:
        key = tuple((id(stations[node]), sites[node]) for node in chain)
        if key not in known:
            known[key] = Replica(fleet, chain, [stations[node] for node in chain], load)
        replicas.append(known[key])
    steps = sum(replica.most_steps_per_s for replica in replicas)
    requests = sum(replica.most_requests for replica in replicas)
    output_per_s = steps * load.tokens_of_step
    share = 1.0 if offered_output_per_s is None or not steps else min(1.0, offered_output_per_s / output_per_s)
    trip_s = {replica: replica.round_trip_s(share * replica.most_steps_per_s) for replica in known.values()}
    offered_s = sum(replica.most_steps_per_s * trip_s[replica] for replica in replicas) / steps if steps else math.inf
    capacity = {
        node: replica.most_steps_per_s * load.tokens_per_step
        for chain, replica in zip(chains, replicas, strict=True)
        for node in chain
    }
    return OperatingPoint(
        output_per_s, steps * load.tokens_per_step, requests, requests / steps if steps else math.inf, offered_s,
        capacities(placement, {**most, **capacity}),
    )  # fmt: skip


class Replica:
    """A chain of stations that one scheduler fills; ``most_requests`` is what the poorest of them has memory for.

    On one station every running sequence takes part in each step, with the prompts that come meanwhile. On ``n``, as
    many steps are in flight. A step with a chunk of a prompt takes many times longer than the others, which catch up
    with it and come round once in its time. With ``c_i`` the time of a chunk and ``s_i`` that of the decodes of a step
    on station ``i``, a prompt of ``k`` chunks is on the way for ``D = sum(c_i) + (k - 1) max(c_i)``; none is with
    probability ``exp(-D x prompts per second)``, and a round then takes ``max(sum(s_i), n max(s_i))``, otherwise
    ``sum(c_i + s_i)``; and no station works for more than all the time. Saturated pipelines of 2 to 8 nodes were
    simulated at 0.84 to 1.17 of it.
    """

    def __init__(
        self, fleet: Deployment, nodes: Sequence[str], stations: Sequence[Station], load: OperatingLoad
    ) -> None:
        self._stations = stations
        self._steps = load.mean_steps
        self._links_s = 0.0
        for src, dst in pairwise((*nodes, nodes[0])):
            if src != dst:
                link = fleet.cluster.link(src, dst)
                sent = 0.0 if dst == nodes[0] else load.tokens_per_step * BITS_PER_BYTE * token_bytes(fleet, src, dst)
                self._links_s += (link.latency_ns + load.engine.message_overhead_ns) / NS_PER_S
                self._links_s += sent / link.bandwidth_bps
        budget = min(station.token_budget for station in stations)
        self._chunks = max(1.0, load.mean_prompt_tokens / budget) if load.engine.chunks_prompts else 1.0
        self.most_requests = min(min(station.most_requests, station.most_batch) for station in stations)
        self.most_steps_per_s = self.most_requests * self._rounds_per_s(self.most_requests)

    def _rounds_per_s(self, requests: float) -> float:
        """Return how many steps per second a sequence takes part in, with so many requests running."""
        stations = self._stations
        if len(stations) == 1:
            return 1 / stations[0].cycle_s(max(1.0, requests), requests)
        steps_s = [station.step_s(max(1.0, requests / len(stations))) for station in stations]
        chunks_s = [station.prompt_s / self._chunks for station in stations]
        in_flight = min(len(stations), requests)
        free_s = max(sum(steps_s) + self._links_s, in_flight * max(steps_s))
        behind_s = sum(steps_s) + sum(chunks_s) + self._links_s
        passing_s = sum(chunks_s) + (self._chunks - 1) * max(chunks_s)
        low, high = 0.0, 1 / free_s
        for _ in range(_HALVINGS):
            rounds = (low + high) / 2
            free = math.exp(-rounds * requests / self._steps * passing_s)
            low, high = (rounds, high) if free / free_s + (1 - free) / behind_s > rounds else (low, rounds)
        prompts = requests / self._steps
        works_s = [in_flight * step_s + prompts * one.prompt_s for step_s, one in zip(steps_s, stations, strict=True)]
        return min(low, 1 / max(works_s))

    def round_trip_s(self, steps_per_s: float) -> float:
        """Return the time from one step of a sequence to its next where so many are taken per second."""
        low, high = 0.0, self.most_requests
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if middle * self._rounds_per_s(middle) < steps_per_s else (low, middle)
        return 1 / self._rounds_per_s(high)
