"""The operating point of replicas of an engine, each a chain of nodes that one scheduler fills (docs/engine.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from helixsim.domain.chains import chains
from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.flow.network import FlowNetwork
from helixsim.flow.station import OperatingLoad, Settled, Station
from helixsim.flow.steps_in_a_row import Wire, rounds_s

_LEVELS = 4
"""Numbers of requests, between one for each stage and the most, for which rounds are computed."""


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


def replicas_beside(network: FlowNetwork) -> list[str]:
    """Return the nodes that hold the whole model and send no tokens to others, of routes of which others branch."""
    linked = {end for arc in network.arcs if COORDINATOR_CLASS not in arc[:2] for end in arc[:2]}
    return [node for number in network.node_classes if number not in linked for node in network.classes[number].nodes]


def settled_replicas(
    fleet: Deployment, chains: Sequence[Sequence[str]], stations: Mapping[str, Station], load: OperatingLoad
) -> Settled:
    """Return where replicas of an engine settle that schedules each as a whole (docs/engine.md)."""
    sites = fleet.cluster.sites
    known: dict[Hashable, Replica] = {}
    replicas: list[Replica] = []
    for chain in chains:
        key = tuple((id(stations[node]), sites[node]) for node in chain)
        if key not in known:
            known[key] = Replica(fleet, chain, [stations[node] for node in chain], load)
        replicas.append(known[key])
    steps = sum(replica.most_steps_per_s for replica in replicas)
    counts = Counter(replicas)

    def round_trip_s(share: float) -> float:
        trips_s = ((one, one.round_trip_s(share * one.most_steps_per_s)) for one in counts)
        return sum(counts[one] * one.most_steps_per_s * trip_s for one, trip_s in trips_s) / steps

    most = {node: replica.most_steps_per_s for chain, replica in zip(chains, replicas, strict=True) for node in chain}
    return Settled(steps, sum(replica.most_requests for replica in replicas), most, round_trip_s)


class Replica:
    """A chain of stations that one scheduler fills; ``most_requests`` is what the poorest of them has memory for.

    All running sequences take part in every step, or in one of as many steps as there are stages (``steps_in_a_row``).
    More than ``b / (p / s + d)`` for each of these do not decode: at a token budget ``b`` a step computes no more
    prompts, of which a sequence that decodes ``d`` tokens in each of its ``s`` steps brings ``p`` tokens.
    """

    def __init__(
        self, fleet: Deployment, nodes: Sequence[str], stations: Sequence[Station], load: OperatingLoad
    ) -> None:
        wires = [Wire.between(fleet, src, dst, load) for src, dst in pairwise(nodes)]
        return_s = load.latency_s(fleet.cluster.link(nodes[-1], nodes[0])) if wires else 0.0
        delay_s = load.latency_s(fleet.cluster.link(COORDINATOR, nodes[0]))
        budget = min(station.token_budget for station in stations)
        self.most_requests = min(min(station.most_requests, station.most_batch) for station in stations)
        if load.engine.chunks_prompts:
            each = load.mean_prompt_tokens / load.mean_steps + load.tokens_per_decode
            self.most_requests = min(self.most_requests, len(stations) * budget / each)
        levels = [min(1.0, self.most_requests)]
        if self.most_requests > len(stations):
            levels += np.geomspace(len(stations), self.most_requests, _LEVELS).tolist()
        elif self.most_requests > 1:
            levels.append(self.most_requests)
        self._rounds_s = np.maximum.accumulate(rounds_s(stations, wires, return_s, load, levels, delay_s))
        self._steps_per_s = np.maximum.accumulate(np.array(levels) / self._rounds_s)
        self.most_steps_per_s = float(self._steps_per_s[-1])

    def round_trip_s(self, steps_per_s: float) -> float:
        """Return the time from one step of a sequence to its next where so many are taken per second."""
        return float(np.interp(steps_per_s, self._steps_per_s, self._rounds_s))
