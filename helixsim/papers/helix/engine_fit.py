"""Finds the overheads of an engine: those under which the measured cells are met best.

One set serves all cells, GPUs and models. The loss is the mean absolute logarithm of simulated over measured, over all
figures of the cells that take part. The search walks from value to value of a ladder per overhead, one overhead at a
time, until no step to a neighbour helps; small steps would be noise, because a run is a sample: how batches fall apart
and merge again is chaotic. The search without the cells of one GPU or model starts from the same place, and its result
is held against those cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import helixsim as hx
from helixsim.papers.helix.cells import METRICS, Cell
from helixsim.papers.helix.fidelity import SEEDS, CellResult, evaluate, summary
from helixsim.runtime.pool import Executor, Report

LADDERS_S: dict[str, tuple[float, ...]] = {
    "gather": (0.0, 10e-6, 20e-6, 50e-6, 100e-6),
    "batch_overhead": (0.0, 0.5e-3, 1e-3, 2e-3, 3e-3),
    "sequence_overhead": (0.0, 25e-6, 50e-6, 100e-6, 200e-6),
    "layer_launch": (1e-3, 1.2e-3, 1.4e-3, 1.6e-3, 1.8e-3, 2e-3, 2.2e-3),
}
"""Values of each overhead [s]; the search starts in the middle."""

_Point = tuple[int, ...]
"""One rung of each ladder."""


@dataclass(frozen=True)
class HeldOut:
    """A fit without the cells of one GPU or model, and the results of exactly those cells."""

    name: str
    overheads_s: dict[str, float]
    results: tuple[CellResult, ...]


@dataclass(frozen=True)
class EngineFit:
    """The best overheads [s], the loss there, the results of all cells, and the fits with cells held out.

    ``at_edge`` names the overheads whose best value is the last of its ladder, or the first but not zero; ``tried``
    counts the points simulated.
    """

    overheads_s: dict[str, float]
    at_edge: tuple[str, ...]
    tried: int
    loss: float
    results: tuple[CellResult, ...]
    held_out: tuple[HeldOut, ...]


def fit(
    cells: Sequence[Cell],
    executor: Executor,
    cache: Path,
    *,
    ladders_s: dict[str, tuple[float, ...]] | None = None,
    seeds: int = SEEDS,
    edits: Sequence[hx.Edit] = (),
    progress: Report = lambda _share, _what: None,
) -> EngineFit:
    """Search the ladders for the point that meets the fitted cells best, then again with groups of cells held out.

    Parameters
    ----------
    ladders_s
        Rising values of each overhead [s], None: ``LADDERS_S``.
    executor, cache, seeds, edits
        As for ``evaluate``.
    """
    ladders = ladders_s or LADDERS_S
    fitted = [cell for cell in cells if cell.is_fitted]
    tried: dict[_Point, list[CellResult]] = {}

    def at(point: _Point) -> list[CellResult]:
        if point not in tried:
            values = {key: ladder[rung] for (key, ladder), rung in zip(ladders.items(), point, strict=True)}
            overheads = [hx.Edit.of(f"engine.{key}", f"{seconds * 1e3:g} ms") for key, seconds in values.items()]
            tried[point] = evaluate(
                fitted, executor, cache, seeds=seeds, online_seeds=seeds, edits=[*edits, *overheads]
            )
            said = " ".join(f"{edit.key}={edit.value}" for edit in overheads)
            progress(len(tried) / (len(tried) + len(ladders)), f"point {len(tried)}: {said}")
        return tried[point]

    def best_for(kept: Sequence[Cell]) -> tuple[_Point, dict[str, float]]:
        point = _descend(ladders, lambda p: loss([result for result in at(p) if result.cell in kept]))
        return point, {key: ladder[rung] for (key, ladder), rung in zip(ladders.items(), point, strict=True)}

    best, overheads_s = best_for(fitted)
    held_out = []
    for name, out in _groups(fitted):
        if kept := [cell for cell in fitted if cell not in out]:
            without, values = best_for(kept)
            held_out.append(HeldOut(name, values, tuple(r for r in at(without) if r.cell in out)))
    at_edge = tuple(
        key
        for (key, ladder), rung in zip(ladders.items(), best, strict=True)
        if rung == len(ladder) - 1 or (rung == 0 and ladder[0])
    )
    return EngineFit(overheads_s, at_edge, len(tried), loss(at(best)), tuple(at(best)), tuple(held_out))


def _descend(ladders: dict[str, tuple[float, ...]], loss_at: Callable[[_Point], float]) -> _Point:
    """Return the point reached from the middle by steps to better neighbours, one overhead at a time."""
    point = tuple(len(ladder) // 2 for ladder in ladders.values())
    while True:
        start = point
        for axis, ladder in enumerate(ladders.values()):
            for step in (-1, 1):
                while 0 <= point[axis] + step < len(ladder):
                    neighbour = (*point[:axis], point[axis] + step, *point[axis + 1 :])
                    if loss_at(neighbour) >= loss_at(point):
                        break
                    point = neighbour
        if point == start:
            return point


def loss(results: Sequence[CellResult]) -> float:
    """Return the mean absolute logarithm of simulated over measured."""
    terms = [
        abs(math.log(ours / measured))
        for result in results
        for metric in METRICS
        if (ours := result.simulated.get(metric)) and (measured := result.cell.measured.get(metric))
    ]
    return sum(terms) / len(terms)


def document(fit: EngineFit) -> dict[str, Any]:
    """Return the fit as JSON values."""
    return {
        "overheads_s": fit.overheads_s,
        "at_edge": fit.at_edge,
        "points_tried": fit.tried,
        "loss": fit.loss,
        "summary": summary(fit.results),
        "held_out": [
            {"name": held.name, "overheads_s": held.overheads_s, "summary": summary(held.results),
             "cells": {r.cell.name: asdict(r.simulated) for r in held.results}}
            for held in fit.held_out
        ],
    }  # fmt: skip


def _groups(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    """Return the cells of each GPU, and of each model, by name."""
    gpus = dict.fromkeys(gpu for cell in cells for gpu in cell.gpus)
    models = dict.fromkeys(cell.model for cell in cells)
    return [
        *((gpu, [cell for cell in cells if gpu in cell.gpus]) for gpu in gpus),
        *((model, [cell for cell in cells if model == cell.model]) for model in models),
    ]
