"""The master program: how often each stage group of a pool is used.

Rows: nodes per node group, layers of the model, hops where they are limited; and, where a pipeline passes several
regions, one bridge per crossing and stage groups that are spread widely enough on either side of it. See
docs/placement.md, section "Master program".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from helixsim import solver
from helixsim.placement import tuning
from helixsim.placement.columns import Bridge, Column, Inside, Slot
from helixsim.placement.pricing import Floats
from helixsim.placement.stages import NodeGroup, Pipeline, StageGroup, segment_tokens_per_s

_SpreadKey = tuple[int, int]
"""(region, ways): the row that counts stage groups of the region that are spread at least ``ways`` ways."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Row numbers in a program."""

    layers: int | None
    nodes: list[int]
    hops: int | None
    crossings: list[int] = field(default_factory=list)
    spread: dict[_SpreadKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prices:
    """Solution of the continuous master program.

    Parameters
    ----------
    amounts
        Amount of each column.
    nodes, layer, hop, crossing, spread
        Value of one unit of each row [layers]: a node of each group, a layer, a hop, a bridge at each crossing, and
        ``spread[region, ways]``.
    """

    amounts: Floats
    nodes: Floats
    layer: float
    hop: float
    crossing: Floats
    spread: Floats

    def node_cost(self, stage_group: StageGroup) -> float:
        """Return the value of the nodes that a stage group takes [layers]."""
        return float(sum(self.nodes[group] * count for group, count in stage_group.members.items()))

    def reduced_value(self, slot: Slot, stage_group: StageGroup, node_cost: float, spread: int) -> float:
        """Return how much a unit of a column adds to the objective [layers], given the value of its nodes [layers]."""
        value = stage_group.layers * (1.0 - self.layer) - node_cost - stage_group.depth * self.hop
        if isinstance(slot, Inside):
            return float(value + self.spread[slot.region, 1 : spread + 1].sum())
        value -= self.crossing[slot.crossing] + self.spread[slot.crossing, 2 : slot.spread_before + 1].sum()
        return float(value - self.spread[slot.crossing + 1, 2 : slot.spread_after + 1].sum())


class Master:
    """The program of one target flow and its columns.

    Parameters
    ----------
    num_regions
        Regions that the pipeline passes; one bridge is chosen between each two.
    max_spread
        Largest number of ways in which a stage group must be spread.
    max_hops
        Most nodes on a route; None: no limit. May be changed between solves.
    hop_price
        Price of a hop in the continuous program [layers].
    """

    def __init__(
        self,
        groups: Sequence[NodeGroup],
        num_layers: int,
        flow_tokens_per_s: float,
        *,
        num_regions: int,
        max_spread: int,
        max_hops: int | None,
        hop_price: float,
        time_left_s: Callable[[], float],
    ) -> None:
        self.groups = groups
        self.num_layers = num_layers
        self.flow = flow_tokens_per_s
        self.num_regions = num_regions
        self.max_spread = max_spread
        self.max_hops = max_hops
        self.hop_price = hop_price
        self.time_left_s = time_left_s
        self.nodes = np.array([len(group.nodes) for group in groups], dtype=float)
        self.columns: dict[Column, None] = {}
        self.is_undecided = False
        """Whether the last integer solve ended at its limit of nodes or time."""

    def add(self, slot: Slot, stage_group: StageGroup) -> bool:
        """Add a column; return whether it is new."""
        column = Column(slot, stage_group, self.spread(stage_group))
        if column in self.columns:
            return False
        self.columns[column] = None
        return True

    def spread(self, stage_group: StageGroup) -> int:
        """Return in how many ways a stage group is spread."""
        if self.max_spread == 1 or not stage_group.segments:
            return 1
        speeds = [(segment_tokens_per_s(self.groups, segment), copies) for segment, copies in stage_group.segments]
        for ways in range(self.max_spread, 1, -1):
            limit = self.flow / ways
            carried = sum(min(speed, limit) * copies for speed, copies in speeds)
            if carried >= self.flow * (1 - tuning.FLOW_TOLERANCE):
                return ways
        return 1

    def layers(self) -> Floats:
        """Return the layers of each column."""
        return np.array([column.stage_group.layers for column in self.columns], dtype=float)

    def depths(self) -> Floats:
        """Return the hops of each column."""
        return np.array([column.stage_group.depth for column in self.columns], dtype=float)

    def fits(self, amounts: Floats) -> bool:
        """Return whether there are enough nodes and hops for these amounts of the columns."""
        is_within_hops = self.max_hops is None or amounts @ self.depths() <= self.max_hops
        return bool((self.nodes_used(amounts) <= self.nodes).all() and is_within_hops)

    def nodes_used(self, amounts: Floats) -> Floats:
        """Return the nodes of each group that these amounts of the columns take."""
        used = np.zeros(len(self.nodes))
        for column, amount in zip(self.columns, amounts, strict=False):
            if amount:
                for group, count in column.stage_group.members.items():
                    used[group] += amount * count
        return used

    def relax(self, capped: bool, fixed: Floats | None) -> Prices | None:
        """Solve the continuous program; None if the fixed amounts do not fit.

        Parameters
        ----------
        capped
            Cover at most the layers of the model.
        fixed
            Lower limits of the amounts; None: zero. Implies ``capped``.
        """
        program = solver.Program(maximise=True)
        for number, column in enumerate(self.columns):
            lower = 0.0 if fixed is None else float(fixed[number])
            program.column(column.stage_group.layers - self.hop_price * column.stage_group.depth, lower)
        rows = self._add_rows(program, capped=capped or fixed is not None, elastic=True)
        solution = solver.solve(program).optimum("the continuous program of stage groups")
        if solution is None:
            return None
        duals = np.array(solution.row_duals)
        spread = np.zeros((self.num_regions, self.max_spread + 2))
        for key, row in rows.spread.items():
            spread[key] = max(-float(duals[row]), 0.0)
        return Prices(
            amounts=np.array(solution.values)[: len(self.columns)],
            nodes=np.maximum(duals[rows.nodes], 0.0),
            layer=0.0 if rows.layers is None else max(float(duals[rows.layers]), 0.0),
            hop=self.hop_price + (0.0 if rows.hops is None else max(float(duals[rows.hops]), 0.0)),
            crossing=duals[rows.crossings] if rows.crossings else np.zeros(0),
            spread=spread,
        )

    def _add_rows(self, program: solver.Program, *, capped: bool, elastic: bool) -> _Rows:
        """Add all rows; with ``elastic`` shortfalls are allowed, those at crossings at a penalty."""
        columns = list(enumerate(self.columns))
        layers: int | None = None
        if capped:
            entries = {n: float(column.stage_group.layers) for n, column in columns if column.stage_group.layers}
            # In the integer program a row, not only the objective, requires all layers: it shows infeasibility at once.
            lower = -solver.INFINITY if elastic else float(self.num_layers)
            layers = program.row(entries, lower, float(self.num_layers))
        used: list[dict[int, float]] = [{} for _ in self.groups]
        for number, column in columns:
            for group, count in column.stage_group.members.items():
                used[group][number] = float(count)
        nodes = [program.row(entries, upper=size) for entries, size in zip(used, self.nodes, strict=True)]
        hops: int | None = None
        if self.max_hops is not None:
            depths = {n: float(column.stage_group.depth) for n, column in columns if column.stage_group.depth}
            hops = program.row(depths, upper=float(self.max_hops))
        rows = _Rows(layers, nodes, hops)
        if self.num_regions == 1:
            return rows
        crossings, spread = self._crossing_entries()
        for entries in crossings:
            if elastic:
                entries[program.column(-tuning.SHORTFALL_PENALTY_LAYERS)] = 1.0
            rows.crossings.append(program.row(entries, 1.0, 1.0))
        for key, entries in spread.items():
            if elastic:
                entries[program.column(-tuning.SHORTFALL_PENALTY_LAYERS)] = 1.0
            rows.spread[key] = program.row(entries, 1.0 if key[1] == 1 else 0.0)
        return rows

    def _crossing_entries(self) -> tuple[list[dict[int, float]], dict[_SpreadKey, dict[int, float]]]:
        """Return the coefficients of the rows for bridges and for spread stage groups."""
        crossings: list[dict[int, float]] = [{} for _ in range(self.num_regions - 1)]
        keys = itertools.product(range(self.num_regions), range(1, self.max_spread + 1))
        spread: dict[_SpreadKey, dict[int, float]] = {key: {} for key in keys}
        for number, (slot, _, column_spread) in enumerate(self.columns):
            if isinstance(slot, Inside):
                for ways in range(1, column_spread + 1):
                    spread[slot.region, ways][number] = 1.0
            else:
                crossings[slot.crossing][number] = 1.0
                for ways in range(2, slot.spread_before + 1):
                    spread[slot.crossing, ways][number] = -1.0
                for ways in range(2, slot.spread_after + 1):
                    spread[slot.crossing + 1, ways][number] = -1.0
        return crossings, spread

    def integer(self) -> dict[Column, int] | None:
        """Return numbers of uses of the columns that cover all layers; None if none were found."""
        program = solver.Program(maximise=True)
        num_layers = float(self.num_layers)
        for column in self.columns:
            program.column(float(column.stage_group.layers), 0.0, 1.0 if column.is_bridge else num_layers, integer=True)
        self._add_rows(program, capped=True, elastic=False)
        solution = solver.solve(
            program, max_nodes=tuning.MIP_NODES, relative_gap=0.0, target=num_layers, presolve=False,
            time_limit_s=max(0.1, self.time_left_s()),
        )  # fmt: skip
        self.is_undecided = solution.status in {solver.SolveStatus.SOLUTION_LIMIT, solver.SolveStatus.TIME_LIMIT}
        if not solution.is_feasible:
            return None
        counts = {c: round(value) for c, value in zip(self.columns, solution.values, strict=True) if round(value)}
        covered = sum(column.stage_group.layers * count for column, count in counts.items())
        return counts if covered == self.num_layers else None

    def pipeline(self, counts: Mapping[Column, int]) -> Pipeline:
        """Return the stage groups in the order of the pipeline, with spread ones next to bridges."""
        bridges = {slot.crossing: (slot, group) for slot, group, _ in counts if isinstance(slot, Bridge)}
        stage_groups: list[StageGroup] = []
        for region in range(self.num_regions):
            inside = [column for column, n in counts.items() for _ in range(n) if column.slot == Inside(region)]
            inside.sort(key=lambda column: column.spread)
            at_entry = bridges[region - 1][0].spread_after if region else 0
            at_exit = bridges[region][0].spread_before if region in bridges else 0
            first: list[Column] = []
            last: list[Column] = []
            for ways, end in sorted(((at_entry, first), (at_exit, last)), key=lambda item: -item[0]):
                if ways > 1:
                    end.append(inside.pop(next(n for n, column in enumerate(inside) if column.spread >= ways)))
            stage_groups += [column.stage_group for column in (*first, *inside, *last)]
            if region in bridges and bridges[region][1].layers:
                stage_groups.append(bridges[region][1])
        return tuple(stage_groups)
