"""What the figures need computed: simulations and solver runs, each once, in parallel, kept on disk by content.

A task is a value that says all that decides its outcome. Its outcome is JSON, kept under the hash of that, so a run
that was stopped goes on where it was and figures that share a task share its work.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.config.resolve import load_experiment
from helixsim.errors import DataError, InfeasibleError, SimulationError, unknown_name
from helixsim.planning.placing import place_system
from helixsim.planning.registries import registries
from helixsim.planning.systems import PlacedSystem
from helixsim.reproduce import samples
from helixsim.reproduce.program import pruned_edges, without_links
from helixsim.reproduce.samples import Sample

Outcome = dict[str, Any]
"""JSON values; ``{"failed": message}`` where a task has none."""

Progress = Callable[[float, str], None]
"""Called with (share done, 0..1; what has just been done)."""


class Task(Protocol):
    """A hashable, picklable piece of work."""

    @property
    def title(self) -> str:
        """What progress calls it."""
        ...

    def key(self) -> str:
        """Return text that is the same for equal work only."""
        ...

    def perform(self) -> Outcome:
        """Do the work."""
        ...


@dataclass(frozen=True, slots=True)
class Simulation:
    """One system of an experiment file, placed once and simulated under several loads and seeds.

    Parameters
    ----------
    settings
        ``key.path=value`` applied to the file.
    loads
        Further settings, one tuple per load: the placement is made without them.
    seeds
        Seeds 0 to ``seeds`` - 1 of each load; the placement is made under the seed of the file.
    is_pruned
        Requests travel over the links only that the paper's pruning keeps.
    """

    file: Path
    system: str
    settings: tuple[str, ...] = ()
    loads: tuple[tuple[str, ...], ...] = ((),)
    seeds: int = 1
    is_pruned: bool = False

    @property
    def title(self) -> str:
        """See ``Task.title``."""
        return f"{self.file.stem}/{self.system}"

    def key(self) -> str:
        """See ``Task.key``."""
        hashes = [self._load(load).config_hash for load in ((), *self.loads)]
        return json.dumps([hashes, self.system, self.seeds, len(self.loads), *(["pruned"] if self.is_pruned else [])])

    def perform(self) -> Outcome:
        """Return ``{"loads": [[sample of each seed] of each load], "placement": {...}}``."""
        base = self._load(())
        placed = self._place(base)
        document: list[list[Outcome]] = []
        for load in self.loads:
            experiment = self._load(load) if load else base
            under_load = PlacedSystem(self._system(experiment), placed.placement, placed.plan)
            document.append([samples.to_json(samples.take(experiment, under_load, seed)) for seed in range(self.seeds)])
        layers = {node: [held.start, held.end] for node, held in placed.placement.ranges.items()}
        bound = placed.placement.upper_bound_tokens_per_s
        return {"loads": document, "placement": {"layers": layers, "upper_bound_tokens_per_s": bound}}

    def _place(self, experiment: ResolvedExperiment) -> PlacedSystem:
        system = self._system(experiment)
        if not self.is_pruned:
            return place_system(experiment, system)
        kept = pruned_edges(system.fleet.cluster)
        placed = place_system(experiment, replace(system, fleet=without_links(system.fleet, kept)))
        # Links without bandwidth carry no flow, but policies that do not look at flows would take them.
        edges = tuple(edge for edge in placed.plan.edges if (edge.src, edge.dst) in set(kept))
        return replace(placed, plan=replace(placed.plan, edges=edges))

    def _load(self, load: tuple[str, ...]) -> ResolvedExperiment:
        return load_experiment(self.file, [*self.settings, *load], registries=registries())

    def _system(self, experiment: ResolvedExperiment) -> SystemSpec:
        return find_system(experiment, self.system)


def find_system(experiment: ResolvedExperiment, name: str) -> SystemSpec:
    """Return a system of an experiment by name.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    found = next((system for system in experiment.systems if system.name == name), None)
    if found is None:
        known = [system.name for system in experiment.systems]
        raise DataError(f"{experiment.source}: {unknown_name('system', name, known)}")
    return found


class Results:
    """Outcomes of tasks."""

    def __init__(self, outcomes: Mapping[Task, Outcome]) -> None:
        self.outcomes = outcomes

    def outcome(self, task: Task) -> Outcome:
        """Return what a task left."""
        return self.outcomes[task]

    def failure(self, task: Task) -> str | None:
        """Return why a task has no result, None if it has one."""
        failed: str | None = self.outcomes[task].get("failed")
        return failed

    def samples(self, task: Simulation, load: int = 0) -> list[Sample]:
        """Return the samples of one load, one per seed; none if the task failed."""
        outcome = self.outcomes[task]
        return [] if "failed" in outcome else [samples.from_json(data) for data in outcome["loads"][load]]


def perform_all(
    tasks: Sequence[Task],
    cache: Path,
    *,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Do what has not been done yet and return all outcomes.

    Parameters
    ----------
    cache
        Folder of finished outcomes.
    jobs
        Processes, None: one per core.
    force
        Do again what the cache holds.
    """
    cache.mkdir(parents=True, exist_ok=True)
    distinct = list(dict.fromkeys(tasks))
    outcomes: dict[Task, Outcome] = {}
    report = progress or (lambda _done, _what: None)
    for task, outcome in _perform(distinct, cache, force, min(jobs or os.cpu_count() or 1, len(distinct) or 1)):
        outcomes[task] = outcome
        report(len(outcomes) / len(distinct), task.title)
    return Results(outcomes)


def _perform(tasks: list[Task], cache: Path, force: bool, processes: int) -> Iterator[tuple[Task, Outcome]]:
    if processes == 1:
        for task in tasks:
            yield task, _perform_one(task, cache, force)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_ctrl_c_to_the_parent) as pool:
        futures = {pool.submit(_perform_one, task, cache, force): task for task in tasks}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from ((futures[future], future.result()) for future in futures if future in done)
        except BaseException:
            _stop(pool, futures)
            raise


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(pool: ProcessPoolExecutor, futures: Mapping[Future[Outcome], Task]) -> None:
    """End the worker processes without waiting for the tasks they are at."""
    for future in futures:
        future.cancel()
    for process in list(getattr(pool, "_processes", {}).values()):
        with suppress(OSError, ValueError):
            process.terminate()


def _perform_one(task: Task, cache: Path, force: bool) -> Outcome:
    """Return the outcome of a task from the cache, or do it and keep it."""
    digest = hashlib.sha256(f"{type(task).__name__} {task.key()}".encode()).hexdigest()
    kept = cache / f"{task.title.replace('/', '-')}-{digest[:12]}.json"
    if kept.is_file() and not force:
        found: Outcome = json.loads(kept.read_text(encoding="utf-8"))
        return found
    try:
        outcome = task.perform()
    except (InfeasibleError, SimulationError) as error:  # the task's own, the others may well succeed
        outcome = {"failed": str(error)}
    # Through text at once, so that a fresh outcome and a kept one are the same.
    text = json.dumps(outcome)
    scratch = kept.with_suffix(f".{os.getpid()}")
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(kept)
    fresh: Outcome = json.loads(text)
    return fresh
