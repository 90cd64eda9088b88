"""Stage patterns: chains of stages that carry a given flow, with as few stages as possible.

For a target flow F only min(T(k), F) counts. A *pattern* is a minimal set of interchangeable nodes whose capacities
with k layers add up to F. An integer program picks patterns whose layers add up to the model. It knows nodes only by
group, so the symmetry that defeats the per-node program (every permutation of equal nodes and of stages) is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from helixsim import solver
from helixsim.flow.capacity import best_supply
from helixsim.placement.stages import Group, Stage

_MOST_PATTERNS = 120
"""Patterns kept per region and stage length, the least wasteful ones."""

_MOST_VISITED = 4000
"""Steps of the enumeration per region and stage length."""

_MOST_NODES = 40
"""Branch-and-bound nodes per program; what is not found by then counts as not there."""

_MOST_ENDS = 30
"""Stages offered for one side of one way to cross between regions, the least wasteful ones."""

_WIDEST_END = 5
"""Most nodes on either side of a crossing between regions that the program reckons with."""

_TOLERANCE = 1e-9

_FIRST, _INNER, _LAST = 0, 1, 2
"""Roles of a stage in its region, in the order of the chain."""


@dataclass(frozen=True, slots=True)
class ChainSearch:
    """Chains through regions in a given order.

    ``groups`` are all groups of the fleet; those of regions outside ``order`` are not used. ``crossings`` has one
    entry between each two neighbours in ``order``: tokens/s of the weakest link from a node of the one region to a
    node of the next.
    """

    groups: tuple[Group, ...]
    num_layers: int
    order: tuple[str, ...]
    crossings_tokens_per_s: tuple[float, ...]

    def members(self, region: str) -> list[int]:
        """Return the numbers of the groups of a region."""
        return [number for number, group in enumerate(self.groups) if group.region == region]

    def shortest(
        self, flow_tokens_per_s: float, max_stages: int | None = None, time_limit_s: float = solver.INFINITY
    ) -> tuple[Stage, ...] | None:
        """Return the stages of a chain that carries ``flow_tokens_per_s`` through fewest stages; None if none found.

        Links inside a region are taken as ample; where regions meet, enough nodes must face each other.
        """
        builder = _Builder(self, flow_tokens_per_s)
        if not builder.add_columns():
            return None
        builder.add_rows(max_stages)
        solution = solver.solve(builder.program, max_nodes=_MOST_NODES, relative_gap=0.03, time_limit_s=time_limit_s)
        return builder.chain(solution.values) if solution.is_feasible else None


def patterns(groups: Sequence[Group], members: Sequence[int], layers: int, flow: float) -> list[Stage]:
    """Return minimal stages of ``layers`` layers, from the groups numbered ``members``, that carry ``flow``."""
    able = [g for g in members if len(groups[g].tokens_per_s) >= layers and groups[g].tokens_per_s[layers - 1] > 0]
    able.sort(key=lambda g: (-groups[g].tokens_per_s[layers - 1], g))
    speed = [groups[g].tokens_per_s[layers - 1] for g in able]
    enough = flow * (1 - _TOLERANCE)
    counts = [0] * len(able)
    found: list[Stage] = []
    visited = 0

    def extend(at: int, carried: float) -> None:
        nonlocal visited
        visited += 1
        if visited > _MOST_VISITED:
            return
        if carried >= enough:
            # The slowest member is the last one added, so the stage is minimal if it cannot do without that one.
            found.append(Stage(layers, tuple(sorted((g, n) for g, n in zip(able, counts, strict=True) if n))))
            return
        if at == len(able):
            return
        needed = -int(-(enough - carried) // speed[at])
        for count in range(min(len(groups[able[at]].nodes), needed), -1, -1):
            counts[at] = count
            extend(at + 1, carried + count * speed[at])
        counts[at] = 0

    extend(0, 0.0)
    found.sort(key=lambda stage: (_waste(groups, stage, flow), stage.members))
    return found[:_MOST_PATTERNS]


def _waste(groups: Sequence[Group], stage: Stage, flow: float) -> float:
    """Return how much of what its nodes could supply elsewhere a stage takes, per layer it holds."""
    return sum(count * best_supply(groups[group].tokens_per_s, flow) for group, count in stage.members) / stage.layers


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to cross from one region to the next: ``senders`` nodes face ``receivers`` nodes."""

    senders: int
    receivers: int


class _Builder:
    """The integer program of one target flow."""

    def __init__(self, search: ChainSearch, flow: float) -> None:
        self.search = search
        self.flow = flow
        self.program = solver.Program()
        self.stages: list[Stage] = []  # one per column
        self.place: list[tuple[int, int]] = []  # column -> (position in order, role)
        self.inner: list[list[int]] = [[] for _ in search.order]
        self.crossing_rows: list[dict[int, float]] = []
        self.choices: list[list[int]] = [[] for _ in search.crossings_tokens_per_s]

    def add_columns(self) -> bool:
        """Return False if some region or crossing has nothing to offer."""
        search, flow = self.search, self.flow
        longest = max(len(group.tokens_per_s) for group in search.groups)
        pools = [
            [
                stage
                for layers in range(1, longest + 1)
                for stage in patterns(search.groups, search.members(region), layers, flow)
            ]
            for region in search.order
        ]
        for position, pool in enumerate(pools):
            self.inner[position] = [self._column(stage, position, _INNER) for stage in pool]
        for number, link in enumerate(search.crossings_tokens_per_s):
            self._add_crossing(number, link, pools)
            if not self.choices[number]:
                return False
        return any(pools)

    def _column(self, stage: Stage, position: int, role: int) -> int:
        self.stages.append(stage)
        self.place.append((position, role))
        # A stage costs one hop; the size breaks ties, so that nodes are left over for where they help most.
        most = min(len(self.search.groups[group].nodes) // count for group, count in stage.members)
        upper = float(most if role == _INNER else 1)
        return self.program.column(1.0 + 1e-4 * stage.size, 0.0, upper, integer=True)

    def _add_crossing(self, number: int, link: float, pools: Sequence[Sequence[Stage]]) -> None:
        for option in _options(link, self.flow):
            last = self._ends(number, pools[number], option.senders, option.receivers * link, _LAST)
            first = self._ends(number + 1, pools[number + 1], option.receivers, option.senders * link, _FIRST)
            if last and first:
                self.crossing_rows.append(dict.fromkeys(last, 1.0) | dict.fromkeys(first, -1.0))
                self.choices[number] += last

    def _ends(self, position: int, pool: Sequence[Stage], least: int, per_node: float, role: int) -> list[int]:
        """Add columns for stages at the edge of a region: at least ``least`` nodes, each limited to ``per_node``."""
        groups = self.search.groups
        fit = [
            stage
            for stage in _widened(groups, self.search.members(self.search.order[position]), pool, least)
            if sum(n * min(groups[g].tokens_per_s[stage.layers - 1], per_node) for g, n in stage.members)
            >= self.flow * (1 - _TOLERANCE)
        ]
        fit.sort(key=lambda stage: (_waste(groups, stage, self.flow), stage.layers, stage.members))
        return [self._column(stage, position, role) for stage in fit[:_MOST_ENDS]]

    def add_rows(self, max_stages: int | None) -> None:
        """Add fleet, model and hop rows."""
        search = self.search
        columns = range(self.program.num_columns)
        layers = {column: float(self.stages[column].layers) for column in columns}
        self.program.row(layers, search.num_layers, search.num_layers)
        for number, group in enumerate(search.groups):
            used = {
                column: float(count)
                for column in columns
                for member, count in self.stages[column].members
                if member == number
            }
            if used:
                self.program.row(used, upper=float(len(group.nodes)))
        for choice in self.choices:
            self.program.row(choice, 1.0, 1.0)
        for row in self.crossing_rows:
            self.program.row(row, 0.0, 0.0)
        if max_stages is not None:
            self.program.row(columns, upper=float(max_stages))

    def chain(self, values: Sequence[float]) -> tuple[Stage, ...]:
        """Return the chosen stages in order."""
        chosen = [(self.place[c], c) for c, value in enumerate(values) for _ in range(round(value))]
        return tuple(self.stages[column] for _, column in sorted(chosen))


def _options(link: float, flow: float) -> Iterator[_Option]:
    """Yield the narrowest ways to cross by links of ``link`` tokens/s each."""
    for senders in range(1, _WIDEST_END + 1):
        for receivers in range(1, _WIDEST_END + 1):
            enough = senders * receivers * link >= flow
            if enough and not (senders > 1 and receivers > 1 and (senders - 1) * (receivers - 1) * link >= flow):
                yield _Option(senders, receivers)
                if link >= flow:
                    return


def _widened(groups: Sequence[Group], members: Sequence[int], pool: Sequence[Stage], least: int) -> list[Stage]:
    """Return stages of at least ``least`` nodes: those of the pool, the smaller ones filled up with one more kind."""
    wide: dict[Stage, None] = {}
    for stage in pool:
        missing = least - stage.size
        if missing <= 0:
            wide[stage] = None
            continue
        for group in members:
            counts = dict(stage.members)
            counts[group] = counts.get(group, 0) + missing
            if counts[group] <= len(groups[group].nodes) and len(groups[group].tokens_per_s) >= stage.layers:
                wide[Stage(stage.layers, tuple(sorted(counts.items())))] = None
    return list(wide)
