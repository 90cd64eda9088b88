"""How long a run will take, estimated from its load before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.study.whatif import cases
from helixsim.units import NS_PER_S

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
    """Return the estimated work of a run."""
    counts: list[float | None] = []
    planning = [0.0, 0.0]
    planned = []
    all_cases = cases(experiment)
    for case in all_cases:
        count = _requests(case.experiment, case.system)
        counts.append(count)
        if case.system.placement == _PLANNED:
            planned.append(case.name)
            own_s = (count or 0.0) * _tokens(case.experiment) / TOKENS_PER_CPU_S
            planning = [spent + share * own_s for spent, share in zip(planning, PLANNING_SHARE, strict=True)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return Effort(None, None, None, tuple(planned), None)
    tokens = sum(count * _tokens(case.experiment) for count, case in zip(known, all_cases, strict=True))
    return Effort(
        round(sum(known)), round(tokens), tokens / TOKENS_PER_CPU_S, tuple(planned), (planning[0], planning[1])
    )


def _requests(experiment: ResolvedExperiment, system: SystemSpec) -> float | None:
    """Return the number of requests that will arrive; None: it depends on the throughput."""
    stats, window = experiment.workload_stats, experiment.workload.window
    if stats.num_requests is not None:
        return stats.num_requests
    rate_rps = stats.offered_rps if system.arrivals is None else system.arrivals.rate_rps
    if rate_rps is None or window.duration_ns is None:
        return None
    return rate_rps * (window.warmup_ns + window.duration_ns) / NS_PER_S


def _tokens(experiment: ResolvedExperiment) -> float:
    return experiment.workload_stats.mean_output_tokens
