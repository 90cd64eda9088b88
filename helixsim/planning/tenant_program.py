"""Integer programs that divide nodes among tenants.

``divide`` plans with capacities that are known in advance. A tenant ``t`` uses its ways to serve ``j`` (a number of
nodes of each kind and the requests/s that they serve within the objectives) ``y_tj`` times:

    maximise    sum_t w_t s_t          for the tenants of the first priority, then of the next, ...
    then        least price
    subject to  sum_j r_tj y_tj >= m_t q_t s_t        served share s_t <= 1 of q_t requests/s, m_t: a margin
                sum_tj a_tjk y_tj <= n_k              nodes of each kind k
                y_tj >= 0, integer

Queues of more requests than a part serves grow, so that most requests of a tenant with ``s_t < 1`` may be late. With
``is_whole`` the tenants that are served in full count first. ``best_of`` selects among parts that were simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helixsim import solver
from helixsim.results.tenants import Counts
from helixsim.solver import Program

_TOLERANCE = 1e-6
"""What a later goal may take from an earlier one, relative to the larger of it and 1: the precision of the solver."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to serve a tenant once: nodes of each kind, and the requests/s that they serve within the objectives."""

    counts: Counts
    rps: float


@dataclass(frozen=True, slots=True)
class Demand:
    """A tenant in the programs; ``rate_rps``: what it asks for [requests/s]."""

    rate_rps: float
    weight: float
    priority: int
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A simulated part for a tenant: its nodes, how far it is served (0..1), and its latency [s]."""

    counts: Counts
    served: float
    latency_s: float


@dataclass
class Goals:
    """Columns and rows of a program with several goals, each maximised as far as the ones before it leave room."""

    columns: list[tuple[float, float, bool]] = field(default_factory=list)
    rows: list[tuple[Mapping[int, float], float, float]] = field(default_factory=list)
    goals: list[Mapping[int, float]] = field(default_factory=list)

    def column(self, upper: float, *, integer: bool = False) -> int:
        """Add a variable from 0 to ``upper`` and return its index."""
        self.columns.append((0.0, upper, integer))
        return len(self.columns) - 1

    def row(
        self, entries: Mapping[int, float], lower: float = -solver.INFINITY, upper: float = solver.INFINITY
    ) -> None:
        """Add ``lower <= sum of coefficient * column <= upper``."""
        self.rows.append((entries, lower, upper))

    def values(self, what: str) -> tuple[float, ...]:
        """Return the values of the columns at the optimum of the last goal; the program must be feasible."""
        reached: list[float] = []
        found: tuple[float, ...] = ()
        for goal in self.goals:
            program = Program(maximise=True)
            for number, (lower, upper, integer) in enumerate(self.columns):
                program.column(goal.get(number, 0.0), lower, upper, integer=integer)
            for entries, lower, upper in self.rows:
                program.row(entries, lower, upper)
            for earlier, best in zip(self.goals, reached, strict=False):
                program.row(earlier, best - _TOLERANCE * max(1.0, abs(best)))
            solution = solver.solve(program).optimum(what)
            assert solution is not None, f"{what}: nothing is feasible"
            found = solution.values
            reached.append(solution.objective)
        return found


def divide(
    demands: Sequence[Demand],
    available: Counts,
    prices: Sequence[float],
    margins: Sequence[float],
    *,
    is_whole: bool = False,
) -> tuple[tuple[Counts, ...], tuple[float, ...]]:
    """Return the nodes of each tenant, and the share of its requests that is served by the capacities.

    Parameters
    ----------
    available, prices
        Nodes of each kind and the price of one [$/h].
    margins
        For each tenant, the capacity that is asked for over its rate.
    is_whole
        Tenants that are served in full count first.
    """
    program = Goals()
    uses: list[list[int]] = []
    shares, in_full = [], []
    for demand, margin in zip(demands, margins, strict=True):
        own = [program.column(_most(way.counts, available), integer=True) for way in demand.ways]
        share = program.column(1.0)
        served = {use: way.rps for use, way in zip(own, demand.ways, strict=True)}
        program.row({**served, share: -margin * demand.rate_rps}, 0.0)
        uses.append(own)
        shares.append(share)
        if is_whole:
            in_full.append(program.column(1.0, integer=True))
            program.row({in_full[-1]: -1.0, share: 1.0}, 0.0)
    used = [
        (use, way.counts)
        for own, demand in zip(uses, demands, strict=True)
        for use, way in zip(own, demand.ways, strict=True)
    ]
    _nodes(program, used, available)
    for columns in (in_full, shares) if is_whole else (shares,):
        _by_priority(
            program, demands, [{column: demand.weight} for column, demand in zip(columns, demands, strict=True)]
        )
    program.goals.append({use: -_price(counts, prices) for use, counts in used})
    values = program.values("dividing nodes among tenants")
    divided = [
        tuple(
            sum(round(values[use]) * way.counts[kind] for use, way in zip(own, demand.ways, strict=True))
            for kind in range(len(available))
        )
        for own, demand in zip(uses, demands, strict=True)
    ]
    return tuple(divided), tuple(values[share] for share in shares)


def best_of(
    choices: Sequence[Sequence[Choice]],
    weights: Sequence[float],
    priorities: Sequence[int],
    available: Counts,
    prices: Sequence[float],
) -> tuple[int, ...]:
    """Return the position of the part that each tenant takes, so that no node is taken twice.

    The best are those of the largest value, then of the least price, then of the least latency. One choice of each
    tenant must need no nodes.
    """
    program = Goals()
    columns = [[program.column(1.0, integer=True) for _ in own] for own in choices]
    for own in columns:
        program.row(dict.fromkeys(own, 1.0), 1.0, 1.0)
    pairs = [
        (column, choice)
        for own, tenant in zip(columns, choices, strict=True)
        for column, choice in zip(own, tenant, strict=True)
    ]
    _nodes(program, [(column, choice.counts) for column, choice in pairs], available)
    demands = [Demand(0.0, weight, priority, ()) for weight, priority in zip(weights, priorities, strict=True)]
    values = [
        {column: weight * choice.served for column, choice in zip(own, tenant, strict=True)}
        for own, tenant, weight in zip(columns, choices, weights, strict=True)
    ]
    _by_priority(program, demands, values)
    program.goals.append({column: -_price(choice.counts, prices) for column, choice in pairs})
    program.goals.append({column: -choice.latency_s for column, choice in pairs})
    found = program.values("choosing among simulated parts")
    return tuple(max(range(len(own)), key=lambda number: found[own[number]]) for own in columns)


def _by_priority(program: Goals, demands: Sequence[Demand], values: Sequence[Mapping[int, float]]) -> None:
    """Add a goal for each priority, the lowest first: the sum of the values of its tenants."""
    for priority in sorted({demand.priority for demand in demands}):
        goal: dict[int, float] = {}
        for demand, value in zip(demands, values, strict=True):
            if demand.priority == priority:
                goal |= value
        program.goals.append(goal)


def _nodes(program: Goals, uses: Sequence[tuple[int, Counts]], available: Counts) -> None:
    """Add the rows by which no node is used twice."""
    for kind, most in enumerate(available):
        program.row({use: float(counts[kind]) for use, counts in uses if counts[kind]}, upper=float(most))


def _most(counts: Counts, available: Counts) -> int:
    return min((there // n for n, there in zip(counts, available, strict=True) if n), default=0)


def _price(counts: Counts, prices: Sequence[float]) -> float:
    return sum(n * price for n, price in zip(counts, prices, strict=True))
