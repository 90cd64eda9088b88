"""Timing tables -> compact profiles: few knots, rising, with the floor of small batches, and residuals.

Published tables are rounded (whole ms, 0.1 ms), contain dips that are noise, and begin with a point (0, 0) that makes
tiny batches look free, while reading the weights once costs the same for one sequence as for two. The fit leaves the
origin out and holds the first value below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.curves import Curve
from helixsim.errors import DataError
from helixsim.hardware import catalog, kv_memory, measured
from helixsim.hardware.compute_file import FittedCurve, FittedKind, MeasuredMemory, PlannerRules
from helixsim.hardware.measured import Timings
from helixsim.units import NS_PER_MS

Floats = NDArray[np.float64]

MIN_KNOTS = 4
MAX_KNOTS = 7
_GOOD_ENOUGH = 0.015
"""Root mean square of the relative error beyond the table's rounding at which no further knot is spent."""
_LAST_CHORD = 0.2
"""Least share of the table under the last chord, because its slope is what carries on beyond the table."""
_LAST_RESORT = 1e9


def fit_timings(timings: Timings, precision: str, source: str) -> FittedKind:
    """Return the compact profile of one table.

    One prompt token costs what one decoding sequence costs, so prefill begins at (1, floor of decode).
    """
    decode = fit_curve(timings.decode)
    prefill = fit_curve(timings.prefill, floor_ms=decode.curve.y_ns[0] / NS_PER_MS)
    return FittedKind(timings.model, precision, timings.kind, source, prefill, decode)


def fit_curve(points: Sequence[tuple[float, float]], floor_ms: float | None = None) -> FittedCurve:
    """Return a rising piecewise-linear curve of at most ``MAX_KNOTS`` knots close to ``points``.

    Knots lie at points of the table, chosen by dynamic programming for the least sum of squared relative errors of
    the chords of the isotonic regression; their values then minimise the same error against the table itself.

    Parameters
    ----------
    points
        (batch, ms), sorted by batch; a point at batch 0 is left out.
    floor_ms
        Time of a batch of 1 [ms], or the first value of the curve if that is lower: held until the first slope of the
        curve, drawn backwards, meets it.
    """
    x = np.array([batch for batch, _ in points if batch > 0])
    y = np.array([time for batch, time in points if batch > 0])
    chords = _chord_costs(x, y)
    most = min(MAX_KNOTS, len(x))
    for count in range(min(MIN_KNOTS, len(x)), most + 1):
        chosen = _knots(chords, count)
        knots, times = x[chosen], _values(x, y, chosen)
        errors = np.abs(np.interp(x, knots, times) - y)
        beyond_rounding = np.maximum(errors - resolution(y) / 2, 0.0) / y
        if np.sqrt(np.mean(beyond_rounding**2)) <= _GOOD_ENOUGH:
            break
    errors /= y
    if floor_ms is not None and knots[0] > 1:
        knots, times = _with_floor(knots, times, min(floor_ms, times[0]))
    curve = Curve(tuple(map(float, knots)), tuple(float(time) * NS_PER_MS for time in times))
    return FittedCurve(curve, float(np.median(errors)), float(errors.max()))


def _with_floor(knots: Floats, times: Floats, floor: float) -> tuple[Floats, Floats]:
    """Return the curve begun at batch 1 with ``floor``, which is never above its first value."""
    head = [1.0]
    if len(knots) > 1 and times[1] > times[0]:
        meeting = knots[0] - (times[0] - floor) * (knots[1] - knots[0]) / (times[1] - times[0])
        meeting = round(float(meeting), 1)
        if 1.0 < meeting < knots[0]:
            head.append(meeting)
    return np.concatenate((head, knots)), np.concatenate(([floor] * len(head), times))


def isotonic(values: Floats, weights: Floats) -> Floats:
    """Return the rising sequence closest to ``values`` in weighted least squares (pool adjacent violators)."""
    means: list[float] = []
    masses: list[float] = []
    counts: list[int] = []
    for value, weight in zip(values, weights, strict=True):
        means.append(float(value))
        masses.append(float(weight))
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mass = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / mass]
            masses[-2:] = [mass]
            counts[-2:] = [counts[-2] + counts[-1]]
    return np.repeat(means, counts)


def resolution(values: Floats) -> Floats:
    """Return the step [ms] to which each value and all after it are rounded: 1, 0.1, 0.01 or 0.001.

    Tables are printed more coarsely towards large batches (the published ones in whole ms from 120 sequences on).
    """
    steps = np.full(len(values), 0.001)
    for step in (0.01, 0.1, 1.0):
        whole = np.isclose(values / step, np.round(values / step), atol=1e-6)
        steps[np.logical_and.accumulate(whole[::-1])[::-1]] = step
    return steps


def _chord_costs(x: Floats, y: Floats) -> Floats:
    """Return, for knots i < j, the squared relative error of the chord between them beyond the table's rounding.

    A tenth of the plain error is added, so that of two chords within the rounding the closer one is cheaper.
    """
    smooth, half_step = isotonic(y, 1.0 / y**2), resolution(y) / 2
    size = len(x)
    costs = np.full((size, size), np.inf)
    for i in range(size):
        for j in range(i + 1, size):
            inner = slice(i + 1, j)
            off = np.abs(smooth[inner] - np.interp(x[inner], x[[i, j]], smooth[[i, j]]))
            beyond = np.maximum(off - half_step[inner], 0.0)
            costs[i, j] = float(np.sum((beyond**2 + 0.1 * off**2) / y[inner] ** 2))
    costs[x > x[-1] - _LAST_CHORD * (x[-1] - x[0]), -1] += _LAST_RESORT
    return costs


def _knots(chords: Floats, count: int) -> list[int]:
    """Return the ``count`` indices, first and last included, whose chords cost least."""
    size = len(chords)
    cost = np.full((count, size), np.inf)
    before = np.zeros((count, size), dtype=int)
    cost[0, 0] = 0.0
    for knot in range(1, count):
        total = cost[knot - 1][:, None] + chords
        before[knot] = total.argmin(axis=0)
        cost[knot] = total.min(axis=0)
    path = [size - 1]
    for knot in range(count - 1, 0, -1):
        path.append(int(before[knot, path[-1]]))
    return path[::-1]


def _values(x: Floats, y: Floats, knots: list[int]) -> Floats:
    """Return the rising values at ``knots`` with the least sum of squared relative errors."""
    hats = np.column_stack([np.interp(x, x[knots], unit) for unit in np.eye(len(knots))])
    solution: Floats = np.linalg.lstsq(hats / y[:, None], np.ones(len(y)), rcond=None)[0].astype(np.float64)
    return isotonic(solution, np.ones(len(knots)))


def fit_tables(
    timings: Path, limits: Path | None, precision: str, memory_fraction: float, source: str
) -> tuple[FittedKind, ...]:
    """Return the compact profile of each (model, kind) in a timing table, with memory and limits where given.

    Parameters
    ----------
    limits
        CSV of KV tokens and batch limits of the same nodes (see ``measured``); None: timings only.
    precision
        Number format of the weights that were timed.
    memory_fraction
        Share of the usable GPU memory the engine took when ``limits`` was measured.
    source
        Where the tables come from.

    Raises
    ------
    DataError
        For senseless tables, or limits of a model or GPU that has no profile.
    """
    tables = measured.read_limits(limits) if limits is not None else ()
    kinds: list[FittedKind] = []
    for table in measured.read_timings(timings):
        fitted = fit_timings(table, precision, source)
        known = measured.find(tables, table.model, table.kind)
        kinds.append(fitted if known is None else _with_limits(fitted, known, memory_fraction))
    return tuple(kinds)


def _with_limits(fitted: FittedKind, limits: measured.Limits, memory_fraction: float) -> FittedKind:
    if len(limits.kv_tokens) < 2:
        raise DataError(f"limits of {fitted.model} on {fitted.kind}: at least two layer counts are needed")
    gpu, gpus = catalog.split_kind(fitted.kind)
    model = catalog.load_model(fitted.model, fitted.precision)
    memory, error = kv_memory.fit_memory(model, catalog.load_gpu(gpu), gpus, memory_fraction, limits.kv_tokens)
    most = len(limits.kv_tokens)
    return replace(
        fitted,
        memory=MeasuredMemory(memory.workspace_bytes, memory.overhead_bytes_per_layer, error),
        planner=PlannerRules(most, max(1, round(2 * most / 3)), most, 0.0),
        batch=limits.batch,
    )
