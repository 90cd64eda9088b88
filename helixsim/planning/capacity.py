"""The highest request rate at which a system meets its objectives, by a bracketing search.

Rates are on a grid with steps of the tolerance, anchored at the max-flow estimate: rate k is
``max_flow * (1 + tolerance)**k``. An exponential search starts below the KV-limited estimate, at most at the max-flow
estimate (or at the result of another seed or target), until one rate passes and a higher one fails; bisection narrows
the bracket to neighbouring rates. All rates of a seed, and all systems, receive the same requests, scaled in time. The
placement is that of the experiment as written. Each seed is searched separately, later ones from the result of the
first; the interval is over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError
from helixsim.metrics.objectives import Target
from helixsim.metrics.slowdown import SlackCurve
from helixsim.metrics.stats import t_interval
from helixsim.results.capacity import CapacityEstimate, SystemCapacity, Trial
from helixsim.runtime.pool import Report
from helixsim.study.placements import placement_store, placements_in
from helixsim.study.placing import place_system
from helixsim.study.systems import PlacedSystem
from helixsim.study.trials import run_trial, trial_store, trials_in
from helixsim.study.whatif import keep_placement
from helixsim.workload.arrivals import process_of

FIRST_STEP = 0.08
"""First step of the exponential search, as a share of the rate; later ones grow (``highest_pass``)."""

FIRST_SHARE = 0.85
"""Start of the search as a share of the KV-limited estimate, where waiting times usually grow, at most the max-flow
estimate: few placements serve more than that, and rates far above the capacity are simulated in vain."""

LEAST_SHARE, MOST_SHARE = 0.01, 64.0
"""Range of the search, as shares of the max-flow estimate."""

CURVE_SHARES = (0.5,)
"""Additional rates of the load curve, as shares of the capacity."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of a capacity search.

    Parameters
    ----------
    tolerance
        Relative distance of neighbouring rates: the capacity is at most one step above the reported rate.
    seeds
        Number of seeds, counted from that of the experiment; two or more give an interval.
    with_curve
        Also simulate lower rates, for the load curve.
    """

    tolerance: float = 0.02
    seeds: int = 3
    with_curve: bool = True


@dataclass(frozen=True, slots=True)
class SearchTask:
    """The search of one system under one seed.

    Parameters
    ----------
    placed
        The placed system; None: place the model first.
    targets
        Objectives; all are evaluated, those with a hint are searched.
    hints
        Grid index at which the search of each target starts, in order (None: the KV-limited estimate).
    rates_rps
        Additional rates to simulate.
    first_share
        Start of the search as a share of the KV-limited estimate.
    kept
        Placement to keep, on the nodes that are left of it; None: place the model, unless ``placed``.
    """

    experiment: ResolvedExperiment
    system: SystemSpec
    placed: PlacedSystem | None
    targets: tuple[Target, ...]
    tolerance: float
    seed: int
    hints: tuple[int | None, ...]
    rates_rps: tuple[float, ...] = ()
    out: Path | None = None
    force: bool = False
    first_share: float = FIRST_SHARE
    kept: Placement | None = None


@dataclass(frozen=True)
class Searched:
    """Result of the search under one seed: a grid index for each target (None: no rate meets it)."""

    placed: PlacedSystem
    bound_rps: float
    seed: int
    best: tuple[int | None, ...]
    trials: tuple[Trial, ...]


def capacity_targets(experiment: ResolvedExperiment, percentile: float, share: float | None) -> tuple[Target, ...]:
    """Return the targets of an experiment: its SLO and its further targets.

    Raises
    ------
    ConfigError
        If there are none, or the arrivals have no rate.
    """
    classes = [("slo", experiment.slo), *experiment.slo_targets]
    targets = tuple(Target(name, slo, percentile, share) for name, slo in classes if slo.is_stated)
    if not targets:
        raise ConfigError(f"{experiment.source}: states no objective; add slo: {{ttft: 5 s, tpot: 500 ms}} or the like")
    for system in experiment.systems:
        arrivals = system.arrivals or experiment.workload.arrivals
        if process_of(arrivals).mode is not FeedMode.OPEN:
            raise ConfigError(
                f"{experiment.source}: {arrivals.process} arrivals have no rate to search; "
                "choose another process: --set 'workload.arrivals={process: poisson, rate: 1}'"
            )
    return targets


def search_seed(task: SearchTask, report: Report) -> Searched:
    """Search one system under one seed; the task of the executors."""
    experiment, system, placed = task.experiment, task.system, task.placed
    placements = trials = None
    if task.out is not None:
        placements = placement_store(placements_in(task.out), renew=task.force)
        trials = trial_store(trials_in(task.out), renew=task.force)
    if placed is None:
        report(0.0, f"{system.name}: placing")
        if task.kept is None:
            placed = place_system(experiment, system, store=placements)
        else:
            placed = keep_placement(experiment, system, task.kept)
    stats = experiment.workload_stats
    tokens = stats.mean_prompt_tokens + stats.mean_output_tokens
    bound_rps = placed.plan.max_flow_tokens_per_s / tokens
    done: dict[float, Trial] = {}

    def trial(rate_rps: float) -> Trial:
        if rate_rps not in done:
            report(len(done) / (len(done) + 4), f"{system.name}: {rate_rps:.3g} requests/s, seed {task.seed}")
            done[rate_rps] = run_trial(experiment, placed, task.targets, task.seed, rate_rps, trials)
        return done[rate_rps]

    step = 1.0 + task.tolerance
    lowest, highest = (round(math.log(share) / math.log(step)) for share in (LEAST_SHARE, MOST_SHARE))
    operating_rps = bound_rps if placed.operating is None else placed.operating.tokens_per_s / tokens
    share = min(task.first_share * operating_rps / bound_rps, 1.0)
    first = math.floor(math.log(max(LEAST_SHARE, share)) / math.log(step))
    stride = max(1, round(FIRST_STEP / task.tolerance))
    best: list[int | None] = []
    near: int | None = None
    for target, hint in zip(task.targets, task.hints, strict=False):

        def passes(k: int, name: str = target.name) -> bool:
            return trial(bound_rps * step**k).verdicts[name].is_met

        near = near if hint is None else hint
        start = first if near is None else near
        k = highest_pass(passes, min(max(start, lowest), highest), stride, lowest, highest)
        near = near if k is None else k
        best.append(k)
    for rate_rps in task.rates_rps:
        trial(rate_rps)
    report(1.0, f"{system.name}: done")
    return Searched(placed, bound_rps, task.seed, tuple(best), tuple(done.values()))


def tasks_after(first: Searched, task: SearchTask, options: SearchOptions) -> list[SearchTask]:
    """Return the tasks after the search of the first seed: other seeds, and the load curve."""
    common = replace(task, placed=first.placed)
    more = [replace(common, seed=task.seed + number, hints=first.best) for number in range(1, options.seeds)]
    if options.with_curve:
        capacities = {first.bound_rps * (1 + task.tolerance) ** k for k in first.best if k is not None}
        lower = sorted((rate * share for rate in capacities for share in CURVE_SHARES), reverse=True)
        more += [replace(common, hints=(), rates_rps=(rate,)) for rate in lower]
    return more


def capacity_of(task: SearchTask, parts: Sequence[Searched]) -> SystemCapacity:
    """Return the capacity of a system from the parts of its search; the first is that of the first seed."""
    first = parts[0]
    searched = sorted((part for part in parts if part.best), key=lambda part: part.seed)
    trials = sorted(
        {(trial.seed, trial.rate_rps): trial for part in parts for trial in part.trials}.values(),
        key=lambda trial: (trial.seed, trial.rate_rps),
    )
    step = 1.0 + task.tolerance
    found = []
    for number, target in enumerate(task.targets):
        best = [part.best[number] for part in searched]
        rates = [0.0 if k is None else first.bound_rps * step**k for k in best]
        found.append(_found(target, rates, [trial for trial in trials if trial.seed == first.seed], task.tolerance))
    return SystemCapacity(task.system.name, first.bound_rps, tuple(found), tuple(trials), len(trials))


def find_capacity(task: SearchTask, options: SearchOptions, report: Report = lambda *_: None) -> SystemCapacity:
    """Search the capacity of one system for all targets, in this process."""
    first = search_seed(task, report)
    return capacity_of(task, [first, *(search_seed(more, report) for more in tasks_after(first, task, options))])


def highest_pass(passes: Callable[[int], bool], start: int, stride: int, lowest: int, highest: int) -> int | None:
    """Return a k that passes while k + 1 fails, by exponential search and bisection; None if ``lowest`` fails.

    The steps are one, one, two, four, ... strides, as seeds mostly differ by one or two. If exactly the ks up to some k
    pass, that k is returned, else one of the transitions.
    """
    good, bad, at = lowest - 1, highest + 1, start
    strides = chain([stride], (stride << doubled for doubled in count()))
    while True:
        if passes(at):
            good = at
            if at == highest or bad <= highest:
                break
            at = min(highest, at + next(strides))
        else:
            bad = at
            if at == lowest or good >= lowest:
                break
            at = max(lowest, at - next(strides))
    while bad - good > 1 and good >= lowest:
        middle = (good + bad) // 2
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good if good >= lowest else None


def _found(target: Target, rates: Sequence[float], trials: Sequence[Trial], tolerance: float) -> CapacityEstimate:
    """Return the capacity for a target; ``trials`` are those of the first seed."""
    interval = t_interval(rates)
    failing = [trial for trial in trials if trial.rate_rps > rates[0] and not trial.verdicts[target.name].is_met]
    # The reason is that of the lowest failing rate with a measurement.
    first = min(failing, key=lambda trial: (not trial.verdicts[target.name].is_measured, trial.rate_rps), default=None)
    binds = "none up to the highest simulated rate"
    if first is not None:
        binds = f"at {first.rate_rps:.3g} requests/s {'; '.join(first.verdicts[target.name].misses)}"
    return CapacityEstimate(
        target=target.name,
        by_seed=tuple(rates),
        rate_rps=math.fsum(rates) / len(rates),
        low_rps=None if interval is None else interval.low,
        high_rps=None if interval is None else interval.high * (1 + tolerance),
        binds=binds,
        at_capacity=next((trial.summary for trial in trials if trial.rate_rps == rates[0]), None),
        slack=SlackCurve(_slack(target, [trial for trial in trials if trial.rate_rps <= rates[0]])),
    )


def _slack(target: Target, trials: Sequence[Trial]) -> tuple[tuple[float, float], ...]:
    """Return (rate, slack) of the trials that meet a target, by rate."""
    verdicts = ((trial.rate_rps, trial.verdicts[target.name]) for trial in trials)
    passing = ((rate, verdict.slack) for rate, verdict in verdicts if verdict.is_met and math.isfinite(verdict.slack))
    return tuple(sorted(passing))
