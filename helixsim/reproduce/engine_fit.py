"""Finds the overheads of an engine: those of a grid under which the measured cells are met best.

One set serves all cells, GPUs and models. The loss is the mean absolute logarithm of simulated over measured, over all
figures of the cells that take part. A grid, and not a descent, because a run is a sample: how batches fall apart and
merge again is chaotic, so that derivatives by small steps are noise. The same simulations answer what the fit would
have been without some of the cells, and how well it then meets those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from helixsim.reproduce.cells import METRICS, Cell
from helixsim.reproduce.fidelity import SEEDS, CellResult, Progress, evaluate, summary

GRID_S: dict[str, tuple[float, ...]] = {
    "gather": (20e-6,),
    "batch_overhead": (1e-3, 2e-3),
    "sequence_overhead": (0.0, 50e-6),
    "layer_launch": (1.6e-3, 1.8e-3),
}
"""Values tried of each overhead [s], around the best of a coarser search (gather 0 to 2 ms, batch_overhead 0 to 12 ms,
sequence_overhead 0 to 0.2 ms, layer_launch 0 to 2.1 ms)."""


_Tried = tuple[dict[str, float], list[CellResult]]
"""A point of the grid and the results there."""


@dataclass(frozen=True)
class HeldOut:
    """A fit without the cells of one GPU or model, and the results of exactly those cells."""

    name: str
    overheads_s: dict[str, float]
    results: tuple[CellResult, ...]


@dataclass(frozen=True)
class EngineFit:
    """The best overheads [s], the loss there, the results of all cells, and the fits with cells held out."""

    overheads_s: dict[str, float]
    loss: float
    results: tuple[CellResult, ...]
    held_out: tuple[HeldOut, ...]


def fit(
    cells: Sequence[Cell],
    *,
    grid_s: dict[str, tuple[float, ...]] | None = None,
    seeds: int = SEEDS,
    overrides: Sequence[str] = (),
    cache: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> EngineFit:
    """Simulate all cells at every point of the grid and return the best point.

    Parameters
    ----------
    grid_s
        Values of each overhead [s], None: ``GRID_S``.
    seeds, overrides, cache, jobs
        As for ``evaluate``.
    """
    grid = grid_s or GRID_S
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    tried: list[_Tried] = []
    for number, point in enumerate(points):

        def part(done: float, what: str, number: int = number) -> None:
            if progress is not None:
                progress((number + done) / len(points), what)

        settings = [f"engine.{key}={seconds * 1e3:g} ms" for key, seconds in point.items()]
        results = evaluate(cells, seeds=seeds, overrides=[*overrides, *settings], cache=cache, jobs=jobs, progress=part)
        tried.append((point, results))
    best, results = _best(tried, [cell for cell in cells if cell.is_fitted])
    held_out = []
    for name, out in _groups(cells):
        kept = [cell for cell in cells if cell.is_fitted and cell not in out]
        if kept:
            without, everywhere = _best(tried, kept)
            held_out.append(HeldOut(name, without, tuple(r for r in everywhere if r.cell in out)))
    return EngineFit(best, loss([r for r in results if r.cell.is_fitted]), tuple(results), tuple(held_out))


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
        "loss": fit.loss,
        "summary": summary(fit.results),
        "held_out": [
            {"name": held.name, "overheads_s": held.overheads_s, "summary": summary(held.results),
             "cells": {r.cell.name: asdict(r.simulated) for r in held.results}}
            for held in fit.held_out
        ],
    }  # fmt: skip


def _best(tried: Sequence[_Tried], kept: Sequence[Cell]) -> _Tried:
    """Return the point with the least loss over the cells kept; the first of equals."""
    return min(tried, key=lambda entry: loss([result for result in entry[1] if result.cell in kept]))


def _groups(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    """Return the cells of each GPU, and of each model, by name."""
    gpus = dict.fromkeys(gpu for cell in cells for gpu in cell.gpus)
    models = dict.fromkeys(cell.model for cell in cells)
    return [
        *((gpu, [cell for cell in cells if gpu in cell.gpus]) for gpu in gpus),
        *((model, [cell for cell in cells if model == cell.model]) for model in models),
    ]
