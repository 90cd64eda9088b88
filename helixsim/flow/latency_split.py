"""How pipelines share a load so that its tokens take the least time on average.

Of pipelines that have no node in common, number i gets x_i of the X output tokens/s that are offered, and at that load
its round trip is R_i(x_i), by the KV-limited estimate. The mean time of a token is sum_i x_i R_i(x_i) / X. As trips
rise with the load, each term is convex; between equally spaced loads up to the capacity of the pipeline it is taken to
be linear:

    minimise    sum_ik s_ik y_ik
    subject to  sum_ik y_ik = X,   0 <= y_ik <= c_i / SEGMENTS

with the slopes s_i1 <= s_i2 <= ... of pipeline i. Its optimum fills segments in the order of their slopes, so that no
solver is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.operating import settled
from helixsim.flow.station import OperatingLoad

SEGMENTS = 6
"""Linear pieces of the time of a pipeline between no load and its capacity."""

FULLEST = 0.98
"""A pipeline is loaded up to this share of its capacity, at which its round trip under a load is still known."""


def latency_split(
    fleet: Deployment, placement: Placement, load: OperatingLoad, offered_output_per_s: float
) -> dict[int, float]:
    """Return the output tokens/s of each numbered pipeline; all are full where the load exceeds what they serve."""
    ranges: dict[int, dict[str, LayerRange]] = {}
    for node, held in placement.ranges.items():
        ranges.setdefault(placement.pipelines[node], {})[node] = held
    known: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    segments: list[tuple[float, int, float]] = []
    for number, own in ranges.items():
        # Equal pipelines in one region have equal times.
        key = tuple((fleet.profile(n).kind, fleet.cluster.node(n).region, held) for n, held in own.items())
        if key not in known:
            known[key] = _segments(fleet, replace(placement, ranges=own, pipelines={}), load)
        segments += [(slope, number, width) for slope, width in known[key]]
    found = dict.fromkeys(ranges, 0.0)
    left = offered_output_per_s
    # Segments of equal slope, of equal pipelines, take equal parts of what is left.
    segments.sort(key=lambda segment: segment[0])
    while segments and left > 0:
        slope = segments[0][0]
        equal = [segment for segment in segments if segment[0] == slope]
        segments = segments[len(equal) :]
        part = min(1.0, left / sum(width for _, _, width in equal))
        for _, number, width in equal:
            found[number] += part * width
            left -= part * width
    return found


def _segments(fleet: Deployment, pipeline: Placement, load: OperatingLoad) -> list[tuple[float, float]]:
    """Return (slope [s], width [output tokens/s]) of the linear pieces of x R(x), slopes not falling."""
    found = settled(fleet, pipeline, load)
    capacity = FULLEST * found.steps_per_s * load.tokens_of_step
    if capacity <= 0:
        return []
    width, before, slope = capacity / SEGMENTS, 0.0, 0.0
    segments = []
    for number in range(1, SEGMENTS + 1):
        spent = number * width * found.round_trip_s(FULLEST * number / SEGMENTS)
        slope = max(slope, (spent - before) / width)
        segments.append((slope, width))
        before = spent
    return segments


def shares_of(placement: Placement, entering: Mapping[str, float], split: Mapping[int, float]) -> dict[str, float]:
    """Return the weight of each first node: the part of its pipeline, by the flows that enter at its nodes."""
    totals: dict[int, float] = {}
    for node, flow in entering.items():
        totals[placement.pipelines[node]] = totals.get(placement.pipelines[node], 0.0) + flow
    return {
        node: split[placement.pipelines[node]] * flow / totals[placement.pipelines[node]]
        for node, flow in entering.items()
        if flow > 0
    }
