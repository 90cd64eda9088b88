"""Benchmarks simulated: one system of an experiment under its own load or under the loads that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helixsim.benchmarks.benchmark import Benchmark
from helixsim.benchmarks.load import are_alike, differences, spread_is_known, workload_of
from helixsim.config.edit import edits_of
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.placement import Placement
from helixsim.errors import ConfigError, unknown_name
from helixsim.experiment import Experiment
from helixsim.hardware import catalog
from helixsim.results.run import Run
from helixsim.runtime.pool import Report
from helixsim.study.placing import assembled, place_system
from helixsim.study.run import finished
from helixsim.study.systems import simulate_system
from helixsim.study.whatif import Case


@dataclass(frozen=True)
class Point:
    """A benchmark and the experiment that simulates it.

    Parameters
    ----------
    label
        File and result.
    notes
        What had to be assumed of its load, and how the simulated load differs.
    is_measured_load
        Whether the load is that of the benchmark.
    has_assumed_lengths
        Whether all requests have the mean lengths because nothing more is known.
    """

    label: str
    benchmark: Benchmark
    experiment: Experiment
    notes: tuple[str, ...] = ()
    is_measured_load: bool = True
    has_assumed_lengths: bool = False


@dataclass(frozen=True)
class ReplayTask:
    """What a worker needs to simulate a point; ``changes`` are edits of the experiment by dotted key."""

    point: Point
    system: str
    placement: Placement
    changes: tuple[tuple[str, Any], ...] = ()


def system_of(experiment: ResolvedExperiment, name: str | None) -> SystemSpec:
    """Return the system of a name, or the only one.

    Raises
    ------
    ConfigError
        If there is none of that name, or several and no name.
    """
    names = [system.name for system in experiment.systems]
    if name is None and len(names) > 1:
        raise ConfigError(f"--system is required: {experiment.source} has the systems {', '.join(names)}")
    if name is not None and name not in names:
        raise ConfigError(unknown_name("system", name, names))
    return experiment.systems[0 if name is None else names.index(name)]


def placement_of(experiment: Experiment, name: str | None) -> tuple[str, Placement]:
    """Return the system's name and its placement, the one that a run of the experiment has."""
    resolved = experiment.resolve()
    system = system_of(resolved, name)
    return system.name, place_system(resolved, system).placement


def measured_points(experiment: Experiment, benchmarks: Sequence[tuple[str, Benchmark]], folder: Path) -> list[Point]:
    """Return the experiment under the load of each benchmark; ``folder`` takes the files of single requests.

    Raises
    ------
    DataError
        If a file does not state enough of its load.
    """
    points = []
    resolved = experiment.resolve()
    stats, lengths = resolved.workload_stats, resolved.document["workload"].get("lengths")
    for number, (label, benchmark) in enumerate(benchmarks):
        is_same = are_alike(benchmark, stats.mean_prompt_tokens, stats.mean_output_tokens)
        own = lengths if is_same and resolved.document["workload"].get("trace") is None else None
        rows = folder / f"requests-{number}.csv"
        workload, notes = workload_of(benchmark, label, rows, own, resolved.fleet.model.max_context_tokens)
        measured = experiment.with_(edits_of({"workload": workload}))
        assumed = own is None and not spread_is_known(benchmark)
        notes += other_model(benchmark, resolved)
        points.append(Point(label, benchmark, measured, tuple(notes), has_assumed_lengths=assumed))
    return points


def stated_points(experiment: Experiment, system: str, benchmarks: Sequence[tuple[str, Benchmark]]) -> list[Point]:
    """Return the experiment under its own load beside each benchmark, with notes where the loads differ."""
    resolved = experiment.resolve()
    arrivals, stats = resolved.document["workload"]["arrivals"], resolved.workload_stats
    own = next(one for one in resolved.document["systems"] if one["name"] == system)
    arrivals = own.get("arrivals") or arrivals
    lengths = stats.mean_prompt_tokens, stats.mean_output_tokens
    points = []
    for label, benchmark in benchmarks:
        notes = [*_hinted(differences(benchmark, arrivals, *lengths)), *other_model(benchmark, resolved)]
        points.append(Point(label, benchmark, experiment, tuple(notes), is_measured_load=False))
    return points


def other_model(benchmark: Benchmark, experiment: ResolvedExperiment) -> list[str]:
    """Return a note if the file names another model of the catalogue than the experiment has."""
    measured = catalog.hugging_face_ids().get(benchmark.model, "")
    simulated = experiment.fleet.model.name
    simulated = catalog.hugging_face_ids().get(simulated, simulated)
    if not measured or measured == simulated or simulated not in catalog.model_names():
        return []
    return [f"the benchmark is of {benchmark.model}, the experiment of {simulated}"]


def replay(task: ReplayTask, _report: Report) -> Run:
    """Simulate a point; the work of the executors."""
    resolved = task.point.experiment.with_(edits_of(dict(task.changes))).resolve()
    system = system_of(resolved, task.system)
    if task.point.is_measured_load:
        system = replace(system, arrivals=None)
    placed = assembled(resolved, system, task.placement)
    return finished(Case(resolved, system), placed, simulate_system(resolved, placed))


def _hinted(found: Sequence[str]) -> list[str]:
    return [*found[:-1], f"{found[-1]} (--replay simulates the measured load)"] if found else []
