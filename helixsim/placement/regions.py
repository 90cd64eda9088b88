"""Which regions serve together: pipelines through several regions, or one per region whose flows add up.

Links between regions are scarce, so a pipeline passes each region once. With few regions every grouping and every order
is tried; with more, regions serve alone where they can hold the model, and pairs of pipelines are joined where that
raises the flow. See docs/placement.md, sections "Regions" and "Largest flow".
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from helixsim.flow.capacity import share_bound
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.clusters import crossings_tokens_per_s
from helixsim.placement.column_generation import PipelineSearch
from helixsim.placement.stages import NodeGroup, Pipeline

Regions = tuple[str, ...]


@dataclass(frozen=True)
class RegionPipeline:
    """The best pipeline found through regions in a given order."""

    search: PipelineSearch
    flow_tokens_per_s: float
    pipeline: Pipeline

    def shorter(self, share: float, max_hops: int | None, time_left_s: Callable[[], float]) -> Pipeline | None:
        """Return a pipeline with few hops that carries ``share`` of the flow; None if none is found."""
        flow = share * self.flow_tokens_per_s
        return self.search.find(flow, max_hops=max_hops, fewest_hops=True, time_left_s=time_left_s)


Report = Callable[[str, Sequence[RegionPipeline]], None]
"""Called with a name and the best pipelines so far."""

Settle = Callable[[Pipeline, float], float]
"""Returns the flow of a pipeline over the actual links [tokens/s]; may stop at the flow given [tokens/s]."""


def best_pipelines(
    problem: PlacementProblem,
    groups: tuple[NodeGroup, ...],
    max_hops: int | None,
    time_left_s: Callable[[], float],
    report: Report,
    settle: Settle,
    *,
    across: bool = True,
    rough: bool = False,
) -> tuple[RegionPipeline, ...]:
    """Return pipelines with the largest total flow, each region in one of them; empty if none is found.

    Not ``across``: regions are joined only if none of them can hold the model. ``rough``: to ``JOIN_PRECISION``, and
    over the slowest links between regions alone.
    """
    regions = list(dict.fromkeys(group.region for group in groups))
    are_few = len(regions) <= tuning.ENUMERATED_REGIONS
    precision = tuning.ROUGH_PRECISION if are_few and not rough else tuning.JOIN_PRECISION
    finder = _Finder(problem, groups, max_hops, time_left_s, precision)
    alone = () if across else _present(finder.best((region,)) for region in regions)
    pipelines = alone or (_enumerated(finder, regions) if are_few else _joined(finder, regions))
    if rough:
        return pipelines
    if pipelines and time_left_s() > 0:
        report("rough", pipelines)
        pipelines = tuple(finder.refined(pipeline) for pipeline in pipelines)
    if are_few and not alone and time_left_s() > 0:
        over_fast_links = finder.over_fast_links(regions, _total(pipelines), settle)
        pipelines = (over_fast_links,) if over_fast_links else pipelines
    return pipelines


def _enumerated(finder: _Finder, regions: Sequence[str]) -> tuple[RegionPipeline, ...]:
    """Try every grouping of the regions whose bound exceeds the best flow so far.

    All regions alone comes first, as it is quick and sets a lower bound; the others follow by their upper bound.
    """
    groupings = sorted(
        ((sum(map(finder.bound, grouping)), grouping) for grouping in _partitions(regions)),
        key=lambda item: (len(item[1]) < len(regions), -item[0]),
    )
    best: tuple[RegionPipeline, ...] = ()
    for bound, grouping in groupings:
        if bound > _total(best) * (1 + tuning.ROUGH_PRECISION):
            pipelines = _present([finder.best(union) for union in grouping])
            if _total(pipelines) > _total(best):
                best = pipelines
    return best


def _joined(finder: _Finder, regions: Sequence[str]) -> tuple[RegionPipeline, ...]:
    """Join the two unions of regions with the largest possible gain, as long as joining raises the flow."""
    unions = finder.initial_unions(regions)
    refused: set[Regions] = set()
    for _ in range(tuning.MAX_JOINS):
        joins = [
            (finder.bound((*one, *two)) - finder.flow(one) - finder.flow(two), (*one, *two), one, two)
            for one, two in itertools.combinations(unions, 2)
            if len(one) + len(two) <= tuning.MAX_JOINED_REGIONS
            and finder.num_nodes((*one, *two)) * (len(one) + len(two) - 1) <= tuning.MAX_JOINED_WORK
            and (*one, *two) not in refused
        ]
        if not joins:
            break
        possible_gain, joined, one, two = max(joins, key=lambda join: join[0])
        before = finder.flow(one) + finder.flow(two)
        if possible_gain <= tuning.ROUGH_PRECISION * before:
            break
        if finder.flow(joined, before) > before * (1 + tuning.ROUGH_PRECISION):
            unions = [union for union in unions if union not in (one, two)] + [joined]
        else:
            refused.add(joined)
    return _present([finder.best(union) for union in unions])


def _present(pipelines: Iterable[RegionPipeline | None]) -> tuple[RegionPipeline, ...]:
    return tuple(pipeline for pipeline in pipelines if pipeline is not None)


def _total(pipelines: Sequence[RegionPipeline]) -> float:
    return sum(pipeline.flow_tokens_per_s for pipeline in pipelines)


def _partitions(regions: Sequence[str]) -> Iterator[tuple[Regions, ...]]:
    """Yield every way to split ``regions`` into non-empty unions."""
    if not regions:
        yield ()
        return
    first, rest = regions[0], regions[1:]
    for partition in _partitions(rest):
        yield ((first,), *partition)
        for at, union in enumerate(partition):
            yield (*partition[:at], (first, *union), *partition[at + 1 :])


class _Finder:
    """Largest flows of pipelines through given regions, cached."""

    def __init__(
        self,
        problem: PlacementProblem,
        groups: tuple[NodeGroup, ...],
        max_hops: int | None,
        time_left_s: Callable[[], float],
        precision: float,
    ) -> None:
        self._precision = precision
        self._groups = groups
        self._num_layers = problem.fleet.model.num_layers
        self._max_hops = max_hops
        self._time_left_s = time_left_s
        self._cache: dict[frozenset[str], RegionPipeline | None] = {}
        regions = {node: group.region for group in groups for node in group.nodes}
        self._links = crossings_tokens_per_s(problem.fleet, regions)

    def num_nodes(self, regions: Sequence[str]) -> int:
        """Return the number of nodes in these regions."""
        return sum(len(group.nodes) for group in self._groups if group.region in regions)

    def bound(self, regions: Sequence[str]) -> float:
        """Return an upper bound of the total flow of these regions [tokens/s]; 0 if they cannot hold the model."""
        inside = [group for group in self._groups if group.region in regions]
        if sum(len(group.nodes) * len(group.tokens_per_s) for group in inside) < self._num_layers:
            return 0.0
        counts: Counter[tuple[float, ...]] = Counter()
        for group in inside:
            counts[group.tokens_per_s] += len(group.nodes)
        return share_bound(counts, self._num_layers)

    def initial_unions(self, regions: Sequence[str]) -> list[Regions]:
        """Return the regions that can hold the model by themselves, the others joined over their fastest links."""
        unions: list[Regions] = [(region,) for region in regions if self.flow((region,))]
        waiting = [region for region in regions if (region,) not in unions]
        while waiting:
            union = [waiting.pop(0)]
            while waiting and not self.flow(union):
                self._append_nearest(union, waiting)
            unions.append(tuple(union))
        return unions

    def flow(self, regions: Sequence[str], mark: float = 0.0) -> float:
        """Return the flow of the best pipeline, 0 if there is none above ``mark`` [tokens/s]."""
        pipeline = self.best(regions, mark)
        return 0.0 if pipeline is None else pipeline.flow_tokens_per_s

    def best(self, regions: Sequence[str], mark: float = 0.0) -> RegionPipeline | None:
        """Return the best pipeline through these regions in any order."""
        key = frozenset(regions)
        if key not in self._cache:
            self._cache[key] = None
            bound = self.bound(regions)
            for order in self._orders(regions) if bound else ():
                self._cache[key] = self._improved(self._search(order), bound, self._cache[key], mark)
        return self._cache[key]

    def refined(self, pipeline: RegionPipeline) -> RegionPipeline:
        """Return the pipeline, or a better one by a longer search; large ones through several regions as they are."""
        order = pipeline.search.order
        if len(order) > 1 and self.num_nodes(order) > tuning.MAX_REFINED_NODES:
            return pipeline
        longest = pipeline.search.longest if len(order) > 1 else tuning.FINE_LAYERS
        search = replace(pipeline.search, longest=longest, grid=tuning.FINE_GRID // len(order))
        flow = pipeline.flow_tokens_per_s
        better = self._bisected(search, self.bound(order), pipeline, flow, tuning.FINE_PRECISION) or pipeline
        return replace(better, search=pipeline.search)

    def over_fast_links(self, regions: Sequence[str], mark: float, settle: Settle) -> RegionPipeline | None:
        """Return a pipeline that carries more than ``mark`` over the fastest links between regions, or None.

        All other pipelines assume the slowest link between two regions, so any assignment of nodes achieves their flow.
        """
        best: RegionPipeline | None = None
        for order in self._orders(regions):
            links = tuple(self._links[pair].fastest for pair in itertools.pairwise(order))
            search = self._search(order)
            if links != search.crossings_tokens_per_s and self.num_nodes(regions) <= tuning.MAX_REFINED_NODES:
                fast = replace(search, crossings_tokens_per_s=links)
                better = self._bisected(fast, self.bound(regions), None, mark, tuning.FINE_PRECISION, settle)
                if better is not None:
                    mark, best = better.flow_tokens_per_s, replace(better, search=search)
        return best

    def _search(self, order: Regions) -> PipelineSearch:
        crossings = tuple(self._slowest_link(here, there) for here, there in itertools.pairwise(order))
        grid = tuning.GRID if len(order) == 1 else tuning.CROSSING_GRID
        return PipelineSearch(self._groups, self._num_layers, order, crossings, grid=grid)

    def _orders(self, regions: Sequence[str]) -> list[Regions]:
        """Return all orders; of an order and its reverse only one if their links are equal.

        Of many regions only one order from each, in which the region with the fastest links comes next.
        """
        if len(regions) > tuning.MAX_ORDERED_REGIONS:
            return [self._order_from(first, regions) for first in regions]
        orders: list[Regions] = []
        for order in itertools.permutations(regions):
            mirrored = order[::-1]
            there, back = self._search(order), self._search(mirrored)
            if mirrored not in orders or there.crossings_tokens_per_s != back.crossings_tokens_per_s[::-1]:
                orders.append(order)
        return orders

    def _order_from(self, first: str, regions: Sequence[str]) -> Regions:
        order, waiting = [first], [region for region in regions if region != first]
        while waiting:
            self._append_nearest(order, waiting)
        return tuple(order)

    def _append_nearest(self, order: list[str], waiting: list[str]) -> None:
        """Move the region with the fastest links from the last one of ``order`` there."""
        nearest = max(waiting, key=lambda region: self._slowest_link(order[-1], region))
        waiting.remove(nearest)
        order.append(nearest)

    def _improved(
        self, search: PipelineSearch, bound: float, best: RegionPipeline | None, mark: float
    ) -> RegionPipeline | None:
        """Return the better of ``best`` and the best pipeline through regions in the order of ``search``."""
        low = max(mark, best.flow_tokens_per_s if best else 0.0)
        return self._bisected(search, bound, best, low, self._precision)

    def _bisected(
        self,
        search: PipelineSearch,
        bound: float,
        best: RegionPipeline | None,
        low: float,
        precision: float,
        settle: Settle | None = None,
    ) -> RegionPipeline | None:
        """Return the pipeline with the largest flow between ``low``, that of ``best``, and ``bound`` [tokens/s].

        ``settle``, if given, computes the flow of a pipeline.
        """
        high, step, least = bound, tuning.FIRST_STEP, precision * bound
        if not low and self._max_hops is not None and self._find(search, least) is None:
            return best  # no pipeline within the hop limit, at any flow
        while high > least and high - low > precision * high and self._time_left_s() > 0:
            trial = (low + high) / 2 if low else max(bound * (1 - step), least)
            result = self._find(search, trial)
            if result is not None and settle is not None:
                result = replace(result, flow_tokens_per_s=settle(result.pipeline, result.flow_tokens_per_s))
            if result is not None and result.flow_tokens_per_s > low:
                best, low = result, result.flow_tokens_per_s
            if result is None or result.flow_tokens_per_s < trial * (1 - tuning.FINE_PRECISION):
                high, step = trial, min(2 * step, (1 + step) / 2)
        return best

    def _find(self, search: PipelineSearch, flow: float) -> RegionPipeline | None:
        pipeline = search.find(flow, max_hops=self._max_hops, time_left_s=self._time_left_s)
        if pipeline is None:
            return None
        is_one_region = not search.crossings_tokens_per_s
        carried = min(stage_group.tokens_per_s(search.groups) for stage_group in pipeline) if is_one_region else 0.0
        return RegionPipeline(search, max(flow, carried), pipeline)

    def _slowest_link(self, here: str, there: str) -> float:
        """Return the capacity of the slowest link from a node of one region to a node of another [tokens/s]."""
        return self._links[here, there].slowest
