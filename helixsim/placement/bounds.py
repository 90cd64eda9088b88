"""Upper bound of any placement: the configuration LP.

A *configuration* of a layer is a multiset of (kind, k), one for each node that holds it, whose capacities add up to the
flow F. A node with k layers spends 1/k of itself on each. If no fractional choice of configurations covers all layers
of the model, F is out of reach, with or without partial inference and over any network. Configurations are priced by a
knapsack on a grid whose values are rounded up, which keeps the bound valid (Farley's bound at every iteration).

The network enters twice, over regions as ``clusters`` draws them (any partition of the nodes would do).

If F exceeds every link between regions and what any region carries on its own, some layer is held by two nodes or more:
else a single chain of nodes carried all of F and crossed between regions by one link, or stayed inside a region. That
is a row of the LP.

And F is at most what the regions carry each on its own, plus what the links between them carry together. For the flow
is a sum of routes. Those inside one region together are a flow of a placement of its nodes alone, so its own bound
holds for them. All others pass some link between regions, and no link passes more than its capacity. A link serves in
one direction only: from node i to node j if i ends where j starts or, with partial inference, before j ends, so that i
ends before j does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helixsim import solver
from helixsim.domain.cluster import Fleet
from helixsim.flow.capacity import CapacityTable, share_bound
from helixsim.placement import tuning
from helixsim.placement.clusters import crossing_total_tokens_per_s, crossings_tokens_per_s, regions_of

Config = tuple[tuple[int, int], ...]
"""(item number, nodes) of a configuration; an item is a kind with a number of layers."""

TimeLeft = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Kind:
    """``count`` nodes that pass on ``tokens_per_s[k - 1]`` tokens/s with k layers."""

    count: int
    tokens_per_s: tuple[float, ...]


def configuration_bound(
    fleet: Fleet,
    capacity: CapacityTable,
    reached_tokens_per_s: float = 0.0,
    time_left_s: TimeLeft = lambda: solver.INFINITY,
) -> float:
    """Return a flow [tokens/s] no placement exceeds, at most ``upper_bound_share``.

    ``reached_tokens_per_s`` is the flow of some placement, below which nothing need be searched.
    """
    num_layers = fleet.model.num_layers
    regions = regions_of(fleet, capacity)
    parts: dict[str, list[int]] = {}
    for position, node in enumerate(fleet.cluster.nodes):
        parts.setdefault(regions[node.id], []).append(position)
    kinds = _kinds(fleet, capacity, range(len(fleet.profiles)))
    alone = {region: _kinds(fleet, capacity, positions) for region, positions in parts.items()}
    high, one_chain = _share(kinds, num_layers), float("inf")
    if len(parts) > 1:
        shares = [_share(part, num_layers) for part in alone.values()]
        one_chain = max(*shares, *(fastest for _, fastest in crossings_tokens_per_s(fleet, regions).values()))
        links = crossing_total_tokens_per_s(fleet, regions)
        if sum(shares) + links < high:
            own = [
                _improved(part, num_layers, share, 0.0, float("inf"), time_left_s)
                for part, share in zip(alone.values(), shares, strict=True)
            ]
            high = sum(own) + links
    return _improved(kinds, num_layers, high, reached_tokens_per_s, one_chain, time_left_s)


def _improved(
    kinds: Sequence[_Kind], num_layers: int, bound: float, reached: float, one_chain: float, time_left_s: TimeLeft
) -> float:
    """Return the bound of the configuration LP, at most ``bound``; no single chain of nodes exceeds ``one_chain``."""
    high = bound
    for grid in tuning.BOUND_GRIDS:
        program = _Configurations(kinds, num_layers, grid)
        low, trial = reached, high * (1 - 10 * tuning.BOUND_PRECISION)
        while high - low > tuning.BOUND_PRECISION * high and time_left_s() > 0:
            trial = max(trial, low)
            if program.is_out_of_reach(trial, needs_pair=trial > one_chain, time_left_s=time_left_s):
                high = trial
            else:
                low = trial
            trial = (low + high) / 2
    return high


def _kinds(fleet: Fleet, capacity: CapacityTable, positions: Iterable[int]) -> list[_Kind]:
    counts: dict[str, int] = {}
    for position in positions:
        profile = fleet.profiles[position]
        if profile.kv_blocks:
            counts[profile.kind] = counts.get(profile.kind, 0) + 1
    return [_Kind(count, capacity.tables[kind]) for kind, count in counts.items()]


def _share(kinds: Sequence[_Kind], num_layers: int) -> float:
    counts: dict[tuple[float, ...], int] = {}
    for kind in kinds:
        counts[kind.tokens_per_s] = counts.get(kind.tokens_per_s, 0) + kind.count
    return share_bound(counts, num_layers)


class _Configurations:
    """The configuration LP of some nodes; configurations found for one flow serve for smaller ones."""

    def __init__(self, kinds: Sequence[_Kind], num_layers: int, grid: int) -> None:
        self.num_layers = num_layers
        self.grid = grid
        self.counts = np.array([kind.count for kind in kinds], dtype=float)
        items = [
            (number, layers, value)
            for number, kind in enumerate(kinds)
            for layers, value in enumerate(kind.tokens_per_s, start=1)
            if value > 0
        ]
        self.kind = np.array([number for number, _, _ in items])
        self.layers = np.array([layers for _, layers, _ in items], dtype=float)
        self.value = np.array([value for _, _, value in items])
        self.configs: dict[Config, None] = {}

    def is_out_of_reach(self, flow: float, *, needs_pair: bool, time_left_s: TimeLeft) -> bool:
        """Return whether the fleet provably cannot hold the model at ``flow``."""
        weight = np.minimum(self.grid, np.ceil(self.value / flow * self.grid - 1e-9)).astype(np.int64)
        for item, value in enumerate(self.value):
            self.configs[(item, int(-(-flow // value))),] = None
        enough = [c for c in self.configs if sum(int(weight[item]) * n for item, n in c) >= self.grid]
        for _ in range(tuning.BOUND_ROUNDS):
            solved = self._master(enough, needs_pair)
            if solved is None:
                return False
            master, prices, pair = solved
            cost, cheapest, cost_pair, cheapest_pair = self._cheapest(prices[self.kind] / self.layers, weight)
            # prices / scale are feasible for the dual of the LP over all configurations.
            scale = min(cost, cost_pair / (1 + pair)) if needs_pair else cost
            if scale > 0 and float(prices @ self.counts) / scale - pair < self.num_layers * (1 - 1e-9):
                return True
            if master >= self.num_layers or time_left_s() <= 0:
                return False
            new = [cheapest] if cost < 1 - 1e-8 else []
            new += [cheapest_pair] if needs_pair and cost_pair < 1 + pair - 1e-8 else []
            new = [config for config in dict.fromkeys(new) if config not in self.configs]
            if not new:
                return False
            self.configs.update(dict.fromkeys(new))
            enough += new
        return False

    def _master(self, configs: Sequence[Config], needs_pair: bool) -> tuple[float, NDArray[np.float64], float] | None:
        """Return layers covered, prices of the kinds, and the price of the row that wants a pair.

        None where the solver gives up: a bound that is not tightened is a bound.
        """
        program = solver.Program(maximise=True)
        used: list[dict[int, float]] = [{} for _ in self.counts]
        pairs: dict[int, float] = {}
        for config in configs:
            column = program.column(1.0)
            for item, nodes in config:
                row = used[self.kind[item]]
                row[column] = row.get(column, 0.0) + nodes / float(self.layers[item])
            if sum(nodes for _, nodes in config) > 1:
                pairs[column] = 1.0
        rows = [program.row(row, upper=float(count)) for row, count in zip(used, self.counts, strict=True)]
        if needs_pair:
            pairs[program.column(-tuning.PAIR_PENALTY_LAYERS)] = 1.0
            program.row(pairs, lower=1.0)
        solution = solver.solve(program)
        if solution.status is not solver.SolveStatus.OPTIMAL:
            return None
        duals = np.array(solution.row_duals)
        pair = max(0.0, -float(duals[-1])) if needs_pair else 0.0
        return solution.objective, np.maximum(duals[: len(rows)], 0.0), pair

    def _cheapest(self, costs: NDArray[np.float64], weight: NDArray[np.int64]) -> tuple[float, Config, float, Config]:
        """Return cost and items of the cheapest configuration, and of the cheapest of two nodes or more."""
        # Of items of one weight only the cheapest counts, and of those none that a heavier one undercuts.
        order = np.lexsort((costs, -weight))
        kept: list[int] = []
        for item in order:
            if not kept or costs[item] < costs[kept[-1]]:
                kept.append(int(item))
        items = np.array(kept)
        cost, size, grid = costs[items], weight[items], self.grid
        total = np.full(grid + 1, np.inf)
        total[0] = 0.0
        last = np.zeros(grid + 1, dtype=np.int64)
        # Blocks of as many steps as the lightest item weighs do not depend on themselves.
        block = int(size.min())
        for start in range(1, grid + 1, block):
            filled = np.arange(start, min(start + block, grid + 1))
            trial = total[np.maximum(filled[:, None] - size, 0)] + cost
            last[filled] = trial.argmin(axis=1)
            total[filled] = trial[np.arange(len(filled)), last[filled]]

        def config(filled: int, chosen: list[int]) -> Config:
            while filled > 0:
                chosen.append(int(items[last[filled]]))
                filled -= int(size[last[filled]])
            return tuple((item, chosen.count(item)) for item in sorted(set(chosen)))

        # A pair: one item, then what is left, or else the cheapest item of all.
        least = int(costs.argmin())
        rest = np.maximum(grid - size, 0)
        paired = cost + np.maximum(total[rest], costs[least])
        first = int(paired.argmin())
        pair = [int(items[first])] + ([] if rest[first] else [least])
        return float(total[grid]), config(grid, []), float(paired[first]), config(int(rest[first]), pair)
