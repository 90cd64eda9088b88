"""Chains of blocks that carry a given flow, by column generation.

For a target flow F only min(T(k), F) counts. The master program counts how often each block is used: fleet rows per
group, the layers of the model as objective. ``pricing`` supplies the blocks that are worth most at the master's prices.
It knows nodes only by group, so the symmetry that defeats the per-node program (every permutation of equal nodes and of
stages) is gone.

A chain passes its regions in a given order and each of them once. Where regions meet, one *bridge* is chosen: a block
mixed of both regions, or none, with the number of strands that must face each other on either side. A block is *spread*
n ways if it carries F with no strand above F / n. If the neighbours of a bridge are spread n1 and n2 ways, a link
between two of their strands carries at most F / (n1 n2), a link from the first neighbour to a strand of the bridge at
most 1 / n1 of what that strand carries, so rows that count spread blocks make the chain exact, given ample links inside
regions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from helixsim import solver
from helixsim.placement import tuning
from helixsim.placement.master import Column, Master, Prices
from helixsim.placement.patterns import stages
from helixsim.placement.pricing import Floats, Offer, Pricer, Request
from helixsim.placement.stages import Block, Chain, Group, strand_tokens_per_s


@dataclass(frozen=True)
class BlockSearch:
    """Chains through regions in a given order.

    Parameters
    ----------
    groups
        All groups of the fleet; those of regions outside ``order`` are not used.
    crossings_tokens_per_s
        One entry between each two neighbours in ``order``: tokens/s of the weakest link from a node of the one region
        to a node of the next.
    longest, grid
        See ``Pricer``; more of either finds more and takes longer.
    """

    groups: tuple[Group, ...]
    num_layers: int
    order: tuple[str, ...]
    crossings_tokens_per_s: tuple[float, ...] = ()
    longest: int = tuning.SEARCH_LAYERS
    grid: int = tuning.GRID

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the groups of each region in ``order``."""
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
    ) -> Chain | None:
        """Return a chain that carries ``flow_tokens_per_s``; None if none was found.

        With ``fewest_hops`` a chain with as few hops as the search finds; else any within ``max_hops``.
        """
        return _Generation(self, flow_tokens_per_s, max_hops, fewest_hops, time_left_s).chain()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A kind of block to price: inside a region, spread ``ways``, or a bridge whose neighbours are spread ``needs``."""

    place: int
    needs: tuple[int, int]
    ways: int
    request: Request


class _Generation:
    """The search for one target flow."""

    def __init__(
        self,
        search: BlockSearch,
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
        self.time_left_s = time_left_s
        self.pricer = Pricer(search.groups, flow, search.longest, search.grid)
        self.bridges = [_bridges(flow, link) for link in search.crossings_tokens_per_s]
        self.wanted = self._all_wanted()
        faced = [kind.needs for kind in self.wanted] + [pair for bridges in self.bridges for pair in bridges]
        self.master = Master(
            search.groups, search.num_layers, flow,
            num_regions=len(search.order), widest=max(1, *map(max, faced)), max_hops=max_hops,
            hop_price=tuning.HOP_PRICE_LAYERS if fewest_hops else 0.0, time_left_s=time_left_s,
        )  # fmt: skip

    def chain(self) -> Chain | None:
        """Return what ``BlockSearch.find`` promises."""
        if not all(self.bridges):
            return None
        self._first_columns()
        prices = self._generate(tuning.COLUMN_ROUNDS, capped=self.fewest_hops)
        if prices is None or prices.columns @ self.master.layers() < self.search.num_layers - 1e-6:
            return None
        if self.fewest_hops:
            found = self._shallow(prices)
        else:
            found = self.master.integer()
            is_alone = len(self.search.order) == 1
            if found is None and (is_alone or not self.master.is_undecided):  # with more columns it stays undecided
                self._enrich(prices)
                found = self.master.integer()
            if found is None and is_alone:  # a dive seldom meets the rows of a crossing
                found = self._dive() or self.master.integer()
        return None if found is None else self.master.in_order(found)

    def _shallow(self, prices: Prices) -> dict[Column, int] | None:
        """Return a whole-number mix within as few hops as the continuous one passes, or some more."""
        depths = np.array([column.block.depth for column in self.master.columns], dtype=float)
        least = int(np.ceil(prices.columns @ depths - 1e-6))
        for extra in tuning.EXTRA_HOPS if len(self.search.order) == 1 else tuning.EXTRA_HOPS_CROSSING:
            if self.limit is None or least + extra <= self.limit:
                self.master.max_hops = least + extra
                found = self.master.integer()
                if found is not None:
                    return found
        return None

    # --- columns -----------------------------------------------------------------------------------------------------

    def _all_wanted(self) -> list[_Wanted]:
        """Return every kind of block that may be of use."""
        members, infinite = self.search.members, float("inf")
        evens = [bridges[0][0] if bridges else 1 for bridges in self.bridges]
        faces = [sorted({1, 2, 3} if even <= 3 else {1, even // 2, even}) for even in evens]
        met = {n for bridges in self.bridges for pair in bridges for n in pair}
        spreads = sorted({1} | met | {n for face in faces for n in face})
        found: list[_Wanted] = []
        for position, inside in enumerate(members):
            for ways in spreads:
                most = infinite if ways == 1 else self.flow / ways
                found.append(_Wanted(2 * position, (0, 0), ways, Request(((inside, most),))))
        for number, link in enumerate(self.search.crossings_tokens_per_s):
            for first, second in itertools.product(faces[number], repeat=2):
                if first + second <= 2 * max(2, max(faces[number]) - 1):
                    sides = ((members[number], second * link), (members[number + 1], first * link))
                    found.append(_Wanted(2 * number + 1, (first, second), 1, Request(sides)))
        return found

    def _worthwhile(self, prices: Prices) -> list[_Wanted]:
        """Return the kinds of blocks that no other of them, less bound, is as good as at these prices.

        Being spread further costs a block something and gains it nothing where the rows in between are free of charge;
        neighbours that are spread further cost a bridge nothing there and help it.
        """
        spread = prices.spread

        def is_free(position: int, ways: int, more: int) -> bool:
            return bool(spread[position, ways + 1 : more + 1].sum() <= tuning.FLOW_TOLERANCE)

        def is_as_good(kind: _Wanted, other: _Wanted) -> bool:
            if kind is other or kind.place != other.place:
                return False
            position, is_bridge = divmod(kind.place, 2)
            if not is_bridge:
                return other.ways < kind.ways and is_free(position, other.ways, kind.ways)
            (first, second), (one, two) = kind.needs, other.needs
            return (
                one >= first and two >= second and is_free(position, first, one) and is_free(position + 1, second, two)
            )

        return [kind for kind in self.wanted if not any(is_as_good(kind, other) for other in self.wanted)]

    def _first_columns(self) -> None:
        for position, inside in enumerate(self.search.members):
            for block in stages(self.search.groups, inside, self.flow):
                self.master.add(2 * position, (0, 0), block)
        for number, bridges in enumerate(self.bridges):
            for needs in bridges:
                self.master.add(2 * number + 1, needs, Block(0, ()))

    # --- column generation -------------------------------------------------------------------------------------------

    def _generate(self, rounds: int, *, capped: bool, fixed: Floats | None = None) -> Prices | None:
        """Add columns until none is worth it; return the last prices, or None once the layers are out of reach."""
        free = self.master.nodes if fixed is None else self.master.nodes - self.master.taken(fixed)
        prices = self.master.relax(capped, fixed)
        for _ in range(rounds):
            if prices is None or self.time_left_s() <= 0:
                break
            wanted = self._worthwhile(prices)
            offers = self.pricer.offers(prices.nodes, [kind.request for kind in wanted], hops_count=self.hops_count)
            if fixed is None and not capped and self._is_hopeless(prices, offers):
                return None
            added = False
            for kind, priced in zip(wanted, offers, strict=True):
                for offer in priced:
                    is_worth = self._worth(prices, kind.place, kind.needs, offer) > 1e-6
                    if is_worth and all(count <= free[group] for group, count in offer.block.members.items()):
                        block = self._trimmed(kind.place, offer.block)
                        added = self.master.add(kind.place, kind.needs, block) or added
            if not added:
                break
            if fixed is not None:
                fixed = np.append(fixed, np.zeros(len(self.master.columns) - len(fixed)))
            prices = self.master.relax(capped, fixed)
        return prices

    def _enrich(self, prices: Prices) -> None:
        """Add columns that are cheapest at prices nearby: the continuous optimum needs few, a whole-number one more."""
        rng = np.random.default_rng(0)
        for _ in range(-(-tuning.PERTURBED_PRICINGS // len(self.search.order))):
            if self.time_left_s() <= 0:
                break
            nearby = prices.nodes * rng.uniform(*tuning.PERTURBATION, len(self.master.nodes))
            offers = self.pricer.offers(
                nearby, [kind.request for kind in self.wanted], hops_count=self.hops_count, mixed=True
            )
            for kind, priced in zip(self.wanted, offers, strict=True):
                for offer in priced:
                    cost = sum(prices.nodes[group] * count for group, count in offer.block.members.items())
                    worth = self._worth(prices, kind.place, kind.needs, Offer(offer.block, float(cost)))
                    is_near = worth > -tuning.PERTURBED_LOSS_LAYERS
                    if is_near and all(n <= self.master.nodes[group] for group, n in offer.block.members.items()):
                        self.master.add(kind.place, kind.needs, self._trimmed(kind.place, offer.block))

    def _worth(self, prices: Prices, place: int, needs: tuple[int, int], offer: Offer) -> float:
        """Return what one more of the offered block would add to the master's objective."""
        block = offer.block
        gain = block.layers * (1.0 - prices.layer) - offer.cost - block.depth * prices.hop
        position, is_bridge = divmod(place, 2)
        if is_bridge:
            first, second = needs
            gain -= prices.crossing[position] + prices.spread[position, 2 : first + 1].sum()
            return float(gain - prices.spread[position + 1, 2 : second + 1].sum())
        return float(gain + prices.spread[position, 1 : self.master.spread(block) + 1].sum())

    def _trimmed(self, place: int, block: Block) -> Block:
        """Drop strands that the flow does without; the grid rounds down, so there may be some."""
        if place % 2 or len(self.search.order) > 1:
            return block
        groups = self.search.groups
        surplus = block.tokens_per_s(groups) - self.flow
        kept: list[tuple[tuple[tuple[int, int], ...], int]] = []
        for speed, strand, count in sorted((strand_tokens_per_s(groups, s), s, n) for s, n in block.strands):
            dropped = min(count, int(surplus / speed + tuning.FLOW_TOLERANCE))
            surplus -= dropped * speed
            if count > dropped:
                kept.append((strand, count - dropped))
        return Block(block.layers, tuple(sorted(kept)))

    def _is_hopeless(self, prices: Prices, offers: Sequence[Sequence[Offer]]) -> bool:
        """Return whether no mix of blocks at all covers the layers (Farley's bound); only where nothing is crossed."""
        if len(self.search.order) > 1:
            return False
        ratio = min(
            ((offer.cost + offer.block.depth * prices.hop) / offer.block.layers for offer in offers[0]), default=0.0
        )
        limit = float(prices.nodes @ self.master.nodes) + prices.hop * (self.master.max_hops or 0)
        return ratio > 0 and limit / min(ratio, 1.0) < self.search.num_layers * (1 - 1e-6)

    # --- whole numbers -----------------------------------------------------------------------------------------------

    def _dive(self) -> dict[Column, int] | None:
        """Fix the whole parts of the continuous solution, or else its largest part, and price again, until all fits."""
        fixed = np.zeros(len(self.master.columns))
        length = self.search.num_layers
        while self.time_left_s() > 0:
            prices = self._generate(tuning.DIVE_ROUNDS, capped=True, fixed=fixed)
            if prices is None:
                return None
            fixed = np.append(fixed, np.zeros(len(self.master.columns) - len(fixed)))
            layers = self.master.layers()
            if fixed @ layers == length:
                break
            if prices.columns @ layers < length - 1e-6:
                return None
            whole = np.floor(prices.columns + 1e-6)
            if (whole > fixed).any():
                fixed = np.maximum(fixed, whole)
                continue
            fraction = prices.columns - fixed
            for number in np.argsort(-fraction, kind="stable"):
                trial = fixed.copy()
                trial[number] += 1
                if fraction[number] > 1e-6 and trial @ layers <= length and self.master.fits(trial):
                    fixed = trial
                    break
            else:
                return None
        found = {column: int(count) for column, count in zip(self.master.columns, fixed, strict=True) if count}
        return found if self.master.is_legal(found) else None


def _bridges(flow: float, link: float) -> list[tuple[int, int]]:
    """Return in how many ways the neighbours of a crossing must be spread, the most even pairs first."""
    found: list[tuple[int, int]] = []
    for first in range(1, tuning.MAX_SPREAD + 1):
        second = max(1, int(np.ceil(flow / (link * first) * (1 - tuning.FLOW_TOLERANCE))))
        is_least = first == 1 or (first - 1) * second * link < flow * (1 - tuning.FLOW_TOLERANCE)
        if second <= tuning.MAX_SPREAD and is_least:
            found.append((first, second))
    return sorted(found, key=lambda pair: (max(pair), pair))[: tuning.MAX_BRIDGES]
