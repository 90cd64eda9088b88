"""Fit of the terms of a step's time to measured steps (``step_rows``), starting from a GPU's and an engine's profiles.

Rows of one model do not determine every constant. So the fit minimises squared relative errors plus the squared
distance of each constant from its profile, in units of ``Term.spread``, by Gauss-Newton steps; what rows do not say
stays as it was. ``FittedTerm.said_by_rows`` tells which share of a constant's uncertainty the rows removed. Rows far
off are weighted down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import StepTime
from helixsim.errors import DataError
from helixsim.hardware.roofline import roofline
from helixsim.hardware.step_rows import StepRow
from helixsim.units import NS_PER_S

Floats = NDArray[np.float64]

SHARES = ("compute_efficiency", "bandwidth_efficiency")

LEAST_ROWS, MOST_ROWS = 4, 400
"""Of more rows than ``MOST_ROWS``, as many, evenly spread, are fitted: a log of a day has 8640 windows."""

FOLDS = 5
_ITERATIONS, _STEP, _ENOUGH = 30, 1e-3, 1e-4
_TOLERANCE = 1.0
"""Errors of a row, in units of the one expected, beyond which it is weighted down."""


@dataclass(frozen=True, slots=True)
class Term:
    """A constant that is fitted.

    Parameters
    ----------
    name
        Key of the GPU's or the engine's file.
    spread
        Uncertainty before any row: relative for shares and times of kernels, absolute for host times [s].
    """

    name: str
    value: float
    spread: float
    is_host: bool = False
    most: float = math.inf

    def at(self, shift: float) -> float:
        """Return the value ``shift`` spreads away."""
        if self.is_host:
            return max(0.0, self.value + shift * self.spread)
        return min(self.most, self.value * math.exp(shift * self.spread))


@dataclass(frozen=True, slots=True)
class FittedTerm:
    """A constant before and after; ``said_by_rows``: 0 (none of it) to 1."""

    name: str
    before: float
    after: float
    said_by_rows: float
    is_host: bool


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of rows of one label: median of absolute values, 90th percentile of them, median with sign."""

    label: str
    rows: int
    median: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True)
class StepFit:
    """Constants, the GPU and the engine with them, and errors before, after, and on rows left out of the fit.

    ``left_out`` is empty for fewer rows than two for each of ``FOLDS`` parts. ``improves``: the mean absolute log error
    of the rows left out, or of all rows where none was, is below that of the profiles.
    """

    terms: tuple[FittedTerm, ...]
    gpu: GpuSpec
    engine: EngineSpec
    before: tuple[Errors, ...]
    after: tuple[Errors, ...]
    left_out: tuple[Errors, ...]
    improves: bool


def fit_steps(
    rows: Sequence[StepRow],
    model: ModelSpec,
    gpu: GpuSpec,
    gpus: int,
    engine: EngineSpec,
    progress: Callable[[float, str], None] | None = None,
) -> StepFit:
    """Return the constants that meet ``rows`` best, whole steps of ``model`` on ``gpus`` GPUs as one node.

    Raises
    ------
    DataError
        For fewer rows than ``LEAST_ROWS``.
    """
    if len(rows) < LEAST_ROWS:
        raise DataError(f"a fit needs at least {LEAST_ROWS} measured steps, got {len(rows)}")
    problem = _Problem(rows, model, gpu, gpus, engine)
    start = np.zeros(len(problem.terms))
    before = problem.log_errors(start)
    shifts, said = problem.solve(np.arange(len(rows)))
    after = problem.log_errors(shifts)
    left_out: list[Errors] = []
    judged = after
    if len(rows) >= 2 * FOLDS:
        unseen = np.empty(len(rows))
        for fold in range(FOLDS):
            part = np.arange(fold, len(rows), FOLDS)
            found, _ = problem.solve(np.setdiff1d(np.arange(len(rows)), part))
            unseen[part] = problem.log_errors(found)[part]
            if progress is not None:
                progress((fold + 1) / FOLDS, f"part {fold + 1} of {FOLDS} left out")
        left_out, judged = _errors(rows, unseen), unseen
    fitted_gpu, fitted_engine = problem.profiles(shifts)
    terms = tuple(
        FittedTerm(term.name, term.value, term.at(float(shift)), float(share), term.is_host)
        for term, shift, share in zip(problem.terms, shifts, said, strict=True)
    )
    return StepFit(
        terms=terms,
        gpu=fitted_gpu,
        engine=fitted_engine,
        before=tuple(_errors(rows, before)),
        after=tuple(_errors(rows, after)),
        left_out=tuple(left_out),
        improves=bool(np.abs(judged).mean() < np.abs(before).mean()),
    )


def spread(rows: Sequence[StepRow]) -> Sequence[StepRow]:
    """Return at most ``MOST_ROWS`` of the rows, evenly spread."""
    if len(rows) <= MOST_ROWS:
        return rows
    return [rows[round(index)] for index in np.linspace(0, len(rows) - 1, MOST_ROWS)]


class _Problem:
    """The rows, what predicts them, and the constants."""

    def __init__(self, rows: Sequence[StepRow], model: ModelSpec, gpu: GpuSpec, gpus: int, engine: EngineSpec) -> None:
        self.rows, self.model, self.gpu, self.gpus, self.engine = rows, model, gpu, gpus, engine
        self.terms = tuple(_terms(model, gpu, engine))
        self.expected = np.array([row.error for row in rows])

    def profiles(self, shifts: Floats) -> tuple[GpuSpec, EngineSpec]:
        """Return GPU and engine with the constants at ``shifts``."""
        values = {term.name: term.at(float(shift)) for term, shift in zip(self.terms, shifts, strict=True)}
        kernels: dict[str, Any] = {}
        for law in ("fp16", "fp8", "fp4", "experts", "attention"):
            changed = {name.partition(".")[2]: value for name, value in values.items() if name.partition(".")[0] == law}
            kernels[law] = replace(getattr(self.gpu.kernels, law), **changed)
        kernels["elementwise_s"] = values["elementwise"]
        engine = replace(
            self.engine,
            batch_overhead_ns=round(values["batch_overhead"] * NS_PER_S),
            sequence_overhead_ns=round(values["sequence_overhead"] * NS_PER_S),
        )
        return replace(self.gpu, kernels=replace(self.gpu.kernels, **kernels)), engine

    def log_errors(self, shifts: Floats) -> Floats:
        """Return ln(predicted / measured) of each row."""
        gpu, engine = self.profiles(shifts)
        layers = self.model.num_layers
        law = StepTime(roofline(self.model, gpu, self.gpus), engine, LayerRange(0, layers), layers)
        return np.array([math.log(row.predicted_s(law.ns) / row.seconds) for row in self.rows])

    def solve(self, chosen: NDArray[np.int_]) -> tuple[Floats, Floats]:
        """Return the best shifts for the ``chosen`` rows, and what these say about each."""
        shifts, expected = np.zeros(len(self.terms)), self.expected[chosen]
        errors = self.log_errors(shifts)[chosen] / expected
        for _ in range(_ITERATIONS):
            slopes = self._slopes(shifts)[chosen] / expected[:, None]
            weights = 1.0 / np.maximum(1.0, np.abs(errors) / _TOLERANCE)
            curvature = slopes.T @ (weights[:, None] * slopes) + np.eye(len(shifts))
            step = -np.linalg.solve(curvature, slopes.T @ (weights * errors) + shifts)
            cost = _cost(errors, shifts)
            for shorter in (1.0, 0.5, 0.25, 0.125):
                trial = np.clip(shifts + shorter * step, -6.0, 6.0)
                found = self.log_errors(trial)[chosen] / expected
                if _cost(found, trial) < cost:
                    break
            else:
                break
            moved = float(np.abs(trial - shifts).max())
            shifts, errors = trial, found
            if moved < _ENOUGH:
                break
        slopes = self._slopes(shifts)[chosen] / expected[:, None]
        left = np.diag(np.linalg.inv(slopes.T @ slopes + np.eye(len(shifts))))
        return shifts, 1.0 - left

    def _slopes(self, shifts: Floats) -> Floats:
        """Return the derivatives of ``log_errors`` (rows) by the shifts (columns)."""
        columns = []
        for index in range(len(shifts)):
            ends = []
            for sign in (-1, 1):
                moved = shifts.copy()
                moved[index] += sign * _STEP
                ends.append(self.log_errors(moved))
            columns.append((ends[1] - ends[0]) / (2 * _STEP))
        return np.column_stack(columns)


def _cost(errors: Floats, shifts: Floats) -> float:
    """Return the sum of Huber's losses of the errors and of the squares of the shifts."""
    size = np.abs(errors)
    losses = np.where(size <= _TOLERANCE, size**2, 2 * _TOLERANCE * size - _TOLERANCE**2)
    return float(losses.sum() + (shifts**2).sum())


def _terms(model: ModelSpec, gpu: GpuSpec, engine: EngineSpec) -> list[Term]:
    """Return the constants that the time of the model's steps depends on, with their uncertainty."""
    kernels, attention = gpu.kernels, gpu.kernels.attention
    terms = []
    for law in sorted(_laws_of(model, gpu)):
        shares = getattr(kernels, law)
        terms += [Term(f"{law}.{share}", getattr(shares, share), 0.3, most=1.0) for share in SHARES]
    terms += [
        Term("attention.compute_efficiency", attention.compute_efficiency, 0.3, most=1.0),
        Term("attention.kv_bandwidth_efficiency", attention.kv_bandwidth_efficiency, 0.3, most=1.0),
        Term("elementwise", kernels.elementwise_s, 0.3),
        Term("batch_overhead", engine.batch_overhead_ns / NS_PER_S, 0.5e-3, is_host=True),
        Term("sequence_overhead", engine.sequence_overhead_ns / NS_PER_S, 0.02e-3, is_host=True),
    ]
    return terms


def _laws_of(model: ModelSpec, gpu: GpuSpec) -> set[str]:
    """Return the laws of the model's matrix products; the output head is always one in 16 bits."""
    native = dict(gpu.flops)
    laws = {"fp16"}
    for layer in dict.fromkeys(model.layers):
        if layer.experts is not None:
            laws.add("experts")
        for matrix in layer.matrices:
            if matrix.format.multiply in native and matrix.format.multiply != "fp16":
                laws.add("fp4" if matrix.format.multiply == "fp4" else "fp8")
    return laws


def _errors(rows: Sequence[StepRow], log_errors: Floats) -> list[Errors]:
    relative = np.expm1(log_errors)
    found = []
    for label in dict.fromkeys(row.label for row in rows):
        part = relative[[row.label == label for row in rows]]
        size = np.abs(part)
        found.append(
            Errors(label, len(part), float(np.median(size)), float(np.quantile(size, 0.9)), float(np.median(part)))
        )
    return found
