"""Upper bound of any placement: the configuration LP.

A *configuration* of a layer is a multiset of (kind, k), one for each node that holds it, whose capacities add up to the
flow F. A node with k layers spends 1/k of itself on each. If no fractional choice of configurations covers all layers
of the model, F is out of reach, with or without partial inference and over any network. Configurations are priced by a
knapsack on a grid whose values are rounded up, which keeps the bound valid (Farley's bound at every iteration).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from helixsim import solver
from helixsim.domain.cluster import Fleet
from helixsim.flow.capacity import CapacityTable, upper_bound_share

_GRID = 1000
_ROUNDS = 60
_PRECISION = 5e-4
"""Relative precision of the bisection over the flow."""

Config = dict[tuple[int, int], int]
"""(kind number, layers) -> nodes."""


def configuration_bound(
    fleet: Fleet,
    capacity: CapacityTable,
    reached_tokens_per_s: float,
    time_left_s: Callable[[], float] = lambda: solver.INFINITY,
) -> float:
    """Return a flow [tokens/s] no placement exceeds, at most ``upper_bound_share``.

    ``reached_tokens_per_s`` is the flow of some placement, below which nothing need be searched.
    """
    counts: dict[str, int] = {}
    for profile in fleet.profiles:
        if profile.kv_blocks:
            counts[profile.kind] = counts.get(profile.kind, 0) + 1
    low, high = reached_tokens_per_s, upper_bound_share(fleet, capacity)
    while high - low > _PRECISION * high and time_left_s() > 0:
        middle = (low + high) / 2
        if _layers_covered_at_most(counts, capacity.tables, middle, fleet.model.num_layers) < fleet.model.num_layers:
            high = middle
        else:
            low = middle
    return high


def _layers_covered_at_most(
    counts: Mapping[str, int], tables: Mapping[str, tuple[float, ...]], flow: float, num_layers: int
) -> float:
    """Return a bound on the layers the fleet can hold at ``flow``; exact enough once it settles on a side of the model.

    Column generation: the master LP mixes the configurations found so far, the knapsack finds the one that is cheapest
    at the master's prices of nodes.
    """
    kinds = list(counts)
    items = [
        (number, layers, min(value, flow))
        for number, kind in enumerate(kinds)
        for layers, value in enumerate(tables[kind], start=1)
        if value > 0
    ]
    fleet_size = np.array([counts[kind] for kind in kinds], dtype=float)
    configs: list[Config] = [{(number, layers): int(-(-flow // value))} for number, layers, value in items]
    weight = np.array([min(_GRID, int(np.ceil(value / flow * _GRID - 1e-9))) for _, _, value in items])
    bound = np.inf
    for _ in range(_ROUNDS):
        program = solver.Program(maximise=True)
        columns = [program.column(1.0) for _ in configs]
        for number, size in enumerate(fleet_size):
            used = {c: _share(config, number) for c, config in zip(columns, configs, strict=True)}
            program.row({c: share for c, share in used.items() if share}, upper=float(size))
        master = solver.solve(program)
        prices = np.maximum(np.array(master.row_duals), 0.0)
        cost, chosen = _cheapest([prices[number] / layers for number, layers, _ in items], weight)
        if cost > 0:
            bound = min(bound, float(prices @ fleet_size) / cost)
        if bound < num_layers or master.objective >= num_layers or cost >= 1 - 1e-7:
            break
        config: Config = {}
        for item in chosen:
            key = items[item][:2]
            config[key] = config.get(key, 0) + 1
        if config in configs:
            break
        configs.append(config)
    return bound


def _share(config: Config, kind: int) -> float:
    return sum(nodes / layers for (number, layers), nodes in config.items() if number == kind)


def _cheapest(costs: list[float], weight: NDArray[np.int64]) -> tuple[float, list[int]]:
    """Return the least cost of items (repeats allowed) whose weights add up to the grid or more, and those items."""
    cost = np.array(costs)
    total = np.full(_GRID + 1, np.inf)
    total[0] = 0.0
    last = np.zeros(_GRID + 1, dtype=np.int64)
    for filled in range(1, _GRID + 1):
        candidates = total[np.maximum(filled - weight, 0)] + cost
        last[filled] = candidates.argmin()
        total[filled] = candidates[last[filled]]
    chosen: list[int] = []
    filled = _GRID
    while filled > 0:
        chosen.append(int(last[filled]))
        filled -= int(weight[chosen[-1]])
    return float(total[_GRID]), chosen
