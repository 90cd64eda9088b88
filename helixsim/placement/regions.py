"""Which regions serve together: chains through several regions, or chains of their own whose flows add up.

Links between regions are scarce, so a chain passes each region once. With few regions every grouping and every order is
tried; with more, regions serve alone where they can hold the model, and pairs of chains are joined where that helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from helixsim.flow.capacity import share_bound
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.blocks import BlockSearch
from helixsim.placement.clusters import crossings_tokens_per_s
from helixsim.placement.stages import Block, Chain, Group


@dataclass(frozen=True)
class RegionChain:
    """The best chain found through regions in a given order."""

    search: BlockSearch
    flow_tokens_per_s: float
    blocks: Chain

    def shorter(self, share: float, max_hops: int | None, time_left_s: Callable[[], float]) -> Chain | None:
        """Return a chain with few hops that carries ``share`` of the flow; None if none is found."""
        flow = share * self.flow_tokens_per_s
        return self.search.find(flow, max_hops=max_hops, fewest_hops=True, time_left_s=time_left_s)


Report = Callable[[str, Sequence[RegionChain]], None]
"""Called with what has been found whenever it is better than before."""

Settle = Callable[[Chain, float], float]
"""Returns what a chain carries over the true links [tokens/s]; need not try for more than the flow given."""


def best_chains(
    problem: PlacementProblem,
    groups: tuple[Group, ...],
    max_hops: int | None,
    time_left_s: Callable[[], float],
    report: Report,
    settle: Settle,
    *,
    across: bool = True,
) -> tuple[RegionChain, ...]:
    """Return chains with the largest total flow, regions each used once; empty if no chain is found.

    Not ``across``: regions are joined only if none holds the model alone.
    """
    regions = list(dict.fromkeys(group.region for group in groups))
    are_few = len(regions) <= tuning.ENUMERATED_REGIONS
    finder = _Finder(
        problem, groups, max_hops, time_left_s, tuning.ROUGH_PRECISION if are_few else tuning.JOIN_PRECISION
    )
    alone = () if across else tuple(chain for region in regions if (chain := finder.best((region,))))
    found = alone or (_enumerated(finder, regions) if are_few else _joined(finder, regions))
    if found and time_left_s() > 0:
        report("rough", found)
        found = tuple(finder.refined(chain) for chain in found)
    if are_few and not alone and time_left_s() > 0:
        over_fast_links = finder.over_fast_links(regions, _total(found), settle)
        found = (over_fast_links,) if over_fast_links else found
    return found


def _enumerated(finder: _Finder, regions: Sequence[str]) -> tuple[RegionChain, ...]:
    # Every region alone is quick and sets a mark; of the rest the most promising first, none whose bound is below it.
    groupings = sorted(
        ((sum(map(finder.bound, grouping)), grouping) for grouping in _partitions(regions)),
        key=lambda item: (len(item[1]) < len(regions), -item[0]),
    )
    best: tuple[RegionChain, ...] = ()
    for bound, grouping in groupings:
        if bound > _total(best) * (1 + tuning.ROUGH_PRECISION):
            found = [finder.best(block) for block in grouping]
            chains = tuple(chain for chain in found if chain is not None)
            if _total(chains) > _total(best):
                best = chains
    return best


def _joined(finder: _Finder, regions: Sequence[str]) -> tuple[RegionChain, ...]:
    """Join the blocks that gain most as long as joining gains, after those that cannot hold the model alone."""
    blocks = finder.greedy_blocks(regions)
    refused: set[tuple[str, ...]] = set()
    for _ in range(tuning.MAX_JOINS):
        joints = [
            (finder.bound((*one, *two)) - finder.flow(one) - finder.flow(two), (*one, *two), one, two)
            for one, two in itertools.combinations(blocks, 2)
            if len(one) + len(two) <= tuning.MAX_JOINED_REGIONS
            and finder.num_nodes((*one, *two)) * (len(one) + len(two) - 1) <= tuning.MAX_JOINED_WORK
            and (*one, *two) not in refused
        ]
        if not joints:
            break
        promise, union, one, two = max(joints, key=lambda joint: joint[0])
        before = finder.flow(one) + finder.flow(two)
        if promise <= tuning.ROUGH_PRECISION * before:
            break
        if finder.flow(union, before) > before * (1 + tuning.ROUGH_PRECISION):
            blocks = [block for block in blocks if block not in (one, two)] + [union]
        else:
            refused.add(union)
    found = [finder.best(block) for block in blocks]
    return tuple(chain for chain in found if chain is not None)


def _total(chains: Sequence[RegionChain]) -> float:
    return sum(chain.flow_tokens_per_s for chain in chains)


def _partitions(regions: Sequence[str]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield every way to split ``regions`` into non-empty blocks."""
    if not regions:
        yield ()
        return
    first, rest = regions[0], regions[1:]
    for partition in _partitions(rest):
        yield ((first,), *partition)
        for at, block in enumerate(partition):
            yield (*partition[:at], (first, *block), *partition[at + 1 :])


class _Finder:
    """Largest flows of chains through given regions, each computed once."""

    def __init__(
        self,
        problem: PlacementProblem,
        groups: tuple[Group, ...],
        max_hops: int | None,
        time_left_s: Callable[[], float],
        precision: float,
    ) -> None:
        self._precision = precision
        self._groups = groups
        self._num_layers = problem.fleet.model.num_layers
        self._max_hops = max_hops
        self._time_left_s = time_left_s
        self._known: dict[frozenset[str], RegionChain | None] = {}
        regions = {node: group.region for group in groups for node in group.nodes}
        self._links = crossings_tokens_per_s(problem.fleet, regions)

    def num_nodes(self, block: Sequence[str]) -> int:
        """Return how many nodes these regions have together."""
        return sum(len(group.nodes) for group in self._groups if group.region in block)

    def bound(self, block: Sequence[str]) -> float:
        """Return what no chains of these regions together exceed; 0 if they cannot hold the model."""
        inside = [group for group in self._groups if group.region in block]
        if sum(len(group.nodes) * len(group.tokens_per_s) for group in inside) < self._num_layers:
            return 0.0
        counts: dict[tuple[float, ...], int] = {}
        for group in inside:
            counts[group.tokens_per_s] = counts.get(group.tokens_per_s, 0) + len(group.nodes)
        return share_bound(counts, self._num_layers)

    def greedy_blocks(self, regions: Sequence[str]) -> list[tuple[str, ...]]:
        """Return regions that can hold the model alone by themselves, the others joined by their best links."""
        blocks: list[tuple[str, ...]] = [(region,) for region in regions if self.flow((region,))]
        waiting = [region for region in regions if (region,) not in blocks]
        while waiting:
            block = [waiting.pop(0)]
            while waiting and not self.flow(block):
                nearest = max(waiting, key=lambda region: self._link(block[-1], region))
                waiting.remove(nearest)
                block.append(nearest)
            blocks.append(tuple(block))
        return blocks

    def flow(self, block: Sequence[str], mark: float = 0.0) -> float:
        """Return the flow of the best chain [tokens/s], 0 if none is found; chains below ``mark`` are of no use."""
        found = self.best(block, mark)
        return 0.0 if found is None else found.flow_tokens_per_s

    def best(self, block: Sequence[str], mark: float = 0.0) -> RegionChain | None:
        """Return the best chain through these regions in any order."""
        key = frozenset(block)
        if key not in self._known:
            self._known[key] = None
            bound = self.bound(block)
            for order in self._orders(block):
                if bound:
                    self._known[key] = self._improved(self._search(order), bound, self._known[key], mark)
        return self._known[key]

    def refined(self, chain: RegionChain) -> RegionChain:
        """Return the chain, or a better one by a longer search; wide chains through several regions stay."""
        if len(chain.search.order) > 1 and self.num_nodes(chain.search.order) > tuning.MAX_REFINED_NODES:
            return chain
        longest = chain.search.longest if len(chain.search.order) > 1 else tuning.FINE_LAYERS
        grid = tuning.FINE_GRID // len(chain.search.order)
        search = replace(chain.search, longest=longest, grid=grid)
        found = (
            self._bisected(search, self.bound(search.order), chain, chain.flow_tokens_per_s, tuning.FINE_PRECISION)
            or chain
        )
        return replace(found, search=chain.search)

    def over_fast_links(self, regions: Sequence[str], mark: float, settle: Settle) -> RegionChain | None:
        """Return a chain that carries more than ``mark`` if the right nodes meet at the fastest links; None if none is.

        All other chains can do with the slowest link between two regions, whichever nodes meet.
        """
        best: RegionChain | None = None
        for order in self._orders(regions):
            links = tuple(self._links[pair][1] for pair in itertools.pairwise(order))
            search = self._search(order)
            if links != search.crossings_tokens_per_s and self.num_nodes(regions) <= tuning.MAX_REFINED_NODES:
                fast = replace(search, crossings_tokens_per_s=links)
                found = self._bisected(fast, self.bound(regions), None, mark, tuning.FINE_PRECISION, settle)
                if found is not None:
                    mark, best = found.flow_tokens_per_s, replace(found, search=search)
        return best

    def _search(self, order: tuple[str, ...]) -> BlockSearch:
        crossings = tuple(self._link(here, there) for here, there in itertools.pairwise(order))
        grid = tuning.GRID if len(order) == 1 else tuning.CROSSING_GRID
        return BlockSearch(self._groups, self._num_layers, order, crossings, grid=grid)

    def _orders(self, block: Sequence[str]) -> list[tuple[str, ...]]:
        """Return all orders, without those whose reverse is there and has the same links."""
        kept: list[tuple[str, ...]] = []
        for order in itertools.permutations(block):
            mirrored = order[::-1]
            there, back = self._search(order), self._search(mirrored)
            if mirrored not in kept or there.crossings_tokens_per_s != back.crossings_tokens_per_s[::-1]:
                kept.append(order)
        return kept

    def _improved(self, search: BlockSearch, bound: float, best: RegionChain | None, mark: float) -> RegionChain | None:
        """Return the better of ``best`` and the best chain through regions in the order of ``search``."""
        least = max(mark, best.flow_tokens_per_s if best else 0.0)
        return self._bisected(search, bound, best, least, self._precision)

    def _bisected(
        self,
        search: BlockSearch,
        bound: float,
        best: RegionChain | None,
        low: float,
        precision: float,
        settle: Settle | None = None,
    ) -> RegionChain | None:
        """Return the chain with the largest flow between ``low``, which ``best`` carries, and ``bound``.

        With ``settle`` only what a chain carries by it counts.
        """
        high, step, least = bound, tuning.FIRST_STEP, precision * bound
        if not low and self._max_hops is not None and self._find(search, least) is None:
            return best  # no chain is as short as that, whatever it carries
        while high > least and high - low > precision * high and self._time_left_s() > 0:
            trial = (low + high) / 2 if low else max(bound * (1 - step), least)
            found = self._find(search, trial)
            if found is not None and settle is not None:
                found = replace(found, flow_tokens_per_s=settle(found.blocks, found.flow_tokens_per_s))
            if found is not None and found.flow_tokens_per_s > low:
                best, low = found, found.flow_tokens_per_s
            if found is None or found.flow_tokens_per_s < trial * (1 - tuning.FINE_PRECISION):
                high, step = trial, min(2 * step, (1 + step) / 2)
        return best

    def _find(self, search: BlockSearch, flow: float) -> RegionChain | None:
        blocks = search.find(flow, max_hops=self._max_hops, time_left_s=self._time_left_s)
        if blocks is None:
            return None
        carried = 0.0 if search.crossings_tokens_per_s else _carried(search.groups, blocks)
        return RegionChain(search, max(flow, carried), blocks)

    def _link(self, here: str, there: str) -> float:
        """Return tokens/s of the slowest link from a node of one region to a node of another."""
        return self._links[here, there][0]


def _carried(groups: Sequence[Group], blocks: Sequence[Block]) -> float:
    return min(block.tokens_per_s(groups) for block in blocks)
