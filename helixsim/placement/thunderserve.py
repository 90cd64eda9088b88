"""ThunderServe's placement: groups of nodes and the phase of each by tabu search, then a transport program."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from helixsim.domain.cluster import Node
from helixsim.domain.placement import LayerRange, Placement, Role
from helixsim.errors import InfeasibleError
from helixsim.flow.operating import stations_of
from helixsim.flow.phase_rates import decode_rates
from helixsim.placement.base import Phases, PlacementProblem
from helixsim.placement.chains import chain_ranges
from helixsim.placement.hexgen2 import GroupFlows, group_counts, partitioned
from helixsim.placement.outcome import finished, layers_to_hold
from helixsim.rng import stream
from helixsim.units import NS_PER_S

Group = tuple[tuple[Node, ...], Role]
"""Nodes that serve the model together, and the phase that they serve."""

FINALISTS = 5
"""Best solutions of the search that the transport program compares."""


@dataclass(frozen=True, slots=True)
class ThunderserveOptions:
    """Options of ``thunderserve``.

    Parameters
    ----------
    iterations
        Steps of the tabu search.
    neighbours
        Changes that are tried in each step.
    tabu_length
        Number of recent solutions that the search does not return to.
    """

    iterations: int = field(default=100, metadata={"ge": 0, "le": 100_000})
    neighbours: int = field(default=10, metadata={"ge": 1, "le": 1000})
    tabu_length: int = field(default=20, metadata={"ge": 0, "le": 10_000})
    disaggregate: ClassVar[bool] = True


class Thunderserve:
    """The placement of ThunderServe (Jiang, Fu, Yao and others, MLSys 2025, arXiv 2502.09334).

    1. Tabu search over groups of nodes and the phase that each serves, prefill or decode. A step changes the phase of a
       group, splits one, merges two, or moves a node from one group to another, and goes on with the best of several
       such changes that is not one of the last solutions, better or not.
    2. A solution is worth the smaller of the requests/s that its groups prefill and that they decode, within the
       objective for the time per token. The layers of a group are split as its tokens/s are largest.
    3. The best solutions are compared by a transport program of requests and KV caches between groups over the links.

    ThunderServe sends KV caches in 4 bits: ``disaggregation: {transfer_bits: 4}`` of the system does.

    Differences: a group is a pipeline of its nodes, whose tensor parallelism is theirs, for both phases; rates are
    estimates at mean lengths instead of simulated ones; the transport program is ``flow.two_commodity``, for the best
    solutions alone instead of each one. It starts from groups by bandwidth, as HexGen-2 does, in turn of either phase.
    There is no rescheduling while it serves.
    """

    summary: ClassVar[str] = "groups and their phases by tabu search, a transport program between them (ThunderServe)"
    Options: ClassVar[type[ThunderserveOptions]] = ThunderserveOptions

    def solve(self, problem: PlacementProblem, options: ThunderserveOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If nodes cannot have roles, or no two groups hold the model and serve both phases within the objective.
        """
        started = time.perf_counter()
        fleet, phases = problem.fleet, problem.phases
        able = [node for node in fleet.cluster.nodes if fleet.profile(node.id).kv_blocks]
        flows = GroupFlows(fleet, problem.capacity if problem.operating is None else problem.operating)
        count = max(2, group_counts(fleet, able)[0]) if able else 0
        first = partitioned(fleet, able, min(count, len(able))) if able else []
        if not any(map(flows.of, [*first, able])):
            raise InfeasibleError(f"thunderserve: no group of nodes holds {layers_to_hold(fleet)}")
        if phases is None:
            raise InfeasibleError("thunderserve: nodes of this engine and network cannot have roles")
        search = _Search(problem, phases, flows)
        found = search.run([(tuple(group), _PHASES[n % 2]) for n, group in enumerate(first)], options)
        placed = [search.placed(one) for one in found]
        from helixsim.flow.two_commodity import two_commodity_flow  # deferred: loads the solver

        values = [
            two_commodity_flow(
                fleet.with_roles(one.roles), one, phases.load, phases.transfer, tpot_s=phases.tpot_s
            ).requests_per_s
            for one in placed
        ]
        if not any(values):
            raise InfeasibleError("thunderserve: no two groups of nodes prefill and decode within the objective")
        at = int(np.argmax(values))
        best = placed[at]
        idle = [node.id for node in fleet.cluster.nodes if node.id not in best.ranges]
        notes = {
            "idle": dict.fromkeys(idle, "its group has no layers for it, or does not hold the model"),
            "groups": len(set(best.pipelines.values())), "tried": search.tried,
            "estimated_per_s": search.value(found[at]), "requests_per_s": values[at],
        }  # fmt: skip
        made = finished(problem, "thunderserve", best.ranges, started_s=started, pipelines=best.pipelines, notes=notes)
        return replace(made, roles=best.roles)


_PHASES: tuple[Role, Role] = ("prefill", "decode")


class _Search:
    """Tabu search over groups of nodes and their phases."""

    def __init__(self, problem: PlacementProblem, phases: Phases, flows: GroupFlows) -> None:
        self._problem, self._phases, self._flows = problem, phases, flows
        self._rng = stream(problem.seed, "tabu search")
        self._rates: dict[tuple[Role, tuple[int, ...]], float] = {}
        self.tried = 0

    def run(self, start: Sequence[Group], options: ThunderserveOptions) -> list[tuple[Group, ...]]:
        """Return the best solutions, the best one first."""
        current = tuple(start)
        best = {self._key(current): current}
        tabu = deque([self._key(current)], maxlen=options.tabu_length)
        for _ in range(options.iterations):
            tried = {self._key(one): one for one in self._neighbours(current, options.neighbours)}
            open_ones = [(self.value(one), key) for key, one in tried.items() if key not in tabu]
            if not open_ones:
                continue
            _, key = max(open_ones)
            current = tried[key]
            tabu.append(key)
            best[key] = current
            if len(best) > FINALISTS:
                del best[min(best, key=lambda one: self.value(best[one]))]
        return sorted(best.values(), key=self.value, reverse=True)

    def value(self, groups: Sequence[Group]) -> float:
        """Return the requests/s that groups both prefill and decode."""
        return min(sum(self._rate(*group) for group in groups if group[1] == phase) for phase in _PHASES)

    def placed(self, groups: Sequence[Group]) -> Placement:
        """Return the placement of the groups that serve, with their roles."""
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        roles: dict[str, Role] = {}
        for number, (nodes, role) in enumerate(groups):
            if self._rate(nodes, role):
                found = chain_ranges(*self._flows.layers(nodes))
                ranges |= found
                pipelines |= dict.fromkeys(found, number)
                roles |= dict.fromkeys(found, role)
        layers = self._problem.fleet.model.num_layers
        return Placement(strategy="thunderserve", num_layers=layers, ranges=ranges, pipelines=pipelines, roles=roles)

    def _key(self, groups: Sequence[Group]) -> tuple[tuple[Role, tuple[int, ...]], ...]:
        """Return what tells solutions apart: equal nodes are interchangeable."""
        return tuple(sorted((role, self._kinds(nodes)) for nodes, role in groups))

    def _kinds(self, nodes: Sequence[Node]) -> tuple[int, ...]:
        return tuple(sorted(map(self._flows.kind_of, nodes)))

    def _rate(self, nodes: Sequence[Node], role: Role) -> float:
        """Return the requests/s of a group in a phase; 0 if it does not hold the model or misses the objective."""
        key = role, self._kinds(nodes)
        if key not in self._rates:
            self.tried += 1
            self._rates[key] = self._estimate(nodes, role)
        return self._rates[key]

    def _estimate(self, nodes: Sequence[Node], role: Role) -> float:
        chain, layers = self._flows.layers(nodes)
        if not chain:
            return 0.0
        ranges, fleet, load = chain_ranges(chain, layers), self._problem.fleet, self._phases.load
        fleet = fleet.with_roles(dict.fromkeys(ranges, role))
        draft = Placement("thunderserve", fleet.model.num_layers, ranges)
        stations = list(stations_of(fleet, draft, load).values())
        if role == "prefill":
            return 1 / max(station.prompt_alone_s() for station in stations)
        links_s = sum(fleet.cluster.link(one.id, other.id).latency_ns for one, other in pairwise(chain)) / NS_PER_S
        rates = [decode_rates(stations, stage, links_s, load, self._phases.tpot_s) for stage in range(len(stations))]
        return min((0.0 if one is None else min(1 / one.time_s, one.most_requests / one.residence_s)) for one in rates)

    def _neighbours(self, groups: Sequence[Group], count: int) -> Iterator[tuple[Group, ...]]:
        """Yield solutions that differ in one change, at random."""
        changes = (self._flip, self._split, self._merge, self._move)
        for _ in range(count):
            changed = changes[int(self._rng.integers(len(changes)))](list(groups))
            if changed is not None:
                yield tuple(changed)

    def _pick(self, count: int) -> int:
        return int(self._rng.integers(count))

    def _flip(self, groups: list[Group]) -> list[Group]:
        at = self._pick(len(groups))
        nodes, role = groups[at]
        groups[at] = nodes, _PHASES[1 - _PHASES.index(role)]
        return groups

    def _split(self, groups: list[Group]) -> list[Group] | None:
        """Halve a group by bandwidth; the halves keep its phase."""
        nodes, role = groups.pop(self._pick(len(groups)))
        if len(nodes) < 2:
            return None
        return [*groups, *((tuple(half), role) for half in partitioned(self._problem.fleet, nodes, 2))]

    def _merge(self, groups: list[Group]) -> list[Group] | None:
        if len(groups) < 2:
            return None
        (one, role), (other, _) = (groups.pop(self._pick(len(groups))) for _ in range(2))
        return [*groups, ((*one, *other), role)]

    def _move(self, groups: list[Group]) -> list[Group] | None:
        if len(groups) < 2:
            return None
        nodes, role = groups.pop(self._pick(len(groups)))
        at, going = self._pick(len(groups)), self._pick(len(nodes))
        groups[at] = (*groups[at][0], nodes[going]), groups[at][1]
        left = (*nodes[:going], *nodes[going + 1 :])
        return [*groups, (left, role)] if left else groups
