"""The figures of pools of replicas whose number follows the load (``domain.summary``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helixsim.domain.figures import Figure


@dataclass(frozen=True, slots=True)
class SpotFigures:
    """Replicas of a pool on spot machines, in the window.

    Parameters
    ----------
    spot_mean
        Replicas on spot machines that are paid for.
    wanted_mean
        Replicas that the autoscaling policy asks for.
    availability
        Share of the time in which at least as many replicas serve as are asked for, 0..1.
    preempted
        Replicas that were preempted over the whole run, those that started included.
    cost_usd, on_demand_usd
        Price of the pool, and that of the replicas that are asked for on demand.
    """

    spot_mean: Figure
    wanted_mean: Figure
    availability: Figure
    preempted: int
    cost_usd: Figure
    on_demand_usd: Figure


@dataclass(frozen=True, slots=True)
class ScaledPoolFigures:
    """A pool in the window.

    Parameters
    ----------
    floor, ceiling
        Bounds of the number of replicas.
    gpus
        Of a replica.
    replicas_mean, replicas_peak
        Replicas that are paid for: from the beginning of their start until they are removed.
    starts
        Replicas started over the whole run.
    startup_s
        From the decision to the first request of a replica [s].
    capacity_per_s
        Requests/s that each replica serves within the objectives where all do; 0: never met; None: no objectives.
    spot
        None: all replicas are on demand.
    lost
        Replicas whose machines failed over the whole run; None: none can fail.
    """

    floor: int
    ceiling: int
    gpus: int
    replicas_mean: Figure
    replicas_peak: int
    starts: int
    startup_s: float
    capacity_per_s: Figure = None
    spot: SpotFigures | None = None
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class AutoscalingFigures:
    """What is paid for in the window, and the least that could be.

    Parameters
    ----------
    pools
        By type of their nodes.
    gpu_hours, cost_usd
        Of all nodes that are paid for, those of no pool included.
    window_s
        Windows of the bound [s].
    other_gpus
        GPUs of nodes of no pool, which are paid for all the time.
    busy_share
        Share of the time paid for in which nodes compute, 0..1.
    bound_gpu_hours, bound_cost_usd, bound_gpus_mean, bound_gpus_peak
        Of the perfect autoscaler: in each window the fewest replicas that serve its requests within the objectives,
        without start-up and draining; None: no objectives, or replicas of no pool.
    """

    pools: Mapping[str, ScaledPoolFigures]
    gpu_hours: float
    cost_usd: float
    busy_share: Figure
    window_s: float
    other_gpus: int
    bound_gpu_hours: Figure = None
    bound_cost_usd: Figure = None
    bound_gpus_mean: Figure = None
    bound_gpus_peak: Figure = None
