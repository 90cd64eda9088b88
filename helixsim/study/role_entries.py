"""Candidates whose nodes prefill or decode alone, for the race of a system: by the program of both phases.

The program (``flow.role_program``) counts roles of replicas at mean lengths. Replicas are those of the fleet, those of
machines that are divided into nodes of fewer GPUs, and the chains of other candidates, which may pass unlike nodes.
The best roles of all are candidates, the best without nodes for both phases, and the best with one replica more or
fewer that prefills, as queues need more room than means tell; and the best roles of other replicas. ThunderServe's
groups with their phases are one more, whose decodes may be faster where all objectives are met without roles, too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import ROLES, Placement, Role
from helixsim.errors import InfeasibleError
from helixsim.flow.role_program import ReplicaClass, RoleChoice, best_roles, replica_classes
from helixsim.placement.base import Contender, PlacementProblem, Select
from helixsim.placement.constraints import narrowed
from helixsim.placement.divisions import divisions_of
from helixsim.placement.replicas import Replicas, ReplicasOptions
from helixsim.placement.select import layout_of
from helixsim.placement.thunderserve import Thunderserve, ThunderserveOptions
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import HopObserver
from helixsim.study.legs import can_have_role, roles_fault
from helixsim.study.systems import on_its_nodes, operating_load

LEAST_GAIN = 0.05
"""By how much roles must raise the requests/s of the program to be candidates with ``auto``: it knows means alone."""

MOST_CLASSES = 24
"""Classes of equal replicas for which roles are counted: the program takes seconds beyond."""

MOST_OTHERS = 2
"""Candidates with roles of other replicas than those that serve most by the program."""

MOST_GROUPED = 300
"""Nodes of which ThunderServe's search forms groups: on two hundred it takes nine CPU seconds, and more on more."""


@dataclass(frozen=True)
class Replicated:
    """Replicas that may get roles: chains of nodes that share none; ``name``: of the candidate, or of the division."""

    name: str
    placement: Placement
    fleet: Deployment
    classes: Sequence[ReplicaClass]
    roles: RoleChoice
    without: RoleChoice

    def named(self, choice: RoleChoice) -> str:
        """Return roles in words, for example ``prefill 4 rtx-4090, decode 2 l20``; counts are of replicas."""
        parts = []
        for role in ROLES:
            counts: Counter[str] = Counter()
            for one in choice.classes:
                counts[_kind(self.fleet, one.replicas[0])] += one.counts.get(role, 0)
            if told := " + ".join(f"{count} {kind}" for kind, count in counts.items() if count):
                parts.append(f"{role} {told}")
        told = ", ".join(parts)
        return f"{self.name}: {told}" if self.name else told


def _kind(fleet: Deployment, replica: Sequence[str]) -> str:
    """Return the types of the nodes of a replica."""
    return "+".join(dict.fromkeys(fleet.cluster.node(node).node_type for node in replica))


def _as_chains(placement: Placement) -> Placement | None:
    """Return a placement whose pipelines are chains through all layers, with a number for each; None: it is another.

    Nodes that hold the whole model need have no number, and those of a single chain through parts of it neither.
    """
    free = itertools.count(1 + max(placement.pipelines.values(), default=-1))
    together = next(free)
    numbers, ends = dict[str, int](), dict[int, int]()
    for node, held in sorted(placement.ranges.items(), key=lambda item: (item[1].start, item[1].end)):
        is_whole = held.layers == placement.num_layers
        number = placement.pipelines.get(node, next(free) if is_whole else together)
        if ends.get(number, 0) != held.start:
            return None
        numbers[node], ends[number] = number, held.end
    if placement.partial_inference or set(ends.values()) != {placement.num_layers}:
        return None
    return replace(placement, pipelines={node: numbers[node] for node in placement.ranges})


@dataclass
class RoleEntries:
    """Candidates with roles of one system; ``others``: candidates without roles, whose chains may have them."""

    experiment: ResolvedExperiment
    system: SystemSpec
    problem: PlacementProblem
    others: Sequence[Contender] = ()

    @cached_property
    def fault(self) -> str | None:
        """Why there are none; None: there may be."""
        if self._ruled_out is not None:
            return self._ruled_out
        if not self._placements:
            return "no group of equal nodes holds the model, and no candidate is chains of nodes that share none"
        if not self._replicated:
            return "a single replica serves both phases"
        return None

    @cached_property
    def _ruled_out(self) -> str | None:
        """Why no nodes of this system may have roles; None: they may."""
        options = self.system.placement_options
        if options.max_hops is not None or options.max_layers or options.pinned or options.previous is not None:
            return "max_hops, max_layers, pinned and previous are kept to without roles only"
        policy = self.system.routing
        if policy != "auto" and issubclass(routing_registry.get(policy), HopObserver):
            return f"routing {policy} learns from single hops, which nodes with roles do not tell"
        return roles_fault(self.experiment, self.system)

    @cached_property
    def groups(self) -> list[Contender]:
        """The candidate of ThunderServe's groups with their phases, which need not raise what is served; or nothing."""
        problem = narrowed(self.problem, self.system.placement_options.exclude, {})
        if self._ruled_out is not None or len(problem.fleet.cluster.nodes) > MOST_GROUPED:
            return []
        try:
            made = Thunderserve().solve(problem, ThunderserveOptions())
        except InfeasibleError:
            return []
        chains: dict[int, list[str]] = {}
        for node, number in made.pipelines.items():
            chains.setdefault(number, []).append(node)
        can_have = all(can_have_role(problem.fleet.cluster, chain) for chain in chains.values())
        return [Contender("thunderserve", replace(made, notes={}))] if can_have else []

    @cached_property
    def _placements(self) -> dict[str, Placement]:
        """Name -> replicas whose nodes may get roles, equal ones once."""
        excluded, divide = self.system.placement_options.exclude, self.problem.divide
        found: dict[tuple[object, ...], tuple[str, Placement]] = {}

        def add(name: str, placement: Placement) -> None:
            found.setdefault(layout_of(placement), (name, placement))

        with suppress(InfeasibleError):
            add("", Replicas().solve(narrowed(self.problem, excluded, {}), ReplicasOptions()))
        divisions = {} if excluded or divide is None else divisions_of(self.system.fleet)
        for name, widths in divisions.items():
            with suppress(InfeasibleError):
                assert divide is not None
                add(name, replace(Replicas().solve(divide(widths), ReplicasOptions()), widths=widths))
        for one in [*self.others, *self.groups]:
            if (chains := _as_chains(one.placement)) is not None:
                add(one.name, replace(chains, roles={}))
        return dict(found.values())

    @cached_property
    def _replicated(self) -> list[Replicated]:
        """Replicas with the roles that the program finds for them, those that serve most first."""
        load = operating_load(self.experiment, self.system)
        found = []
        for name, placement in self._placements.items():
            fleet = on_its_nodes(self.system, placement).fleet
            classes = replica_classes(fleet, placement, load)
            can_have = all(can_have_role(fleet.cluster, chain) for one in classes for chain in one.replicas)
            if can_have and len(classes) <= MOST_CLASSES and sum(map(len, classes)) > 1:
                roles, without = (self._roles(fleet, classes, allowed) for allowed in (ROLES, ("both",)))
                found.append(Replicated(name, placement, fleet, classes, roles, without))
        return sorted(found, key=lambda one: -one.roles.requests_per_s)

    def _roles(
        self,
        fleet: Deployment,
        classes: Sequence[ReplicaClass],
        allowed: Sequence[Role] = ROLES,
        prefill_replicas: int | None = None,
    ) -> RoleChoice:
        load, slo = operating_load(self.experiment, self.system), self.experiment.slo
        return best_roles(
            fleet, classes, load, self.system.disaggregation.transfer, tpot_s=slo.tpot_s,
            allowed=allowed, prefill_replicas=prefill_replicas,
        )  # fmt: skip

    @property
    def top(self) -> Replicated:
        """The replicas whose best roles serve most by the program."""
        return self._replicated[0]

    @property
    def without_per_s(self) -> float:
        """The most that any of these replicas serve without roles [requests/s]."""
        return max(one.without.requests_per_s for one in self._replicated)

    @property
    def can_pay(self) -> bool:
        """Whether roles serve more by the program, by enough."""
        return self.fault is None and self.top.roles.requests_per_s > (1 + LEAST_GAIN) * self.without_per_s

    def beside(self, others: Sequence[Contender]) -> RoleEntries:
        """Return the candidates beside those of a search, whose chains may have roles, too."""
        return replace(self, others=others)

    def only(self, select: Select) -> Select:
        """Return a selection among these candidates alone.

        Raises
        ------
        InfeasibleError
            When it is to select, if there are none.
        """

        def among(contenders: Sequence[Contender], report: Any) -> Placement:
            return select(self.beside(contenders).required(), report)

        return among

    def worth_trying(self) -> list[Contender]:
        """Return the candidates where objectives are missed, and under saturation, the best by the program first."""
        return [*(self.contenders() if self.can_pay else []), *self.groups]

    def required(self) -> list[Contender]:
        """Return the candidates.

        Raises
        ------
        InfeasibleError
            If there are none.
        """
        found = [*self.contenders(), *self.groups]
        if not found:
            fault = self.fault or f"no roles serve any request with a TPOT of {self.experiment.slo.tpot_s:g} s"
            raise InfeasibleError(f"{self.system.name}: disaggregate: always: {fault}")
        return found

    def always(self) -> Placement:
        """Return the best candidate by the program, where only these may be and none is simulated.

        Raises
        ------
        InfeasibleError
            If there are none.
        """
        return replace(self.required()[0].placement, strategy="helix", notes={"roles": self.notes(tried=False)})

    def contenders(self) -> list[Contender]:
        """Return the candidates, the best by the program first; none if no nodes can have roles."""
        if self.fault is not None:
            return []
        found: dict[object, Contender] = {}
        for replicas, choice in self._choices():
            if choice.requests_per_s > 0 and set(choice.roles.values()) != {"both"}:
                made = replace(replicas.placement, strategy="roles", roles=choice.roles, notes={})
                key = layout_of(made), tuple(choice.roles.items())
                found.setdefault(key, Contender(replicas.named(choice), made))
        return list(found.values())

    def _choices(self) -> Iterator[tuple[Replicated, RoleChoice]]:
        top = self.top
        yield top, top.roles
        yield top, self._roles(top.fleet, top.classes, ("prefill", "decode"))
        prefills = sum(one.counts["prefill"] for one in top.roles.classes)
        for count in (prefills + 1, prefills - 1):
            if 0 < count < sum(map(len, top.classes)):
                yield top, self._roles(top.fleet, top.classes, prefill_replicas=count)
        for other in self._replicated[1 : 1 + MOST_OTHERS]:
            if other.roles.requests_per_s > (1 + LEAST_GAIN) * self.without_per_s:
                yield other, other.roles

    def notes(self, *, tried: bool) -> dict[str, Any]:
        """Return what the program says, and whether such candidates were tried; ``fault``: why there are none."""
        if self.fault is not None:
            return {"fault": self.fault}
        top = self.top
        return {
            "tried": tried,
            "pays": self.can_pay,
            "best": top.named(top.roles),
            "requests_per_s": top.roles.requests_per_s,
            "bound_per_s": max(one.roles.bound_per_s for one in self._replicated),
            "without_per_s": self.without_per_s,
            "tpot_s": self.experiment.slo.tpot_s,
            "classes": [
                {
                    "nodes": _kind(top.fleet, one.replicas[0]),
                    "replicas": len(one.replicas),
                    **one.counts,
                    "worth_per_s": one.worth_per_s,
                }
                for one in top.roles.classes
            ],
        }
