"""Capacity search of all systems of an experiment, and its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import HelixsimError
from helixsim.metrics.objectives import Target
from helixsim.planning.capacity import (
    Searched,
    SearchOptions,
    SearchTask,
    capacity_of,
    search_seed,
    tasks_after,
)
from helixsim.planning.losses import Losses, LossTask, check_losses, loss_tasks, search_loss
from helixsim.planning.purchases import estimated_purchases
from helixsim.report.capacity_files import write_capacity
from helixsim.results.capacity import CapacityResults, LossCapacity, SystemCapacity
from helixsim.runtime.identity import content_key, errors_digest, experiment_key, experiment_plugins
from helixsim.runtime.pool import Executor
from helixsim.study.faults import refuse_faults
from helixsim.study.rundir import results_directory
from helixsim.units import NS_PER_S

OnProgress = Callable[[float, str, Sequence[Sequence[str]]], None]
"""Callback: (share done, current work, table of capacities with its head)."""

HEAD = ("system", "target", "requests/s")


def run_capacity(
    experiment: ResolvedExperiment,
    targets: Sequence[Target],
    options: SearchOptions,
    out: Path,
    executor: Executor,
    *,
    losses: Losses | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda _share, _what, _table: None,
) -> Path:
    """Search the capacity of every system, write tables, figures and report, and return their directory.

    Systems that cannot be placed or simulated are listed under ``failed``. With ``losses`` the capacity after each of
    them is searched, too.

    Raises
    ------
    ConfigError
        If a loss names unknown nodes, or all, or if the experiment has faults.
    HelixsimError
        If no system could be placed or simulated, or a failure of the machine stopped the search of one. The others are
        searched, all simulations are kept, and a repeated search continues.
    """
    refuse_faults(experiment, "capacity")
    if losses is not None:
        check_losses(experiment, losses)
    key = content_key("capacity", experiment_key(experiment), targets, options, losses, errors_digest())

    def compute() -> CapacityResults:
        search = _Search(experiment, targets, options, losses, out, force, executor, on_progress)
        search.run()
        errors = search.errors
        for name, error in errors.items():
            if not error.is_result:
                raise error.within(name)
        if all(name in errors for name in search.first):
            raise next(iter(errors.values()))
        return CapacityResults(
            experiment=experiment.name,
            targets=tuple(targets),
            tolerance=options.tolerance,
            seeds=tuple(range(experiment.seed, experiment.seed + options.seeds)),
            window_s=_window_s(experiment),
            systems=tuple(search.capacity(name) for name in search.first if name not in errors),
            failed={name: (int(error.exit_code), str(error)) for name, error in errors.items()},
            replan=None if losses is None else losses.replan,
        )

    directory = out / "capacity" / experiment.name / key[:12]
    plugins = experiment_plugins(experiment)
    results_directory(directory, key, compute, write_capacity, force=force, plugins=plugins)
    return directory


class _Search:
    """The search of all systems: the first seed of each, then all other tasks, distributed over the workers."""

    def __init__(
        self,
        experiment: ResolvedExperiment,
        targets: Sequence[Target],
        options: SearchOptions,
        losses: Losses | None,
        out: Path,
        force: bool,
        executor: Executor,
        on_progress: OnProgress,
    ) -> None:
        self.options, self.executor, self.on_progress = options, executor, on_progress
        self.losses = losses
        self.lost: dict[str, list[LossCapacity]] = {system.name: [] for system in experiment.systems}
        self.first = {
            system.name: SearchTask(
                experiment, system, None, tuple(targets), options.tolerance, experiment.seed, (None,) * len(targets),
                out=out, force=force,
            )
            for system in experiment.systems
        }  # fmt: skip
        self.parts: dict[str, list[Searched]] = {name: [] for name in self.first}
        self.errors: dict[str, HelixsimError] = {}

    def run(self) -> None:
        """Search all."""
        whole = 1 + (self.options.seeds > 1 or self.options.with_curve) + (2 if self.losses else 0)
        self._carry_out(list(self.first.values()), 0.0, 1 / whole)
        more = [
            task
            for name, parts in self.parts.items()
            if name not in self.errors
            for task in tasks_after(parts[0], self.first[name], self.options)
        ]
        more.sort(key=self._cost, reverse=True)  # the longest first, for a balanced load at the end
        self._carry_out(more, 1 / whole, 2 / whole)
        if self.losses is not None:
            self._lose(self.losses, 2 / whole)

    def capacity(self, name: str) -> SystemCapacity:
        """Return the finished parts of the search of a system."""
        parts = self.parts[name]
        found = capacity_of(self.first[name], parts)
        purchases = estimated_purchases(self.first[name].experiment, parts[0].placed, found.estimates[0].rate_rps)
        return replace(found, losses=tuple(self.lost[name]), purchases=purchases)

    def _lose(self, losses: Losses, begin: float) -> None:
        """Search the capacity after each loss of each system."""
        tasks: list[LossTask] = []
        for name, parts in self.parts.items():
            if name not in self.errors and parts:
                searches, known = loss_tasks(self.first[name], self.options, losses, parts)
                tasks += searches
                self.lost[name] += known
        if not tasks:
            return

        def report(share: float, what: str) -> None:
            self.on_progress(begin + (1 - begin) * share, what, self._table())

        for number, outcome in self.executor.carry_out(search_loss, tasks, report):
            name = tasks[number].task.system.name
            if isinstance(outcome, LossCapacity):
                self.lost[name].append(outcome)
            else:
                self.errors[f"{name} without {tasks[number].loss.name}"] = outcome
        for name, parts in self.parts.items():
            if parts:
                nodes = parts[0].placed.system.fleet.cluster.nodes
                order = {end: place for place, node in enumerate(nodes) for end in (node.id, node.machine)}
                self.lost[name].sort(key=lambda loss: (-len(loss.nodes), min(order[node] for node in loss.nodes)))

    def _cost(self, task: SearchTask) -> int:
        """Return the estimated cost of a task: events per simulation of its system times simulations."""
        trial = self.parts[task.system.name][0].trials[0]
        return trial.summary.integrity.events * (3 if task.hints else 1)

    def _carry_out(self, tasks: Sequence[SearchTask], begin: float, end: float) -> None:
        failed: dict[int, HelixsimError] = {}

        def report(share: float, what: str) -> None:
            self.on_progress(begin + (end - begin) * share, what, self._table())

        for number, outcome in self.executor.carry_out(search_seed, tasks, report):
            if isinstance(outcome, Searched):
                self.parts[tasks[number].system.name].append(outcome)
            else:
                failed[number] = outcome
        for number in sorted(failed):
            self.errors.setdefault(tasks[number].system.name, failed[number])

    def _table(self) -> list[tuple[str, ...]]:
        known = [self.capacity(name) for name, parts in self.parts.items() if parts]
        rates = sorted(((t.rate_rps, one.system, t.target) for one in known for t in one.estimates), reverse=True)
        return [HEAD, *((system, target, f"{rate:.3g}") for rate, system, target in rates)]


def _window_s(experiment: ResolvedExperiment) -> tuple[float, float | None]:
    window = experiment.workload.window
    return window.warmup_ns / NS_PER_S, None if window.duration_ns is None else window.duration_ns / NS_PER_S
