"""Simulates measured cells and says how far off the simulation is.

The loads are random, so every cell is simulated under several seeds: its figures are means over them, and how much one
run differs from the next is told beside.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import helixsim as hx
from helixsim.errors import InfeasibleError
from helixsim.metrics.latency import latency_samples
from helixsim.papers.helix.cells import METRICS, Cell, Figures, Part
from helixsim.papers.helix.tasks import Outcome, loaded, perform_all
from helixsim.runtime.identity import experiment_key
from helixsim.runtime.pool import Executor, Report
from helixsim.units import NS_PER_S

SEEDS = 6
"""Single runs of offline cells differ by 1 to 5 % in throughput (standard deviation), means of six by 1 to 2 %."""
ONLINE_SEEDS = 2
"""Times as many seeds for online cells: their runs see few requests and differ by 5 to 11 %, or 20 % on one GPU."""


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What one part did in its window: sums, so that parts can be pooled; times in seconds."""

    window_s: float
    prompts: int
    ttft_s: float
    steps: int
    step_s: float
    preemptions: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class CellResult:
    """A cell and what helixsim says of it.

    Parameters
    ----------
    simulated
        Means over the seeds.
    spread
        Standard deviation of one run over the mean, as a share; None where there is one seed or no figure.
    preemptions, cpu_s
        Sums over the seeds.
    """

    cell: Cell
    simulated: Figures
    preemptions: int
    cpu_s: float
    spread: Figures = field(default_factory=Figures)

    def error(self, metric: str) -> float | None:
        """Return simulated / measured - 1, None where nothing was measured."""
        return _relative(self.simulated.get(metric), self.cell.measured.get(metric))

    def paper_error(self, metric: str) -> float | None:
        """Return the same for the paper's simulator."""
        return _relative(self.cell.paper.get(metric), self.cell.measured.get(metric))


@dataclass(frozen=True, slots=True)
class PartRun:
    """One simulation of a part (a ``tasks.Task``) under a seed; ``edits`` change its experiment."""

    part: Part
    edits: tuple[hx.Edit, ...]
    seed: int

    @property
    def title(self) -> str:
        """See ``Task.title``."""
        return str(self.part)

    def key(self) -> str:
        """See ``Task.key``."""
        return f"{experiment_key(loaded(self.part.file, self.edits))} {self.part.system} {self.seed}"

    def perform(self, _cache: Path | None) -> Outcome:
        """Return the fields of ``PartFigures``."""
        started_s = time.process_time()
        experiment = hx.load(self.part.file).with_(self.edits).with_(seed=self.seed).resolve()
        run = hx.simulate(experiment, hx.place(experiment, self.part.system, by_flow=True))
        ttft_ns = latency_samples(run).ttft_ns
        return asdict(
            PartFigures(
                window_s=(run.window_end_ns - run.window_start_ns) / NS_PER_S,
                prompts=len(ttft_ns),
                ttft_s=float(ttft_ns.sum()) / NS_PER_S,
                steps=int(run.gaps.count.sum()),
                step_s=run.gaps.sum_ns / NS_PER_S,
                preemptions=int(run.counters["preemptions"]),
                cpu_s=time.process_time() - started_s,
            )
        )


def evaluate(
    cells: Sequence[Cell],
    executor: Executor,
    cache: Path,
    *,
    seeds: int = SEEDS,
    online_seeds: int | None = None,
    edits: Sequence[hx.Edit] = (),
    force: bool = False,
    progress: Report = lambda _share, _what: None,
) -> list[CellResult]:
    """Simulate the parts of all cells and return one result per cell, in order.

    Parameters
    ----------
    cache
        Folder in which the figures of parts are kept under their content key and found again.
    seeds
        How many seeds to simulate, from 0 on.
    online_seeds
        The same for online cells; None: ``ONLINE_SEEDS`` times as many.
    edits
        Changes of every experiment.
    force
        Simulate again what the cache holds.
    progress
        Told how much of all parts is done and which part is being simulated.
    """
    counts = {cell.name: (online_seeds or ONLINE_SEEDS * seeds) if cell.mode == "online" else seeds for cell in cells}
    runs = {
        (part, seed): PartRun(part, tuple(edits), seed)
        for cell in cells
        for part in cell.parts
        for seed in range(counts[cell.name])
    }
    results = perform_all(list(runs.values()), cache, executor, force=force, progress=progress)
    figures: dict[tuple[Part, int], PartFigures] = {}
    for key, run in runs.items():
        if failed := results.failure(run):
            raise InfeasibleError(f"{run.title}: {failed}")
        figures[key] = PartFigures(**results.outcome(run))
    return [
        over_seeds(
            [pool_parts(cell, [figures[part, seed] for part in cell.parts]) for seed in range(counts[cell.name])]
        )
        for cell in cells
    ]


def pool_parts(cell: Cell, parts: Sequence[PartFigures]) -> CellResult:
    """Return the result of a cell whose parts are ``parts``: throughputs add up, latencies are pooled."""
    prompts, steps = sum(part.prompts for part in parts), sum(part.steps for part in parts)
    simulated = Figures(
        throughput=sum(part.steps / part.window_s for part in parts),
        ttft=sum(part.ttft_s for part in parts) / prompts if prompts else None,
        step=sum(part.step_s for part in parts) / steps if steps else None,
    )
    return CellResult(cell, simulated, sum(part.preemptions for part in parts), sum(part.cpu_s for part in parts))


def over_seeds(runs: Sequence[CellResult]) -> CellResult:
    """Return the mean and spread of the results of one cell, one result per seed."""
    means, spreads = {}, {}
    for metric in METRICS:
        values = [value for run in runs if (value := run.simulated.get(metric)) is not None]
        means[metric] = statistics.fmean(values) if values else None
        spreads[metric] = statistics.stdev(values) / mean if len(values) > 1 and (mean := means[metric]) else None
    preemptions, cpu_s = sum(run.preemptions for run in runs), sum(run.cpu_s for run in runs)
    return CellResult(runs[0].cell, Figures(**means), preemptions, cpu_s, Figures(**spreads))


def summary(results: Sequence[CellResult]) -> dict[str, dict[str, Any]]:
    """Return, for each metric, how many cells there are, the median and worst absolute error, and the paper's."""
    document: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        errors = {r.cell.name: e for r in results if (e := r.error(metric)) is not None}
        theirs = {r.cell.name: e for r in results if (e := r.paper_error(metric)) is not None}
        worst = max(errors, key=lambda name: abs(errors[name])) if errors else None
        document[metric] = {
            "cells": len(errors),
            "median": _median(errors),
            "median_spread": _median({r.cell.name: s for r in results if (s := r.spread.get(metric)) is not None}),
            "worst": None if worst is None else abs(errors[worst]),
            "worst_cell": worst,
            "paper_cells": len(theirs),
            "paper_median": _median(theirs),
            "paper_worst": max(map(abs, theirs.values()), default=None),
            "median_where_paper": _median({name: errors[name] for name in theirs if name in errors}),
            "worse_than_paper": [name for name in theirs if abs(errors[name]) > abs(theirs[name])],
        }
    return document


def document(results: Sequence[CellResult]) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "cells": {
            result.cell.name: {
                "measured": asdict(result.cell.measured),
                "helixsim": asdict(result.simulated),
                "spread": asdict(result.spread),
                "paper": asdict(result.cell.paper),
                "error": {metric: result.error(metric) for metric in METRICS},
                "paper_error": {metric: result.paper_error(metric) for metric in METRICS},
                "fitted": result.cell.is_fitted,
                "preemptions": result.preemptions,
                "note": result.cell.note,
            }
            for result in results
        },
        "summary": summary(results),
    }


def _relative(ours: float | None, measured: float | None) -> float | None:
    return None if ours is None or not measured else ours / measured - 1.0


def _median(errors: Mapping[str, float]) -> float | None:
    return statistics.median(map(abs, errors.values())) if errors else None
