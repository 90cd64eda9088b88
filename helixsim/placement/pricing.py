"""Pricing of stage groups: the cheapest one of each length at given prices of nodes.

Two dynamic programs find the cheapest stage group of every length at once. ``_SegmentTable`` strings nodes together for
each capacity that a segment may be required to have; ``Pricer._cover`` combines segments until they carry the target
flow F (a knapsack cover on a grid; values are rounded down, so the stage group does carry F). See docs/placement.md,
section "Pricing".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helixsim.placement import tuning
from helixsim.placement.stages import NodeGroup, Segment, SegmentNode, StageGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Side(NamedTuple):
    """Segments of the node groups numbered ``groups``.

    Each is counted for ``share`` of its capacity, cut at ``limit_tokens_per_s`` [tokens/s] before.
    """

    groups: tuple[int, ...]
    limit_tokens_per_s: float
    share: float = 1.0


Request = tuple[Side, ...]
"""A stage group to price: its segments come from any of these sides."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The cheapest stage group of its length and depth for a request, and the price of its nodes."""

    stage_group: StageGroup
    cost: float


class _Step(NamedTuple):
    """One more node of a segment; ``reaches[v]``: whether its capacity is at least the v-th value."""

    node: SegmentNode
    reaches: NDArray[np.bool_]


class _Items(NamedTuple):
    """Items of a knapsack as parallel arrays: segments of a side whose capacity reaches a value, by its position."""

    side: Integers
    value: Integers


class Pricer:
    """Prices stage groups that carry one target flow.

    Parameters
    ----------
    flow_tokens_per_s
        The target flow F [tokens/s].
    longest
        Most layers of a stage group.
    grid
        Number of steps into which F is divided.
    """

    def __init__(self, groups: Sequence[NodeGroup], flow_tokens_per_s: float, longest: int, grid: int) -> None:
        self._flow = flow_tokens_per_s
        self._longest = longest
        self._grid = grid
        values = sorted({value for group in groups for value in group.tokens_per_s if value > 0})
        enough = [value for value in values if value >= flow_tokens_per_s]
        # All values of F or more are equivalent: only the smallest of them is needed.
        smallest = tuning.MIN_SEGMENT_SHARE * flow_tokens_per_s
        self._values = np.array([v for v in values if smallest <= v < flow_tokens_per_s] + enough[:1])
        self._steps = [
            _Step(SegmentNode(number, layers), self._values <= value)
            for number, group in enumerate(groups)
            for layers, value in enumerate(group.tokens_per_s[:longest], start=1)
            if value >= (self._values[0] if len(self._values) else np.inf)
        ]

    def offers(
        self, prices: Floats, requests: Sequence[Request], *, hops_count: bool = False, mixed: bool = False
    ) -> list[list[Offer]]:
        """Return the cheapest stage groups of each length for each request.

        Parameters
        ----------
        prices
            Price of a node of each group.
        hops_count
            Return the cheapest of each depth up to ``tuning.MAX_SEGMENT_NODES`` as well; else depth is not limited.
        mixed
            For two sides, add the cheapest with segments of both. The cheapest of all is usually one-sided, even where
            an integer solution needs the leftover nodes of both.
        """
        if not len(self._values):
            return [[] for _ in requests]
        tables: dict[tuple[int, ...], list[_SegmentTable]] = {}
        for request in requests:
            for side in request:
                if side.groups not in tables:
                    tables[side.groups] = self._segment_tables(side.groups, prices, hops_count)
        offers: list[list[Offer]] = [[] for _ in requests]
        for depth in range(tuning.MAX_SEGMENT_NODES if hops_count else 1):
            sides = [[(tables[side.groups][depth], side) for side in request] for request in requests]
            for collected, more in zip(offers, self._cover(sides, mixed), strict=True):
                collected.extend(more)
        return offers

    def _segment_tables(self, groups: Iterable[int], prices: Floats, hops_count: bool) -> list[_SegmentTable]:
        """Return a table for each depth where hops count, else one for any depth."""
        inside = set(groups)
        steps = [step for step in self._steps if step.node.group in inside]
        nodes = [step.node for step in steps]
        shape = (self._longest + 1, len(self._values))
        if not steps:
            empty = _SegmentTable(np.full(shape, np.inf), np.zeros(shape, dtype=np.int64), [], None)
            return [empty] * tuning.MAX_SEGMENT_NODES
        step_layers = np.array([node.layers for node in nodes])
        price = np.where(
            np.array([step.reaches for step in steps]),
            np.array([max(float(prices[node.group]), tuning.MIN_NODE_PRICE_LAYERS) for node in nodes])[:, None],
            np.inf,
        )
        start = np.full(shape, np.inf)
        start[0] = 0.0

        def extended(before: Floats | None) -> tuple[Floats, Integers]:
            """Return costs and last steps of segments that extend those of ``before``, or one another, by a node."""
            cost = start.copy()
            choice = np.zeros(shape, dtype=np.int64)
            for length in range(1, self._longest + 1):
                fits = step_layers <= length
                if fits.any():
                    rest = (cost if before is None else before)[np.where(fits, length - step_layers, 0)]
                    trial = np.where(fits[:, None], rest + price, np.inf)
                    choice[length] = trial.argmin(axis=0)
                    cost[length] = trial[choice[length], np.arange(shape[1])]
            return cost, choice

        if not hops_count:
            return [_SegmentTable(*extended(None), nodes, None)]
        tables = [_SegmentTable(*extended(start), nodes, None)]
        while len(tables) < tuning.MAX_SEGMENT_NODES:
            tables.append(_SegmentTable(*extended(tables[-1].cost), nodes, tables[-1]))
        return tables

    def _cover(self, requests: Sequence[Sequence[tuple[_SegmentTable, Side]]], mixed: bool) -> list[list[Offer]]:
        """Solve the knapsack covers of all requests at once."""
        num_values = len(self._values)
        count, grid, lengths = len(requests), self._grid, self._longest
        num_items = num_values * max(len(sides) for sides in requests)
        weight = np.zeros((count, num_items), dtype=np.int64)
        cost = np.full((count, num_items, lengths), np.inf)
        for number, sides in enumerate(requests):
            for at, (table, side) in enumerate(sides):
                positions = slice(at * num_values, (at + 1) * num_values)
                share = side.share * np.minimum(self._values, side.limit_tokens_per_s) / self._flow
                weight[number, positions] = np.minimum(grid, np.floor(share * grid + tuning.FLOW_TOLERANCE))
                cost[number, positions] = table.cheapest[1:].T
        cost[weight == 0] = np.inf
        usable = np.flatnonzero(np.isfinite(cost).any(axis=(0, 2)))
        if not len(usable):
            return [[] for _ in requests]
        items, weight, cost = _Items(*divmod(usable, num_values)), weight[:, usable], cost[:, usable]
        worth = _worth_taking(weight, cost)
        rows, columns = np.arange(count)[:, None, None], np.arange(lengths)
        worth_weight, worth_cost = weight[rows, worth], cost[rows, worth, columns]
        total = np.full((count, grid + 1, lengths), np.inf)
        total[:, 0] = 0.0
        last = np.zeros((count, grid + 1, lengths), dtype=np.int32)
        begin = rows * (grid + 1) * lengths + columns
        # Grid steps closer together than the lightest item do not depend on each other.
        chunk = min(tuning.GRID_CHUNK, int(worth_weight[np.isfinite(worth_cost)].min()))
        for start in range(1, grid + 1, chunk):
            steps = np.arange(start, min(start + chunk, grid + 1))
            rest = np.maximum(steps[:, None, None, None] - worth_weight, 0)
            trial = total.take(rest * lengths + begin) + worth_cost
            best = trial.argmin(axis=2)
            last[:, steps] = worth[rows, best.swapaxes(0, 1), columns]
            total[:, steps] = np.take_along_axis(trial, best[:, :, None], axis=2)[:, :, 0].swapaxes(0, 1)
        result: list[list[Offer]] = []
        for number, sides in enumerate(requests):
            tables = [table for table, _ in sides]
            knapsack = _Knapsack(tables, items, weight[number], cost[number], total[number], last[number])
            offers = [knapsack.offer(length) for length in range(1, lengths + 1)]
            if mixed and len(sides) == 2:
                offers += [knapsack.mixed_offer(length) for length in range(1, lengths + 1)]
            result.append([offer for offer in offers if offer is not None])
        return result


def _worth_taking(weight: Integers, cost: Floats) -> Integers:
    """Return the items that no other one of the same request fills as much for less, for each length.

    Parameters
    ----------
    weight
        Grid steps that an item fills, by request and item.
    cost
        Its price, by request, item and length.

    Returns
    -------
    Integers
        Numbers of items, by request, place and length; where a length has fewer than another, others fill its places.
    """
    order = np.argsort(-weight, axis=1, kind="stable")
    heaviest_first = np.take_along_axis(cost, order[:, :, None], axis=1)
    cheaper_than = np.full_like(heaviest_first, np.inf)
    cheaper_than[:, 1:] = np.minimum.accumulate(heaviest_first, axis=1)[:, :-1]
    is_worth = np.empty(cost.shape, dtype=bool)
    np.put_along_axis(is_worth, order[:, :, None], heaviest_first < cheaper_than, axis=1)
    places = max(1, int(is_worth.sum(axis=1).max()))
    return np.argsort(~is_worth, axis=1, kind="stable")[:, :places]


@dataclass(frozen=True)
class _Knapsack:
    """The solved knapsack covers of one request, one for each length.

    ``weight[item]``: grid steps that an item fills; ``cost[item, length - 1]``: its price. ``total[s, length - 1]``:
    least cost of s grid steps; ``last``: the item chosen last.
    """

    tables: Sequence[_SegmentTable]
    items: _Items
    weight: Integers
    cost: Floats
    total: Floats
    last: NDArray[np.int32]

    def offer(self, length: int) -> Offer | None:
        """Return the cheapest stage group of ``length`` layers, None if there is none."""
        grid = len(self.total) - 1
        if not np.isfinite(self.total[grid, length - 1]):
            return None
        return Offer(StageGroup.of(length, self._segments(length, [], grid)), float(self.total[grid, length - 1]))

    def mixed_offer(self, length: int) -> Offer | None:
        """Return the cheapest stage group of ``length`` layers with segments of both sides, None if there is none."""
        grid = len(self.total) - 1
        usable = np.isfinite(self.cost[:, length - 1])
        first = np.flatnonzero(usable & (self.items.side == 0))
        second = np.flatnonzero(usable & (self.items.side == 1))
        if not len(first) or not len(second):
            return None
        rest = np.maximum(grid - self.weight[first][:, None] - self.weight[second], 0)
        cost = self.cost[first, length - 1][:, None] + self.cost[second, length - 1] + self.total[rest, length - 1]
        one, two = np.unravel_index(int(cost.argmin()), cost.shape)
        chosen = [int(first[one]), int(second[two])]
        segments = self._segments(length, chosen, int(rest[one, two]))
        return Offer(StageGroup.of(length, segments), float(cost[one, two]))

    def _segments(self, length: int, chosen: Sequence[int], filled: int) -> list[Segment]:
        """Return the segments of the chosen items and of those that fill ``filled`` grid steps."""
        chosen = list(chosen)
        while filled > 0:
            chosen.append(int(self.last[filled, length - 1]))
            filled -= int(self.weight[chosen[-1]])
        return [self.tables[self.items.side[item]].segment(length, int(self.items.value[item])) for item in chosen]


class _SegmentTable:
    """Cheapest segments by length and capacity.

    ``cost[length, value]``: price of a segment of ``length`` layers whose capacity reaches the value at this position;
    ``choice``: its last node, by position in ``nodes``. ``shorter``: the segments that are extended by one node; None
    if segments extend one another, or start empty.
    """

    def __init__(
        self, cost: Floats, choice: Integers, nodes: Sequence[SegmentNode], shorter: _SegmentTable | None
    ) -> None:
        self.cost = cost
        self._choice = choice
        self._nodes = nodes
        self._shorter = shorter
        self.cheapest: Floats = cost if shorter is None else np.minimum(cost, shorter.cost)

    def segment(self, length: int, value: int) -> Segment:
        """Return the cheapest segment of ``length`` layers whose capacity reaches the value at this position."""
        table = self
        if table._shorter is not None and table._shorter.cost[length, value] <= table.cost[length, value]:
            table = table._shorter
        nodes: list[SegmentNode] = []
        while length > 0:
            node = table._nodes[table._choice[length, value]]
            nodes.append(node)
            length -= node.layers
            table = table._shorter or table
        return tuple(sorted(nodes))
