"""The cheapest fleet that serves a workload within its SLO, or that of the highest capacity within a budget.

Integer programs over counts generate candidates (``fleet_program``), simulations select among them. First, a ladder of
margins on the estimate brackets the cheapest passing fleet, and is refined; fleets of a single node type follow. Then
batches of the most promising fleets below the best price and of the cheapest ones not excluded are simulated until none
is left (the best is then the cheapest, provided that a fleet contained in a failing one also fails) or the simulations
are used up (the cheapest fleet not excluded is then a lower bound on the price). Batches do not depend on the number of
fleets simulated in parallel. Owned nodes are in every fleet, at no price.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from helixsim.config.edit import Edit, edits_of
from helixsim.config.plan_file import FleetPlan
from helixsim.errors import ConfigError, HelixsimError, InfeasibleError, unknown_name
from helixsim.experiment import Experiment
from helixsim.planning.capacity import capacity_targets
from helixsim.planning.fleet_bound import Counts
from helixsim.planning.fleet_limits import latency_limits
from helixsim.planning.fleet_program import Market, supply_of
from helixsim.planning.fleet_trial import FleetTask, FleetTrial, try_fleet, varied
from helixsim.results.fleet import FleetResults, TriedFleet
from helixsim.results.purchases import Purchase, by_value
from helixsim.runtime.pool import Executor
from helixsim.study.systems import capacity_table

LADDER = (0.6, 0.85, 1.2, 1.7)
"""Initial margins on the estimate."""

REFINEMENTS = 2
"""Rounds in which the bracket of margins is divided by four."""

BATCH = 4
"""Fleets per batch of the second stage: the two most promising and the two cheapest."""

RANKED = 3
"""Fleets whose capacity is searched, for their headroom or the ranking within a budget."""

PURCHASES = 4
"""Purchases that are simulated: node types of the best estimate per dollar, each at its best site."""

SEARCH_SHARE = 0.8
"""Share of the search in the progress; the rest is the headroom of the best fleets."""

SHOWN = 4
"""Fleets in the progress display."""

OnProgress = Callable[[float, str, Sequence[Sequence[str]]], None]


def find_fleet(
    plan: FleetPlan,
    out: Path,
    executor: Executor,
    *,
    base: Experiment | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda _share, _what, _table: None,
) -> FleetResults:
    """Search for the best fleet.

    ``base``: the experiment; None: the file named in the plan.

    Raises
    ------
    ConfigError
        If the experiment does not match the plan.
    InfeasibleError
        If all offers together cannot hold the model or serve the load.
    HelixsimError
        If a fleet could not be simulated for other reasons, such as a crashed worker or a full disk: this is not a
        verdict on the fleet. Finished simulations are kept, and a repeated search continues.
    """
    search = _Search(plan, out, executor, force, on_progress, base)
    return search.cheapest() if plan.budget_usd_per_hour is None else search.best_for_budget(plan.budget_usd_per_hour)


class _Search:
    """One search: the market, and the simulated fleets."""

    def __init__(
        self,
        plan: FleetPlan,
        out: Path,
        executor: Executor,
        force: bool,
        on_progress: OnProgress,
        given: Experiment | None = None,
    ) -> None:
        self.given = given
        self.plan, self.out, self.executor, self.force, self.on_progress = plan, out, executor, force, on_progress
        self.base = self._base()
        everything = tuple(offer.available for offer in plan.offers)
        self.experiment = self._with_nodes(everything, whole=True).resolve(is_part=True)
        (self.target,) = capacity_targets(self.experiment, plan.percentile, plan.share)[:1]
        self.market = self._market()
        self.tried: dict[Counts, FleetTrial] = {}
        self.best: Counts | None = None

    def cheapest(self) -> FleetResults:
        """Return the cheapest fleet that passes."""
        if any(self.market.owned):
            self._try([self.market.owned])
        margin = self._ladder()
        self._try(self.market.of_one_kind(margin or LADDER[-1]))
        while self._room() >= 1:
            batch = self._batch()
            if not batch:
                break
            self._try(batch)
        bound = self.market.cheapest_possible(self._best_price())
        if self.best is None:
            raise InfeasibleError(self._why_none(bound))
        purchases = self._purchases()
        passing = [counts for counts, trial in self.tried.items() if trial.is_met]
        ranked = sorted(passing, key=lambda counts: (self.market.price(counts), counts))[:RANKED]
        self._try(ranked, with_capacity=True)
        lowest = self._best_price() if bound is None else self.market.price(bound)
        return self._results(ranked, margin or 1.0, purchases, lower_bound=min(lowest, self._best_price()))

    def best_for_budget(self, budget: float) -> FleetResults:
        """Return the fleet of the highest capacity within a budget."""
        chosen: list[Counts] = []
        for _ in range(BATCH):
            counts = self.market.most_promising(budget + 1e-6, rate_matters=False)
            if counts is None:
                break
            chosen.append(counts)
            self.market.excluded.append(counts)
        chosen += [counts for counts in self._of_one_kind(budget) if counts not in chosen]
        if not chosen:
            raise InfeasibleError(
                f"{self.plan.name}: no fleet of at most {budget:g} $/h holds {self.experiment.fleet.model.name}"
            )
        self._try(chosen[: self.plan.simulations], with_capacity=True)
        purchases = self._purchases()
        within = [counts for counts in self.tried if self.market.price(counts) <= budget + 1e-6]
        done = [(self.tried[counts].capacity_rps or 0.0, counts) for counts in within]
        done.sort(key=lambda pair: (-pair[0], self.market.price(pair[1]), pair[1]))
        if not done[0][0]:
            reasons = "; ".join(self.tried[done[0][1]].misses)
            raise InfeasibleError(f"{self.plan.name}: no fleet tried within {budget:g} $/h meets the SLO: {reasons}")
        self.best = done[0][1]
        ranked = [counts for _, counts in done if self.tried[counts].capacity_rps]
        return self._results(ranked, 1.0, purchases, lower_bound=None)

    def _purchases(self) -> tuple[Counts, tuple[Purchase, ...]]:
        """Return the owned nodes, or without any the best fleet, and what one more node of each offer adds to it."""
        market = self.market
        base = market.owned if any(market.owned) else self.best
        if base is None:
            base = max(self.tried, key=lambda counts: (self.tried[counts].capacity_rps or 0.0, counts))
        offers = [
            (number, offer)
            for number, offer in enumerate(self.plan.offers)
            if not offer.is_owned and base[number] < offer.available
        ]
        value = {number: market.supply.estimate[number] / offer.price_usd_per_hour for number, offer in offers}
        best = sorted(value, key=lambda number: -value[number])
        kinds = {(self.plan.offers[number].gpu, self.plan.offers[number].gpus): number for number in reversed(best)}
        simulated = sorted(kinds.values(), key=best.index)[:PURCHASES]
        self._try([base, *(market.with_more(base, number) for number in simulated)], with_capacity=True)
        base_rps = self.tried[base].capacity_rps or 0.0
        scale = base_rps / max(market.estimated_rps(base), 1e-12)
        found, known = list[Purchase](), dict[tuple[str, int], float]()
        for number, offer in sorted(offers, key=lambda pair: pair[0] not in simulated):
            if is_simulated := number in simulated:
                served_rps = self.tried[market.with_more(base, number)].capacity_rps or 0.0
                known[offer.gpu, offer.gpus] = served_rps - base_rps
            estimate_rps = market.supply.estimate[number] * scale / market.num_layers
            adds_rps = known.get((offer.gpu, offer.gpus), estimate_rps)  # at another site: as simulated at the best one
            found.append(Purchase(offer.label, offer.price_usd_per_hour, adds_rps, is_simulated))
        return base, by_value(found)

    def _ladder(self) -> float | None:
        """Bracket the margin at which the cheapest fleet passes; return the least passing margin."""
        margins = list(LADDER)
        low, high = 0.0, math.inf
        for _ in range(1 + REFINEMENTS):
            fleets = {margin: self.market.cheapest(margin) for margin in margins}
            self._try([counts for counts in fleets.values() if counts is not None])
            for margin, counts in fleets.items():
                passes = counts is not None and counts in self.tried and self.tried[counts].is_met
                if passes:
                    high = min(high, margin)
                elif margin < high:
                    low = max(low, margin)
            if not math.isfinite(high):
                margins = [low * factor for factor in (1.4, 2.0, 2.8)]
            else:
                low = min(low, high)
                margins = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
        return high if math.isfinite(high) else None

    def _batch(self) -> list[Counts]:
        """Return fleets below the best price that are not excluded: the most promising and the cheapest."""
        before, batch = len(self.market.excluded), list[Counts]()
        for number in range(min(BATCH, self._room())):
            below = self._best_price()
            propose = self.market.most_promising if number % 2 == 0 else self.market.cheapest_possible
            counts = propose(below)
            if counts is None:
                break
            batch.append(counts)
            self.market.excluded.append(counts)
        del self.market.excluded[before:]
        return batch

    def _of_one_kind(self, budget: float) -> list[Counts]:
        """Return the largest fleet of each offer alone, beside the owned nodes, within budget and availability."""
        found, owned, layers = [], self.market.owned, self.market.supply.layers
        for number, offer in enumerate(self.plan.offers):
            if offer.is_owned:
                continue
            count = min(offer.available, int(budget / offer.price_usd_per_hour + 1e-9))
            counts = self.market.with_more(owned, number, count)
            if sum(n * held for n, held in zip(counts, layers, strict=True)) >= self.market.num_layers:
                found.append(counts)
        return list(dict.fromkeys(found))

    def _room(self) -> int:
        return self.plan.simulations - len(self.tried)

    def _best_price(self) -> float:
        return math.inf if self.best is None else self.market.price(self.best)

    def _try(self, fleets: Sequence[Counts], *, with_capacity: bool = False) -> None:
        """Simulate fleets that are new (or whose capacity is unknown), and update the market."""
        new = [
            counts
            for counts in dict.fromkeys(fleets)
            if counts not in self.tried or (with_capacity and self.tried[counts].capacity_rps is None)
        ]
        if not with_capacity:
            new = new[: max(0, self._room())]
        tasks = [
            FleetTask(
                self._with_nodes(counts),
                self.target,
                self.out,
                with_capacity=with_capacity,
                at_capacity=self.plan.budget_usd_per_hour is not None,
                force=self.force,
            )
            for counts in new
        ]
        outcomes, shares = dict[int, FleetTrial](), [0.0] * len(new)

        def on_task(number: int, share: float, what: str) -> None:
            shares[number] = share
            done = min(1.0, (len(self.tried) + len(outcomes)) / self.plan.simulations) * SEARCH_SHARE
            if with_capacity:
                done = SEARCH_SHARE + (1 - SEARCH_SHARE) * sum(shares) / len(shares)
            self.on_progress(done, f"{self.words(new[number])}: {what}", self._table())

        for number, outcome in self.executor.run(try_fleet, tasks, on_task):
            if isinstance(outcome, HelixsimError):  # not a verdict on the fleet
                raise outcome.within(self.words(new[number]))
            outcomes[number] = outcome
            on_task(number, 1.0, "meets the SLO" if outcomes[number].is_met else "does not meet the SLO")
        for number, counts in enumerate(new):
            trial = self.tried[counts] = outcomes[number]
            if trial.is_met and self.market.price(counts) < self._best_price():
                self.best = counts
            self.market.learn(counts, is_met=trial.is_met)

    def _table(self) -> list[tuple[str, ...]]:
        passing = sorted((self.market.price(counts), counts) for counts, trial in self.tried.items() if trial.is_met)
        return [
            ("fleet", "$/h", "tightest objective", "used, %"),
            *(
                (self.words(counts), f"{price:.2f}", trial.tightest, f"{100 / trial.slack:.0f}" if trial.slack else "")
                for price, counts in passing[:SHOWN]
                for trial in (self.tried[counts],)
            ),
        ]

    def words(self, counts: Counts) -> str:
        """Return for example ``4 l4 in us, 2 t4 in eu``."""
        parts = [offer.words(count) for offer, count in zip(self.plan.offers, counts, strict=True) if count]
        return ", ".join(parts) or "nothing"

    def _base(self) -> Experiment:
        """Return the common experiment of all fleets, with the system of the plan."""
        plan = self.plan
        experiment = varied(plan, self.given)
        base = experiment.resolve()
        names = [system.name for system in base.systems]
        chosen = plan.system or names[0]
        if chosen not in names:
            raise ConfigError(f"{plan.name}: system: {unknown_name('system', chosen, names)}")
        system = base.document["systems"][names.index(chosen)]
        changes = {
            "whatif": None,
            "baseline": None,
            "cluster.down": None,
            "cluster.removed": None,
            "systems": [system],
            "name": plan.name,
        }
        return experiment.with_(edits_of(changes))

    def _with_nodes(self, counts: Counts, *, whole: bool = False) -> Experiment:
        """Return the experiment with the nodes of a fleet, of spot machines those that last unless it is ``whole``."""
        lasting = [n if whole else one.lasting(n) for one, n in zip(self.plan.offers, counts, strict=True)]
        entries = zip(self.plan.offers, counts, lasting, strict=True)
        nodes = [offer.nodes(left, paid=count) for offer, count, left in entries if left]
        return self.base.with_([Edit.of("cluster.nodes", nodes)])

    def _market(self) -> Market:
        experiment = self.experiment
        rate_rps = experiment.workload_stats.offered_rps
        if rate_rps is None:
            raise ConfigError(f"{self.plan.name}: the workload has no rate")
        capacity = capacity_table(experiment, experiment.systems[0])
        first, seen = [], 0
        for offer in self.plan.offers:
            first.append(seen)
            seen += offer.available
        one_of_each = [experiment.fleet.cluster.nodes[position].id for position in first]
        supply = supply_of(
            [experiment.fleet.profiles[position] for position in first],
            [capacity.of(node) for node in one_of_each],
            experiment.workload_stats.mean_prompt_tokens,
            experiment.workload_stats.mean_output_tokens,
            rate_rps,
            experiment.fleet.model.num_layers,
            tuple(offer.available for offer in self.plan.offers),
            experiment.engine,
            lambda best: latency_limits(experiment, self.target, best, one_of_each),
        )
        return Market(self.plan.offers, supply, experiment.fleet.model.num_layers, rate_rps)

    def _why_none(self, bound: Counts | None) -> str:
        closest = max(self.tried.values(), key=lambda trial: (trial.summary is not None, trial.slack), default=None)
        if closest is None:
            return f"{self.plan.name}: all offers together cannot serve the load, even in the best case"
        reasons = "; ".join(closest.misses)
        tail = " (all simulations are used: increase simulations)" if bound is not None else ""
        tried = f"none of the {len(self.tried)} simulated fleets serves the load; the closest"
        return f"{self.plan.name}: {tried}: {reasons}{tail}"

    def _results(
        self,
        ranked: Sequence[Counts],
        margin: float,
        purchases: tuple[Counts, tuple[Purchase, ...]],
        *,
        lower_bound: float | None,
    ) -> FleetResults:
        assert self.best is not None
        best, estimated_rps = self.tried[self.best], self.market.estimated_rps(self.best)
        scale = (best.capacity_rps or 0.0) / max(estimated_rps, 1e-12)
        per_rps, savings = self.market.marginal_price(1 / scale if scale else margin)
        used_up = {offer for offer, n in zip(self.plan.offers, self.best, strict=True) if n == offer.available}
        return FleetResults(
            name=self.plan.name,
            question=self.plan.question,
            budget_usd_per_hour=self.plan.budget_usd_per_hour,
            rate_rps=self.market.rate_rps,
            target=self.target,
            lower_bound_usd_per_hour=lower_bound,
            ranked=tuple(self._fleet(counts) for counts in ranked),
            tried=tuple(self._fleet(counts) for counts in self.tried),
            usd_per_rps=per_rps,
            scarce=tuple((offer.label, saved) for offer, saved in savings if offer in used_up),
            purchases=purchases[1],
            purchases_base=self.words(purchases[0]),
            purchases_base_rps=self.tried[purchases[0]].capacity_rps,
            owned=self.words(self.market.owned) if any(self.market.owned) else "",
        )

    def _fleet(self, counts: Counts) -> TriedFleet:
        trial = self.tried[counts]
        return TriedFleet(
            fleet=self.words(counts),
            counts=counts,
            price_usd_per_hour=self.market.price(counts),
            is_met=trial.is_met,
            misses=trial.misses,
            slack=trial.slack,
            tightest=trial.tightest,
            capacity_rps=trial.capacity_rps,
            summary=trial.summary,
            edits=self._with_nodes(counts).edits,
            slack_curve=trial.slack_curve,
            idle=self._idle(counts, trial),
        )

    def _idle(self, counts: Counts, trial: FleetTrial) -> tuple[tuple[str, int], ...]:
        """Return (offer, number of its nodes that hold no layers)."""
        offers = self.plan.offers
        offer_of = [number for number, n in enumerate(counts) for _ in range(offers[number].lasting(n))]
        idle = Counter(offer_of[position] for position in trial.idle)
        return tuple((self.plan.offers[number].label, count) for number, count in sorted(idle.items()))
