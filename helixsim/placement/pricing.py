"""Pricing of blocks: which block of so many layers is cheapest at given prices of nodes.

A *strand* is a chain of nodes whose layers add up to the block's; it carries what its slowest node does. A *block* is
strands side by side that carry the target flow F together. Two dynamic programs find the cheapest block of every
length at once: ``strands`` chains nodes for each capacity that a strand may be asked for, ``_cover`` mixes strands
until they carry F (a knapsack cover on a grid; values are rounded down, so that a block found does carry F).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helixsim.placement import tuning
from helixsim.placement.stages import Block, Group, Strand

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Request:
    """A block to price: strands of ``sides``, each (group numbers, tokens/s one strand counts for at most)."""

    sides: tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """The cheapest block of its length and depth for a request; ``cost`` is in the currency of the prices."""

    block: Block
    cost: float


class Pricer:
    """Prices blocks that carry one target flow.

    Parameters
    ----------
    flow_tokens_per_s
        What a block carries at least.
    longest
        Most layers of a block.
    grid
        Steps into which the flow is divided.
    """

    def __init__(self, groups: Sequence[Group], flow_tokens_per_s: float, longest: int, grid: int) -> None:
        self._groups = groups
        self._flow = flow_tokens_per_s
        self._longest = longest
        self._grid = grid
        values = sorted({value for group in groups for value in group.tokens_per_s if value > 0})
        enough = [value for value in values if value >= flow_tokens_per_s]
        # Whatever carries the flow alone is as good as the least value that does.
        self._values = np.array(
            [v for v in values if tuning.MIN_SEGMENT_SHARE * flow_tokens_per_s <= v < flow_tokens_per_s] + enough[:1]
        )
        self._moves = [
            (number, layers, self._values <= value)
            for number, group in enumerate(groups)
            for layers, value in enumerate(group.tokens_per_s[:longest], start=1)
            if value >= (self._values[0] if len(self._values) else np.inf)
        ]

    def offers(
        self, prices: Floats, requests: Sequence[Request], *, hops_count: bool = False, mixed: bool = False
    ) -> list[list[Offer]]:
        """Return for each request the cheapest blocks of each length; where hops count, also of depth one and two.

        With ``mixed``, for requests of two sides also the cheapest with strands of both: the cheapest of all is
        one-sided as a rule, even where a whole-number mix needs the leftovers of both.
        """
        if not len(self._values):
            return [[] for _ in requests]
        tables: dict[tuple[int, ...], list[_Strands]] = {}
        for request in requests:
            for members, _ in request.sides:
                if members not in tables:
                    tables[members] = self._strands(members, prices, hops_count)
        found: list[list[Offer]] = [[] for _ in requests]
        for depth in range(tuning.MAX_SEGMENT_NODES if hops_count else 1):
            sides = [[(tables[members][depth], most) for members, most in request.sides] for request in requests]
            for offers, more in zip(found, self._cover(sides, mixed), strict=True):
                offers.extend(more)
        return found

    def _strands(self, members: Iterable[int], prices: Floats, hops_count: bool) -> list[_Strands]:
        inside = set(members)
        moves = [move for move in self._moves if move[0] in inside]
        shape = (self._longest + 1, len(self._values))
        if not moves:
            empty = _Strands(np.full(shape, np.inf), np.zeros(shape, dtype=np.int64), [], None)
            return [empty] * tuning.MAX_SEGMENT_NODES
        step_layers = np.array([layers for _, layers, _ in moves])
        price = np.where(
            np.array([able for _, _, able in moves]),
            np.array([max(float(prices[number]), tuning.MIN_NODE_PRICE_LAYERS) for number, _, _ in moves])[:, None],
            np.inf,
        )
        steps = [(number, layers) for number, layers, _ in moves]
        start = np.full(shape, np.inf)
        start[0] = 0.0

        def extended(before: Floats | None) -> tuple[Floats, NDArray[np.int64]]:
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
            return [_Strands(*extended(None), steps, None)]
        tables = [_Strands(*extended(start), steps, None)]
        while len(tables) < tuning.MAX_SEGMENT_NODES:
            tables.append(_Strands(*extended(tables[-1].cost), steps, tables[-1]))
        return tables

    def _cover(self, requests: Sequence[Sequence[tuple[_Strands, float]]], mixed: bool) -> list[list[Offer]]:
        """Run the knapsack covers of all requests at once."""
        width = max(len(sides) for sides in requests) * len(self._values)
        count, grid, lengths = len(requests), self._grid, self._longest
        weight = np.zeros((count, width), dtype=np.int64)
        cost = np.full((count, width, lengths), np.inf)
        for number, sides in enumerate(requests):
            for side, (table, most) in enumerate(sides):
                at = slice(side * len(self._values), (side + 1) * len(self._values))
                share = np.minimum(self._values, most) / self._flow
                weight[number, at] = np.minimum(grid, np.floor(share * grid + 1e-9))
                cost[number, at] = table.cheapest[1:].T
        cost[weight == 0] = np.inf
        usable = np.isfinite(cost).any(axis=(0, 2))
        if not usable.any():
            return [[] for _ in requests]
        columns = np.flatnonzero(usable)
        weight, cost = weight[:, columns], cost[:, columns]
        total = np.full((count, grid + 1, lengths), np.inf)
        total[:, 0] = 0.0
        last = np.zeros((count, grid + 1, lengths), dtype=np.int16)
        rows = np.arange(count)[:, None]
        # Steps closer together than the lightest strand do not depend on each other.
        block = min(tuning.GRID_CHUNK, int(weight[np.isfinite(cost).any(axis=2)].min()))
        for start in range(1, grid + 1, block):
            steps = np.arange(start, min(start + block, grid + 1))
            trial = total[rows, np.maximum(steps[:, None, None] - weight, 0)] + cost
            best = trial.argmin(axis=2)
            last[:, steps] = best.swapaxes(0, 1)
            total[:, steps] = np.take_along_axis(trial, best[:, :, None], axis=2)[:, :, 0].swapaxes(0, 1)
        found: list[list[Offer]] = []
        for number, sides in enumerate(requests):
            filling = _Filling(sides, columns, weight[number], cost[number], total[number], last[number])
            offers = [filling.offer(length) for length in range(1, lengths + 1)]
            if mixed and len(sides) == 2:
                offers += [filling.mixed_offer(length) for length in range(1, lengths + 1)]
            found.append([offer for offer in offers if offer is not None])
        return found


@dataclass(frozen=True)
class _Filling:
    """The finished knapsack of one request.

    Items are the values of its sides that are numbered in ``columns``, with a ``weight`` each and a ``cost`` for each
    length; ``total`` and the ``last`` item chosen are known for each filling and length.
    """

    sides: Sequence[tuple[_Strands, float]]
    columns: NDArray[np.int64]
    weight: NDArray[np.int64]
    cost: Floats
    total: Floats
    last: NDArray[np.int16]

    def offer(self, length: int) -> Offer | None:
        """Return the cheapest block of so many layers; None if there is none."""
        grid = len(self.total) - 1
        if not np.isfinite(self.total[grid, length - 1]):
            return None
        return Offer(Block.of(length, self._strands(length, [], grid)), float(self.total[grid, length - 1]))

    def mixed_offer(self, length: int) -> Offer | None:
        """Return the cheapest block of so many layers with strands of both sides; None if there is none."""
        grid, values = len(self.total) - 1, self.sides[0][0].cost.shape[1]
        usable = np.isfinite(self.cost[:, length - 1])
        first, second = (
            np.flatnonzero(usable & (self.columns < values)),
            np.flatnonzero(usable & (self.columns >= values)),
        )
        if not len(first) or not len(second):
            return None
        rest = np.maximum(grid - self.weight[first][:, None] - self.weight[second], 0)
        cost = self.cost[first, length - 1][:, None] + self.cost[second, length - 1] + self.total[rest, length - 1]
        one, two = np.unravel_index(int(cost.argmin()), cost.shape)
        chosen = [int(first[one]), int(second[two])]
        return Offer(Block.of(length, self._strands(length, chosen, int(rest[one, two]))), float(cost[one, two]))

    def _strands(self, length: int, chosen: list[int], filled: int) -> list[Strand]:
        items = list(chosen)
        while filled > 0:
            items.append(int(self.last[filled, length - 1]))
            filled -= int(self.weight[items[-1]])
        places = [divmod(int(self.columns[item]), self.sides[0][0].cost.shape[1]) for item in items]
        return [self.sides[side][0].strand(length, value) for side, value in places]


class _Strands:
    """Cheapest strands by length and capacity: ``cost[length, value]``, and the step each ends with.

    ``shorter`` holds the strands that ``cost`` extends by one node; None if strands extend one another without limit,
    or start from nothing.
    """

    def __init__(
        self, cost: Floats, choice: NDArray[np.int64], steps: Sequence[tuple[int, int]], shorter: _Strands | None
    ) -> None:
        self.cost = cost
        self._choice = choice
        self._steps = steps
        self._shorter = shorter
        self.cheapest: Floats = cost if shorter is None else np.minimum(cost, shorter.cost)

    def strand(self, length: int, value: int) -> Strand:
        """Return the cheapest strand of so many layers for the value with this number."""
        table = self
        parts: list[tuple[int, int]] = []
        if table._shorter is not None and table._shorter.cost[length, value] <= table.cost[length, value]:
            table = table._shorter
        while length > 0:
            number, layers = table._steps[table._choice[length, value]]
            parts.append((number, layers))
            length -= layers
            table = table._shorter or table
        return tuple(sorted(parts))
