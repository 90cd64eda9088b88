"""Which regions serve together: chains through several regions, or chains of their own whose flows add up.

Links between regions are scarce, so stages lie inside a region and a chain passes each region once. With few regions
every grouping and every order is tried; with more, regions are joined greedily by their best links.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from helixsim.flow.capacity import share_bound
from helixsim.flow.network import link_tokens_per_s
from helixsim.placement.base import PlacementProblem
from helixsim.placement.patterns import ChainSearch
from helixsim.placement.stages import Group, Stage

_MOST_ENUMERATED = 4
"""Up to so many regions, and as many nodes as below, all groupings and orders are tried."""

_WIDE_CHAIN_NODES = 64
"""A chain through more nodes than this is searched for one n-th of the fleet and then made n times as wide."""

_TOLERANCE = 1e-3
"""Relative precision of the largest flow of a chain."""

_ROOM = 1.1
"""Regions are joined greedily until they hold the model this many times over."""

Chain = tuple[Stage, ...]


@dataclass(frozen=True)
class RegionChain:
    """The best chain found through regions in a given order.

    ``width`` says of how many equal chains it is made; ``search`` sees one of them.
    """

    search: ChainSearch
    width: int
    flow_tokens_per_s: float
    stages: Chain

    def shorter(self, share: float, max_stages: int | None, time_left_s: float) -> Chain | None:
        """Return the shortest chain that carries ``share`` of the flow; None if none is found."""
        found = self.search.shortest(share * self.flow_tokens_per_s / self.width, max_stages, time_left_s)
        return None if found is None else _widen(found, self.width)


def best_chains(
    problem: PlacementProblem,
    groups: tuple[Group, ...],
    max_stages: int | None,
    time_left_s: Callable[[], float],
) -> tuple[RegionChain, ...]:
    """Return chains with the largest total flow, regions each used once; empty if no chain is found."""
    finder = _Finder(problem, groups, max_stages, time_left_s)
    regions = list(dict.fromkeys(group.region for group in groups))
    if len(regions) > _MOST_ENUMERATED or sum(len(group.nodes) for group in groups) > _WIDE_CHAIN_NODES:
        found = [finder.best([block]) for block in finder.greedy_blocks(regions)]
        return tuple(chain for chain in found if chain is not None)
    # Every region alone is quick and sets a mark; of the rest the most promising first, none whose bound is below it.
    groupings = sorted(
        ((sum(map(finder.bound, grouping)), grouping) for grouping in _partitions(regions)),
        key=lambda item: (len(item[1]) < len(regions), -item[0]),
    )
    best: tuple[RegionChain, ...] = ()
    for bound, grouping in groupings:
        if bound > _total(best) * (1 + _TOLERANCE):
            found = [finder.best(list(itertools.permutations(block))) for block in grouping]
            chains = tuple(chain for chain in found if chain is not None)
            if _total(chains) > _total(best):
                best = chains
    return best


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
        max_stages: int | None,
        time_left_s: Callable[[], float],
    ) -> None:
        self._problem = problem
        self._groups = groups
        self._num_layers = problem.fleet.model.num_layers
        self._max_stages = max_stages
        self._time_left_s = time_left_s
        self._known: dict[frozenset[str], RegionChain | None] = {}
        self._links: dict[tuple[str, str], float] = {}

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
        blocks: list[tuple[str, ...]] = [(region,) for region in regions if self._room((region,)) >= _ROOM]
        waiting = [region for region in regions if (region,) not in blocks]
        while waiting:
            block = [waiting.pop(0)]
            while waiting and self._room(block) < _ROOM:
                nearest = max(waiting, key=lambda region: self._link(block[-1], region))
                waiting.remove(nearest)
                block.append(nearest)
            blocks.append(tuple(block))
        return blocks

    def _room(self, block: Sequence[str]) -> float:
        held = sum(len(group.nodes) * len(group.tokens_per_s) for group in self._groups if group.region in block)
        return held / self._num_layers

    def best(self, orders: Sequence[tuple[str, ...]]) -> RegionChain | None:
        """Return the best chain through the same regions in any of ``orders``."""
        key = frozenset(orders[0])
        if key not in self._known:
            self._known[key] = None
            bound = self.bound(orders[0])
            for order in self._without_mirrors(orders):
                if bound:
                    self._known[key] = self._improved(order, bound, self._known[key])
        return self._known[key]

    def _without_mirrors(self, orders: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Leave out an order whose reverse is there and has the same links."""
        kept: list[tuple[str, ...]] = []
        for order in orders:
            if order[::-1] not in kept or self._crossings(order) != self._crossings(order[::-1])[::-1]:
                kept.append(order)
        return kept

    def _improved(self, order: tuple[str, ...], bound: float, best: RegionChain | None) -> RegionChain | None:
        """Bisect for the largest flow through regions in this order, if it exceeds that of ``best``."""
        inside = [group for group in self._groups if group.region in order]
        width = -(-sum(len(group.nodes) for group in inside) // _WIDE_CHAIN_NODES)
        search = ChainSearch(
            groups=tuple(replace(group, nodes=group.nodes[: len(group.nodes) // width]) for group in self._groups),
            num_layers=self._num_layers,
            order=order,
            crossings_tokens_per_s=tuple(width * link for link in self._crossings(order)),
        )
        low, high = (best.flow_tokens_per_s if best else 0.0), bound
        trial = low * (1 + 5 * _TOLERANCE) if best else high * (1 - _TOLERANCE)
        while high - low > _TOLERANCE * high and self._time_left_s() > 0:
            stages = search.shortest(trial / width, self._max_stages, self._time_left_s())
            if stages is not None:
                low = max(trial, self._carried(search, stages) * width)
                best = RegionChain(search, width, low, _widen(stages, width))
            elif best is not None and best.search.order != order:
                return best
            else:
                high = trial
            trial = (low + high) / 2
        return best

    def _carried(self, search: ChainSearch, stages: Chain) -> float:
        """Return the flow of a chain if no link between regions limits it, else 0."""
        if search.crossings_tokens_per_s:
            return 0.0
        return min(stage.tokens_per_s(search.groups) for stage in stages)

    def _crossings(self, order: Sequence[str]) -> tuple[float, ...]:
        return tuple(self._link(here, there) for here, there in itertools.pairwise(order))

    def _link(self, here: str, there: str) -> float:
        """Return tokens/s of the weakest link from a node of one region to a node of another."""
        if (here, there) not in self._links:
            ends = [
                [node for group in self._groups if group.region == region for node in group.nodes]
                for region in (here, there)
            ]
            self._links[here, there] = min(
                link_tokens_per_s(self._problem.fleet, src, dst) for src in ends[0] for dst in ends[1]
            )
        return self._links[here, there]


def _widen(stages: Chain, width: int) -> Chain:
    return tuple(Stage(stage.layers, tuple((g, n * width) for g, n in stage.members)) for stage in stages)
