"""All systems of an experiment, from placement to report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.result import RunResult
from helixsim.errors import ConfigError, HelixsimError, typed_error
from helixsim.metrics.summary import timing
from helixsim.report.html import build_report
from helixsim.report.whatif_rows import write_whatif
from helixsim.results.files import write_json
from helixsim.results.run import Run, Simulation
from helixsim.results.runset import RunSet
from helixsim.runtime.identity import content_key, errors_digest, experiment_key
from helixsim.runtime.manifest import checked_manifest
from helixsim.runtime.pool import Executor, OnProgress, Processes, Report, Serial, guarded
from helixsim.study import rundir
from helixsim.study.faults import simulate_run
from helixsim.study.finished import Simulated, SimulatedStore, simulated, simulated_in
from helixsim.study.placements import PlacementStore, placement_store, placements_in
from helixsim.study.placing import assembled
from helixsim.study.replica_capacity import with_capacities
from helixsim.study.systems import PlacedSystem, summary_of
from helixsim.study.whatif import Case, cases, hopeless, place_case, whatif_variants
from helixsim.units import NS_PER_S
from helixsim.workload.feed import offered_rps

Progress = Callable[[str, float], None]
"""Called with (what is being done, a line for each system at work or waiting; share of the run that is done, 0..1)."""

PLACEMENT_SHARE = 0.4
"""Share of the progress bar given to placement: it compares candidates by simulation."""


def run_experiment(
    experiment: ResolvedExperiment,
    out: Path,
    executor: Executor,
    *,
    force: bool = False,
    check: bool = False,
    with_report: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Run every system and return the run directory.

    A finished run with the same content key is reused, except with ``force``, with ``check`` if that run was not
    checked, or if its files have changed; its verdict is derived anew if model errors have changed. Results do not
    depend on the executor. Placements are cached in ``out`` for all runs, and finished systems until the run directory
    is complete, so that an interrupted run continues with the missing systems. Without ``with_report``, figures and
    HTML are not written.

    A system that cannot be placed or simulated does not stop the others; the manifest lists it under ``failed``.

    Raises
    ------
    InfeasibleError, SimulationError, PluginError
        If no system succeeds.
    DataError, WorkerError
        If a failure of the machine stopped a system, or the report cannot be written; finished systems are kept.
    KeyboardInterrupt
        If the run is interrupted; finished systems are kept beside the run directory.
    """
    directory = rundir.run_directory(out, experiment)
    if not force and rundir.finished_run(out, experiment, check=check) is not None:
        if rundir.work_folder(directory).is_dir():
            _clear(directory, checked=rundir.finished_run(out, experiment, check=True) is not None)
        is_new = derive_anew(directory)
        if with_report and (is_new or not (directory / "report.html").is_file()):
            build_report(directory)
        return directory
    rundir.refuse_foreign(directory)
    run = _Run(experiment, out, directory, force, check, progress or (lambda _what, _done: None))
    try:
        run.systems(executor)
        if run.broken:
            raise run.failure()
        if not run.finished:
            raise next(run.failed[case.name] for case in cases(experiment))
        run.report("writing the report", 0.99)
        keep = None if force or check else experiment_key(experiment)
        with rundir.new_directory(directory, keep=keep) as scratch:
            undrawn = run.write(scratch, with_report=with_report)
            shutil.rmtree(_partial(directory), ignore_errors=True)  # before the rename: nothing is left if killed after
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.kept_text()) from None
    _clear(directory, checked=check)
    if undrawn is not None:
        raise undrawn.within(f"{directory} holds all results, but the report cannot be drawn")
    return directory


def derive_anew(directory: Path) -> bool:
    """Write the verdict of a finished run anew from its figures if model errors have changed; return whether it did."""
    document = checked_manifest(directory)
    if document["identity"].get("model_errors") == errors_digest():
        return False
    runs = RunSet.load(directory)
    (directory / "report.html").unlink(missing_ok=True)  # drawn again even if this is interrupted
    write_json(directory / "summary.json", runs.document())
    if runs.whatif:
        write_whatif(directory, runs)
    own = {name: value for name, value in document.items() if name not in {"schema", "digests", "sha256"}}
    rundir.complete(directory, {**own, "identity": {**own["identity"], "model_errors": errors_digest()}})
    return True


class _Run:
    """One run: the systems that are finished, those that failed, and those that a failure of the machine stopped."""

    def __init__(
        self, experiment: ResolvedExperiment, out: Path, directory: Path, force: bool, check: bool, report: Progress
    ) -> None:
        self.experiment, self.directory, self.force, self.check, self.report = (
            experiment, directory, force, check, report,
        )  # fmt: skip
        self.placements = placement_store(placements_in(out), renew=force)
        self.finished: dict[str, Run] = {}
        self.failed: dict[str, HelixsimError] = hopeless(experiment)
        self.broken: dict[str, HelixsimError] = {}
        self.started_s = time.perf_counter()

    def systems(self, executor: Executor) -> None:
        """Run all systems."""
        all_cases = cases(self.experiment)
        kept = SimulatedStore(simulated_in(self.directory, check=self.check), renew=self.force)
        tasks = [
            SystemTask(case, content_key("system", experiment_key(self.experiment), case.name, self.check), self.check,
                       self.placements, kept)
            for case in all_cases
        ]  # fmt: skip
        shares = [0.0] * len(tasks)
        unfinished = {number: case.name for number, case in enumerate(all_cases)}

        def on_progress(number: int, share: float, now: str) -> None:
            shares[number], unfinished[number] = share, now
            self.report("\n".join(unfinished.values()), sum(shares) / len(shares))

        for number, outcome in self._outcomes(executor, tasks, on_progress):
            name = all_cases[number].name
            shares[number] = 1.0
            del unfinished[number]
            if isinstance(outcome, Run):
                self.finished[name] = outcome
            elif isinstance(outcome, ConfigError):
                raise outcome
            elif outcome.is_result:
                self.failed[name] = outcome
            else:
                self.broken[name] = outcome

    @staticmethod
    def _outcomes(
        executor: Executor, tasks: Sequence[SystemTask], on_progress: OnProgress
    ) -> Iterator[tuple[int, Any]]:
        """Yield the outcomes of all systems.

        A race is the longest of them by far. Where there are fewer races than processes, these share the simulations of
        one race after the other, and the other systems come last: a race has simulated them already. A single system
        is run in this process, as another takes a second to start.
        """
        raced = [number for number, task in enumerate(tasks) if task.case.is_raced]
        if len(raced) >= executor.count:
            raced = []
        for number in raced:

            def report(share: float, what: str, number: int = number) -> None:
                on_progress(number, share, what)

            yield number, guarded(partial(run_system, executor=executor), tasks[number], report)
        others = [number for number in range(len(tasks)) if number not in raced]
        one_here = len(others) == 1 and isinstance(executor, Processes)

        def told(number: int, share: float, what: str) -> None:
            on_progress(others[number], share, what)

        some = [tasks[number] for number in others]
        for number, outcome in (Serial() if one_here else executor).run(run_system, some, told):
            yield others[number], outcome

    def failure(self) -> HelixsimError:
        """Return the error of the first system that a failure of the machine stopped, and where the others are."""
        name, error = next(iter(self.broken.items()))
        kept = self.keep()
        tail = "" if kept is None else f"; finished systems are in {kept}"
        return type(error)(f"{name}: {error}{tail}; repeat the command to continue with the missing systems")

    def write(self, directory: Path, *, with_report: bool) -> HelixsimError | None:
        """Fill a run directory; return what hindered the report from being drawn."""
        undrawn = None
        reports = self._results(directory)
        wall_s = time.perf_counter() - self.started_s
        document = rundir.manifest(
            self.experiment,
            {"wall_seconds": wall_s, "systems": reports},
            self.failed,
            checked=self.check,
            selection=self._selection(),
        )
        if with_report:
            try:
                requests = {name: run.simulation.result.requests for name, run in self.finished.items()}
                build_report(directory, document, requests)
            except Exception as error:  # all numbers are there, and `helixsim report` draws them another time
                undrawn = typed_error(error)
                (directory / "report.html").unlink(missing_ok=True)
        rundir.complete(directory, document)
        return undrawn

    def _selection(self) -> list[str]:
        """Return how races were shortened."""
        notes = {name: run.simulation.placement.notes for name, run in self.finished.items()}
        return [f"{name}: {one['budget']}" for name, one in notes.items() if "budget" in one]

    def keep(self) -> Path | None:
        """Write the results of the finished systems beside the run directory; None if there are none, or no room."""
        if not self.finished:
            return None
        kept = _partial(self.directory)
        try:
            with rundir.new_directory(kept, work=rundir.work_folder(self.directory)) as scratch:
                times = self._results(scratch)
                timing = {"wall_seconds": time.perf_counter() - self.started_s, "systems": times}
                document = rundir.manifest(self.experiment, timing, self.failed, checked=self.check)
                names = [case.name for case in cases(self.experiment)]
                unfinished = [name for name in names if name not in self.finished and name not in self.failed]
                rundir.complete(scratch, {**document, "unfinished": unfinished})
        except OSError:
            return None
        return kept

    def kept_text(self) -> str:
        """Keep the finished systems and return a sentence on them."""
        if not self.finished:
            return "no system had finished; placements are kept"
        kept = self.keep()
        shown = f"see {kept}" if kept else "kept, although their tables cannot be written"
        return f"finished: {', '.join(self.finished)}, {shown}; repeat the command to continue with the others"

    def _results(self, directory: Path) -> dict[str, dict[str, Any]]:
        """Write the results of the finished systems; return what each took."""
        experiment = self.experiment
        systems = [self.finished[case.name] for case in cases(experiment) if case.name in self.finished]
        baseline = experiment.baseline if experiment.baseline in self.finished else systems[0].name
        rundir.write_config(directory, experiment)
        runs = RunSet.of(experiment.name, baseline, experiment.slo, systems, whatif_variants(experiment.variants))
        runs.write(directory)
        if runs.whatif:
            write_whatif(directory, runs)
        return {system.name: dict(system.timing) for system in systems}


@dataclass(frozen=True, slots=True)
class SystemTask:
    """What a worker needs to run a system: ``key`` and ``kept`` say where it is found if it has been run."""

    case: Case
    key: str
    check: bool
    placements: PlacementStore
    kept: SimulatedStore


def run_system(task: SystemTask, report: Report, executor: Executor | None = None) -> Run:
    """Place, simulate and summarise one system, unless it was kept; the work of the executors.

    ``executor`` shares the simulations of its race, if any.
    """
    found = task.kept.get(task.key)
    if found is not None:
        return _again(task.case, found)
    finished = run_case(
        task.case, check=task.check, store=task.placements, runs=None if task.check else task.kept,
        progress=lambda what, share: report(share, what), executor=executor,
    )  # fmt: skip
    with suppress(OSError):  # no room: the results are in memory still, and the run directory may have room
        task.kept.keep(task.key, Simulated(finished.simulation.placement, finished.simulation.result))
    return finished


def run_case(
    case: Case,
    *,
    check: bool = False,
    store: PlacementStore | None = None,
    runs: SimulatedStore | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Run:
    """Place, simulate and summarise one system.

    ``runs``: where simulations without checks are kept, if at all; ``executor`` shares the simulations of its race.
    """
    experiment, system = case.experiment, case.system
    report = progress or (lambda _what, _done: None)
    window = experiment.workload.window
    stats = experiment.workload_stats

    def on_candidate(what: str, _seconds: float, _objective: float, _bound: float) -> None:
        report(f"{system.name}: placing, {what}", 0.5 * PLACEMENT_SHARE)

    def on_sample(now_ns: int, done: int, arrived: int) -> None:
        if window.duration_ns is not None:
            share = now_ns / (window.warmup_ns + window.duration_ns)
        else:
            share = done / (stats.num_requests or max(arrived, 1))
        spent_s = max(time.perf_counter() - started_s, 1e-3)
        now_s = now_ns / NS_PER_S
        what = f"{system.name}: {now_s:.0f} s simulated, {now_s / spent_s:.3g} per second, {done} requests done"
        report(what, PLACEMENT_SHARE + (1 - PLACEMENT_SHARE) * min(share, 1.0))

    report(f"{system.name}: placing", 0.0)
    placed = place_case(case, progress=on_candidate, store=store, runs=runs, executor=executor)
    if placed.placement.notes.get("interrupted"):
        raise KeyboardInterrupt  # the search keeps its incumbent for `place`; a run must not pass it off as its result
    started_s = time.perf_counter()
    if check or experiment.faults is not None:  # what is kept of searches has no faults
        run = simulate_run(experiment, placed, check=check, progress=on_sample)
        return finished(case, placed, run)
    return finished(case, placed, simulated(experiment, placed, runs, on_sample))


def _again(case: Case, kept: Simulated) -> Run:
    """Return a system that was kept as it was when it had just finished."""
    placed = assembled(case.experiment, case.system, kept.placement)
    return finished(case, replace(placed, placement=kept.placement), kept.run)


def finished(case: Case, placed: PlacedSystem, run: RunResult) -> Run:
    """Return a simulated system with its summary."""
    experiment, system = case.experiment, case.system
    run = with_capacities(experiment, placed, run)
    stated_rps = experiment.workload_stats.offered_rps
    if system.arrivals is not None:
        stated_rps = offered_rps(replace(experiment.workload, arrivals=system.arrivals))
    summary = summary_of(
        experiment,
        placed,
        run,
        offered_rps=stated_rps,
        kv_limited_tokens_per_s=None if placed.operating is None else placed.operating.tokens_per_s,
    )
    simulation = Simulation(run, placed.placement, placed.plan, placed.system.fleet)
    return Run(system.name, summary, timing(run, placed.placement), simulation)


def _clear(directory: Path, *, checked: bool) -> None:
    """Remove what was kept for a complete run, which may have been killed before it could.

    Systems kept for a run with the invariants checked stay if the complete one was not: they are of another run.
    """
    rundir.clear_work(directory, [simulated_in(directory, check=one) for one in {False, checked}])


def _partial(directory: Path) -> Path:
    """Return where the results of the finished systems of an unfinished run are shown."""
    return directory.with_name(f"{directory.name}-partial")
