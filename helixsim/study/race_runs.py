"""Simulations of a race as tasks of an executor, so that several processes share them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.request import Window
from helixsim.metrics.score import Score, score_of
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


@dataclass(frozen=True, slots=True)
class Shown:
    """What a simulation showed, and how many events it had."""

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
    return Shown(score, int(run.counters["events"]))


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
