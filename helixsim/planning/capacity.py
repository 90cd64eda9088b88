"""The highest request rate at which a system meets its objectives, by a bracketing search.

Rates lie on a grid with steps of the tolerance, anchored at the rate the flow bound allows: rate k is
``bound * (1 + tolerance)**k``. The search gallops from the bound (or from what another seed or class has found) until
one rate passes and a higher one fails, and halves the bracket until they are neighbours. All rates of one seed see the
same requests, only closer together, so that a comparison of rates is not one of luck; the placement is that of the
experiment as written and stays. Seeds are searched one by one: their spread gives the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.config.resolve import load_experiment
from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError, HelixsimError
from helixsim.metrics.objectives import Target, judge_target
from helixsim.metrics.stats import CONFIDENCE, student_t_quantile
from helixsim.metrics.summary import summarise
from helixsim.planning.executors import Report
from helixsim.planning.placements import PlacementStore
from helixsim.planning.placing import place_system
from helixsim.planning.registries import registries
from helixsim.planning.run import placements_in
from helixsim.planning.systems import PlacedSystem, patience_for, simulate_system
from helixsim.report.capacity_files import Found, SystemCapacity, Trial
from helixsim.workload.arrivals import process_of
from helixsim.workload.spec import ArrivalsSpec

FIRST_STEP = 0.08
"""The first step of a gallop from the flow bound, as a share of the rate; each further one is twice as long."""

LEAST_SHARE, MOST_SHARE = 0.01, 64.0
"""Rates looked at, in flow bounds: below the least nothing is served worth the name."""

CURVE_SHARES = (0.25, 0.5, 0.75, 0.9)
"""Rates of the load curve that are simulated beside those of the search, in shares of the capacity found."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a capacity is searched.

    Parameters
    ----------
    tolerance
        Relative distance of two neighbouring rates: the capacity lies within one step above what is reported.
    seeds
        Number of seeds, counted from the experiment's; from 2 on the answer has an interval.
    with_curve
        Simulate lower rates too, for the load curve.
    """

    tolerance: float = 0.02
    seeds: int = 1
    with_curve: bool = True


@dataclass(frozen=True, slots=True)
class CapacityTask:
    """What a worker needs to search the capacity of one system."""

    experiment: Path
    overrides: tuple[str, ...]
    system: str
    targets: tuple[Target, ...]
    options: SearchOptions
    out: Path
    force: bool = False


def capacity_targets(experiment: ResolvedExperiment, percentile: float, share: float | None) -> tuple[Target, ...]:
    """Return what an experiment asks of its systems: its SLO, and each SLO class.

    Raises
    ------
    ConfigError
        If it asks for nothing, or its requests do not come at a rate.
    """
    classes = [("slo", experiment.slo), *experiment.slo_classes]
    targets = tuple(
        Target(name, slo, percentile, share)
        for name, slo in classes
        if not slo.ttft_s is slo.tpot_s is slo.e2el_s is None
    )
    if not targets:
        raise ConfigError(f"{experiment.source}: states no objective; add slo: {{ttft: 5 s, tpot: 500 ms}} or the like")
    for system in experiment.systems:
        arrivals = system.arrivals or experiment.workload.arrivals
        if process_of(arrivals).mode is not FeedMode.OPEN:
            raise ConfigError(
                f"{experiment.source}: {arrivals.process} arrivals have no rate to search; "
                "name another process: --set 'workload.arrivals={process: poisson, rate: 1}'"
            )
    return targets


def search_system(task: CapacityTask, report: Report) -> SystemCapacity | HelixsimError:
    """Search the capacity of one system; the work of the executors."""
    try:
        experiment = load_experiment(task.experiment, task.overrides, registries=registries())
        system = next(system for system in experiment.systems if system.name == task.system)
        report(0.0, f"{system.name}: placing")
        store = PlacementStore(placements_in(task.out), renew=task.force)
        placed = place_system(experiment, system, store=store)
        return find_capacity(experiment, placed, task.targets, task.options, report)
    except HelixsimError as error:
        return error


def find_capacity(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    targets: Sequence[Target],
    options: SearchOptions,
    report: Report = lambda _share, _what: None,
) -> SystemCapacity:
    """Search the capacity of a placed system for every target."""
    stats = experiment.workload_stats
    bound_rps = placed.plan.max_flow_tokens_per_s / (stats.mean_prompt_tokens + stats.mean_output_tokens)
    bench = _Bench(experiment, placed, targets, report)
    step = 1.0 + options.tolerance
    lowest, highest = (round(math.log(share) / math.log(step)) for share in (LEAST_SHARE, MOST_SHARE))
    seeds = range(experiment.seed, experiment.seed + options.seeds)
    found = []
    hint: int | None = None
    for target in targets:
        best: list[int | None] = []
        for seed in seeds:

            def passes(k: int, seed: int = seed, name: str = target.name) -> bool:
                return bench.trial(seed, bound_rps * step**k).verdicts[name].is_met

            stride = max(1, round(FIRST_STEP / options.tolerance)) if hint is None else 1
            k = highest_pass(passes, hint or 0, stride, lowest, highest)
            hint = hint if k is None else k
            best.append(k)
        found.append(_found(bench, target, seeds, best, lambda k: bound_rps * step**k))
    if options.with_curve:
        for one in found:
            for share in CURVE_SHARES:
                if one.by_seed[0]:
                    bench.trial(seeds[0], one.by_seed[0] * share)
    report(1.0, f"{placed.system.name}: done")
    trials = sorted(bench.trials.values(), key=lambda trial: (trial.seed, trial.rate_rps))
    return SystemCapacity(placed.system.name, bound_rps, tuple(found), tuple(trials))


def highest_pass(passes: Callable[[int], bool], start: int, stride: int, lowest: int, highest: int) -> int | None:
    """Return a k that passes while k + 1 fails, by galloping from ``start`` and halving; None if ``lowest`` fails.

    Where the passing ks are all those up to some k, that k is found; else one of the places where passing ends.
    """
    good, bad, at = lowest - 1, highest + 1, start
    while True:
        if passes(at):
            good = at
            if at == highest or bad <= highest:
                break
            at = min(highest, at + stride)
        else:
            bad = at
            if at == lowest or good >= lowest:
                break
            at = max(lowest, at - stride)
        stride *= 2
    while bad - good > 1 and good >= lowest:
        middle = (good + bad) // 2
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good if good >= lowest else None


class _Bench:
    """Simulates one placed system at any rate and seed, each pair once."""

    def __init__(
        self, experiment: ResolvedExperiment, placed: PlacedSystem, targets: Sequence[Target], report: Report
    ) -> None:
        self.experiment = experiment
        self.placed = placed
        self.targets = targets
        self.report = report
        self.trials: dict[tuple[int, float], Trial] = {}

    def trial(self, seed: int, rate_rps: float) -> Trial:
        """Return the simulation at a rate under a seed."""
        key = (seed, rate_rps)
        if key not in self.trials:
            done = len(self.trials)
            self.report(done / (done + 6), f"{self.placed.system.name}: {rate_rps:.3g} requests/s, seed {seed}")
            self.trials[key] = self._simulate(seed, rate_rps)
        return self.trials[key]

    def _simulate(self, seed: int, rate_rps: float) -> Trial:
        experiment, system = self.experiment, self.placed.system
        placed = replace(self.placed, system=replace(system, arrivals=at_rate(experiment, system, rate_rps)))
        patience = patience_for(experiment, placed.system, seed, self.targets)
        run = simulate_system(experiment, placed, seed=seed, patience=patience)
        stats = experiment.workload_stats
        summary = summarise(
            run,
            slo=self.targets[0].slo,
            fleet=system.fleet,
            placement=placed.placement,
            plan=placed.plan,
            mean_prompt_tokens=stats.mean_prompt_tokens,
            mean_output_tokens=stats.mean_output_tokens,
            offered_rps=rate_rps,
        )
        verdicts = {target.name: judge_target(run, target) for target in self.targets}
        return Trial(seed, rate_rps, summary, verdicts)


def at_rate(experiment: ResolvedExperiment, system: SystemSpec, rate_rps: float) -> ArrivalsSpec:
    """Return the arrivals of a system at another rate."""
    return replace(system.arrivals or experiment.workload.arrivals, rate_rps=rate_rps)


def _found(
    bench: _Bench, target: Target, seeds: Sequence[int], best: Sequence[int | None], rate_of: Callable[[int], float]
) -> Found:
    rates = tuple(0.0 if k is None else rate_of(k) for k in best)
    mean = math.fsum(rates) / len(rates)
    half = None
    if len(rates) > 1:
        deviation = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1))
        half = student_t_quantile((1 + CONFIDENCE) / 2, len(rates) - 1) * deviation / math.sqrt(len(rates))
    failing = [
        trial
        for (seed, rate), trial in bench.trials.items()
        if seed == seeds[0] and rate > rates[0] and not trial.verdicts[target.name].is_met
    ]
    first = min(failing, key=lambda trial: trial.rate_rps, default=None)
    binds = "nothing up to the highest rate tried"
    if first is not None:
        binds = f"at {first.rate_rps:.3g} requests/s {'; '.join(first.verdicts[target.name].misses)}"
    return Found(
        target=target.name,
        by_seed=rates,
        rate_rps=mean,
        low_rps=None if half is None else max(0.0, mean - half),
        high_rps=None if half is None else mean + half,
        binds=binds,
        at_capacity=bench.trials[seeds[0], rates[0]].summary if rates[0] else None,
    )
