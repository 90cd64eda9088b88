"""GPU-hours and price of replicas that come and go, and the perfect autoscaler as a bound.

The perfect autoscaler knows the load: in each window it pays for the fewest GPUs (for the price: the cheapest) whose
replicas together serve the requests that arrive in it, each at most as many per second as each serves within the
objectives where all do (``study.replica_capacity``). It starts and removes replicas in no time and splits the load as
it likes, within floors and ceilings. It does not know how many requests may miss the objectives over the whole run: a
policy that lets those of one window be late in exchange for others may need fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.autoscaling import PoolStats
from helixsim.domain.autoscaling_figures import AutoscalingFigures, ScaledPoolFigures, SpotFigures
from helixsim.domain.cluster import Deployment
from helixsim.domain.faults import ABSENT, FaultKind
from helixsim.domain.result import FloatArray, IntArray, RunResult
from helixsim.metrics.utilisation import Utilisation
from helixsim.units import NS_PER_S

_S_PER_HOUR = 3600.0


def autoscaling_figures(run: RunResult, used: Utilisation, fleet: Deployment) -> AutoscalingFigures | None:
    """Return the figures of the pools; None: all replicas serve all the time."""
    stats = run.autoscaling
    if stats is None:
        return None
    hours = _hours(run)
    pools = {one.pool.name: _pool(one, run) for one in stats.pools}
    gpus, usd_per_hour = outside(run, fleet)
    busy_gpus = used.busy_share @ np.array([fleet.cluster.node(node).gpus for node in run.nodes.node_id])
    paid_gpus = gpus + sum((one.replicas_mean or 0.0) * one.gpus for one in pools.values())
    edges = edges_ns(run.window_start_ns, run.window_end_ns, stats.window_s)
    widths_h, loads = np.diff(edges) / NS_PER_S / _S_PER_HOUR, rates_per_s(run.requests.arrival_ns, edges)
    in_pools = {node for one in stats.pools for node in one.pool.nodes}
    least = None
    if all(route.hops[0][0] in in_pools for route in run.routes):
        least = [
            fewest(list(pools.values()), [getattr(one.pool, key) for one in stats.pools], loads)
            for key in ("gpus", "usd_per_hour")
        ]
    figures = AutoscalingFigures(
        pools=pools,
        window_s=stats.window_s,
        gpu_hours=hours * paid_gpus,
        cost_usd=hours * paid_usd_per_hour(run, fleet),
        busy_share=float(busy_gpus) / paid_gpus if paid_gpus else None,
        other_gpus=gpus,
    )
    if least is None or least[0] is None or least[1] is None:
        return figures
    by_gpus, by_price = least[0][0], least[1][0]
    return replace(
        figures,
        bound_gpu_hours=float(by_gpus @ widths_h) + gpus * hours,
        bound_cost_usd=float(by_price @ widths_h) + usd_per_hour * hours,
        bound_gpus_mean=float(by_gpus @ widths_h) / hours + gpus if hours else None,
        bound_gpus_peak=float(by_gpus.max()) + gpus,
    )


def _pool(stats: PoolStats, run: RunResult) -> ScaledPoolFigures:
    pool = stats.pool
    shown = _within(stats.time_ns, run)
    return ScaledPoolFigures(
        floor=pool.floor,
        ceiling=pool.ceiling,
        gpus=pool.gpus,
        replicas_mean=mean_paid(stats, run),
        replicas_peak=int(stats.paid[shown].max()),
        starts=stats.starts,
        startup_s=pool.startup_ns / NS_PER_S,
        capacity_per_s=pool.capacity_rps,
        spot=_spot(stats, run),
        lost=None if run.faults is None else stats.lost,
    )


def _spot(stats: PoolStats, run: RunResult) -> SpotFigures | None:
    if stats.spot is None or stats.wanted is None:
        return None
    hours, price = _hours(run), stats.pool.usd_per_hour
    wanted = _mean(stats, run, stats.wanted)
    return SpotFigures(
        spot_mean=_mean(stats, run, stats.spot),
        wanted_mean=wanted,
        availability=_mean(stats, run, stats.serving >= stats.wanted),
        preempted=stats.preempted,
        cost_usd=hours * mean_usd_per_hour(stats, run),
        on_demand_usd=hours * wanted * price,
    )


def _hours(run: RunResult) -> float:
    return max(run.window_end_ns - run.window_start_ns, 0) / NS_PER_S / _S_PER_HOUR


def _within(times_ns: IntArray, run: RunResult) -> slice:
    """Return the entries that hold at some time of the window; each holds until the next one."""
    first = int(np.searchsorted(times_ns, run.window_start_ns, side="right")) - 1
    return slice(first, max(first + 1, int(np.searchsorted(times_ns, run.window_end_ns, side="left"))))


def mean_paid(stats: PoolStats, run: RunResult) -> float:
    """Return the mean number of replicas that are paid for in the window."""
    return _mean(stats, run, stats.paid)


def mean_usd_per_hour(stats: PoolStats, run: RunResult) -> float:
    """Return the mean price of a pool in the window [$/h]."""
    autoscaling = run.autoscaling
    assert autoscaling is not None
    spared = 0.0 if stats.spot is None else (1.0 - autoscaling.spot_price_share) * _mean(stats, run, stats.spot)
    return (mean_paid(stats, run) - spared) * stats.pool.usd_per_hour


def _mean(stats: PoolStats, run: RunResult, values: NDArray[np.int64] | NDArray[np.bool_]) -> float:
    """Return the mean over the window of values that hold from the times of a pool on."""
    ends_ns = np.append(stats.time_ns[1:], max(run.window_end_ns, int(stats.time_ns[-1])))
    low = np.clip(stats.time_ns, run.window_start_ns, run.window_end_ns)
    high = np.clip(ends_ns, run.window_start_ns, run.window_end_ns)
    window_ns = run.window_end_ns - run.window_start_ns
    return float((high - low) @ values) / window_ns if window_ns > 0 else float(values[-1])


def outside(run: RunResult, fleet: Deployment) -> tuple[int, float]:
    """Return the GPUs and the price of the nodes of no pool, which are paid for all the time [$/h].

    Nodes without layers of a type that has a pool are machines of it that are never started.
    """
    pools = [one.pool for one in run.autoscaling.pools] if run.autoscaling is not None else []
    types, holding = {pool.name for pool in pools}, set(run.nodes.node_id)
    spare = [node for node in fleet.cluster.nodes if node.node_type in types and node.id not in holding]
    total = sum(node.gpus for node in spare) + sum(len(pool.nodes) * pool.gpus for pool in pools)
    price = sum(node.cost_usd_per_hour for node in spare) + sum(len(pool.nodes) * pool.usd_per_hour for pool in pools)
    gpus = sum(node.gpus for node in fleet.cluster.nodes)
    return gpus - total, max(0.0, fleet.cluster.cost_usd_per_hour - price)


def paid_usd_per_hour(run: RunResult, fleet: Deployment) -> float:
    """Return the mean price of what is paid for in the window [$/h], nodes out of service included."""
    if run.autoscaling is None:
        joined = joined_shares(run).items()
        unpaid = (fleet.cluster.node(node).cost_usd_per_hour * (1.0 - share) for node, share in joined)
        return fleet.cluster.cost_usd_per_hour - sum(unpaid)
    prices = (mean_usd_per_hour(one, run) for one in run.autoscaling.pools)
    return sum(prices, outside(run, fleet)[1])


def paid_shares(run: RunResult, fleet: Deployment) -> dict[str, float]:
    """Return the share of the window for which nodes are paid that are not paid for all of it.

    They are those of pools, 0 without layers, and those that join.
    """
    shares = joined_shares(run)
    holding = set(run.nodes.node_id)
    for one in run.autoscaling.pools if run.autoscaling is not None else ():
        share = mean_paid(one, run) / max(len(one.pool.nodes), 1)
        of_type = (node.id for node in fleet.cluster.nodes if node.node_type == one.pool.name)
        shares |= {node: share if node in holding else 0.0 for node in of_type}
    return shares


def joined_shares(run: RunResult) -> dict[str, float]:
    """Return the share of the window for which each node is there that was not at the start."""
    start_ns, end_ns = run.window_start_ns, run.window_end_ns
    absent: list[str] = []
    joined_ns: dict[str, int] = {}
    for at_ns, what, nodes in run.faults.events if run.faults is not None else ():
        if what == ABSENT:
            absent += nodes
        elif what == FaultKind.UP:
            joined_ns = dict.fromkeys(nodes, at_ns) | joined_ns  # nodes that fail later are back again and again
    there_ns = {node: end_ns - max(joined_ns.get(node, end_ns), start_ns) for node in absent}
    return {node: max(lasted_ns, 0) / max(end_ns - start_ns, 1) for node, lasted_ns in there_ns.items()}


def edges_ns(start_ns: int, end_ns: int, window_s: float) -> IntArray:
    """Return the ends of the windows for which the fewest replicas are stated [ns]; the last one may be shorter."""
    inner = np.arange(start_ns, end_ns, round(window_s * NS_PER_S), dtype=np.int64)
    return np.append(inner, end_ns)


def rates_per_s(times_ns: IntArray, edges: IntArray) -> FloatArray:
    """Return how many events per second there are between edges [ns]; those without a time are -1."""
    rates: FloatArray = np.histogram(times_ns, edges)[0] / np.maximum(np.diff(edges) / NS_PER_S, 1e-9)
    return rates


def fewest(
    pools: Sequence[ScaledPoolFigures], weights: Sequence[float], loads_rps: FloatArray
) -> tuple[FloatArray, FloatArray] | None:
    """Return for each load the least sum of weights over replicas that serve it, and their requests/s.

    Weights are those of a replica of each pool: GPUs or prices. Where all replicas together do not serve a load, all
    are needed. None: there are no objectives, and so no capacity of a replica.
    """
    known = [pool.capacity_per_s for pool in pools if pool.capacity_per_s is not None]
    if len(known) < len(pools):
        return None
    numbers = np.array(list(product(*(range(pool.floor, pool.ceiling + 1) for pool in pools))), dtype=np.float64)
    sums, capacities = numbers @ np.array(weights, dtype=np.float64), numbers @ np.array(known, dtype=np.float64)
    order = np.lexsort((-capacities, sums))
    sums, capacities = sums[order], capacities[order]
    at = np.searchsorted(np.maximum.accumulate(capacities), loads_rps * (1 - 1e-9))
    at = np.where(at < len(sums), at, int(np.argmax(capacities)))
    return sums[at], capacities[at]
