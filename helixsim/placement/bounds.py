"""Upper bound of the flow of any placement: the configuration LP.

If no fractional choice of configurations covers all layers at flow F, no placement carries F, with or without partial
inference and over any network. Regions, as drawn by ``clusters``, tighten it. Definitions and proof are in
docs/placement.md, section "Upper bound".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from helixsim import solver
from helixsim.domain.cluster import Deployment
from helixsim.flow.capacity import CapacityTable, share_bound
from helixsim.placement import tuning
from helixsim.placement.clusters import crossing_total_tokens_per_s, crossings_tokens_per_s, regions_of

Config = tuple[tuple[int, int], ...]
"""Pairs (item, nodes) of a configuration; an item is a node type with a number of layers."""

TimeLeft = Callable[[], float]


Counts = Mapping[tuple[float, ...], int]
"""Node types of a fleet: tokens/s with 1, 2, ... layers -> number of nodes."""


def configuration_bound(
    fleet: Deployment,
    capacity: CapacityTable,
    reached_tokens_per_s: float = 0.0,
    time_left_s: TimeLeft = lambda: solver.INFINITY,
) -> float:
    """Return a flow [tokens/s] that no placement exceeds, at most ``upper_bound_share``.

    ``reached_tokens_per_s``: the flow of a placement; the bound is not searched below it.
    """
    num_layers = fleet.model.num_layers
    regions = regions_of(fleet, capacity)
    everything: Counter[tuple[float, ...]] = Counter()
    parts: dict[str, Counter[tuple[float, ...]]] = {}
    for node in fleet.cluster.nodes:
        table = capacity.of(node.id)
        everything[table] += 1
        parts.setdefault(regions[node.id], Counter())[table] += 1
    high, one_path = share_bound(everything, num_layers), float("inf")
    if len(parts) > 1:
        alone = [share_bound(part, num_layers) for part in parts.values()]
        links = crossing_total_tokens_per_s(fleet, regions)
        if links < high:
            alone = [
                _improved(part, num_layers, share, 0.0, float("inf"), time_left_s)
                for part, share in zip(parts.values(), alone, strict=True)
            ]
            high = min(high, sum(alone) + links)
        one_path = max(*alone, *(fastest for _, fastest in crossings_tokens_per_s(fleet, regions).values()))
    return _improved(everything, num_layers, high, reached_tokens_per_s, one_path, time_left_s)


def cover_bound(counts: Counts, num_layers: int, time_left_s: TimeLeft = lambda: solver.INFINITY) -> float:
    """Return a flow that no placement of these nodes exceeds, whatever the links, in the unit of their tables."""
    high = share_bound(counts, num_layers)
    return _improved(counts, num_layers, high, 0.0, float("inf"), time_left_s) if high > 0 else 0.0


def surviving_bound(counts: Counts, num_layers: int, bound: float, reached: float, time_left_s: TimeLeft) -> float:
    """Return a flow that no placement of these nodes keeps after the loss of any one, between two flows.

    It holds for the loss of more at once, too: what they leave is no more than what one of them leaves.
    """
    return _improved(counts, num_layers, bound, reached, float("inf"), time_left_s, _SurvivingConfigurations)


def _improved(
    counts: Counts,
    num_layers: int,
    bound: float,
    reached: float,
    one_path: float,
    time_left_s: TimeLeft,
    kind: type[_Configurations] | None = None,
) -> float:
    """Return the bound of the configuration LP, at most ``bound``; no single series of nodes exceeds ``one_path``."""
    high = bound
    for grid in tuning.BOUND_GRIDS if kind is None else tuning.SURVIVING_BOUND_GRIDS:
        program = (kind or _Configurations)(counts, num_layers, grid)
        low, trial = reached, high * (1 - 10 * tuning.BOUND_PRECISION)
        while high - low > tuning.BOUND_PRECISION * high and time_left_s() > 0:
            trial = max(trial, low)
            if program.is_out_of_reach(trial, needs_pair=trial > one_path, time_left_s=time_left_s):
                high = trial
            else:
                low = trial
            trial = (low + high) / 2
    return high


class _Configurations:
    """The configuration LP of some nodes; configurations generated for one flow are reused for others."""

    spare = 0
    """Nodes that a configuration must be able to lose."""

    def __init__(self, counts: Counts, num_layers: int, grid: int) -> None:
        self.num_layers = num_layers
        self.grid = grid
        self.counts = np.array(list(counts.values()), dtype=float)
        items = [
            (number, layers, value)
            for number, table in enumerate(counts)
            for layers, value in enumerate(table, start=1)
            if value > 0
        ]
        self.type = np.array([number for number, _, _ in items])
        self.layers = np.array([layers for _, layers, _ in items], dtype=float)
        self.value = np.array([value for _, _, value in items])
        self.configs: dict[Config, None] = {}

    def is_out_of_reach(self, flow: float, *, needs_pair: bool, time_left_s: TimeLeft) -> bool:
        """Return whether no placement of these nodes carries ``flow``."""
        weight = np.minimum(self.grid, np.ceil(self.value / flow * self.grid - 1e-9)).astype(np.int64)
        for item, value in enumerate(self.value):
            self.configs[(item, int(-(-flow // value)) + self.spare),] = None
        enough = [config for config in self.configs if self._carried(config, weight) >= self.grid]
        for _ in range(tuning.BOUND_ROUNDS):
            solved = self._master(enough, needs_pair)
            if solved is None:
                return False
            master, prices, pair = solved
            cost, cheapest, cost_pair, cheapest_pair = self._cheapest(prices[self.type] / self.layers, weight)
            # prices / scale are feasible in the dual of the LP over all configurations.
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

    def _carried(self, config: Config, weight: NDArray[np.int64]) -> int:
        """Return the grid steps that a configuration carries."""
        return sum(int(weight[item]) * nodes for item, nodes in config)

    def _master(self, configs: Sequence[Config], needs_pair: bool) -> tuple[float, NDArray[np.float64], float] | None:
        """Return the layers covered, the prices of node types, and the price of the row that requires a pair.

        None if the solver fails: the bound is then not lowered.
        """
        program = solver.Program(maximise=True)
        used: list[dict[int, float]] = [{} for _ in self.counts]
        pairs: dict[int, float] = {}
        for config in configs:
            column = program.column(1.0)
            for item, nodes in config:
                row = used[self.type[item]]
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
        # Only items that are cheaper than all heavier ones are needed.
        order = np.lexsort((costs, -weight))
        kept: list[int] = []
        for item in order:
            if not kept or costs[item] < costs[kept[-1]]:
                kept.append(int(item))
        items = np.array(kept)
        cost, size, grid = costs[items], weight[items], self.grid
        total, last = _covers(cost, size, grid)

        def config(filled: int, chosen: list[int]) -> Config:
            while filled > 0:
                chosen.append(int(items[last[filled]]))
                filled -= int(size[last[filled]])
            return _config(chosen)

        # A pair: one item, then a cover of the rest, or the cheapest item if there is no rest.
        least = int(costs.argmin())
        rest = np.maximum(grid - size, 0)
        paired = cost + np.maximum(total[rest], costs[least])
        first = int(paired.argmin())
        pair = [int(items[first])] + ([] if rest[first] else [least])
        return float(total[grid]), config(grid, []), float(paired[first]), config(int(rest[first]), pair)


class _SurvivingConfigurations(_Configurations):
    """Configurations that carry the flow without any one of their nodes.

    The cheapest one is a cover and a largest node beside it, which no node of the cover exceeds. Largest nodes are
    taken by ranges of their speed: the cheapest of a range, and a cover of nodes up to its end, cost no more.
    """

    spare = 1

    def _carried(self, config: Config, weight: NDArray[np.int64]) -> int:
        """Return what is carried without the largest node."""
        return super()._carried(config, weight) - max(int(weight[item]) for item, _ in config)

    def _cheapest(self, costs: NDArray[np.float64], weight: NDArray[np.int64]) -> tuple[float, Config, float, Config]:
        sizes = np.unique(weight)
        ends = sizes[np.unique(np.linspace(0, len(sizes) - 1, tuning.BOUND_RANGES + 1).round().astype(int))]
        best: tuple[float, Config] = (np.inf, ())
        before = 0
        for end in ends:
            inside = np.flatnonzero(weight <= end)
            largest = inside[weight[inside] > before]
            before = int(end)
            first = int(largest[costs[largest].argmin()])
            if costs[first] >= best[0]:
                continue
            total, last = _covers(costs[inside], weight[inside], self.grid)
            cost = float(costs[first] + total[self.grid])
            if cost < best[0]:
                chosen, filled = [first], self.grid
                while filled > 0:
                    chosen.append(int(inside[last[filled]]))
                    filled -= int(weight[chosen[-1]])
                best = cost, _config(chosen)
        return *best, *best


def _config(chosen: Sequence[int]) -> Config:
    return tuple((item, chosen.count(item)) for item in sorted(set(chosen)))


def _covers(
    cost: NDArray[np.float64], size: NDArray[np.int64], grid: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the least cost of items that fill each number of grid steps, and the item chosen last."""
    total = np.full(grid + 1, np.inf)
    total[0] = 0.0
    last = np.zeros(grid + 1, dtype=np.int64)
    # Grid steps closer together than the lightest item do not depend on each other.
    block = int(size.min())
    for start in range(1, grid + 1, block):
        filled = np.arange(start, min(start + block, grid + 1))
        trial = total[np.maximum(filled[:, None] - size, 0)] + cost
        last[filled] = trial.argmin(axis=1)
        total[filled] = trial[np.arange(len(filled)), last[filled]]
    return total, last
