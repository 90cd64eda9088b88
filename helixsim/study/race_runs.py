"""Simulations of a race as tasks of an executor, so that several processes share them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.request import Window
from helixsim.metrics.score import Score, score_of
from helixsim.routing import registry as routing_registry
from helixsim.routing.earliest_finish import EarliestFinish
from helixsim.runtime.pool import Executor, Report, in_order
from helixsim.study.finished import SimulatedStore, simulated
from helixsim.study.systems import PlacedSystem, is_by_cost, simulate_system


@dataclass(frozen=True, slots=True)
class RaceRun:
    """One simulation of a placed system.

    Parameters
    ----------
    label
        Text of the progress.
    window, seed
        Those of the simulation; None: as reported. Simulations with both as reported are kept in ``runs``, if given.
    """

    label: str
    experiment: ResolvedExperiment
    placed: PlacedSystem
    window: Window | None = None
    seed: int | None = None
    runs: SimulatedStore | None = None


EXPECTATION_EVENTS = 3
"""What it takes to expect the finish of a request on a node, in simulated events."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a simulation showed, and its work: events, and finishes that its policy expected for them."""

    score: Score
    events: int


def simulate_run(task: RaceRun, report: Report) -> Shown:
    """Simulate and score; the work of the executor."""
    report(0.0, task.label)
    experiment, placed = task.experiment, task.placed
    if task.window is None and task.seed is None:
        run = simulated(experiment, placed, task.runs)
    else:
        run = simulate_system(experiment, placed, window=task.window, seed=task.seed)
    by_cost = is_by_cost(placed.system)
    score = score_of(run, experiment.slo, placed.system.fleet, placed.placement, cost_first=by_cost)
    events = int(run.counters["events"])
    if issubclass(routing_registry.get(placed.system.routing), EarliestFinish):
        events += EXPECTATION_EVENTS * len(run.requests.status) * len(placed.placement.ranges)
    return Shown(score, events)


def shown_in_order(
    executor: Executor, tasks: Sequence[RaceRun], report: Callable[[str], None]
) -> Generator[Shown, None, None]:
    """Yield what each simulation showed, in the order of the tasks; closed early, the others are stopped.

    Raises
    ------
    HelixsimError
        That of the first task that failed.
    """
    with closing(in_order(executor, simulate_run, tasks, lambda _number, _share, what: report(what))) as outcomes:
        for outcome in outcomes:
            if not isinstance(outcome, Shown):
                raise outcome
            yield outcome
