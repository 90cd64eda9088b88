"""Pipelines that carry a given flow, by column generation.

For a target flow F only min(capacity, F) counts. The master program decides how often each stage group of a pool is
used; pricing supplies the stage groups that are worth most at the master's dual prices. Nodes enter by node group only,
so the symmetry that defeats the per-node program (every permutation of equal nodes and of stages) is gone.

A pipeline passes its regions in a given order, each once, over one bridge between each two. See docs/placement.md,
section "Column generation".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from helixsim import solver
from helixsim.placement import tuning
from helixsim.placement.columns import Bridge, Column, Inside, Slot
from helixsim.placement.master import Master, Prices
from helixsim.placement.patterns import stages
from helixsim.placement.pricing import Floats, Offer, Pricer, Request, Side
from helixsim.placement.stages import NodeGroup, Pipeline, Segment, StageGroup, segment_tokens_per_s


@dataclass(frozen=True)
class PipelineSearch:
    """Search for pipelines through regions in a given order.

    Parameters
    ----------
    groups
        Node groups; those of regions outside ``order`` are not used.
    crossings_tokens_per_s
        For each two neighbours in ``order``, the capacity of the link between a node of the one and a node of the next
        [tokens/s].
    longest, grid
        See ``Pricer``; larger values find more and take longer.
    survives
        Each stage group carries the flow without any one of its segments; for one region.
    """

    groups: tuple[NodeGroup, ...]
    num_layers: int
    order: tuple[str, ...]
    crossings_tokens_per_s: tuple[float, ...] = ()
    longest: int = tuning.SEARCH_LAYERS
    grid: int = tuning.GRID
    survives: bool = False

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the node groups of each region in ``order``."""
        return tuple(
            tuple(number for number, group in enumerate(self.groups) if group.region == region) for region in self.order
        )

    def find(
        self,
        flow_tokens_per_s: float,
        *,
        max_hops: int | None = None,
        fewest_hops: bool = False,
        time_left_s: Callable[[], float] = lambda: solver.INFINITY,
    ) -> Pipeline | None:
        """Return a pipeline that carries ``flow_tokens_per_s`` [tokens/s], None if none is found.

        With ``fewest_hops`` it has as few hops as the search can find, else up to ``max_hops``.
        """
        return _Generation(self, flow_tokens_per_s, max_hops, fewest_hops, time_left_s).pipeline()


@dataclass(frozen=True, slots=True)
class _Target:
    """A type of column to price; its stage group is to be spread ``spread`` ways."""

    slot: Slot
    spread: int
    request: Request


class _Generation:
    """The search for one target flow."""

    def __init__(
        self,
        search: PipelineSearch,
        flow: float,
        max_hops: int | None,
        fewest_hops: bool,
        time_left_s: Callable[[], float],
    ) -> None:
        self.search = search
        self.flow = flow
        self.limit = max_hops
        self.fewest_hops = fewest_hops
        self.hops_count = fewest_hops or max_hops is not None
        self.is_one_region = len(search.order) == 1
        self.time_left_s = time_left_s
        self.pricer = Pricer(search.groups, flow, search.longest, search.grid)
        links = enumerate(search.crossings_tokens_per_s)
        self.empty_bridges = [_empty_bridges(crossing, flow, link) for crossing, link in links]
        self.targets = self._all_targets()
        bridges = [target.slot for target in self.targets if isinstance(target.slot, Bridge)]
        bridges += itertools.chain.from_iterable(self.empty_bridges)
        self.master = Master(
            search.groups, search.num_layers, flow,
            num_regions=len(search.order),
            max_spread=max((max(bridge.spread_before, bridge.spread_after) for bridge in bridges), default=1),
            max_hops=max_hops, hop_price=tuning.HOP_PRICE_LAYERS if fewest_hops else 0.0, time_left_s=time_left_s,
        )  # fmt: skip

    def pipeline(self) -> Pipeline | None:
        """Return the result of ``PipelineSearch.find``."""
        if not all(self.empty_bridges):
            return None
        self._add_first_columns()
        prices = self._generate(tuning.COLUMN_ROUNDS, capped=self.fewest_hops)
        if prices is None or prices.amounts @ self.master.layers() < self.search.num_layers - 1e-6:
            return None
        if self.fewest_hops:
            counts = self._with_fewest_hops(prices)
        else:
            counts = self.master.integer()
            if counts is None and (self.is_one_region or not self.master.is_undecided):
                self._add_perturbed_columns(prices)
                counts = self.master.integer()
            if counts is None and self.is_one_region:  # a dive seldom meets the rows of a crossing
                counts = self._dive() or self.master.integer()
        return None if counts is None else self.master.pipeline(counts)

    def _with_fewest_hops(self, prices: Prices) -> dict[Column, int] | None:
        """Return an integer solution with the hops of the continuous one, or a few more."""
        fewest = int(np.ceil(prices.amounts @ self.master.depths() - 1e-6))
        for extra in tuning.EXTRA_HOPS if self.is_one_region else tuning.EXTRA_HOPS_CROSSING:
            if self.limit is None or fewest + extra <= self.limit:
                self.master.max_hops = fewest + extra
                counts = self.master.integer()
                if counts is not None:
                    return counts
        return None

    # --- columns -----------------------------------------------------------------------------------------------------

    def _all_targets(self) -> list[_Target]:
        """Return all types of columns."""
        members = self.search.members
        if self.search.survives:
            return [_surviving(members[0], self.flow, ways) for ways in tuning.SURVIVING_WAYS]
        evens = [bridges[0].spread_before if bridges else 1 for bridges in self.empty_bridges]
        candidates = [sorted({1, 2, 3} if even <= 3 else {1, even // 2, even}) for even in evens]
        required = {n for bridges in self.empty_bridges for _, before, after in bridges for n in (before, after)}
        spreads = sorted({1} | required | {n for ways in candidates for n in ways})
        targets: list[_Target] = []
        for region, groups in enumerate(members):
            for spread in spreads:
                limit = float("inf") if spread == 1 else self.flow / spread
                targets.append(_Target(Inside(region), spread, (Side(groups, limit),)))
        for crossing, link in enumerate(self.search.crossings_tokens_per_s):
            for before, after in itertools.product(candidates[crossing], repeat=2):
                if before + after <= 2 * max(2, max(candidates[crossing]) - 1):
                    sides = (Side(members[crossing], after * link), Side(members[crossing + 1], before * link))
                    targets.append(_Target(Bridge(crossing, before, after), 1, sides))
        return targets

    def _undominated(self, prices: Prices) -> list[_Target]:
        """Return the targets that are not dominated at these prices.

        Where rows between two numbers of ways have no price, spreading a stage group further gains nothing, and wider
        neighbours cost a bridge nothing.
        """

        def is_free(region: int, ways: int, more: int) -> bool:
            return bool(prices.spread[region, ways + 1 : more + 1].sum() <= tuning.FLOW_TOLERANCE)

        def is_dominated(target: _Target, other: _Target) -> bool:
            one, two = target.slot, other.slot
            if isinstance(one, Inside) and isinstance(two, Inside):
                is_less_spread = one.region == two.region and other.spread < target.spread
                return is_less_spread and is_free(one.region, other.spread, target.spread)
            if isinstance(one, Bridge) and isinstance(two, Bridge):
                is_wider = two.spread_before >= one.spread_before and two.spread_after >= one.spread_after
                return (
                    one != two
                    and one.crossing == two.crossing
                    and is_wider
                    and is_free(one.crossing, one.spread_before, two.spread_before)
                    and is_free(one.crossing + 1, one.spread_after, two.spread_after)
                )
            return False

        return [target for target in self.targets if not any(is_dominated(target, other) for other in self.targets)]

    def _add_first_columns(self) -> None:
        for region, groups in enumerate(self.search.members):
            for stage_group in stages(self.search.groups, groups, self.flow):
                self.master.add(Inside(region), _doubled(stage_group) if self.search.survives else stage_group)
        for bridges in self.empty_bridges:
            for bridge in bridges:
                self.master.add(bridge, StageGroup(0, ()))

    # --- column generation -------------------------------------------------------------------------------------------

    def _generate(self, rounds: int, *, capped: bool, fixed: Floats | None = None) -> Prices | None:
        """Add columns until none has a positive reduced value; return the last prices.

        None if the layers are out of reach or the fixed amounts do not fit.
        """
        free = self.master.nodes if fixed is None else self.master.nodes - self.master.nodes_used(fixed)
        prices = self.master.relax(capped, fixed)
        for _ in range(rounds):
            if prices is None or self.time_left_s() <= 0:
                break
            targets = self._undominated(prices)
            requests = [target.request for target in targets]
            offers = self.pricer.offers(prices.nodes, requests, hops_count=self.hops_count)
            if fixed is None and not capped and self._is_out_of_reach(prices, offers):
                return None
            is_extended = False
            for target, priced in zip(targets, offers, strict=True):
                for offer in priced:
                    is_worth = self._reduced_value(prices, target, offer.stage_group, offer.cost) > 1e-6
                    if is_worth and _fits(offer.stage_group, free):
                        is_extended = self._add(target, offer.stage_group) or is_extended
            if not is_extended:
                break
            if fixed is not None:
                fixed = self._padded(fixed)
            prices = self.master.relax(capped, fixed)
        return prices

    def _add_perturbed_columns(self, prices: Prices) -> None:
        """Add columns at perturbed prices, as an integer solution needs more columns than the continuous one."""
        rng = np.random.default_rng(0)
        requests = [target.request for target in self.targets]
        for _ in range(-(-tuning.PERTURBED_PRICINGS // len(self.search.order))):
            if self.time_left_s() <= 0:
                break
            perturbed = prices.nodes * rng.uniform(*tuning.PERTURBATION, len(self.master.nodes))
            offers = self.pricer.offers(perturbed, requests, hops_count=self.hops_count, mixed=True)
            for target, priced in zip(self.targets, offers, strict=True):
                for offer in priced:
                    cost = prices.node_cost(offer.stage_group)
                    value = self._reduced_value(prices, target, offer.stage_group, cost)
                    if value > -tuning.PERTURBED_LOSS_LAYERS and _fits(offer.stage_group, self.master.nodes):
                        self._add(target, offer.stage_group)

    def _reduced_value(self, prices: Prices, target: _Target, stage_group: StageGroup, cost: float) -> float:
        """Return how much one unit of the column adds to the master's objective [layers]."""
        spread = self.master.spread(stage_group) if isinstance(target.slot, Inside) else 0
        return prices.reduced_value(target.slot, stage_group, cost, spread)

    def _add(self, target: _Target, stage_group: StageGroup) -> bool:
        """Add a column; return whether it is new."""
        is_trimmed = self.is_one_region and not self.search.survives
        return self.master.add(target.slot, self._trimmed(stage_group) if is_trimmed else stage_group)

    def _trimmed(self, stage_group: StageGroup) -> StageGroup:
        """Drop segments that the flow does not need (the grid rounds capacities down)."""
        groups = self.search.groups
        surplus = stage_group.tokens_per_s(groups) - self.flow
        needed: list[tuple[Segment, int]] = []
        for speed, segment, copies in sorted((segment_tokens_per_s(groups, s), s, n) for s, n in stage_group.segments):
            dropped = min(copies, int(surplus / speed + tuning.FLOW_TOLERANCE))
            surplus -= dropped * speed
            if copies > dropped:
                needed.append((segment, copies - dropped))
        return StageGroup(stage_group.layers, tuple(sorted(needed)))

    def _is_out_of_reach(self, prices: Prices, offers: Sequence[Sequence[Offer]]) -> bool:
        """Return whether no pool of columns covers the layers, by Farley's bound; only inside one region."""
        if not self.is_one_region:
            return False
        ratio = min(
            (
                (offer.cost + offer.stage_group.depth * prices.hop) / offer.stage_group.layers
                for offer in itertools.chain.from_iterable(offers)
            ),
            default=0.0,
        )
        limit = float(prices.nodes @ self.master.nodes) + prices.hop * (self.master.max_hops or 0)
        return ratio > 0 and limit / min(ratio, 1.0) < self.search.num_layers * (1 - 1e-6)

    # --- integer solutions -------------------------------------------------------------------------------------------

    def _padded(self, amounts: Floats) -> Floats:
        """Return the amounts with zeros for new columns."""
        return np.append(amounts, np.zeros(len(self.master.columns) - len(amounts)))

    def _dive(self) -> dict[Column, int] | None:
        """Fix the integer parts of the continuous solution, or else its largest fraction, and price again."""
        fixed = np.zeros(len(self.master.columns))
        num_layers = self.search.num_layers
        while self.time_left_s() > 0:
            prices = self._generate(tuning.DIVE_ROUNDS, capped=True, fixed=fixed)
            if prices is None:
                return None
            fixed = self._padded(fixed)
            layers = self.master.layers()
            if fixed @ layers == num_layers:
                break
            if prices.amounts @ layers < num_layers - 1e-6:
                return None
            whole = np.floor(prices.amounts + 1e-6)
            if (whole > fixed).any():
                fixed = np.maximum(fixed, whole)
                continue
            fraction = prices.amounts - fixed
            for number in np.argsort(-fraction, kind="stable"):
                trial = fixed.copy()
                trial[number] += 1
                if fraction[number] > 1e-6 and trial @ layers <= num_layers and self.master.fits(trial):
                    fixed = trial
                    break
            else:
                return None
        return {column: int(count) for column, count in zip(self.master.columns, fixed, strict=True) if count}


def _surviving(groups: tuple[int, ...], flow: float, ways: int) -> _Target:
    """Return the stage groups that carry the flow without any one segment, as their segments are spread so many ways.

    Cut at F / (ways - 1) each, segments add up to F * ways / (ways - 1): less one they still carry F.
    """
    return _Target(Inside(0), 1, (Side(groups, flow / (ways - 1), (ways - 1) / ways),))


def _doubled(stage_group: StageGroup) -> StageGroup:
    """Return a stage group with each segment twice, of which any one may be lost."""
    return StageGroup(stage_group.layers, tuple((segment, 2 * copies) for segment, copies in stage_group.segments))


def _fits(stage_group: StageGroup, nodes: Floats) -> bool:
    """Return whether there are enough nodes of each group."""
    return all(count <= nodes[group] for group, count in stage_group.members.items())


def _empty_bridges(crossing: int, flow: float, link: float) -> list[Bridge]:
    """Return the minimal empty bridges over links of ``link`` tokens/s, the most evenly spread first."""
    bridges: list[Bridge] = []
    for before in range(1, tuning.MAX_SPREAD + 1):
        after = max(1, int(np.ceil(flow / (link * before) * (1 - tuning.FLOW_TOLERANCE))))
        is_minimal = before == 1 or (before - 1) * after * link < flow * (1 - tuning.FLOW_TOLERANCE)
        if after <= tuning.MAX_SPREAD and is_minimal:
            bridges.append(Bridge(crossing, before, after))
    bridges.sort(key=lambda bridge: (max(bridge.spread_before, bridge.spread_after), bridge))
    return bridges[: tuning.MAX_BRIDGES]
