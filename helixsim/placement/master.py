"""The master program of ``blocks``: how often each block of a pool is used.

Its rows count the nodes of each group, the layers of the model, hops where they are limited, and, where a chain passes
several regions, one bridge per crossing and blocks spread widely enough on either side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from helixsim import solver
from helixsim.placement import tuning
from helixsim.placement.pricing import Floats
from helixsim.placement.stages import Block, Chain, Group, strand_tokens_per_s


class Column(NamedTuple):
    """A block inside a region (``place`` even, 2 x position) or a bridge behind it (odd); ``needs`` of a bridge only.

    ``spread`` is the number of ways the block is spread.
    """

    place: int
    block: Block
    spread: int
    needs: tuple[int, int]


class Prices(NamedTuple):
    """The continuous solution: how much of each column, and what a unit of each row is worth, in layers."""

    columns: Floats
    nodes: Floats
    layer: float
    hop: float
    crossing: Floats
    spread: Floats


class Master:
    """The program of one target flow and its columns.

    Parameters
    ----------
    num_regions
        Regions the chain passes; one bridge is chosen between each two.
    widest
        Most ways in which a block must be spread.
    max_hops
        Most nodes on a route; None: no limit. May be changed between solves.
    hop_price
        Layers a hop costs in the continuous program.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        num_layers: int,
        flow_tokens_per_s: float,
        *,
        num_regions: int,
        widest: int,
        max_hops: int | None,
        hop_price: float,
        time_left_s: Callable[[], float],
    ) -> None:
        self.groups = groups
        self.num_layers = num_layers
        self.flow = flow_tokens_per_s
        self.num_regions = num_regions
        self.widest = widest
        self.max_hops = max_hops
        self.hop_price = hop_price
        self.time_left_s = time_left_s
        self.nodes = np.array([len(group.nodes) for group in groups], dtype=float)
        self.columns: dict[Column, None] = {}
        self.is_undecided = False
        """Whether the last search for whole numbers ended at its limit of nodes or time."""

    def add(self, place: int, needs: tuple[int, int], block: Block) -> bool:
        """Add a column; return whether it is new."""
        column = Column(place, block, self.spread(block), needs)
        if column in self.columns:
            return False
        self.columns[column] = None
        return True

    def spread(self, block: Block) -> int:
        """Return in how many ways a block is spread."""
        if self.widest == 1 or not block.strands:
            return 1
        speeds = [(strand_tokens_per_s(self.groups, strand), count) for strand, count in block.strands]
        for ways in range(self.widest, 1, -1):
            most = self.flow / ways
            if sum(min(speed, most) * count for speed, count in speeds) >= self.flow * (1 - tuning.FLOW_TOLERANCE):
                return ways
        return 1

    def layers(self) -> Floats:
        """Return the layers of each column."""
        return np.array([column.block.layers for column in self.columns], dtype=float)

    def fits(self, amounts: Floats) -> bool:
        """Return whether so much of each column keeps to the nodes and hops there are."""
        hops = sum(column.block.depth * float(n) for column, n in zip(self.columns, amounts, strict=False) if n)
        return bool((self.taken(amounts) <= self.nodes).all()) and (self.max_hops is None or hops <= self.max_hops)

    def taken(self, amounts: Floats) -> Floats:
        """Return the nodes of each group that so much of each column takes."""
        taken = np.zeros(len(self.nodes))
        for column, amount in zip(self.columns, amounts, strict=False):
            if amount:
                for group, count in column.block.members.items():
                    taken[group] += amount * count
        return taken

    def relax(self, capped: bool, fixed: Floats | None) -> Prices | None:
        """Solve the continuous master; ``fixed`` gives least amounts, ``capped`` keeps it from covering more than L.

        None if the least amounts do not fit.
        """
        program = solver.Program(maximise=True)
        for number, column in enumerate(self.columns):
            least = 0.0 if fixed is None else float(fixed[number])
            program.column(column.block.layers - self.hop_price * column.block.depth, least)
        rows = self._add_rows(program, capped=capped or fixed is not None, elastic=True)
        solution = solver.solve(program).optimum("the continuous program of blocks")
        if solution is None:
            return None
        duals = np.array(solution.row_duals)
        hop = self.hop_price + (max(float(duals[rows["hops"][0]]), 0.0) if rows["hops"] else 0.0)
        spread = np.zeros((self.num_regions, self.widest + 2))
        numbers = iter(rows["spread"])
        for position, ways in self.spread_rows():
            spread[position, ways] = max(-float(duals[next(numbers)]), 0.0)
        return Prices(
            columns=np.array(solution.values)[: len(self.columns)],
            nodes=np.maximum(duals[rows["nodes"]], 0.0),
            layer=max(float(duals[rows["layers"][0]]), 0.0) if rows["layers"] else 0.0,
            hop=hop,
            crossing=duals[rows["crossing"]] if rows["crossing"] else np.zeros(0),
            spread=spread,
        )

    def spread_rows(self) -> list[tuple[int, int]]:
        """Return (position, ways) of each row that counts blocks spread so many ways."""
        if self.num_regions == 1:
            return []
        return [(position, ways) for position in range(self.num_regions) for ways in range(1, self.widest + 1)]

    def _add_rows(self, program: solver.Program, *, capped: bool, elastic: bool) -> dict[str, list[int]]:
        """Add all rows but the objective; ``elastic``: shortfalls are allowed, those at crossings penalised."""
        columns = list(enumerate(self.columns))
        rows: dict[str, list[int]] = {"layers": [], "nodes": [], "hops": [], "crossing": [], "spread": []}
        if capped:
            layers = {number: float(column.block.layers) for number, column in columns if column.block.layers}
            # Whole numbers must cover all layers: as a row, not only as the goal, this shows at once where they cannot.
            least = -solver.INFINITY if elastic else float(self.num_layers)
            rows["layers"].append(program.row(layers, least, float(self.num_layers)))
        used: list[dict[int, float]] = [{} for _ in self.groups]
        for number, column in columns:
            for group, count in column.block.members.items():
                used[group][number] = float(count)
        rows["nodes"] = [program.row(entries, upper=size) for entries, size in zip(used, self.nodes, strict=True)]
        if self.max_hops is not None:
            depths = {number: float(column.block.depth) for number, column in columns if column.block.depth}
            rows["hops"].append(program.row(depths, upper=float(self.max_hops)))
        for crossing in range(self.num_regions - 1):
            entries = {number: 1.0 for number, column in columns if column.place == 2 * crossing + 1}
            if elastic:
                entries[program.column(-tuning.SHORTFALL_PENALTY_LAYERS)] = 1.0
            rows["crossing"].append(program.row(entries, 1.0, 1.0))
        for position, ways in self.spread_rows():
            entries = {}
            for number, column in columns:
                side = column.place - 2 * position
                if side == 0 and column.spread >= ways:
                    entries[number] = 1.0
                elif ways > 1 and abs(side) == 1 and column.needs[0 if side == 1 else 1] >= ways:
                    entries[number] = -1.0
            if elastic:
                entries[program.column(-tuning.SHORTFALL_PENALTY_LAYERS)] = 1.0
            rows["spread"].append(program.row(entries, 1.0 if ways == 1 else 0.0))
        return rows

    def integer(self) -> dict[Column, int] | None:
        """Return a whole-number mix of the columns that covers all layers."""
        program = solver.Program(maximise=True)
        length = float(self.num_layers)
        for column in self.columns:
            program.column(float(column.block.layers), 0.0, 1.0 if column.place % 2 else length, integer=True)
        self._add_rows(program, capped=True, elastic=False)
        solution = solver.solve(
            program,
            max_nodes=tuning.MIP_NODES,
            relative_gap=0.0,
            target=length,
            presolve=False,
            time_limit_s=max(0.1, self.time_left_s()),
        )
        self.is_undecided = solution.status in {solver.SolveStatus.SOLUTION_LIMIT, solver.SolveStatus.TIME_LIMIT}
        if not solution.is_feasible:
            return None
        found = {c: round(value) for c, value in zip(self.columns, solution.values, strict=True) if round(value)}
        covered = sum(column.block.layers * count for column, count in found.items())
        return found if covered == self.num_layers else None

    def is_legal(self, found: dict[Column, int]) -> bool:
        """Return whether a mix that keeps to the fleet also keeps to all other rows."""
        if sum(column.block.layers * count for column, count in found.items()) != self.num_layers:
            return False
        if self.max_hops is not None and sum(c.block.depth * n for c, n in found.items()) > self.max_hops:
            return False
        bridges = [column for column, count in found.items() for _ in range(count) if column.place % 2]
        if sorted(column.place for column in bridges) != list(range(1, 2 * (self.num_regions - 1), 2)):
            return False
        for position, ways in self.spread_rows():
            have = sum(n for c, n in found.items() if c.place == 2 * position and c.spread >= ways)
            need = sum(c.needs[0] >= ways for c in bridges if c.place == 2 * position + 1)
            need += sum(c.needs[1] >= ways for c in bridges if c.place == 2 * position - 1)
            if have < (1 if ways == 1 else need):
                return False
        return True

    def in_order(self, found: dict[Column, int]) -> Chain:
        """Return the blocks in the order of the chain, with spread ones where regions meet."""
        bridges = {column.place: column for column in found if column.place % 2}
        blocks: list[Block] = []
        for position in range(self.num_regions):
            inside = [c for c, count in found.items() for _ in range(count) if c.place == 2 * position]
            inside.sort(key=lambda column: column.spread)
            entry = bridges[2 * position - 1].needs[1] if position else 0
            leave = bridges[2 * position + 1].needs[0] if 2 * position + 1 in bridges else 0
            first: list[Column] = []
            last: list[Column] = []
            for need, where in sorted(((entry, first), (leave, last)), key=lambda item: -item[0]):
                if need > 1:
                    where.append(inside.pop(next(n for n, column in enumerate(inside) if column.spread >= need)))
            blocks += [column.block for column in (*first, *inside, *last)]
            if 2 * position + 1 in bridges and bridges[2 * position + 1].block.layers:
                blocks.append(bridges[2 * position + 1].block)
        return tuple(blocks)
