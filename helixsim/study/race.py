"""Selection of a placement together with its routing: a race of simulations on the same requests.

Every candidate with each routing policy that suits its routes is an entry. All are simulated on the same requests over
a short window; the better half of them go on to a longer window and new requests (successive halving: Jamieson and
Talwalkar, AISTATS 2016). Then the best entries and all baselines of the experiment are simulated as the report will be,
with its window and its seed, and a baseline that does better is taken instead. ``metrics.criteria`` says what is
better, to the race as to the verdict: at a rate the requests within objectives, then latency; under saturation output
tokens/s, or with objectives the requests within them per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.flowplan import COORDINATOR_CLASS, FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.latency_split import latency_split, shares_of
from helixsim.flow.maxflow import max_flow
from helixsim.flow.station import OperatingLoad
from helixsim.flow.two_commodity import two_commodity_flow
from helixsim.metrics.criteria import ALIKE
from helixsim.metrics.score import SAME_SHARE, Score
from helixsim.placement.base import Contender
from helixsim.placement.heuristics import FEW_NODES, routing_of_method
from helixsim.placement.select import routes_of
from helixsim.routing.graph import chains, routing_graph
from helixsim.runtime.pool import Executor, Serial
from helixsim.study.evaluator import Evaluator
from helixsim.study.finished import SimulatedStore
from helixsim.study.race_budget import EVENTS_PER_CPU_S, OF_A_TRIAL, OF_THE_REPORT, Budget
from helixsim.study.race_load import LONGEST_NS, RaceLoad, race_load
from helixsim.study.race_runs import RaceRun, shown_in_order
from helixsim.study.role_entries import RoleEntries
from helixsim.study.systems import (
    PlacedSystem,
    capacity_table,
    is_by_cost,
    on_its_nodes,
    operating_load,
)
from helixsim.study.trial_notes import (
    Entry,
    Trial,
    explained,
    kinds_first,
    plain,
    promising_policy,
    with_policy,
    worth_of_one_more,
)
from helixsim.units import NS_PER_S

SEED_OFFSET = 2_000_003
"""Entries race on other requests than those of the report, unless the load is a recorded trace."""

ROUND_EVENTS = 10 * EVENTS_PER_CPU_S
"""Work that a round may take (ten seconds of CPU time; ``Shown``): further entries are left out beyond."""

LEAST_PASSED_ON = 3
"""Entries that go on after a round in any case; else half of them."""

LEAST_TRIED = 5
"""Entries of a trial that are simulated in any case: more than there are kinds of routes."""

MOST_ALTERNATIVES = 2
"""Other policies with which an entry of the first trial is tried."""

FINALISTS, MOST_FINALISTS = 2, 6
"""Entries that are simulated as reported; up to the latter while one has shown more than the best of these."""

PARALLEL_CPU_S = 3.0
"""Least estimated CPU time of a race that several processes share [s]; each takes a second to start."""


@dataclass
class Race:
    """Selects a placement for one system (``placement.base.Select``).

    Parameters
    ----------
    evaluator
        Estimates placements, and has estimated the contenders; None: another one of the same system.
    runs
        Where simulations with the window and the seed of the report are found and kept; None: nowhere.
    executor
        Carries out the simulations; what is selected does not depend on it.
    roles
        Candidates whose nodes prefill or decode alone: those that serve most are tried where no other meets the
        objectives already, ThunderServe's also where their decodes may be faster.
    """

    experiment: ResolvedExperiment
    system: SystemSpec
    capacity: CapacityTable
    baselines: Callable[[], Sequence[PlacedSystem]] = field(default=tuple)
    runs: SimulatedStore | None = None
    executor: Executor = field(default_factory=Serial)
    roles: RoleEntries | None = None
    evaluator: Evaluator | None = None

    @cached_property
    def _judge(self) -> Evaluator:
        return self.evaluator or Evaluator(self.experiment, self.system, self.capacity)

    def __call__(self, contenders: Sequence[Contender], report: Callable[[str], None]) -> Placement:
        """Return the placement that is selected, with its routing and the explanation in its notes."""
        roles = None if self.roles is None else self.roles.beside(contenders)
        apart = [] if roles is None else roles.worth_trying()
        faster = [] if roles is None else roles.groups
        load = race_load(self._judge, contenders)
        budget = self._budget(load)
        alternatives = MOST_ALTERNATIVES * LEAST_PASSED_ON
        runs = len(contenders) + len(apart) + alternatives, LEAST_PASSED_ON
        windows = budget.trials(load.windows(self.experiment.workload.window), [min(LEAST_TRIED, one) for one in runs])
        self._share(budget, [*zip(windows, runs, strict=False), (self.experiment.workload.window, FINALISTS)])
        by_estimate = sorted(contenders, key=lambda one: -math.inf if one.estimate is None else -one.estimate)
        is_tight = not windows or budget.may_exceed(windows[0], runs[0], OF_A_TRIAL)
        entries, trials = [self._entry(one) for one in (by_estimate if is_tight else contenders)], list[Trial]()
        if not windows:
            entries[1:1], apart = [self._entry(one) for one in apart[:1]], []
        most_events = 0 if budget.told else min(ROUND_EVENTS, budget.events(OF_A_TRIAL))
        for number, window in enumerate(windows):
            trial = Trial(window, self.experiment.seed + SEED_OFFSET + number, self.experiment.slo, load.is_open)
            trials.append(trial)
            if number == 0:
                ordered = kinds_first(entries) if is_tight else entries
                self._try(trial, ordered, report, at_least=LEAST_TRIED, most_events=budget.events(OF_A_TRIAL))
                budget.left_out("Trial 1", len(trial.entries), len(entries))
                others = [entry for one in trial.best() for entry in self._alternatives(one, load)]
                self._try(
                    trial, others, report, at_least=MOST_ALTERNATIVES if is_tight else alternatives,
                    most_events=most_events,
                )  # fmt: skip
            else:
                self._try(trial, kinds_first(entries), report, at_least=LEAST_TRIED, most_events=most_events)
            if trial.best_score.share < 1.0 or not load.is_open:
                has_many = len(self.system.fleet.cluster.nodes) > FEW_NODES
                most_apart = budget.events(OF_A_TRIAL) if is_tight and has_many else math.inf
                self._try_apart(trial, apart, report, most_events=most_apart)
                apart = []
            elif number == 0:
                self._try_apart(trial, faster, report)
            entries = self._passed(trial)
        # Decodes of long chains take minutes to fill: saturated, these are always simulated as reported.
        apart = apart if load.is_open else [*apart, *faster]
        chosen, fallen, told = entries[0], "", dict[str, Any]()
        if windows or budget.can_compare(FINALISTS):
            final, chosen, fallen = self._final(entries, trials, report, budget, load, apart)
            trials.append(final)
            told = explained(chosen, trials, self._capacities(trials))
        notes: dict[str, Any] = {
            "chosen": chosen.name,
            **told,
            "worth": worth_of_one_more(self.system.fleet, self.capacity),
        }
        if roles is not None:
            tried = any(entry.placement.roles for trial in trials for entry in trial.entries.values())
            notes["roles"] = roles.notes(tried=tried)
        if self.system.routing == "auto":
            notes["routing"] = {"policy": chosen.system.routing, "options": plain(chosen.system.routing_options)}
        if fallen:
            notes["fallback"] = fallen
        if budget.told:
            notes["budget"] = " ".join(budget.told)
        return replace(chosen.placement, notes={**chosen.placement.notes, **notes})

    def _share(self, budget: Budget, simulations: Sequence[tuple[Window, int]]) -> None:
        """Leave all simulations to this process where they are estimated to take less than it takes to start others."""
        if sum(count * budget.simulation_cpu_s(window) for window, count in simulations) < PARALLEL_CPU_S:
            self.executor = Serial()

    @staticmethod
    def _passed(trial: Trial) -> list[Entry]:
        """Return the better half of the entries of a trial, and the best of each kind of routes that is not in it.

        Routes of a kind fall behind alike as queues grow, which a short trial does not show.
        """
        order = trial.distinct()
        passed = order[: max(LEAST_PASSED_ON, len(trial.entries) // 2)]
        kinds = {(routes_of(entry.placement), bool(entry.placement.roles)) for entry in passed}
        for entry in order[len(passed) :]:
            if (kind := (routes_of(entry.placement), bool(entry.placement.roles))) not in kinds:
                kinds.add(kind)
                passed.append(entry)
        return passed

    def _entry(self, contender: Contender) -> Entry:
        """Return a contender with the routing of the user, that of its method, or the most promising one."""
        placement, plan = contender.placement, self._plan(contender.placement)
        entry = Entry(contender.name, placement, plan, on_its_nodes(self.system, placement))
        if self.system.routing != "auto":
            return entry
        return with_policy(entry, routing_of_method(contender.name, placement) or promising_policy(placement, plan))

    def _alternatives(self, entry: Entry, load: RaceLoad) -> list[Entry]:
        """Return an entry with other policies that suit its routes."""
        if self.system.routing != "auto" or entry.system.is_disaggregated:
            return []
        found = chains(routing_graph(entry.placement, entry.plan))
        if found is not None and len(found) == 1:
            return []  # there is nothing to choose
        if entry.system.routing == "flow_weighted":
            return [with_policy(entry, policy) for policy in ("earliest_finish", "parallax")]
        others = [] if found is None else [with_policy(entry, "least_loaded")]
        if not load.is_open:
            others.append(with_policy(entry, "flow_weighted"))
        elif load.rate_rps and set(entry.placement.pipelines) == set(entry.placement.ranges):
            mean = operating_load(self.experiment, self.system)
            split = latency_split(entry.system.fleet, entry.placement, mean, load.rate_rps * mean.mean_output_tokens)
            entering = {one.dst: one.flow_tokens_per_s for one in entry.plan.departures(COORDINATOR_CLASS)}
            shares = shares_of(entry.placement, entering, split)
            if any(shares.values()):
                others.append(with_policy(entry, "flow_weighted", shares={COORDINATOR: shares}))
        return others

    def _late(self, trials: Sequence[Trial]) -> list[Entry]:
        """Return entries with the policy for more load than can be served in time.

        They are the best chains of the trials, in their order, and those that can serve most; none, where the best
        entry of the first trial is in time.
        """
        if self.system.routing != "auto" or trials[0].best_score.share >= 1.0 - SAME_SHARE:
            return []
        found = [
            entry
            for trial in trials
            for entry in trial.best()
            if not entry.system.is_disaggregated and len(chains(routing_graph(entry.placement, entry.plan)) or ()) > 1
        ]
        if not found:
            return []
        capacities = self._capacities(trials)
        most = max(found, key=lambda entry: capacities[entry.name])
        return list({entry.name: with_policy(entry, "in_time") for entry in (found[0], most)}.values())

    def _budget(self, load: RaceLoad) -> Budget:
        stated_cpu_s: float | None = getattr(self.system.placement_options, "race_cpu_s", math.inf)
        tokens_per_s = None
        if load.rate_rps is not None:
            tokens_per_s = load.rate_rps * self.experiment.workload_stats.mean_output_tokens
        nodes = len(self.system.fleet.cluster.nodes)
        return Budget.of(stated_cpu_s, nodes, tokens_per_s, load.residence_s or 0.0)

    def _plan(self, placement: Placement) -> FlowPlan:
        """Return the max-flow of a placement, by the capacities of the nodes into which it divides machines."""
        system = on_its_nodes(self.system, placement)
        capacity = self.capacity if system is self.system else capacity_table(self.experiment, system)
        return max_flow(system.fleet, placement, capacity)

    def _capacities(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Return the requests/s that each placement can serve by the KV-limited estimate."""
        load = operating_load(self.experiment, self.system)
        placements = {entry.name: entry.placement for trial in trials for entry in trial.entries.values()}
        return {name: self._requests_per_s(placement, load) for name, placement in placements.items()}

    def _requests_per_s(self, placement: Placement, load: OperatingLoad) -> float:
        system = on_its_nodes(self.system, placement)
        if system.is_disaggregated:
            return two_commodity_flow(system.fleet, placement, load, system.disaggregation.transfer).requests_per_s
        return self._judge.point(placement).output_tokens_per_s / load.mean_output_tokens

    def _try(
        self,
        trial: Trial,
        entries: Sequence[Entry],
        report: Callable[[str], None],
        *,
        at_least: int = 0,
        most_events: float = math.inf,
        as_reported: bool = False,
    ) -> int:
        """Simulate entries in their order, until the trial has taken so many events; return how many were.

        ``as_reported``: with the seed of the report, and kept where they have its window, too.
        """
        if at_least == 0 and trial.events >= most_events:
            return 0
        what = "as reported" if as_reported else f"trial of {(trial.window.duration_ns or 0) / NS_PER_S:.3g} s"
        window = None if as_reported and self.experiment.workload.window == trial.window else trial.window
        seed, runs = (None, self.runs) if as_reported else (trial.seed, None)
        tasks = [
            RaceRun(f"{what}: {entry.label}", self.experiment, _placed(entry), window, seed, runs) for entry in entries
        ]
        with closing(shown_in_order(self.executor, tasks, report)) as shown:
            for number, (entry, one) in enumerate(zip(entries, shown, strict=True), start=1):
                trial.add(entry, one)
                if number >= at_least and trial.events >= most_events:
                    return number
        return len(entries)

    def _try_apart(
        self, trial: Trial, apart: Sequence[Contender], report: Callable[[str], None], *, most_events: float = math.inf
    ) -> None:
        """Simulate candidates with roles that are not among the entries of a trial; the first one in any case."""
        entries = [entry for one in apart if (entry := self._entry(one)).label not in trial.entries]
        self._try(trial, entries, report, at_least=1, most_events=most_events)

    def _final(
        self,
        order: Sequence[Entry],
        trials: Sequence[Trial],
        report: Callable[[str], None],
        budget: Budget,
        load: RaceLoad,
        apart: Sequence[Contender] = (),
    ) -> tuple[Trial, Entry, str]:
        """Simulate the best and the baselines as the report will be; on large fleets, the baselines of ``Budget.near``.

        Return these, the best of all, and a sentence where it is a baseline. Entries that have shown more than the best
        one turns out to do are simulated, too. If that one misses objectives, and under saturation, so are the best
        placement that has other policies with these, and candidates with roles that have not been; under saturation
        also the best of each policy, as short trials do not show how queues grow under it.
        """
        window = self.experiment.workload.window
        if window.duration_ns is None:
            window = replace(window, duration_ns=LONGEST_NS, drain=False)
        baselines = {entry.name: entry for entry in map(self._rival, self.baselines())}
        # A run simulates its baselines for the report in any case.
        whole, window = window, budget.report(window, FINALISTS + (0 if self.runs is not None else len(baselines)))
        compared: Sequence[str] = list(baselines)
        if window is not whole and budget.is_large:
            estimates = {name: self._estimate(entry) for name, entry in baselines.items()}
            known = (self._estimate(entry) for entry in order)
            compared = budget.near(estimates, max((one for one in known if one is not None), default=-1.0))
        final = Trial(window, self.experiment.seed, self.experiment.slo, load.is_open)
        left = budget.events() - sum(trial.events for trial in trials)
        most_events = max(left, budget.events(OF_THE_REPORT))  # roles and other policies may have taken more in trials
        finalists = [*order[:FINALISTS], *(baselines[name] for name in compared)]
        self._try(final, finalists, report, as_reported=True)
        for entry in order[FINALISTS:]:
            if len(final.best()) == MOST_FINALISTS or final.events >= most_events:
                break
            shown = [trial.scores[entry.label] for trial in reversed(trials) if entry.label in trial.scores]
            if shown and self._promises(shown[0], final.best_score, load):
                self._try(final, [entry], report, as_reported=True)
        if final.best_score.share < 1.0 or not load.is_open:
            # Those of the best placement that has any: nodes that prefill or decode alone have none.
            others = next((found for one in final.best() if (found := self._alternatives(one, load))), [])
            of_policy = [] if load.is_open else {entry.system.routing: entry for entry in reversed(order)}.values()
            late = self._late([final, *reversed(trials)])
            roles = [self._entry(one) for one in apart]
            more = {one.label: one for one in [*late[:1], *roles, *of_policy, *others, *late[1:]]}
            rest = [one for label, one in more.items() if label not in final.entries]
            tried = self._try(final, rest, report, most_events=most_events, as_reported=True)
            budget.left_out("Beside the finalists, the last comparison", tried, len(rest))
        candidates, rivals = final.best(), final.best(baselines=True)
        # The verdict ranks what is chosen beside the baselines alone, and has to call it the best.
        chosen = next(
            entry
            for entry in final.ranked([*candidates, *rivals])
            if final.ranked([*([] if entry.is_baseline else [entry]), *rivals])[0] is entry
        )
        text = ""
        if chosen.is_baseline:
            mine, theirs = final.scores[candidates[0].label], final.scores[chosen.label]
            text = (
                f"{chosen.label} does better than the best candidate found ({candidates[0].label}): "
                f"{final.figures(theirs)} and {theirs.cost[0]:.3g} $/h of nodes with layers against "
                f"{final.figures(mine)} and {mine.cost[0]:.3g}. Its placement is taken."
            )
        return final, chosen, text

    def _estimate(self, entry: Entry) -> float | None:
        """Return the evaluator's estimate; None for nodes that prefill or decode alone, of which it has none."""
        return None if entry.system.is_disaggregated else self._judge.estimate(entry.placement)

    def _promises(self, shown: Score, best: Score, load: RaceLoad) -> bool:
        """Return whether an entry may be better than the best one that is simulated as reported.

        What it has shown in a trial is the most that it may do: queues are still growing in windows that are short.
        """
        if not load.is_open:
            if self.experiment.slo.is_stated:
                return shown.goodput_per_s > best.goodput_per_s
            return shown.output_tokens_per_s > best.output_tokens_per_s
        if abs(shown.share - best.share) > SAME_SHARE:
            return shown.share > best.share
        if is_by_cost(self.system) and shown.cost[0] != best.cost[0]:
            return shown.cost[0] < best.cost[0]
        return shown.latency_s < (1 - ALIKE) * best.latency_s

    def _rival(self, placed: PlacedSystem) -> Entry:
        """Return the entry of a baseline; a routing of the user is that of all entries."""
        own = on_its_nodes(self.system, placed.placement)
        system = placed.system if self.system.routing == "auto" else own
        name = f"system {placed.system.name}"
        return Entry(name, placed.placement, placed.plan, system, is_baseline=True)


def _placed(entry: Entry) -> PlacedSystem:
    return PlacedSystem(entry.system, entry.placement, entry.plan)
