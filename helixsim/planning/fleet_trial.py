"""The experiment of a plan, and the trial of a fleet: placement, simulation, evaluation and capacity search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.config.plan_file import FleetPlan
from helixsim.domain.summary import Summary
from helixsim.errors import InfeasibleError
from helixsim.experiment import Experiment
from helixsim.metrics.objectives import Target
from helixsim.metrics.slowdown import NO_SLACK, SlackCurve
from helixsim.planning.capacity import SearchOptions, SearchTask, find_capacity
from helixsim.runtime.pool import Report
from helixsim.study.placements import placement_store, placements_in
from helixsim.study.placing import place_system
from helixsim.study.trials import run_trial, trial_store, trials_in

CAPACITY_TOLERANCE = 0.02
"""Tolerance of the capacities of fleets, whose differences tell what a further node adds."""


@dataclass(frozen=True, slots=True)
class FleetTask:
    """The trial of a fleet at the rate of the workload.

    ``with_capacity``: also search its capacity; ``at_capacity``: evaluate it there instead.
    """

    experiment: Experiment
    target: Target
    out: Path
    with_capacity: bool
    at_capacity: bool
    force: bool


@dataclass(frozen=True)
class FleetTrial:
    """Result of the trial of a fleet; no summary if it could not be placed.

    ``idle``: positions of the nodes that hold no layers, in the order of the fleet.
    """

    is_met: bool
    misses: tuple[str, ...]
    slack: float
    tightest: str
    summary: Summary | None
    capacity_rps: float | None
    slack_curve: SlackCurve = NO_SLACK
    idle: tuple[int, ...] = ()


def varied(plan: FleetPlan, base: Experiment | None = None) -> Experiment:
    """Return the experiment of a plan, with the settings of the plan; ``base``: as in ``find_fleet``."""
    return (base or Experiment.load(plan.experiment)).with_(plan.settings)


def try_fleet(task: FleetTask, report: Report) -> FleetTrial:
    """Place, simulate and evaluate one fleet; the task of the executors.

    A fleet that cannot hold the model does not serve the load. Other errors are not verdicts on the fleet, and are
    raised.
    """
    if not task.experiment.document["cluster"]["nodes"]:
        return FleetTrial(False, ("no node lasts for the availability asked for",), 0.0, "", None, None)
    try:
        experiment = task.experiment.resolve(is_part=True)
        (system,) = experiment.systems
        report(0.1, "placing")
        placed = place_system(experiment, system, store=placement_store(placements_in(task.out), renew=task.force))
        nodes, held = system.fleet.cluster.nodes, placed.placement.ranges
        idle = tuple(position for position, node in enumerate(nodes) if node.id not in held)
        capacity_rps, slack_curve = None, NO_SLACK
        if task.with_capacity:
            options = SearchOptions(CAPACITY_TOLERANCE, seeds=1, with_curve=False)
            search = SearchTask(
                experiment, system, placed, (task.target,), options.tolerance, experiment.seed, (None,), (), task.out,
                task.force,
            )  # fmt: skip
            (found,) = find_capacity(search, options, report).estimates
            capacity_rps, slack_curve = found.rate_rps, found.slack
            if task.at_capacity and found.at_capacity is not None:
                return FleetTrial(True, (), 1.0, "", found.at_capacity, capacity_rps, slack_curve, idle)
        report(0.5, "simulating")
        store = trial_store(trials_in(task.out), renew=task.force)
        trial = run_trial(experiment, placed, [task.target], experiment.seed, store=store)
        verdict = trial.verdicts[task.target.name]
        if verdict.is_met:
            slack_curve = slack_curve.and_at(trial.rate_rps, verdict.slack)
        return FleetTrial(
            verdict.is_met, verdict.misses, verdict.slack, verdict.tightest, trial.summary, capacity_rps, slack_curve,
            idle,
        )  # fmt: skip
    except InfeasibleError as error:
        return FleetTrial(False, (str(error),), 0.0, "", None, None)
