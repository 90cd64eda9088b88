"""Limits on the latency of the requests within the objectives of a fleet search, in the best case (``fleet_bound``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice, product

import numpy as np

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.cluster import COORDINATOR, Cluster
from helixsim.domain.result import IntArray
from helixsim.metrics.objectives import Target
from helixsim.planning.fleet_bound import BestCase, LatencyLimit
from helixsim.units import NS_PER_S
from helixsim.workload.feed import make_feed

DRAWN = 5_000
"""Requests whose lengths are looked at."""


def latency_limits(
    experiment: ResolvedExperiment, target: Target, best: BestCase, nodes: Sequence[str]
) -> tuple[LatencyLimit, ...]:
    """Return the limits by TPOT and TTFT.

    Parameters
    ----------
    nodes
        A node of each offer, in the experiment with all of them.
    """
    share = target.percentile / 100
    if target.share is not None:
        share = max(share, target.share)
    found = []
    slo, engine = target.slo, experiment.engine
    prompts, outputs = drawn_lengths(experiment)
    if not len(prompts):
        return ()
    if slo.tpot_s is not None and not slo.classes and engine.speculation is None:
        decoding = float((outputs > 1).mean())  # of a single token there is no TPOT
        layer_s = tuple(best.decode_layer_s(number) for number in range(len(nodes)))
        if decoding > 0:
            found.append(LatencyLimit(share * decoding, slo.tpot_s, layer_s))
    if slo.ttft_s is not None and not slo.classes:
        shortest = np.sort(prompts)[: max(1, int(share * len(prompts)))]  # the longest may be late
        tokens = None if engine.chunks_prompts or engine.caches_prefixes else float(shortest.mean())
        layer_s = tuple(best.prompt_layer_s(number, tokens) for number in range(len(nodes)))
        trips_s = round_trips_s(experiment.fleet.cluster, nodes)
        fastest_s = min(layer_s) * experiment.fleet.model.num_layers
        within = tuple(
            one if trip_s + fastest_s <= slo.ttft_s else math.inf for one, trip_s in zip(layer_s, trips_s, strict=True)
        )
        found.append(LatencyLimit(share, slo.ttft_s - min(trips_s), within))
    return tuple(found)


def round_trips_s(cluster: Cluster, nodes: Sequence[str]) -> list[float]:
    """Return the least latency from the coordinator to each node and back, over any of the others [s]."""
    ends = (COORDINATOR, *nodes)
    trip = {(a, b): 0 if a == b else cluster.link(a, b).latency_ns for a, b in product(ends, ends)}
    for middle, a, b in product(ends, ends, ends):
        trip[a, b] = min(trip[a, b], trip[a, middle] + trip[middle, b])
    return [(trip[COORDINATOR, node] + trip[node, COORDINATOR]) / NS_PER_S for node in nodes]


def drawn_lengths(experiment: ResolvedExperiment) -> tuple[IntArray, IntArray]:
    """Return prompt and output tokens of the first requests that the experiment simulates."""
    feed = make_feed(experiment.workload, experiment.seed, len(experiment.fleet.cluster.nodes))
    drawn = [(request.prompt_tokens, request.output_tokens) for request in islice(feed.requests, DRAWN)]
    prompts, outputs = np.array(drawn, dtype=np.int64).reshape(-1, 2).T
    return prompts, outputs
