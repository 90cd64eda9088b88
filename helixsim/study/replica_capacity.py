"""How many requests per second a replica of each pool serves within the objectives, by simulation of the whole pool.

Many replicas even out the bursts of the load, so that each serves more in a large pool than alone. The share of one in
the largest number is therefore the most that any number of them serves.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.autoscaling import Pool
from helixsim.domain.request import Window
from helixsim.domain.result import RunResult
from helixsim.metrics.objectives import Target, evaluate_target
from helixsim.routing.graph import chains, routing_graph
from helixsim.runtime.identity import content_key, experiment_key
from helixsim.study.placing import assembled
from helixsim.study.systems import PlacedSystem, simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import process_of

TOLERANCE = 0.02
"""The capacity is at most so much above the rate that is returned, relative to it."""

_WARMUP_S = 60
_LEAST_S, _MOST_S, _REQUESTS = 120, 600, 3000
"""Bounds of the simulated time behind the warm-up, and how many requests should arrive in it at the first rate."""
_FEWEST_REQUESTS = 20
"""Rates at which fewer arrive on average are not tried: their percentiles say nothing."""

_known: dict[str, float] = {}


def with_capacities(experiment: ResolvedExperiment, placed: PlacedSystem, run: RunResult) -> RunResult:
    """Return a run whose pools know what a replica of each serves; as it is without pools or objectives."""
    stats = run.autoscaling
    if stats is None or not experiment.slo.is_stated:
        return run
    pools = []
    for one in stats.pools:
        system = replace(placed.system, name="", autoscaling=None)
        ranges = list(placed.placement.ranges.items())
        key = content_key("capacity", experiment_key(experiment), system, ranges, one.pool.nodes, one.pool.ceiling)
        if key not in _known:  # systems often differ in their policy alone
            _known[key] = replica_capacity_rps(experiment, placed, one.pool)
        pools.append(replace(one, pool=replace(one.pool, capacity_rps=_known[key])))
    return replace(run, autoscaling=replace(stats, pools=tuple(pools)))


def replica_capacity_rps(experiment: ResolvedExperiment, placed: PlacedSystem, pool: Pool) -> float:
    """Return the highest constant rate at which all replicas of a pool meet the objectives, per replica [requests/s].

    The arrivals are those of the experiment without their course over time; recorded ones become Poisson arrivals. The
    percentile is that of the verdict, over two to ten minutes behind one of warm-up. 0: even rare ones miss them,
    or the pool has no replica.
    """
    if pool.ceiling == 0:
        return 0.0
    graph = routing_graph(placed.placement, placed.plan)
    found = ([graph.node_ids[node] for node in chain] for chain in chains(graph) or [])
    serving = set(pool.nodes[: pool.ceiling])
    nodes = [node for chain in found if chain[0] in serving for node in chain]
    spec = placed.system.arrivals or experiment.workload.arrivals
    process = spec.process if process_of(spec).generate is not None else "poisson"
    spec = replace(spec, process=process, over_time=None, num_requests=None)
    alone = replace(placed.system, autoscaling=None)
    part = assembled(experiment, alone, placed.placement.part(nodes))
    stats = experiment.workload_stats
    rate_rps = part.plan.max_flow_tokens_per_s / (stats.mean_prompt_tokens + stats.mean_output_tokens)
    duration_s = min(max(_LEAST_S, round(_REQUESTS / rate_rps)), _MOST_S)
    window = Window(_WARMUP_S * NS_PER_S, duration_s * NS_PER_S, drain=False)
    load = replace(experiment.workload, window=window)
    target = Target("slo", experiment.slo)

    @cache
    def passes(rate_rps: float) -> bool:
        system = replace(part.system, arrivals=replace(spec, rate_rps=rate_rps))
        run = simulate_system(replace(experiment, workload=load), replace(part, system=system), window=window)
        return evaluate_target(run, target).is_met

    while passes(rate_rps):
        rate_rps *= 2
    low, high = rate_rps / 2, rate_rps
    while not passes(low):
        low, high = low / 2, low
        if low * duration_s < _FEWEST_REQUESTS:
            return 0.0
    while high > low * (1 + TOLERANCE):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low / pool.ceiling
