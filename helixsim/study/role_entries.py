"""Candidates whose nodes prefill or decode alone, for the race of a system: by the program of both phases.

The program (``flow.role_program``) counts roles of the replicas of the fleet at mean lengths. Its best roles are
candidates, those without nodes for both phases, and the best with one replica more or fewer that prefills, as queues
need more room than means tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.placement import ROLES, Placement, Role
from helixsim.errors import InfeasibleError
from helixsim.flow.role_program import ReplicaClass, RoleChoice, best_roles, replica_classes
from helixsim.placement.base import Contender, PlacementProblem, Progress, Select
from helixsim.placement.constraints import narrowed
from helixsim.placement.replicas import Replicas, ReplicasOptions
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import HopObserver
from helixsim.study.legs import roles_fault
from helixsim.study.systems import operating_load

LEAST_GAIN = 0.05
"""By how much roles must raise the requests/s of the program to be candidates with ``auto``: it knows means alone."""


@dataclass
class RoleEntries:
    """Candidates with roles of one system."""

    experiment: ResolvedExperiment
    system: SystemSpec
    problem: PlacementProblem

    @cached_property
    def fault(self) -> str | None:
        """Why there are none; None: there may be."""
        options = self.system.placement_options
        if options.max_hops is not None or options.max_layers or options.pinned or options.previous is not None:
            return "max_hops, max_layers, pinned and previous are kept to without roles only"
        policy = self.system.routing
        if policy != "auto" and issubclass(routing_registry.get(policy), HopObserver):
            return f"routing {policy} learns from single hops, which nodes with roles do not tell"
        if (fault := roles_fault(self.experiment, self.system)) is not None:
            return fault
        if self._replicas is None:
            return "no group of equal nodes holds the model"
        if sum(map(len, self._classes)) < 2:
            return "a single replica serves both phases"
        return None

    @cached_property
    def _replicas(self) -> Placement | None:
        options = self.system.placement_options
        try:
            return Replicas().solve(narrowed(self.problem, options.exclude, {}), ReplicasOptions())
        except InfeasibleError:
            return None

    @cached_property
    def _classes(self) -> list[ReplicaClass]:
        assert self._replicas is not None
        load = operating_load(self.experiment, self.system)
        return replica_classes(self.system.fleet, self._replicas, load)

    def _best(self, allowed: tuple[Role, ...] = ROLES, prefill_replicas: int | None = None) -> RoleChoice:
        load, slo = operating_load(self.experiment, self.system), self.experiment.slo
        return best_roles(
            self.system.fleet, self._classes, load, self.system.disaggregation.transfer, tpot_s=slo.tpot_s,
            allowed=allowed, prefill_replicas=prefill_replicas,
        )  # fmt: skip

    @cached_property
    def best(self) -> RoleChoice:
        """The best roles by the program."""
        return self._best()

    @cached_property
    def without(self) -> RoleChoice:
        """What the same replicas serve without roles."""
        return self._best(("both",))

    @property
    def can_pay(self) -> bool:
        """Whether roles serve more by the program, by enough."""
        return self.fault is None and self.best.requests_per_s > (1 + LEAST_GAIN) * self.without.requests_per_s

    def always(self, select: Select | None, progress: Progress) -> Placement:
        """Return the best candidate, where only these may be; without ``select``, by the program.

        Raises
        ------
        InfeasibleError
            If there are none.
        """
        found = self.contenders()
        if not found:
            fault = self.fault or f"no roles serve any request with a TPOT of {self.experiment.slo.tpot_s:g} s"
            raise InfeasibleError(f"{self.system.name}: disaggregate: always: {fault}")
        if select is None:
            return replace(found[0].placement, strategy="helix", notes={"roles": self.notes(tried=False)})
        best = found[0].placement
        bound = best.upper_bound_tokens_per_s
        return replace(
            select(found, lambda step: progress(step, 0.0, best.objective_tokens_per_s, bound)), strategy="helix"
        )

    def contenders(self) -> list[Contender]:
        """Return the candidates, the best by the program first; none if no nodes can have roles."""
        if self.fault is not None:
            return []
        found: dict[tuple[tuple[str, Role], ...], Contender] = {}
        for choice in self._choices():
            if choice.requests_per_s > 0 and set(choice.roles.values()) != {"both"}:
                found.setdefault(tuple(choice.roles.items()), self._contender(choice))
        return list(found.values())

    def _choices(self) -> Iterator[RoleChoice]:
        yield self.best
        yield self._best(("prefill", "decode"))
        prefills = self.best_counts["prefill"]
        for count in (prefills + 1, prefills - 1):
            if 0 < count < sum(map(len, self._classes)):
                yield self._best(prefill_replicas=count)

    @property
    def best_counts(self) -> Counter[Role]:
        """Replicas of each role in the best choice."""
        found: Counter[Role] = Counter()
        for one in self.best.classes:
            found.update(one.counts)
        return found

    def _contender(self, choice: RoleChoice) -> Contender:
        assert self._replicas is not None
        return Contender(self.named(choice), replace(self._replicas, strategy="roles", roles=choice.roles, notes={}))

    def named(self, choice: RoleChoice) -> str:
        """Return roles in words, for example ``prefill 4 rtx-4090, decode 2 l20``; counts are of replicas."""
        parts = []
        for role in ROLES:
            counts: Counter[str] = Counter()
            for one in choice.classes:
                node = self.system.fleet.cluster.node(one.replicas[0][0])
                counts[node.node_type] += one.counts.get(role, 0)
            if told := " + ".join(f"{count} {kind}" for kind, count in counts.items() if count):
                parts.append(f"{role} {told}")
        return ", ".join(parts)

    def notes(self, *, tried: bool) -> dict[str, Any]:
        """Return what the program says, and whether such candidates were tried; ``fault``: why there are none."""
        if self.fault is not None:
            return {"fault": self.fault}
        return {
            "tried": tried,
            "pays": self.can_pay,
            "best": self.named(self.best),
            "requests_per_s": self.best.requests_per_s,
            "bound_per_s": self.best.bound_per_s,
            "without_per_s": self.without.requests_per_s,
            "tpot_s": self.experiment.slo.tpot_s,
            "classes": [
                {
                    "nodes": self.system.fleet.cluster.node(one.replicas[0][0]).node_type,
                    "replicas": len(one.replicas),
                    **one.counts,
                    "worth_per_s": one.worth_per_s,
                }
                for one in self.best.classes
            ],
        }
