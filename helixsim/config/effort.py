"""How long a run will take, estimated from its load before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.units import NS_PER_S
from helixsim.workload.feed import offered_rps

TOKENS_PER_CPU_S = 150_000
"""Output tokens simulated in a CPU second: 50 000 on long pipelines of many nodes, more on short ones."""

TOKENS_PER_CPU_S_ALONE = 1_000_000
"""The same where single nodes serve requests and tokens stay in the engine."""

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
    tokens, simulated_s, planned_s = 0.0, 0.0, 0.0
    for part in parts:
        each = part.workload_stats.mean_output_tokens
        for system in part.systems:
            counts.append(_requests(part, system))
            own = (counts[-1] or 0.0) * each
            tokens += own
            cpu_s = own / (TOKENS_PER_CPU_S_ALONE if _serve_alone(part, system) else TOKENS_PER_CPU_S)
            simulated_s += cpu_s
            if system.placement == _PLANNED and system.name not in kept:
                planned.append(system.name)
                planned_s += cpu_s
    if None in counts:
        return Effort(None, None, None, tuple(planned), None)
    requests = round(sum(count for count in counts if count is not None))
    low, high = (share * planned_s for share in PLANNING_SHARE)
    return Effort(requests, round(tokens), simulated_s, tuple(planned), (low, high))


def _serve_alone(experiment: ResolvedExperiment, system: SystemSpec) -> bool:
    """Return whether each node is a replica: all of them hold the model, and no strategy joins them."""
    holds_all = all(one.max_layers >= system.fleet.model.num_layers for one in system.fleet.profiles)
    return experiment.engine.loops_inside and system.placement == "replicas" and holds_all


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
