"""What the figures need computed: simulations and solver runs, each once, in parallel, kept on disk by content.

A task is a value that says all that decides its outcome. Its outcome is JSON, kept under the hash of that, so a run
that was stopped goes on where it was and figures that share a task share its work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import helixsim as hx
from helixsim.errors import HelixsimError, InfeasibleError, SimulationError
from helixsim.papers.helix import program, samples
from helixsim.papers.helix.program import pruned_edges, without_links
from helixsim.papers.helix.samples import Sample
from helixsim.runtime.identity import content_key, system_plugins
from helixsim.runtime.pool import Executor, Report
from helixsim.runtime.store import Codec, Store

SCHEMA = 1

Outcome = dict[str, Any]
"""JSON values; ``{"failed": message}`` where a task has none."""


class Task(Protocol):
    """A hashable, picklable piece of work."""

    @property
    def title(self) -> str:
        """What progress calls it."""
        ...

    def key(self) -> str:
        """Return text that is the same for equal work only, and for most equal work."""
        ...

    def perform(self, cache: Path | None) -> Outcome:
        """Do the work; placements are kept in the folder ``cache`` and found there, None: nowhere."""
        ...


@dataclass(frozen=True, slots=True)
class Simulation:
    """One system of an experiment file, placed once and simulated under several loads and seeds.

    Parameters
    ----------
    settings
        Edits of the file.
    placed_for
        Further edits while the placement is made.
    loads
        Further edits, one tuple per load: the placement is made without them.
    seeds
        Seeds 0 to ``seeds`` - 1 of each load; the placement is made under the seed of the file.
    is_pruned
        Requests travel over the links only that the paper's pruning keeps.
    """

    file: Path
    system: str
    settings: tuple[hx.Edit, ...] = ()
    placed_for: tuple[hx.Edit, ...] = ()
    loads: tuple[tuple[hx.Edit, ...], ...] = ((),)
    seeds: int = 1
    is_pruned: bool = False

    @property
    def title(self) -> str:
        """See ``Task.title``."""
        return f"{self.file.stem}/{self.system}"

    def key(self) -> str:
        """See ``Task.key``."""
        inputs = [system_inputs(self._load(load), self.system) for load in (self.placed_for, *self.loads)]
        return json.dumps([inputs, self.seeds, self.is_pruned])

    def perform(self, cache: Path | None) -> Outcome:
        """Return ``{"loads": [[sample of each seed] of each load], "placement": {...}}``."""
        placed = self._place(self._load(self.placed_for), cache)
        document: list[list[Outcome]] = []
        for load in self.loads:
            experiment = self._load(load)
            under_load = replace(placed, system=experiment.system(self.system), operating=None)
            document.append([samples.to_json(samples.take(experiment, under_load, seed)) for seed in range(self.seeds)])
        layers = {node: [held.start, held.end] for node, held in placed.placement.ranges.items()}
        bound = placed.placement.upper_bound_tokens_per_s
        return {"loads": document, "placement": {"layers": layers, "upper_bound_tokens_per_s": bound}}

    def _place(self, experiment: hx.ResolvedExperiment, cache: Path | None) -> hx.Placed:
        system = experiment.system(self.system)
        if not self.is_pruned:
            return hx.place(experiment, system, cache=cache)
        kept = pruned_edges(system.fleet.cluster)
        return hx.place(experiment, replace(system, fleet=without_links(system.fleet, kept)), cache=cache)

    def _load(self, load: tuple[hx.Edit, ...]) -> hx.ResolvedExperiment:
        return loaded(self.file, (*self.settings, *load))


def place(experiment: hx.ResolvedExperiment, system: hx.SystemSpec, cache: Path | None, runs: Path) -> hx.Placed:
    """Return a placed system; a search that was interrupted keeps its best so far, which is no outcome of a task.

    ``cache`` and ``runs`` are those of ``hx.place``.

    Raises
    ------
    KeyboardInterrupt
        If the search was interrupted.
    """
    placed = hx.place(experiment, system, cache=cache, runs=runs)
    if placed.placement.notes.get("interrupted"):
        raise KeyboardInterrupt
    return placed


@lru_cache(maxsize=16)
def loaded(file: Path, edits: tuple[hx.Edit, ...]) -> hx.ResolvedExperiment:
    """Return an experiment; the systems of a file follow one another, and reading it takes a tenth of a second."""
    return hx.load(file).with_(edits).resolve()


Named = TypeVar("Named", bound=Task)


def system_inputs(experiment: hx.ResolvedExperiment, name: str) -> str:
    """Return the key of all that decides what one system does: not its name, not the systems beside it."""
    system = experiment.system(name)
    written = next(entry for entry in experiment.document["systems"] if entry["name"] == name)
    document = {
        **{key: value for key, value in experiment.document.items() if key not in ("name", "baseline")},
        "systems": [{key: value for key, value in written.items() if key != "name"}],
    }
    text = json.dumps(document, sort_keys=True)
    files = [entry for entry in experiment.file_hashes if json.dumps(entry[0]) in text]
    return content_key("system", text, files, experiment.fleet, system.fleet, plugins=system_plugins(system))


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

    def succeeded(self, tasks: Mapping[str, Named], notes: list[str], where: str = "") -> Iterator[tuple[str, Named]]:
        """Yield the tasks that have a result, with their names; ``notes`` gets a sentence on each of the others."""
        for name, task in tasks.items():
            if failed := self.failure(task):
                notes.append(f"{where}{name}: {failed}")
            else:
                yield name, task

    def samples(self, task: Simulation, load: int = 0) -> list[Sample]:
        """Return the samples of one load, one per seed; none if the task failed."""
        outcome = self.outcomes[task]
        return [] if "failed" in outcome else [samples.from_json(data) for data in outcome["loads"][load]]


def perform_all(
    tasks: Sequence[Task],
    cache: Path,
    executor: Executor,
    *,
    force: bool = False,
    progress: Report = lambda _share, _what: None,
) -> Results:
    """Do what has not been done yet and return all outcomes.

    Parameters
    ----------
    cache
        Folder of finished outcomes.
    force
        Do again what the cache holds.
    progress
        Told how much of what is left is done, and which task is being done.
    """
    store = outcome_store(cache, renew=force)
    keys = {task: task_key(task) for task in dict.fromkeys(tasks)}
    distinct: dict[str, Task] = {}
    for task, key in keys.items():
        distinct.setdefault(key, task)
    outcomes = {key: outcome for key in distinct if (outcome := store.get(key)) is not None}
    waiting = {key: task for key, task in distinct.items() if key not in outcomes}
    work = [(task, key, cache, force) for key, task in waiting.items()]
    for number, outcome in executor.carry_out(_perform, work, progress):
        task, key, *_ = work[number]
        if isinstance(outcome, HelixsimError):
            raise outcome.within(task.title)
        outcomes[key] = outcome
    return Results({task: outcomes[key] for task, key in keys.items()})


def outcome_store(cache: Path, *, renew: bool = False) -> Store[Outcome]:
    """Return the outcomes kept in a folder; ``renew``: do the work again and replace them."""
    return Store(cache, "outcome", SCHEMA, Codec(dict, dict), renew=renew)


def task_key(task: Task) -> str:
    """Return the content key of a task's outcome; the code of its own module and of samples enters it."""
    kind = type(task)
    return content_key(kind.__name__, task.key(), code=(kind.__module__, samples.__name__, program.__name__))


def _perform(work: tuple[Task, str, Path, bool], report: Report) -> Outcome:
    """Do a task and keep its outcome; the work of the executors."""
    task, key, cache, force = work
    report(0.0, task.title)

    def outcome() -> Outcome:
        try:
            return task.perform(None if force else cache / "placements")
        except (InfeasibleError, SimulationError) as error:  # the task's own, the others may well succeed
            return {"failed": str(error)}

    return outcome_store(cache, renew=force).obtain(key, outcome)
