"""Whether bands of model errors are honest: the share of points within the bands of a table that does not have them.

All points of a GPU (an engine, a family of models, a format of weights) are left out of the cells and estimated from
the others, as for a system that was not measured. What differences add to a band is found anew from these others
(``metrics.error_table``), so that the points left out decide nothing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from helixsim.accuracy.cells import METRICS, cell_of, family_of, ratio, table, weights_of
from helixsim.accuracy.points import DISAGGREGATED, MeasuredPoint
from helixsim.accuracy.run import PointResult
from helixsim.domain.figures import GpuShare, Limits, SettingFigures
from helixsim.jsonio import json_values
from helixsim.metrics.error_cells import cells_of
from helixsim.metrics.error_table import LEVEL, Z
from helixsim.metrics.model_error import ModelError, Table

KIND: Mapping[str, str] = {
    "GPU": "gpu", "family of the model": "family", "engine": "engine", "format of the weights": "weights",
    "kind": "kind",
}  # fmt: skip
"""What is left out -> kind of difference (``error_table.KINDS``) that it is."""

LEFT_OUT: Mapping[str, Callable[[MeasuredPoint], str]] = {
    "GPU": lambda point: point.gpu,
    "family of the model": family_of,
    "engine": lambda point: point.engine,
    "format of the weights": weights_of,
    "kind": lambda point: point.kind,
    "an eighth of the series": lambda point: str(zlib.crc32(_series(point).encode()) % 8),
}
"""What is left out at once, each value in turn; a series: points that differ in lengths and concurrency alone."""


def _series(point: MeasuredPoint) -> str:
    return f"{point.gpu} {point.gpus} {point.engine} {point.model} {weights_of(point)}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Points of what was left out: their number, and the share within the bands by metric.

    Parameters
    ----------
    likely
        Central 80 % of the shares of single values, were the model of errors exact: what all points of a value have in
        common is one draw, which lies within the band or does not.
    """

    points: int
    shares: Mapping[str, float]
    likely: Mapping[str, Limits] = field(default_factory=dict)


def coverage(
    results: Sequence[PointResult], key: Callable[[MeasuredPoint], str], kind: str | None = None
) -> dict[str, Coverage]:
    """Return the coverage of the points of each value of a key, which are left out of the table.

    A value that is that of all points is not estimated: there would be nothing left to do it from.

    Parameters
    ----------
    kind
        Kind of difference that the key is, for ``Coverage.likely``.
    """
    known = [result for result in results if result.analytic is not None]
    found: dict[str, Coverage] = {}
    for value in sorted({key(result.point) for result in known}):
        rest = [result for result in known if key(result.point) != value]
        if rest:
            found[value] = covered([result for result in known if key(result.point) == value], table_of(rest), kind)
    return found


def covered(results: Sequence[PointResult], cells: Table, kind: str | None = None) -> Coverage:
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
    shares = {metric: count / len(results) for metric, count in inside.items()}
    found = [estimates[tuple(cell_of(result.point).values())] for result in results]
    return Coverage(len(results), shares, {} if kind is None else {one: _likely(found, one, kind) for one in METRICS})


def _likely(estimates: Sequence[ModelError], metric: str, kind: str) -> Limits:
    """Return the central 80 % of the share of points within the bands, of values whose errors are as the model says."""
    common = math.fsum(one.basis[metric].added[kind] for one in estimates) / len(estimates)
    whole = math.fsum(one.errors[metric].sd ** 2 for one in estimates) / len(estimates)
    half, each, normal = Z * math.sqrt(whole), math.sqrt(max(whole - common, 1e-12)), NormalDist()

    def share(probability: float) -> float:
        off = math.sqrt(common) * normal.inv_cdf((1 + probability) / 2)
        return normal.cdf((half - off) / each) - normal.cdf((-half - off) / each)

    return Limits(share(1 - (1 - LEVEL) / 2), share((1 - LEVEL) / 2))


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
        batch=point.in_flight,
        context_tokens=point.mean_context_tokens,
        is_disaggregated=point.kind == DISAGGREGATED,
    )


def _document(one: Coverage) -> dict[str, Any]:
    likely = {"likely": {metric: json_values(limits) for metric, limits in one.likely.items()}} if one.likely else {}
    return {"points": one.points, **one.shares, **likely}


def coverage_document(results: Sequence[PointResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the coverage by what is left out, for each value and for ``all``, as JSON values."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, key in LEFT_OUT.items():
        each = coverage(results, key, KIND.get(title))
        if each:
            found[title] = {name: _document(one) for name, one in _with_all(each).items()}
    return found


def coverage_rows(results: Sequence[PointResult]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of a table of the coverage."""
    rows = [
        (title, name, f"{one['points']:.0f}", *(_text(one, metric) for metric in METRICS))
        for title, each in coverage_document(results).items()
        for name, one in each.items()
    ]
    return ("left out", "", "points", "TPOT", "throughput", "TTFT"), rows


def _text(one: Mapping[str, Any], metric: str) -> str:
    likely = one.get("likely")
    beside = "" if likely is None else f" ({100 * likely[metric][0]:.0f}-{100 * likely[metric][1]:.0f})"
    return f"{100 * one[metric]:.0f} %{beside}"


def _with_all(each: Mapping[str, Coverage]) -> dict[str, Coverage]:
    return {"all, in turn": pooled(each), **each}
