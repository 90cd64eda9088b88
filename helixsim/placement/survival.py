"""Placements that keep a route after the loss of any one failure domain.

Their pipelines consist of stage groups that carry the flow without any one of their segments (hosts), or lie in one
region each (sites). What a placement carries after each loss is computed exactly (``flow.losses``), whatever found it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from helixsim.domain.cluster import Deployment
from helixsim.flow.capacity import share_bound, upper_bound_share
from helixsim.flow.losses import Domain, domains_of
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.bounds import configuration_bound, surviving_bound
from helixsim.placement.column_generation import PipelineSearch
from helixsim.placement.regions import RegionPipeline
from helixsim.placement.stages import NodeGroup, Pipeline, segment_tokens_per_s


def surviving_pipelines(
    groups: tuple[NodeGroup, ...], num_layers: int, max_hops: int | None, time_left_s: Callable[[], float]
) -> tuple[RegionPipeline, ...]:
    """Return a pipeline in each region with the largest flow found that it carries without any one of its nodes.

    Where no region has one, all regions are searched as one; their links are not considered then.
    """

    def found(groups: tuple[NodeGroup, ...], region: str) -> RegionPipeline | None:
        search = PipelineSearch(groups, num_layers, (region,), longest=tuning.FINE_LAYERS, survives=True)
        return _largest(search, max_hops, time_left_s)

    regions = dict.fromkeys(group.region for group in groups)
    alone = [found(groups, region) for region in regions]
    if not any(alone) and len(regions) > 1:
        alone = [found(tuple(replace(group, region="all") for group in groups), "all")]
    return tuple(one for one in alone if one is not None)


def _largest(search: PipelineSearch, max_hops: int | None, time_left_s: Callable[[], float]) -> RegionPipeline | None:
    """Return the pipeline with the largest flow, by bisection to ``JOIN_PRECISION``."""
    counts: Counter[tuple[float, ...]] = Counter()
    for number in search.members[0]:
        counts[search.groups[number].tokens_per_s] += len(search.groups[number].nodes)
    high, low, best = share_bound(counts, search.num_layers), 0.0, None
    least = tuning.JOIN_PRECISION * high
    trial = high / 2
    while high - low > least and time_left_s() > 0:
        pipeline = search.find(trial, max_hops=max_hops, time_left_s=time_left_s)
        if pipeline is None:
            high = trial
        else:
            low = max(trial, carried_without_a_segment(pipeline, search.groups))
            best = RegionPipeline(search, low, pipeline)
        trial = (low + high) / 2
    return best


def carried_without_a_segment(pipeline: Pipeline, groups: Sequence[NodeGroup]) -> float:
    """Return what each stage group of a pipeline carries without its fastest segment [tokens/s], the least of them."""
    return min(
        stage.tokens_per_s(groups) - max(segment_tokens_per_s(groups, segment) for segment, _ in stage.segments)
        for stage in pipeline
    )


def survival_bound(
    problem: PlacementProblem, kind: Domain, reached_tokens_per_s: float, time_left_s: Callable[[], float]
) -> float:
    """Return a flow [tokens/s] that no placement keeps after the loss of any one domain.

    What is left of a placement is one on the nodes that are left, of which no placement carries more than their bound.
    Equal domains are bounded once, and those of the least share bounds alone where time is short.
    """
    fleet, capacity = problem.fleet, problem.capacity
    left: dict[object, Deployment] = {}
    for nodes in domains_of(fleet.cluster, kind).values():
        tables = tuple(sorted((fleet.cluster.region_of(node), capacity.of(node)) for node in nodes))
        left.setdefault(tables, fleet.without(set(nodes), paid=set()))
    shares = sorted((upper_bound_share(one, capacity), at) for at, one in enumerate(left.values()))
    fleets, bound = list(left.values()), shares[0][0]
    for share, at in shares:
        if share < bound * (1 + tuning.OPTIMAL_GAP) and bound > reached_tokens_per_s:
            bound = min(bound, configuration_bound(fleets[at], capacity, reached_tokens_per_s, time_left_s))
    if bound <= reached_tokens_per_s:
        return bound
    counts = Counter(capacity.of(node.id) for node in fleet.cluster.nodes)
    return surviving_bound(counts, fleet.model.num_layers, bound, reached_tokens_per_s, time_left_s)
