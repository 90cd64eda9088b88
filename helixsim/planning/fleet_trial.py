"""One fleet tried: placed, simulated, judged, and its capacity searched where that is asked; the work of workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.domain.summary import Summary
from helixsim.errors import InfeasibleError
from helixsim.experiment import Experiment
from helixsim.metrics.objectives import Target
from helixsim.planning.capacity import SearchOptions, SearchTask, find_capacity
from helixsim.runtime.pool import Report
from helixsim.study.placements import placement_store, placements_in
from helixsim.study.placing import place_system
from helixsim.study.trials import run_trial, trial_store, trials_in

CAPACITY_TOLERANCE = 0.05
"""Tolerance of the capacities of fleets."""


@dataclass(frozen=True, slots=True)
class FleetTask:
    """What a worker needs to try a fleet.

    It is judged at the workload's rate; ``with_capacity`` its capacity is searched too, ``at_capacity`` it is judged
    there instead.
    """

    experiment: Experiment
    target: Target
    out: Path
    with_capacity: bool
    at_capacity: bool
    force: bool


@dataclass(frozen=True)
class FleetTrial:
    """What trying a fleet gave; without a summary where it could not even be placed."""

    is_met: bool
    misses: tuple[str, ...]
    slack: float
    tightest: str
    summary: Summary | None
    capacity_rps: float | None


def try_fleet(task: FleetTask, report: Report) -> FleetTrial:
    """Place, simulate and judge one fleet; the work of the executors.

    A fleet that cannot hold the model does not serve the load. Every other error says nothing about the fleet and is
    raised.
    """
    try:
        experiment = task.experiment.resolve(is_part=True)
        (system,) = experiment.systems
        report(0.1, "placing")
        placed = place_system(experiment, system, store=placement_store(placements_in(task.out), renew=task.force))
        capacity_rps = None
        if task.with_capacity:
            options = SearchOptions(CAPACITY_TOLERANCE, seeds=1, with_curve=False)
            search = SearchTask(
                experiment, system, placed, (task.target,), options.tolerance, experiment.seed, (None,), (), task.out,
                task.force,
            )  # fmt: skip
            (found,) = find_capacity(search, options, report).estimates
            capacity_rps = found.rate_rps
            if task.at_capacity and found.at_capacity is not None:
                return FleetTrial(True, (), 1.0, "", found.at_capacity, capacity_rps)
        report(0.5, "simulating")
        store = trial_store(trials_in(task.out), renew=task.force)
        trial = run_trial(experiment, placed, [task.target], experiment.seed, store=store)
        verdict = trial.verdicts[task.target.name]
        return FleetTrial(verdict.is_met, verdict.misses, verdict.slack, verdict.tightest, trial.summary, capacity_rps)
    except InfeasibleError as error:
        return FleetTrial(False, (str(error),), 0.0, "", None, None)
