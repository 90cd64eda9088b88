"""The capacities of all systems of an experiment, from search to report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import HelixsimError
from helixsim.metrics.objectives import Target
from helixsim.planning import rundir
from helixsim.planning.capacity import CapacityTask, SearchOptions, search_system
from helixsim.planning.executors import Executor, Lost
from helixsim.report.capacity_files import CapacityResults, SystemCapacity, write_capacity
from helixsim.units import NS_PER_S

OnProgress = Callable[[float, str, Sequence[Sequence[str]]], None]
"""Called with (share done, what is being done, capacities so far as a table with its head)."""

HEAD = ("system", "target", "requests/s")


def capacity_directory(
    experiment: ResolvedExperiment, targets: Sequence[Target], options: SearchOptions, out: Path
) -> Path:
    """Return where the capacities of an experiment belong."""
    parts = (experiment.config_hash, targets, options)
    return out / "capacity" / experiment.name / hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def run_capacity(
    experiment: ResolvedExperiment,
    overrides: Sequence[str],
    targets: Sequence[Target],
    options: SearchOptions,
    out: Path,
    executor: Executor,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda _share, _what, _table: None,
) -> Path:
    """Search every system's capacity, write tables, figures and page, and return their directory.

    Raises
    ------
    HelixsimError
        If no system could be placed or simulated.
    """
    directory = capacity_directory(experiment, targets, options, out)
    if (directory / "capacity.json").is_file() and not force:
        return directory
    names = [system.name for system in experiment.systems]
    tasks = [
        CapacityTask(experiment.source, tuple(overrides), name, tuple(targets), options, out, force) for name in names
    ]
    shares = dict.fromkeys(range(len(tasks)), 0.0)
    outcomes: dict[int, SystemCapacity | HelixsimError] = {}

    def table() -> list[tuple[str, ...]]:
        found = [one for one in outcomes.values() if isinstance(one, SystemCapacity)]
        rates = sorted(((t.rate_rps, one.system, t.target) for one in found for t in one.found), reverse=True)
        return [HEAD, *((system, target, f"{rate:.3g}") for rate, system, target in rates)]

    def on_task(number: int, share: float, what: str) -> None:
        if number >= 0:
            shares[number] = share
        on_progress(sum(shares.values()) / len(shares), what, table())

    for number, outcome in executor.run(search_system, tasks, on_task):
        outcomes[number] = HelixsimError(outcome.message) if isinstance(outcome, Lost) else outcome
        on_task(number, 1.0, f"{names[number]}: done")
    found = {names[number]: outcomes[number] for number in sorted(outcomes)}
    errors = {name: one for name, one in found.items() if isinstance(one, HelixsimError)}
    if len(errors) == len(found):
        raise next(iter(errors.values()))
    results = CapacityResults(
        experiment=experiment.name,
        targets=tuple(targets),
        tolerance=options.tolerance,
        seeds=tuple(range(experiment.seed, experiment.seed + options.seeds)),
        window_s=_window_s(experiment),
        systems=tuple(one for one in found.values() if isinstance(one, SystemCapacity)),
        failed={name: (int(error.exit_code), str(error)) for name, error in errors.items()},
    )
    with rundir.new_directory(directory) as scratch:
        write_capacity(scratch, results)
    return directory


def _window_s(experiment: ResolvedExperiment) -> tuple[float, float | None]:
    window = experiment.workload.window
    return window.warmup_ns / NS_PER_S, None if window.duration_ns is None else window.duration_ns / NS_PER_S
