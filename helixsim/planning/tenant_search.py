"""The search for a division of nodes among tenants.

1. For each tenant and kind of nodes, simulations of its experiment on nodes of this kind alone find how many of them
   meet its objectives, or the highest rate that all of them together do.
2. The divisions that one would make by hand are simulated: each kind to one tenant, in all ways; every kind in
   proportion to the tenants' work; and equally.
3. An integer program divides the nodes by these capacities (``tenant_program``), with a margin for each tenant: it is
   raised where the simulation of its part shows that the objectives are missed, and lowered where they are met.
4. So are parts near those of the best division.
5. Among all parts that were simulated, a last program chooses one for each tenant: no worse than any division by hand.

What a tenant gets depends on its own part alone, so that a part is simulated once, whichever division it belongs to.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import ConfigError, HelixsimError, InfeasibleError
from helixsim.experiment import Tenants
from helixsim.metrics.objectives import Target
from helixsim.metrics.tenants import served
from helixsim.planning.capacity import capacity_targets
from helixsim.planning.tenant_bound import best_tenant, is_bounded, value_bound
from helixsim.planning.tenant_parts import NO_NODE, PartTask, each_alone, nodes_of, run_parts, task_of
from helixsim.planning.tenant_program import Choice, Demand, Way, best_of, divide
from helixsim.planning.tenant_rules import EQUALLY, IN_PROPORTION, by_kind, in_proportion, work_of
from helixsim.results.tenants import Counts, Division, NodeKind, Part
from helixsim.runtime.pool import Executor, Report
from helixsim.study.placements import placement_store, placements_in
from helixsim.study.placing import place_system
from helixsim.study.trials import run_trial, trial_store, trials_in

JOINT = "planned for all tenants together"
"""Origin of the division that the search finds."""

ROUNDS = 5
"""Rounds of margins; each halves the range in which the least margin that is enough lies."""

POLISHES = 3
"""Rounds in which parts near those of the best division are simulated."""

_WIDER = 1.3
"""Factor by which a margin is raised or lowered until one is enough and a lower one is not."""

_TOLERANCE = 0.05
"""The rate that all nodes of a kind serve is at most so much above the one that is used, relative to it."""

_LEAST_SHARE = 1 / 64
"""Lowest rate that is tried, as a share of the tenant's."""

_NEVER_S = 1e6
"""Latency of a part that generates no token [s]."""


@dataclass(frozen=True, slots=True)
class _RateTask:
    part: PartTask
    target: Target


def highest_rate(task: _RateTask, report: Report) -> float:
    """Return the highest rate below a tenant's at which a part meets its objectives [requests/s]; 0: none does."""
    try:
        experiment = task.part.experiment.resolve()
        (system,) = experiment.systems
        report(0.0, f"{task.part.name}: placing")
        placed = place_system(experiment, system, store=placement_store(placements_in(task.part.out)))
    except InfeasibleError:
        return 0.0
    store = trial_store(trials_in(task.part.out), renew=task.part.force)

    def passes(rate_rps: float) -> bool:
        report(0.5, f"{task.part.name}: {rate_rps:.3g} requests/s")
        return run_trial(experiment, placed, [task.target], experiment.seed, rate_rps, store).verdicts["slo"].is_met

    high = experiment.workload_stats.offered_rps or 0.0
    low, least = high / 2, high * _LEAST_SHARE
    while low >= least and not passes(low):
        low, high = low / 2, low
    if low < least:
        return 0.0
    while high > low * (1 + _TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


class DivisionSearch:
    """The search: simulated parts, and what is known of the capacity of each kind of nodes for each tenant."""

    def __init__(
        self,
        tenants: Tenants,
        resolved: Sequence[ResolvedExperiment],
        kinds: Sequence[NodeKind],
        out: Path,
        executor: Executor,
        report: Report,
        *,
        force: bool,
        check: bool,
    ) -> None:
        self.tenants, self.resolved, self.kinds, self.out = tenants, resolved, tuple(kinds), out
        self.executor, self.report, self.force, self.check = executor, report, force, check
        self.available: Counts = tuple(len(kind.ids) for kind in kinds)
        self.prices = [kind.usd_per_hour for kind in kinds]
        self.targets = [_target(one) for one in resolved]
        machines = [{node.machine or node.id for node in one.fleet.cluster.nodes} for one in resolved]
        self.usable = [tuple(kind.ids[0] in own for kind in kinds) for own in machines]
        self.parts: dict[tuple[int, Counts], Part] = {}

    def divisions(self) -> tuple[Division, list[Division]]:
        """Return the best division, and those by hand, the best first."""
        demands = self._demands()
        by_hand = list(self._by_hand())
        self._simulate((number, own) for _, counts in by_hand for number, own in enumerate(counts))
        self._margins(demands)
        self._polish()
        hand = [self._division(origin, counts) for origin, counts in by_hand]
        return self._best(), hand

    def bound(self) -> float | None:
        """Return an upper bound on the value of any division; None: not known."""
        if not all(map(is_bounded, self.resolved)):
            return None
        tenants = [
            best_tenant(
                number, alone, weight,
                [kind.ids[0] if is_usable else None for kind, is_usable in zip(self.kinds, usable, strict=True)],
            )
            for number, (tenant, experiment, usable) in enumerate(
                zip(self.tenants.tenants, self.resolved, self.usable, strict=True)
            )
            for alone, weight in each_alone(tenant, experiment)
        ]  # fmt: skip
        return value_bound(tenants, self.available)

    # --- capacities ---------------------------------------------------------------------------------------------------

    def _demands(self) -> list[Demand]:
        """Return the tenants with the ways to serve them."""
        ways: list[dict[Counts, float]] = [{} for _ in self.resolved]
        asked = [(number, one) for number in range(len(self.resolved)) for one in self._groups(number)]
        enough = self._least_groups(asked)
        short: list[tuple[int, Counts]] = []
        for number, group in asked:
            groups = enough[number, group]
            if groups is not None:
                ways[number][group] = (self.resolved[number].workload_stats.offered_rps or 0.0) / groups
            else:
                short.append((number, group))
        tasks = [
            _RateTask(self._task(number, _times(group, self._most(group))), self.targets[number])
            for number, group in short
        ]
        for position, outcome in self.executor.carry_out(highest_rate, tasks, self.report):
            if isinstance(outcome, HelixsimError):
                raise outcome
            number, group = short[position]
            if outcome > 0:
                ways[number][group] = outcome / self._most(group)
        return [
            Demand(one.workload_stats.offered_rps or 0.0, tenant.weight, tenant.priority,
                   tuple(Way(counts, rps) for counts, rps in own.items()))
            for one, tenant, own in zip(self.resolved, self.tenants.tenants, ways, strict=True)
        ]  # fmt: skip

    def _groups(self, number: int) -> Iterator[Counts]:
        """Yield the smallest groups of nodes that hold the model of a tenant: of one kind, then of several.

        Several kinds together are one way, all nodes of them, and only for placements that mix kinds.
        """
        kinds = [kind for kind, is_usable in enumerate(self.usable[number]) if is_usable]
        for kind in kinds:

            def of_kind(count: int, kind: int = kind) -> Counts:
                return tuple(count if other == kind else 0 for other in range(len(self.kinds)))

            counted = range(1, self.available[kind] + 1)
            place = bisect_left(counted, True, key=lambda count: self._holds_model(number, of_kind(count)))
            if place < len(counted):
                yield of_kind(counted[place])
        if self.resolved[number].systems[0].placement == "replicas":
            return
        together = [*combinations(kinds, 2), *([tuple(kinds)] if len(kinds) > 2 else [])]
        for some in together:
            counts = tuple(n if kind in some else 0 for kind, n in enumerate(self.available))
            if self._holds_model(number, counts):
                yield counts

    def _holds_model(self, number: int, counts: Counts) -> bool:
        try:
            self._task(number, counts).experiment.resolve()
        except InfeasibleError:
            return False
        return True

    def _least_groups(self, asked: Sequence[tuple[int, Counts]]) -> dict[tuple[int, Counts], int | None]:
        """Return how many groups of nodes meet the objectives of a tenant; None: not even all do."""
        low = dict.fromkeys(asked, 0)  # does not
        high = {key: self._most(key[1]) for key in asked}
        found: dict[tuple[int, Counts], int | None] = {}
        tried = dict(high)
        while tried:
            self._simulate((number, _times(group, n)) for (number, group), n in tried.items())
            for key, n in tried.items():
                if self.parts[key[0], _times(key[1], n)].is_met:
                    high[key] = n
                elif n == self._most(key[1]):
                    found[key] = None
                else:
                    low[key] = n
            tried = {key: (low[key] + high[key]) // 2 for key in tried if key not in found and high[key] - low[key] > 1}
        return {key: high[key] for key in asked} | found

    def _most(self, group: Counts) -> int:
        return min(there // n for n, there in zip(group, self.available, strict=True) if n)

    # --- divisions ----------------------------------------------------------------------------------------------------

    def by_rule(self, rule: str) -> tuple[Counts, ...]:
        """Return the nodes of each kind divided by a rule, ``proportional`` or ``equal``, without those of no use."""
        work = work_of(self.resolved) if rule == "proportional" else [1.0] * len(self.resolved)
        return self._useful(in_proportion(self.available, work))

    def _by_hand(self) -> Iterator[tuple[str, tuple[Counts, ...]]]:
        """Yield the divisions that one would make by hand, without nodes of no use."""
        for origin, counts in by_kind([one.name for one in self.tenants.tenants], self.kinds):
            yield f"by hand: {origin}", self._useful(counts)
        for origin, rule in ((IN_PROPORTION, "proportional"), (EQUALLY, "equal")):
            yield f"by hand: {origin}", self.by_rule(rule)

    def _margins(self, demands: Sequence[Demand]) -> None:
        """Simulate divisions by the program, with margins that are narrowed down by what their parts serve."""
        margins = [1.0] * len(demands)
        low, high = [0.0] * len(demands), [math.inf] * len(demands)
        for _ in range(ROUNDS):
            planned = [
                divide(demands, self.available, self.prices, margins, is_whole=is_whole)[0]
                for is_whole in (True, False)
            ]
            self._simulate((number, own) for counts in planned for number, own in enumerate(counts))
            before = list(margins)
            for number, own in enumerate(planned[0]):
                if self.parts[number, own].is_met:
                    high[number] = min(high[number], margins[number])
                else:
                    low[number] = max(low[number], margins[number])
                if math.isinf(high[number]):
                    margins[number] *= _WIDER
                elif not low[number]:
                    margins[number] /= _WIDER
                else:
                    margins[number] = (low[number] + high[number]) / 2
            if margins == before:
                return

    def _polish(self) -> None:
        """Simulate parts near those of the best division.

        Where a tenant is served in full, those with a node fewer. Where one is not, all that others leave it who are
        served in full with another part that is known.
        """
        for _ in range(POLISHES):
            best, before = self._best(), len(self.parts)
            wanted: list[tuple[int, Counts]] = []
            for number, own in enumerate(best.counts):
                if self._is_full(number, own):
                    wanted += [(number, _with(own, kind, n - 1)) for kind, n in enumerate(own) if n]
                else:
                    wanted += [(number, left) for left in self._left(number, best.counts)]
            self._simulate(wanted)
            if len(self.parts) == before:
                return

    def _left(self, number: int, counts: Sequence[Counts]) -> Iterator[Counts]:
        """Yield what others leave a tenant: as it is, and if one of them had another part that serves it in full.

        Of those parts the smallest are enough.
        """
        for other, its_own in enumerate(counts):
            if other == number:
                continue
            full = [own for tenant, own in self.parts if tenant == other and self._is_full(other, own)]
            for part in (its_own, *(one for one in full if not any(_is_within(less, one) for less in full))):
                used = [part if tenant == other else own for tenant, own in enumerate(counts) if tenant != number]
                left = [n - sum(own) for n, own in zip(self.available, zip(*used, strict=True), strict=True)]
                if min(left) >= 0:
                    yield tuple(n if ok else 0 for n, ok in zip(left, self.usable[number], strict=True))

    def _is_full(self, number: int, counts: Counts) -> bool:
        return self._served(number, self.parts[number, counts]) == 1.0

    def _best(self) -> Division:
        """Return the best division into simulated parts."""
        tenants = self.tenants.tenants
        nothing = tuple(0 for _ in self.kinds)
        known = [
            [nothing, *(counts for number, counts in self.parts if number == tenant and counts != nothing)]
            for tenant in range(len(tenants))
        ]
        self.parts |= {(tenant, nothing): NO_NODE for tenant in range(len(tenants))}
        choices = [[self._choice(tenant, counts) for counts in own] for tenant, own in enumerate(known)]
        weights, priorities = [one.weight for one in tenants], [one.priority for one in tenants]
        chosen = best_of(choices, weights, priorities, self.available, self.prices)
        return self._division(JOINT, tuple(own[number] for own, number in zip(known, chosen, strict=True)))

    def _division(self, origin: str, counts: tuple[Counts, ...]) -> Division:
        return Division(origin, counts, tuple(self.parts[number, own] for number, own in enumerate(counts)))

    def _choice(self, number: int, counts: Counts) -> Choice:
        part = self.parts[number, counts]
        mean_s = None if part.summary is None else part.summary.ttft.mean_s
        return Choice(counts, self._served(number, part), _NEVER_S if mean_s is None else mean_s)

    def _served(self, number: int, part: Part) -> float:
        """Return how far the tenants of a part are served, 0..1, by their weights."""
        tenant = self.tenants.tenants[number]
        each = [(one.weight, part.share(tenant.class_of(one))) for one in tenant.members]
        return math.fsum(w * (1.0 if share is None else served(share)) for w, share in each) / tenant.weight

    # --- parts --------------------------------------------------------------------------------------------------------

    def _useful(self, divided: Sequence[Counts]) -> tuple[Counts, ...]:
        """Return a division without the nodes that those who have them cannot use."""
        return tuple(
            tuple(n if ok else 0 for n, ok in zip(counts, usable, strict=True))
            for counts, usable in zip(divided, self.usable, strict=True)
        )

    def _simulate(self, wanted: Iterable[tuple[int, Counts]]) -> None:
        """Simulate parts that are new; a part without nodes serves nothing."""
        new = [key for key in dict.fromkeys(wanted) if key not in self.parts]
        self.parts |= {key: NO_NODE for key in new if not any(key[1])}
        new = [key for key in new if any(key[1])]
        found = run_parts({at: self._task(*key) for at, key in enumerate(new)}, self.executor, self.report)
        self.parts |= {key: found[at] for at, key in enumerate(new)}

    def _task(self, number: int, counts: Counts) -> PartTask:
        (nodes,) = nodes_of(self.kinds, [counts])
        return task_of(
            self.tenants.tenants[number], nodes, self.tenants, self.out, force=self.force, check=self.check,
            with_report=False,
        )  # fmt: skip


def _target(experiment: ResolvedExperiment) -> Target:
    """Return the objectives of a tenant.

    Raises
    ------
    ConfigError
        Without any, without a rate of arrivals, or with replicas that come and go.
    """
    if experiment.systems[0].autoscaling is not None:
        raise ConfigError(f"{experiment.source}: tenant {experiment.name}: autoscaling needs stated nodes: add nodes")
    return capacity_targets(experiment, 99.0, None)[0]


def _with(counts: Counts, kind: int, n: int) -> Counts:
    """Return a part with another number of nodes of a kind."""
    return (*counts[:kind], n, *counts[kind + 1 :])


def _is_within(counts: Counts, others: Counts) -> bool:
    """Return whether a part has no more nodes of any kind than another one, and fewer of some."""
    return counts != others and all(n <= other for n, other in zip(counts, others, strict=True))


def _times(group: Counts, n: int) -> Counts:
    return tuple(n * count for count in group)
