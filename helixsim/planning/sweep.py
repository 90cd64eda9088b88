"""Sweeps: variants of one experiment, each in a run directory, and tables of all.

A point is the base experiment with edits. Its run directory is that of ``run`` with the same ``--set``, so that points
are reused, whether computed by another sweep, a single run or an interrupted sweep. The directory of the sweep,
``<out>/sweeps/<name>/<hash12>/``, has the tables and figures over all points.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from helixsim.config.edit import Edit
from helixsim.config.experiment import ResolvedExperiment
from helixsim.config.sweep_file import Objective, SweepPlan
from helixsim.domain.request import Slo
from helixsim.errors import ConfigError, ExitCode, HelixsimError, Problem, unknown_name
from helixsim.experiment import Experiment
from helixsim.planning.tenants import resolved_tenants, run_tenants, tenants_directory, tenants_key
from helixsim.report.sweep_files import write_sweep
from helixsim.results.runset import RunSet
from helixsim.results.sweep import NO_SLO, SweepResults, run_rows
from helixsim.runtime.identity import content_key, experiment_key
from helixsim.runtime.manifest import finished_under
from helixsim.runtime.pool import Executor, Report, Serial
from helixsim.study import rundir
from helixsim.study.run import run_experiment
from helixsim.writing import write_text

Row = dict[str, Any]

MOST_POINTS = 100_000
"""Maximum number of points of a sweep."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of axis values under one seed; ``design`` numbers the combination, ``number`` the point.

    ``edits`` are the changes of the base, ``values`` those of the axes.
    """

    number: int
    design: int
    values: Mapping[str, Any]
    seed: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep with its base experiment and all points."""

    plan: SweepPlan
    base: Experiment
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    objective: Objective
    slo: Slo
    identity: str

    def directory(self, out: Path) -> Path:
        """Return the directory of the results."""
        return out / "sweeps" / self.plan.name / self.identity[:12]

    def is_begun(self, out: Path) -> bool:
        """Whether this sweep has been started before, finished or not."""
        return self.directory(out).exists() or _begun_mark(self.directory(out)).exists()


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed point, or a failed system of a point."""

    point: Point
    system: str
    exit_code: int
    message: str


@dataclass(frozen=True, slots=True)
class PointTask:
    """The task of running a point."""

    base: Experiment
    edits: tuple[Edit, ...]
    out: Path
    force: bool
    check: bool
    with_report: bool


@dataclass(frozen=True, slots=True)
class PointOutcome:
    """Result of a point: its run directory, a row per system, and failures of systems or of the point.

    ``is_final``: failures are determined by the input; otherwise the machine failed.
    """

    directory: str
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, int, str], ...]
    was_found: bool
    is_final: bool = True


@dataclass
class SweepProgress:
    """Progress of a sweep."""

    total: int
    done: int = 0
    found: int = 0
    failed: int = 0
    shares: dict[int, float] = field(default_factory=dict)
    now: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the work done, 0..1, including the done parts of running points."""
        return (self.done + sum(self.shares.values())) / max(1, self.total)


OnProgress = Callable[[SweepProgress], None]


def prepare(plan: SweepPlan, base_experiment: Experiment | None = None) -> Sweep:
    """Check all values of all axes on the base experiment, and return the points.

    ``base_experiment``: the base experiment; None: the file named in the plan.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is invalid, with positions in the sweep file.
    """
    unchanged = base_experiment or Experiment.load(plan.base)
    problems = [problem for edit in plan.settings for problem in _faults(unchanged, [edit])]
    if not problems:
        for block in plan.blocks:
            for point in block.points:
                problems += _faults(unchanged, [*plan.settings, *point])
    if problems:
        # An unknown key is at fault once, whatever values it was to have.
        raise ConfigError(
            list({(problem.path, problem.message): problem for problem in reversed(problems)}.values())[::-1]
        )
    total = math.prod(len(block.points) for block in plan.blocks)
    if total > MOST_POINTS:
        raise ConfigError(f"{plan.name}: axes: {total:.3g} combinations, allowed: up to {MOST_POINTS}")
    parts = _resolved(unchanged.with_(plan.settings))
    base = parts[0]
    counted = range(base.seed, base.seed + (plan.seeds if isinstance(plan.seeds, int) else 1))
    seeds = plan.seeds if isinstance(plan.seeds, tuple) else tuple(counted)
    points = tuple(_points(plan, seeds, base.planning_seed))
    slo = base.slo if all(part.slo == base.slo for part in parts) else NO_SLO
    has_slo = all(part.slo.is_stated for part in parts)
    objective = plan.objective or Objective("request_goodput" if has_slo else "output_throughput", is_max=True)
    settled = tuple((point.design, point.edits) for point in points)
    key = experiment_key(base)
    if unchanged.has_tenants:
        key = tenants_key(unchanged.with_(plan.settings).tenants(), parts)
    identity = content_key("sweep", key, (settled, plan.name, plan.question, objective, plan.plots))
    return Sweep(plan, unchanged, seeds, points, objective, slo, identity)


def run_sweep(
    sweep: Sweep,
    out: Path,
    executor: Executor,
    *,
    force: bool = False,
    check: bool = False,
    with_reports: bool = False,
    with_parquet: bool = False,
    on_progress: OnProgress = lambda _progress: None,
) -> tuple[Path, SweepResults]:
    """Run the missing points of a sweep, write its tables and figures, and return their directory.

    Raises
    ------
    KeyboardInterrupt
        If the sweep is interrupted; finished points are kept.
    ConfigError
        If all points fail with one, or the objective is not a column of the results.
    """
    tasks = [PointTask(sweep.base, point.edits, out, force, check, with_reports) for point in sweep.points]
    progress = SweepProgress(len(tasks))
    outcomes: dict[int, PointOutcome] = {}

    def on_task(number: int, share: float, what: str) -> None:
        progress.shares[number] = share
        progress.now = what
        on_progress(progress)

    directory = sweep.directory(out)
    rundir.refuse_foreign(directory)
    mark = _begun_mark(directory)
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_text(mark, "")
    running = executor.run(run_point, tasks, on_task)
    try:
        for number, outcome in running:
            point = sweep.points[number]
            found = outcome
            if isinstance(outcome, HelixsimError):
                failure = ("", int(outcome.exit_code), str(outcome))
                found = PointOutcome("", (), (failure,), was_found=False, is_final=outcome.is_result)
            _check_results(sweep, found.rows)
            outcomes[number] = found
            progress.shares.pop(number, None)
            progress.done += 1
            progress.found += found.was_found
            progress.failed += bool(found.failures)
            progress.rows += [{**point.values, "seed": point.seed, **row} for row in found.rows]
            on_progress(progress)
    except KeyboardInterrupt:
        kept = f"{progress.done} of {progress.total} points are finished and kept"
        raise KeyboardInterrupt(f"{kept}; repeat the command to continue") from None
    finally:
        running.close()
    results = _results(sweep, out, outcomes)
    write = partial(write_sweep, with_parquet=with_parquet)
    rundir.results_directory(directory, sweep.identity, lambda: results, write, force=True)
    if all(outcome.is_final for outcome in outcomes.values()):
        mark.unlink(missing_ok=True)
    return directory, results


def run_point(task: PointTask, report: Report) -> PointOutcome:
    """Run one point, unless its run directory exists; the task of the executors."""
    if task.base.has_tenants:
        return _run_tenants(task, report)
    experiment = task.base.with_(task.edits).resolve()
    was_found = not task.force and rundir.finished_run(task.out, experiment, check=task.check) is not None
    directory = run_experiment(
        experiment, task.out, Serial(), force=task.force, check=task.check, with_report=task.with_report,
        progress=lambda what, done: report(done, what),
    )  # fmt: skip
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    failures = tuple((name, one["exit_code"], one["message"]) for name, one in manifest["failed"].items())
    return PointOutcome(
        directory.relative_to(task.out).as_posix(), tuple(run_rows(RunSet.load(directory))), failures, was_found
    )


def _run_tenants(task: PointTask, report: Report) -> PointOutcome:
    """Run a point with tenants: a row for each of them, or for those that share nodes."""
    tenants = task.base.with_(task.edits).tenants()
    key = tenants_key(tenants, resolved_tenants(tenants), check=task.check)
    was_found = not task.force and finished_under(tenants_directory(tenants, task.out, key), key) is not None
    directory = run_tenants(tenants, task.out, Serial(), force=task.force, check=task.check, on_progress=report)
    found = json.loads((directory / "summary.json").read_text(encoding="utf-8"))["tenants"]
    rows, failures = list[Row](), list[tuple[str, int, str]]()
    for one in tenants.tenants:
        own = found[one.members[0].name]
        if own["run"] is None:
            failures.append((one.name, ExitCode.INFEASIBLE, own["failure"]))
            continue
        (row,) = run_rows(RunSet.load(task.out / own["run"]))
        rows.append({**row, "system": one.name, "run": own["run"]})
    return PointOutcome(directory.relative_to(task.out).as_posix(), tuple(rows), tuple(failures), was_found)


def _resolved(experiment: Experiment) -> list[ResolvedExperiment]:
    """Return the experiment, or those of its tenants."""
    return resolved_tenants(experiment.tenants()) if experiment.has_tenants else [experiment.resolve()]


def _points(plan: SweepPlan, seeds: Sequence[int], planning_seed: int | None) -> Iterator[Point]:
    """Yield the points, starting with all combinations under the first seed, whose placements later seeds reuse."""
    combinations = list(itertools.product(*(block.points for block in plan.blocks)))
    number = 0
    for seed in seeds:
        for design, combination in enumerate(combinations):
            of_axes = [edit for part in combination for edit in part]
            edits = [*plan.settings, *of_axes, Edit.of("seed", seed)]
            if seed != seeds[0] and planning_seed is None:
                edits.append(Edit.of("planning.seed", seeds[0]))
            yield Point(number, design, {edit.key: edit.value for edit in of_axes}, seed, tuple(edits))
            number += 1


def _faults(base: Experiment, edits: Sequence[Edit]) -> tuple[Problem, ...]:
    """Return the problems of an experiment after some edits."""
    try:
        _resolved(base.with_(edits))
    except ConfigError as error:
        return error.problems
    except HelixsimError:
        return ()  # no fault of the file: the point is reported as failed, the others run
    return ()


def _begun_mark(directory: Path) -> Path:
    """Return the marker file of a sweep that has been started and is not finished."""
    return directory.with_name(f"{directory.name}.begun")


def _check_results(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Raise ``ConfigError`` for an objective or a figure of unknown results."""
    if not rows:
        return
    axes = [edit.key for block in sweep.plan.blocks for edit in block.points[0]]
    results = [name for name, value in rows[0].items() if not isinstance(value, str)]
    wanted = [("objective.metric", sweep.objective.metric, results)]
    for number, plot in enumerate(sweep.plan.plots or ()):
        wanted.append((f"plots.{number}.x", plot.x, results if plot.kind == "pareto" else axes))
        wanted.append((f"plots.{number}.y", plot.y, axes if plot.kind == "heatmap" else results))
        wanted += [(f"plots.{number}.beside", name, results) for name in plot.beside]
        if plot.value is not None:
            wanted.append((f"plots.{number}.value", plot.value, results))
    problems = [
        Problem("", where, unknown_name("axis" if allowed is axes else "result", name, allowed))
        for where, name, allowed in wanted
        if name not in allowed
    ]
    if problems:
        raise ConfigError(problems)


def _results(sweep: Sweep, out: Path, outcomes: dict[int, PointOutcome]) -> SweepResults:
    rows: list[Row] = []
    failures: list[Failure] = []
    for point in sweep.points:
        outcome = outcomes[point.number]
        head = {"point": point.design, **point.values, "seed": point.seed}
        rows += [{**head, "run": outcome.directory, **row} for row in outcome.rows]
        failures += [Failure(point, *failure) for failure in outcome.failures]
    axes = [edit.key for block in sweep.plan.blocks for edit in block.points[0]]
    return SweepResults(
        name=sweep.plan.name,
        question=sweep.plan.question,
        axes=tuple(axes),
        seeds=sweep.seeds,
        objective=sweep.objective.metric,
        is_max=sweep.objective.is_max,
        is_sampled=any(block.is_sampled for block in sweep.plan.blocks),
        rows=tuple(rows),
        slo=NO_SLO if any(axis == "slo" or axis.startswith("slo.") for axis in axes) else sweep.slo,
        failures=tuple(
            {
                "point": failure.point.design, "seed": failure.point.seed, "system": failure.system,
                "exit_code": failure.exit_code, "message": failure.message,
                "settings": " ".join(edit.as_option() for edit in failure.point.edits),
            }
            for failure in failures
        ),
        plots=sweep.plan.plots,
    )  # fmt: skip
