"""How long a run will take, estimated from its load before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.units import NS_PER_S
from helixsim.workload.feed import offered_rps

TOKENS_PER_CPU_S = 150_000
"""Output tokens simulated in a CPU second: 50 000 on long pipelines of many nodes, 1 000 000 on single nodes."""

PLANNING_SHARE = (10, 80)
"""CPU time of the planner over that of one simulation: it compares candidates by simulations of the same load."""

_PLANNED = "helix"


@dataclass(frozen=True, slots=True)
class Effort:
    """Estimated work of a run.

    Parameters
    ----------
    requests, output_tokens
        Of all systems and variants together; None: not known before, as in closed loops without number of requests.
    simulation_cpu_s
        CPU time of the simulations [s]; None likewise.
    planned
        Systems whose placement is planned.
    planning_cpu_s
        Range of the CPU time of planning [s]; None likewise, (0, 0) without planned systems.
    """

    requests: int | None
    output_tokens: int | None
    simulation_cpu_s: float | None
    planned: tuple[str, ...]
    planning_cpu_s: tuple[float, float] | None


def effort(experiment: ResolvedExperiment) -> Effort:
    """Return the estimated work of a run, with its what-if variants."""
    parts = [experiment, *(one.experiment for one in experiment.variants if one.experiment is not None)]
    kept = {name for one in experiment.variants if not one.replan for name in one.bases}
    counts: list[float | None] = []
    planned: list[str] = []
    tokens, planned_s = 0.0, 0.0
    for part in parts:
        each = part.workload_stats.mean_output_tokens
        for system in part.systems:
            counts.append(_requests(part, system))
            own = (counts[-1] or 0.0) * each
            tokens += own
            if system.placement == _PLANNED and system.name not in kept:
                planned.append(system.name)
                planned_s += own / TOKENS_PER_CPU_S
    if None in counts:
        return Effort(None, None, None, tuple(planned), None)
    requests = round(sum(count for count in counts if count is not None))
    low, high = (share * planned_s for share in PLANNING_SHARE)
    return Effort(requests, round(tokens), tokens / TOKENS_PER_CPU_S, tuple(planned), (low, high))


def _requests(experiment: ResolvedExperiment, system: SystemSpec) -> float | None:
    """Return the number of requests that will arrive; None: it depends on the throughput."""
    stats, window = experiment.workload_stats, experiment.workload.window
    if stats.num_requests is not None:
        return stats.num_requests
    load = experiment.workload
    rate_rps = stats.offered_rps if system.arrivals is None else offered_rps(replace(load, arrivals=system.arrivals))
    if rate_rps is None or window.duration_ns is None:
        return None
    return rate_rps * (window.warmup_ns + window.duration_ns) / NS_PER_S
