"""Charts and tables of measured points: scatter, distribution of errors, heat map, breakdown by one property."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helixsim.accuracy.cells import METRICS, Error, family_of, weights_of
from helixsim.accuracy.errors import TITLES, UNITS, error, errors, summarised
from helixsim.accuracy.run import PointResult
from helixsim.metrics.error_cells import BATCHES, class_of
from helixsim.report.charts import Axis, Chart, Curve, Dots, log_axis, shares_below

GUIDE = 0.25
"""Relative error of the dashed lines beside the diagonal of the scatter plots."""

WIDEST = 0.6
"""Largest relative error on the axes of the distributions; larger ones are counted at the edge."""

MANY = 300
"""Points from which the dots of a scatter plot are small."""

_BIN = 0.05

PREDICTOR_KINDS = (
    ("analytic", "c1", "helixsim"),
    ("operators", "c3", "helixsim with operator tables"),
    ("static", "soft", "static estimate of the tables"),
)
"""Predictor, CSS class of its curves, and name."""

SIZES = {"1": 1.0, "2": 2.0, "3–4": 4.0, "5–8": 8.0, "9–16": 16.0, "17–32": 32.0, "33+": math.inf}

Property = Callable[[PointResult], str]


def engines_of(results: Sequence[PointResult]) -> dict[str, str]:
    """Return the CSS class of each engine, in order of their number of points."""
    counts: dict[str, int] = defaultdict(int)
    for result in results:
        counts[result.point.engine] += 1
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: f"c{number % 4 + 1}" for number, name in enumerate(ordered)}


def scatter(results: Sequence[PointResult], metric: str, kinds: dict[str, str]) -> Chart | None:
    """Return predicted against measured, coloured by engine; None without a point."""
    field = METRICS[metric]
    groups: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds.values()}
    for result in results:
        if (found := error(result, metric)) is not None:
            measured = getattr(result.point, field)
            groups[kinds[result.point.engine]].append((measured, measured * (1 + found)))
    values = [value for points in groups.values() for point in points for value in point]
    if not values:
        return None
    axis = log_axis(f"measured, {UNITS[metric]}", values)
    low, high = axis.low, axis.high
    guides = [Curve("main", (low, high), (low, high))]
    for factor in (1 + GUIDE, 1 / (1 + GUIDE)):
        ends = max(low, low / factor), min(high, high / factor)
        guides.append(Curve("", ends, [end * factor for end in ends]))
    summary = summarised(errors(results, metric))
    size = " large" if len(values) < 2 * MANY else ""
    return Chart(
        f"scatter-{metric}",
        TITLES[metric],
        f"{TITLES[metric]} predicted by helixsim against measured, {len(values) // 2} points on logarithmic axes. "
        + ("" if summary is None else f"Median error {summary.median:.1%}, 90 % of points within {summary.p90:.1%}."),
        axis,
        Axis(f"helixsim, {UNITS[metric]}", low, high, axis.ticks, is_log=True),
        dots=tuple(Dots(f"{kind}{size}", points) for kind, points in groups.items()),
        guides=tuple(guides),
        height=324.0,
    )


def hover_data(results: Sequence[PointResult], kinds: dict[str, str]) -> dict[str, Any]:
    """Return what the page shows of the point under the pointer, as JSON values.

    Texts stand once in ``names``. A point is the number of its group of dots, its texts as positions in that list, its
    numbers, and for each of ``METRICS`` the measured and predicted figure (None: missing).
    """
    groups = {kind: number for number, kind in enumerate(dict.fromkeys(kinds.values()))}
    names: dict[str, int] = {}
    points = []
    for result in results:
        point = result.point
        texts = (point.gpu, f"{point.engine} {point.engine_version}".strip(), point.model, weights_of(point))
        row: list[float | None] = [groups[kinds[point.engine]]]
        row += [names.setdefault(text, len(names)) for text in texts]
        row += [point.gpus, point.prompt_tokens, point.output_tokens, point.concurrency]
        for metric, field in METRICS.items():
            found = error(result, metric)
            measured = getattr(point, field)
            row += [_rounded(measured), None if found is None else _rounded(measured * (1 + found))]
        points.append(row)
    return {"names": list(names), "points": points}


def signed_errors(results: Sequence[PointResult], metric: str) -> Chart | None:
    """Return the density of the signed errors of each predictor over the points that all of them predict."""
    samples = common_errors(results, metric)
    if not samples:
        return None
    edges = np.arange(-WIDEST, WIDEST + _BIN / 2, _BIN)
    curves, top = [], 0.0
    for predictor, kind, title in PREDICTOR_KINDS:
        if predictor in samples:
            inside = np.clip(samples[predictor], edges[0] + 1e-9, edges[-1] - 1e-9)
            shares = np.histogram(inside, edges)[0] / len(inside)
            top = max(top, float(shares.max()))
            xs = np.repeat(edges, 2)
            ys = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
            curves.append(Curve(kind, xs.tolist(), ys.tolist(), name=title))
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if top / step <= 6)
    high = math.ceil(top / step) * step
    ticks = tuple((number * step, f"{number * step:.0%}") for number in range(round(high / step) + 1))
    return Chart(
        f"signed-{metric}",
        f"{TITLES[metric]}: signed error",
        f"Share of points by signed relative error of {TITLES[metric]} in bins of {_BIN:.0%}, for each predictor.",
        Axis("predicted / measured − 1", -WIDEST, WIDEST, _error_ticks((-0.6, -0.3, 0.0, 0.3, 0.6), WIDEST)),
        Axis("share of points", 0.0, high, ticks, is_share=True),
        curves=tuple(curves[::-1]),
        guides=(Curve("main", (0.0, 0.0), (0.0, high)),),
    )


def error_sizes(results: Sequence[PointResult], metric: str) -> Chart | None:
    """Return the share of points within an error, for each predictor, over the points that all of them predict."""
    samples = common_errors(results, metric)
    if not samples:
        return None
    curves = []
    for predictor, kind, title in PREDICTOR_KINDS:
        if predictor in samples:
            values, shares = shares_below(map(abs, samples[predictor]))
            count = sum(value <= WIDEST for value in values)
            last = shares[count - 1] if count else 0.0
            xs, ys = [0.0, *values[:count], WIDEST], [0.0, *shares[:count], last]
            curves.append(Curve(kind, xs, ys, is_step=True, name=title))
    quarters = tuple((share, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0))
    return Chart(
        f"sizes-{metric}",
        f"{TITLES[metric]}: points within an error",
        f"Share of points whose {TITLES[metric]} is predicted within a relative error, for each predictor.",
        Axis("|predicted / measured − 1|", 0.0, WIDEST, _error_ticks((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6))),
        Axis("share of points", 0.0, 1.0, quarters, is_share=True),
        curves=tuple(curves[::-1]),
        guides=tuple(Curve("", (0.0, WIDEST), (share, share)) for share in (0.5, 0.9)),
    )


def common_errors(results: Sequence[PointResult], metric: str) -> dict[str, list[float]]:
    """Return the errors of each predictor that has any, over the points that all of these predict."""
    present = [name for name, _, _ in PREDICTOR_KINDS if errors(results, metric, name)]
    rows = [[error(result, metric, name) for name in present] for result in results]
    complete = [row for row in rows if None not in row]
    columns = [[value for value in column if value is not None] for column in zip(*complete, strict=True)]
    return dict(zip(present, columns, strict=True)) if complete else {}


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Errors of one metric: ``columns`` are (GPU, engine) pairs, ``rows`` (family, regime) pairs with their cells."""

    metric: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[tuple[str, str], tuple[Error | None, ...]], ...]


def heat_map(results: Sequence[PointResult], metric: str) -> HeatMap:
    """Return the errors by GPU and engine, and by family and requests in flight."""
    cells: dict[tuple[tuple[str, str], tuple[str, str]], list[float]] = defaultdict(list)
    labels = list(BATCHES)
    for result in results:
        found = error(result, metric)
        if found is not None:
            point = result.point
            regime = class_of(point.concurrency, BATCHES)
            cells[(point.gpu, point.engine), (family_of(point), regime)].append(found)
    columns = sorted({column for column, _ in cells})
    rows = sorted({row for _, row in cells}, key=lambda row: (row[0], labels.index(row[1])))
    return HeatMap(
        metric,
        tuple(columns),
        tuple((row, tuple(summarised(cells.get((column, row), [])) for column in columns)) for row in rows),
    )


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """Errors of the points with one value of a property; ``range``: 10th and 90th percentile of the TPOT errors."""

    label: str
    summaries: tuple[Error | None, ...]
    range: tuple[float, float] | None


def breakdown(results: Sequence[PointResult], of: Property, order: Sequence[str] = ()) -> tuple[BreakdownRow, ...]:
    """Return one row for each value of a property, in the given order, else by name."""
    groups: dict[str, list[PointResult]] = defaultdict(list)
    for result in results:
        groups[of(result)].append(result)
    known = {label: number for number, label in enumerate(order)}
    rows = []
    for label in sorted(groups, key=lambda name: (known.get(name, len(known)), name)):
        found = errors(groups[label], "tpot")
        if found:
            low, high = np.quantile(found, (0.1, 0.9)).tolist()
            summaries = tuple(summarised(errors(groups[label], metric)) for metric in METRICS)
            rows.append(BreakdownRow(label, summaries, (low, high)))
    return tuple(rows)


def _error_ticks(values: Iterable[float], edge: float = math.inf) -> tuple[tuple[float, str], ...]:
    """Return ticks in percent; those at the edge stand for everything beyond."""
    signs = {-edge: "≤ ", edge: "≥ "}
    return tuple((value, f"{signs.get(value, '')}{value:.0%}".replace("-", "−")) for value in values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
