"""Integer programs over the counts of nodes: the fast stage of the fleet search.

There are two models of the supply of a node, both in layers x requests/s, of which a fleet needs ``layers x rate``. The
*estimate* is the capacity of a node as estimated by planners (``flow.capacity``), in a fleet of all offers. The
*ceiling* is an upper bound by compute, given the memory of the whole fleet (``fleet_bound``). A fleet whose ceiling is
below the demand cannot serve the load with any placement; others are simulated. Neither includes the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helixsim import solver
from helixsim.config.plan_file import Offer
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import NodeProfile
from helixsim.flow.capacity import best_supply
from helixsim.planning.fleet_bound import BestCase, Counts, LatencyLimit, Level, Memory
from helixsim.solver import Program

_REGION_PENALTY = 1e-4
"""Price of an additional region, as a share of the most expensive node; a tie-breaker."""

LOST, GAINED = 0.8, 1.1
"""Factors on the weights of the node types in a fleet after a failure and a success."""

_CENT = 1e-5
"""Tolerance for equal prices [$/h], above that of the solver, which is 1e-6."""


@dataclass(frozen=True, slots=True)
class Supply:
    """Supply of a node of each offer [layers x requests/s], as estimate and ceiling, and its maximum layers.

    ``ceiling`` is that with unlimited memory, ``levels`` are those by context in flight, which ``memory`` limits.
    ``limits`` are those of the objectives.
    """

    estimate: tuple[float, ...]
    ceiling: tuple[float, ...]
    layers: tuple[int, ...]
    levels: tuple[Level, ...] = ()
    memory: tuple[Memory, ...] = ()
    limits: tuple[LatencyLimit, ...] = ()


class Market:
    """The programs over a list of offers: cheapest fleets, best fleets, and marginal prices.

    Parameters
    ----------
    num_layers
        Number of layers of the model.
    rate_rps
        Required rate [requests/s].
    """

    def __init__(self, offers: Sequence[Offer], supply: Supply, num_layers: int, rate_rps: float) -> None:
        self.offers = tuple(offers)
        self.supply = supply
        self.num_layers = num_layers
        self.rate_rps = rate_rps
        self.failed: list[Counts] = []
        """Fleets that failed; fleets contained in them are excluded."""
        self.excluded: list[Counts] = []
        """Fleets already generated."""
        self.owned: Counts = tuple(offer.available if offer.is_owned else 0 for offer in self.offers)
        """The owned nodes, which are in every fleet."""
        self.belief = [1.0] * len(self.offers)
        """Weight of the estimate of each offer in ``most_promising``, updated by simulations."""

    def price(self, counts: Counts) -> float:
        """Return the price of a fleet [$/h]."""
        return sum(offer.price_usd_per_hour * count for offer, count in zip(self.offers, counts, strict=True))

    def estimated_rps(self, counts: Counts) -> float:
        """Return the estimated requests/s of a fleet."""
        return sum(gain * count for gain, count in zip(self.supply.estimate, counts, strict=True)) / self.num_layers

    def cheapest(self, margin: float, below: float = solver.INFINITY) -> Counts | None:
        """Return the cheapest fleet whose estimate is ``margin`` times the rate; None if there is none."""
        return self._solve(self.supply.estimate, margin, below, by_price=True, learned=False)

    def cheapest_possible(self, below: float = solver.INFINITY) -> Counts | None:
        """Return the cheapest fleet that is excluded neither by the ceiling nor by a failed fleet that contains it."""
        return self._solve(self.supply.ceiling, 1.0, below, by_price=True)

    def learn(self, counts: Counts, *, is_met: bool) -> None:
        """Record the outcome of a fleet: failed fleets are excluded, and the weights of node types updated."""
        if not is_met:
            self.failed.append(counts)
        for number, count in enumerate(counts):
            if count:
                self.belief[number] *= GAINED if is_met else LOST

    def of_one_kind(self, margin: float) -> list[Counts]:
        """Return for each node type, in the first region with enough nodes, the number required by the estimate.

        These are the numbers to buy beside the owned nodes.
        """
        found: dict[tuple[str, int], Counts] = {}
        layers = sum(count * held for count, held in zip(self.owned, self.supply.layers, strict=True))
        rate_rps = margin * self.rate_rps - self.estimated_rps(self.owned)
        for number, offer in enumerate(self.offers):
            if offer.is_owned:
                continue
            by_rate = rate_rps * self.num_layers / max(self.supply.estimate[number], 1e-12)
            by_memory = (self.num_layers - layers) / max(self.supply.layers[number], 1e-12)
            count = max(0, math.ceil(max(by_rate, by_memory) - 1e-9))
            if count <= offer.available:
                found.setdefault((offer.gpu, offer.gpus), self.with_more(self.owned, number, count))
        return list(dict.fromkeys(found.values()))

    def with_more(self, counts: Counts, number: int, more: int = 1) -> Counts:
        """Return a fleet with more nodes of an offer."""
        return tuple(count + more * (other == number) for other, count in enumerate(counts))

    def most_promising(self, below: float, *, rate_matters: bool = True) -> Counts | None:
        """Return the fleet with the largest weighted estimate below a price, among those not excluded."""
        return self._solve(self.supply.ceiling, 1.0 if rate_matters else 0.0, below, by_price=False)

    def marginal_price(self, margin: float) -> tuple[float, list[tuple[Offer, float]]]:
        """Return the marginal price of a request/s, and the savings by one more node of each scarce offer [$/h].

        These are the dual values of the continuous program, with fractional nodes.
        """
        program = Program()
        columns = [
            program.column(offer.price_usd_per_hour, lower=float(least))
            for offer, least in zip(self.offers, self.owned, strict=True)
        ]
        demand = program.row(
            dict(zip(columns, self.supply.estimate, strict=True)), lower=margin * self.rate_rps * self.num_layers
        )
        limits = [
            program.row([column], upper=float(offer.available))
            for column, offer in zip(columns, self.offers, strict=True)
        ]
        solution = solver.solve(program).optimum("the price of one more request/s")
        if solution is None:  # all offers together cannot serve the load
            return math.nan, []
        per_rps = solution.row_duals[demand] * self.num_layers * margin
        savings = [(offer, -solution.row_duals[row]) for offer, row in zip(self.offers, limits, strict=True)]
        return per_rps, [(offer, saved) for offer, saved in savings if saved > _CENT]

    def _solve(
        self, gains: Sequence[float], margin: float, below: float, *, by_price: bool, learned: bool = True
    ) -> Counts | None:
        program = Program(maximise=not by_price)
        dearest = max(offer.price_usd_per_hour for offer in self.offers)
        believed = [gain * belief for gain, belief in zip(self.supply.estimate, self.belief, strict=True)]
        goal = [offer.price_usd_per_hour for offer in self.offers] if by_price else believed
        columns = [
            program.column(value, lower=float(least), upper=float(offer.available), integer=True)
            for value, offer, least in zip(goal, self.offers, self.owned, strict=True)
        ]
        program.row(dict(zip(columns, gains, strict=True)), lower=margin * self.rate_rps * self.num_layers)
        program.row(dict(zip(columns, map(float, self.supply.layers), strict=True)), lower=float(self.num_layers))
        if learned and margin:
            self._limit_by_memory(program, columns)
            for limit in self.supply.limits:
                self._limit_by_latency(program, columns, limit)
        if math.isfinite(below):
            prices = [offer.price_usd_per_hour for offer in self.offers]
            program.row(dict(zip(columns, prices, strict=True)), upper=below - _CENT)
        sign = 1.0 if by_price else -1.0
        unit = dearest if by_price else max(self.supply.estimate)
        for region in dict.fromkeys(offer.region for offer in self.offers):
            used = program.column(sign * _REGION_PENALTY * unit, upper=1.0, integer=True)
            here = [(c, o) for c, o in zip(columns, self.offers, strict=True) if o.region == region]
            program.row(
                {**dict.fromkeys((c for c, _ in here), -1.0), used: float(sum(o.available for _, o in here))}, 0.0
            )
        for counts in self.failed if learned else ():
            self._differ(program, columns, counts, or_less=False)
        for counts in self.excluded:
            self._differ(program, columns, counts, or_less=True)
        solution = solver.solve(program).optimum("proposing a fleet")
        if solution is None:
            return None
        return tuple(round(solution.values[column]) for column in columns)

    def _limit_by_memory(self, program: Program, columns: Sequence[int]) -> None:
        """Require the ceiling at some level of context, and the memory for it.

        Without levels, no fleet on offer has enough memory, and the program is infeasible.
        """
        if not self.supply.memory:
            return
        chosen = [program.column(upper=1.0, integer=True) for _ in self.supply.levels]
        program.row(chosen, lower=1.0)
        for column, level in zip(chosen, self.supply.levels, strict=True):
            program.row(
                {**dict(zip(columns, level.layers_per_s, strict=True)), column: -self.rate_rps * self.num_layers}, 0.0
            )
        for memory in self.supply.memory:
            unit = max(memory.held)
            held = {column: held / unit for column, held in zip(columns, memory.held, strict=True)}
            context = {
                column: -self.num_layers * level.context_tokens / unit
                for column, level in zip(chosen, self.supply.levels, strict=True)
            }
            program.row({**held, **context}, lower=self.num_layers * memory.weight / unit)

    def _limit_by_latency(self, program: Program, columns: Sequence[int], limit: LatencyLimit) -> None:
        """Require that the nodes can pass the layers of the requests within an objective in time.

        There is a variable for each offer, the share of the layers that its nodes pass.
        """
        demand = self.rate_rps * self.num_layers
        shares, seconds = [], {}
        for number, column in enumerate(columns):
            layer_s = limit.layer_s[number]
            if not math.isfinite(layer_s):
                continue
            share = program.column(upper=limit.share)
            shares.append(share)
            seconds[share] = layer_s * self.num_layers / limit.most_s
            if self.supply.ceiling[number] < solver.INFINITY:
                program.row({share: 1.0, column: -self.supply.ceiling[number] / demand}, upper=0.0)
            held = self.supply.layers[number] / self.num_layers
            program.row({share: 1.0, column: -limit.share * held}, upper=0.0)
        program.row(shares, lower=limit.share)
        program.row(seconds, upper=limit.share)

    def _differ(self, program: Program, columns: Sequence[int], counts: Counts, *, or_less: bool) -> None:
        """Require more nodes of some offer than in a fleet, or, if allowed, fewer of some offer."""
        choices = []
        for column, offer, count in zip(columns, self.offers, counts, strict=True):
            if offer.is_owned:
                continue
            if count < offer.available:
                choices.append(program.column(upper=1.0, integer=True))
                program.row({column: 1.0, choices[-1]: -float(count + 1)}, lower=0.0)
            if or_less and count > 0:
                choices.append(program.column(upper=1.0, integer=True))
                spare = float(offer.available - count + 1)
                program.row({column: 1.0, choices[-1]: spare}, upper=float(offer.available))
        program.row(choices, lower=1.0)


def supply_of(
    profiles: Sequence[NodeProfile],
    tables: Sequence[Sequence[float]],
    prompt_tokens: float,
    output_tokens: float,
    rate_rps: float,
    num_layers: int,
    available: Counts,
    engine: EngineSpec,
    limits: Callable[[BestCase], Sequence[LatencyLimit]] = lambda _: (),
) -> Supply:
    """Return the supply of a node of each offer.

    Parameters
    ----------
    profiles, tables
        Profile of a node of each offer, and its estimated tokens/s with 1, 2, ... layers.
    prompt_tokens, output_tokens
        Mean lengths of the workload.
    limits
        What the objectives require in the best case.
    """
    per_request = prompt_tokens + output_tokens
    flow = rate_rps * per_request
    best = BestCase(profiles, prompt_tokens, output_tokens, num_layers, engine)
    return Supply(
        estimate=tuple(best_supply(tuple(table), flow) / per_request for table in tables),
        ceiling=tuple(min(best.layers_per_s(number), solver.INFINITY) for number in range(len(profiles))),
        layers=tuple(len(profile.kv_blocks) for profile in profiles),
        levels=best.levels(rate_rps, available),
        memory=best.memory,
        limits=tuple(limits(best)),
    )
