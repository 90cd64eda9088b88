"""Whether bands of model errors are honest: the share of points within the bands of a table that does not have them.

All points of a GPU (an engine, a family of models, a format of weights) are left out of the cells and estimated from
the others, as for a system that was not measured. What differences add to a band is found anew from these others
(``metrics.error_table``), so that the points left out decide nothing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from helixsim.accuracy.cells import METRICS, cell_of, family_of, ratio, table, weights_of
from helixsim.accuracy.points import MeasuredPoint
from helixsim.accuracy.run import PointResult
from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.metrics.error_cells import cells_of
from helixsim.metrics.model_error import ModelError, Table

LEFT_OUT: Mapping[str, Callable[[MeasuredPoint], str]] = {
    "GPU": lambda point: point.gpu,
    "family of the model": family_of,
    "engine": lambda point: point.engine,
    "format of the weights": weights_of,
    "an eighth of the series": lambda point: str(zlib.crc32(_series(point).encode()) % 8),
}
"""What is left out at once, each value in turn; a series: points that differ in lengths and concurrency alone."""


def _series(point: MeasuredPoint) -> str:
    return f"{point.gpu} {point.gpus} {point.engine} {point.model} {weights_of(point)}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Points of what was left out: their number, and the share within the bands by metric."""

    points: int
    shares: Mapping[str, float]


def coverage(results: Sequence[PointResult], key: Callable[[MeasuredPoint], str]) -> dict[str, Coverage]:
    """Return the coverage of the points of each value of a key, which are left out of the table.

    A value that is that of all points is not estimated: there would be nothing left to do it from.
    """
    known = [result for result in results if result.analytic is not None]
    found: dict[str, Coverage] = {}
    for value in sorted({key(result.point) for result in known}):
        rest = [result for result in known if key(result.point) != value]
        if rest:
            found[value] = covered([result for result in known if key(result.point) == value], table_of(rest))
    return found


def covered(results: Sequence[PointResult], cells: Table) -> Coverage:
    """Return the share of points, at least one, that lie within the bands of a table."""
    estimates: dict[tuple[str, ...], ModelError] = {}
    inside = dict.fromkeys(METRICS, 0)
    for result in results:
        cell = tuple(cell_of(result.point).values())
        if cell not in estimates:
            estimates[cell] = cells.estimate(setting_of(result.point))
        for metric in METRICS:
            predicted = ratio(result, metric)
            low, high = estimates[cell].band(metric)
            inside[metric] += predicted is not None and low <= 1 / predicted <= high
    return Coverage(len(results), {metric: count / len(results) for metric, count in inside.items()})


def pooled(coverages: Mapping[str, Coverage]) -> Coverage:
    """Return the coverage of the points of all values together."""
    points = sum(one.points for one in coverages.values())
    shares = {
        metric: math.fsum(one.points * one.shares[metric] for one in coverages.values()) / points for metric in METRICS
    }
    return Coverage(points, shares)


def table_of(results: Sequence[PointResult]) -> Table:
    """Return the table of the cells of points."""
    rows = ({name: str(value) for name, value in row.items()} for row in table(results))
    return Table(cells_of(rows, "cells of points"))


def setting_of(point: MeasuredPoint) -> SettingFigures:
    """Return the setting of a measured point."""
    return SettingFigures(
        nodes=(GpuShare(point.gpu, point.gpus, 1.0),),
        engine=point.engine,
        family=family_of(point),
        weights=weights_of(point),
        timings=("roofline",),
        stages=1.0,
        batch=float(point.concurrency),
        context_tokens=point.mean_context_tokens,
    )


def coverage_document(results: Sequence[PointResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the coverage by what is left out, for each value and for ``all``, as JSON values."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, key in LEFT_OUT.items():
        each = coverage(results, key)
        if each:
            found[title] = {name: {"points": one.points, **one.shares} for name, one in _with_all(each).items()}
    return found


def coverage_rows(results: Sequence[PointResult]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of a table of the coverage."""
    rows = [
        (title, name, f"{one['points']:.0f}", *(f"{100 * one[metric]:.0f} %" for metric in METRICS))
        for title, each in coverage_document(results).items()
        for name, one in each.items()
    ]
    return ("left out", "", "points", "TPOT", "throughput", "TTFT"), rows


def _with_all(each: Mapping[str, Coverage]) -> dict[str, Coverage]:
    return {"all, in turn": pooled(each), **each}
