"""All systems of an experiment, from placement to report."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import HelixsimError, InfeasibleError, SimulationError
from helixsim.metrics.summary import summarise, timing
from helixsim.planning import rundir
from helixsim.planning.placements import PlacementStore, placement_store, placements_in
from helixsim.planning.systems import simulate_system
from helixsim.planning.whatif import Case, cases, hopeless, place_case, whatif_document
from helixsim.report.files import SystemReport, write_results
from helixsim.report.html import build_report
from helixsim.report.whatif_rows import write_whatif
from helixsim.runtime.identity import experiment_key
from helixsim.units import NS_PER_S

Progress = Callable[[str, float], None]
"""Called with (what is being done, a line for each system at work or waiting; share of the run that is done, 0..1)."""

PLACEMENT_SHARE = 0.4
"""Share of the progress bar given to placement: it compares candidates by simulation."""

POLL_S = 0.2


@dataclass(frozen=True)
class FinishedSystem:
    """One system with its results and what they took."""

    report: SystemReport
    timing: dict[str, Any]


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; ``kept`` is where the finished systems lie, if any had finished."""

    def __init__(self, kept: Path | None) -> None:
        self.kept = kept
        super().__init__(f"finished systems are in {kept}" if kept else "no system had finished")


def run_experiment(
    experiment: ResolvedExperiment,
    out: Path,
    *,
    jobs: int | None = None,
    force: bool = False,
    check: bool = False,
    with_report: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Run every system and return the run directory.

    A finished run under the same content key is reused unless ``force``, or ``check`` and that one was not checked, or
    its files are not those that were written. Results do not depend on ``jobs``, the number
    of processes (None: one per core, at most one per system). Placements are kept in ``out`` for all runs there.
    Without ``with_report`` figures and HTML are left to whoever asks for them later.

    A system that cannot be placed or simulated does not stop the others: the manifest names it under ``failed``.

    Raises
    ------
    InfeasibleError, SimulationError
        If no system succeeds.
    Interrupted
        If the user stops it; what is finished is kept beside the run directory, without a manifest.
    """
    directory = rundir.run_directory(out, experiment)
    if not force and rundir.finished_run(out, experiment, check=check) is not None:
        if with_report and not (directory / "report.html").is_file():
            build_report(directory)
        return directory
    started_s = time.perf_counter()
    finished: dict[str, FinishedSystem] = {}
    failed: dict[str, HelixsimError] = hopeless(experiment)
    report = progress or (lambda _what, _done: None)
    way = _Way(check, placement_store(placements_in(out), renew=force))
    try:
        for name, outcome in _run_systems(experiment, _processes(experiment, jobs), way, report):
            if isinstance(outcome, FinishedSystem):
                finished[name] = outcome
            else:
                failed[name] = outcome
        if not finished:
            raise next(failed[case.name] for case in cases(experiment))
        report("writing the report", 0.99)
        keep = None if force or check else experiment_key(experiment)
        with rundir.new_directory(directory, keep=keep) as scratch:
            wall_s = time.perf_counter() - started_s
            _write(scratch, experiment, finished, failed, wall_s, with_report=with_report, checked=check)
    except KeyboardInterrupt:
        raise Interrupted(_keep(experiment, directory, finished, failed)) from None
    return directory


@dataclass(frozen=True, slots=True)
class _Way:
    """How systems are run: whether expensive invariants are checked, and where placements are kept."""

    check: bool
    store: PlacementStore


def run_case(
    case: Case,
    *,
    check: bool = False,
    store: PlacementStore | None = None,
    progress: Progress | None = None,
) -> FinishedSystem:
    """Place, simulate and summarise one system."""
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
    placed = place_case(case, progress=on_candidate, store=store)
    if placed.placement.notes.get("interrupted"):
        raise KeyboardInterrupt  # the search keeps its incumbent for `place`; a run must not pass it off as its result
    started_s = time.perf_counter()
    result = simulate_system(experiment, placed, check=check, progress=on_sample)
    summary = summarise(
        result,
        slo=experiment.slo,
        fleet=system.fleet,
        placement=placed.placement,
        plan=placed.plan,
        mean_prompt_tokens=stats.mean_prompt_tokens,
        mean_output_tokens=stats.mean_output_tokens,
        offered_rps=stats.offered_rps if system.arrivals is None else system.arrivals.rate_rps,
        operating_tokens_per_s=None if placed.operating is None else placed.operating.tokens_per_s,
    )
    return FinishedSystem(
        SystemReport(system.name, summary, result, placed.placement, placed.plan, system.fleet),
        timing(result, placed.placement),
    )


def _processes(experiment: ResolvedExperiment, jobs: int | None) -> int:
    return min(jobs or os.cpu_count() or 1, len(cases(experiment)))


Outcome = FinishedSystem | HelixsimError


def _run_systems(
    experiment: ResolvedExperiment, processes: int, way: _Way, progress: Progress
) -> Iterator[tuple[str, Outcome]]:
    """Yield (name, outcome) of systems as they finish or fail."""
    all_cases = cases(experiment)
    count = len(all_cases)
    if processes == 1:
        for number, case in enumerate(all_cases):

            def part(what: str, done: float, number: int = number) -> None:
                progress(what, (number + done) / count)

            yield case.name, _try(case, way, part)
        return
    context = multiprocessing.get_context("spawn")
    board = Board(context.Array("d", count), [context.Array("c", BOARD_BYTES) for _ in range(count)])
    with ProcessPoolExecutor(processes, context, _start_process, (board,)) as pool:
        futures = {pool.submit(_run_in_process, case, number, way): case.name for number, case in enumerate(all_cases)}
        try:
            yield from _as_they_finish(futures, board, progress)
        except BaseException:
            _stop(pool, futures)
            raise


def _try(case: Case, way: _Way, progress: Progress) -> Outcome:
    """Run a system; return its results, or the error that is its own and not the experiment's."""
    try:
        return run_case(case, check=way.check, store=way.store, progress=progress)
    except (InfeasibleError, SimulationError) as error:
        return error


def _as_they_finish(
    futures: dict[Future[Outcome], str], board: Board, progress: Progress
) -> Iterator[tuple[str, Outcome]]:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
        for future in (future for future in futures if future in done):
            yield futures[future], future.result()
        said = [
            board.texts[number].value.decode() or name
            for number, (future, name) in enumerate(futures.items())
            if future in pending
        ]
        progress("\n".join(said), sum(board.shares) / len(futures))


def _stop(pool: ProcessPoolExecutor, futures: dict[Future[Outcome], str]) -> None:
    """End the worker processes without waiting for the systems they are at."""
    for future in futures:
        future.cancel()
    for process in list(getattr(pool, "_processes", {}).values()):
        with suppress(OSError, ValueError):
            process.terminate()


@dataclass(frozen=True)
class Board:
    """Where processes tell how far each system is (share 0..1) and what is being done (UTF-8): shared memory."""

    shares: Any
    texts: list[Any]


BOARD_BYTES = 160

_board: Board
"""In a worker process: where it tells how far its systems are."""


def _start_process(board: Board) -> None:
    """Take over the board; leave Ctrl-C to the parent."""
    import signal

    global _board  # noqa: PLW0603 - the only way a pool hands something to its processes
    _board = board
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_in_process(case: Case, number: int, way: _Way) -> Outcome:
    def progress(what: str, done: float) -> None:
        _board.shares[number] = done
        _board.texts[number].value = what.encode()[: BOARD_BYTES - 1].decode(errors="ignore").encode()

    outcome = _try(case, way, progress)
    _board.shares[number] = 1.0
    return outcome


def _write(
    directory: Path,
    experiment: ResolvedExperiment,
    finished: Mapping[str, FinishedSystem],
    failed: Mapping[str, HelixsimError],
    wall_s: float | None,
    *,
    with_report: bool = True,
    checked: bool = False,
) -> None:
    """Fill a run directory; ``wall_s`` None: an interrupted run, which gets no manifest."""
    systems = [finished[case.name] for case in cases(experiment) if case.name in finished]
    baseline = experiment.baseline if experiment.baseline in finished else systems[0].report.name
    rundir.write_config(directory, experiment)
    reports, whatif = [system.report for system in systems], whatif_document(experiment.variants)
    results = write_results(directory, experiment.name, baseline, experiment.slo, reports, whatif)
    if whatif:
        write_whatif(directory, results)
    times = {system.report.name: system.timing for system in systems}
    document = rundir.manifest(experiment, {"wall_seconds": wall_s, "systems": times}, failed, checked=checked)
    if with_report:
        build_report(directory, document)
    if wall_s is not None:
        rundir.complete(directory, document)


def _keep(
    experiment: ResolvedExperiment,
    directory: Path,
    finished: Mapping[str, FinishedSystem],
    failed: Mapping[str, HelixsimError],
) -> Path | None:
    """Write what an interrupted run has finished beside its directory."""
    if not finished:
        return None
    kept = directory.with_name(f"{directory.name}-partial")
    with rundir.new_directory(kept) as scratch:
        _write(scratch, experiment, finished, failed, None)
    return kept
