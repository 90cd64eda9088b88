"""Fit of an engine's host times and a GPU's shares of its peaks to measured points, with the error on left-out ones.

Every point is simulated under its measured load. The fit minimises the squared errors of TPOT and TTFT (logarithms, in
units of ``EXPECTED``) plus the squared distance of each constant from its profile, in units of its spread, by Gauss-
Newton steps. What the points do not tell is not fitted: constants are kept, one after the other, until of each that is
left at least ``LEAST_TOLD`` of its uncertainty is removed by the points. The error that counts is that of each point
under constants fitted to the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.placement import Placement
from helixsim.errors import DataError
from helixsim.experiment import Experiment
from helixsim.hardware import catalog
from helixsim.hardware.calibration import Calibration, largest_factor, load_calibration
from helixsim.hardware.engines import OVERHEADS
from helixsim.hardware.operator_library import backend_of
from helixsim.metrics.stats import t_interval
from helixsim.planning.calibrate_fit import Floats, identified, linear, solve
from helixsim.planning.calibrate_points import EXPECTED, UNKNOWN_SPREAD, Advance, Constant, Observation, Problem
from helixsim.planning.replay import Point
from helixsim.runtime.pool import Executor
from helixsim.units import NS_PER_S

LEAST_POINTS = 3
PARTS = 4
"""Parts of a run with single requests that count as points where there are fewer than ``LEAST_POINTS`` runs."""

LEAST_REQUESTS = 10
"""Requests of each part."""

HOST_SPREADS_S = {"batch_overhead": 1.5e-3, "sequence_overhead": 0.05e-3, "host": 1.5e-3, "sequence_host": 0.05e-3}
FACTOR_SPREADS = {"memory_efficiency": 0.1, "compute_efficiency": 0.1, "interconnect": 0.3}

LEAST_GAIN = 0.002
"""Least improvement of the mean error of left-out points."""

FLOOR = 0.01
"""Error below which being closer counts for little."""


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """A constant before and after; ``told``: share of its uncertainty that the points removed, 0..1.

    ``kept``: why it was not fitted; empty if it was. ``at_bound``: whether it is the least or most that is possible, no
    time at all or a share of 1, which tells that something else differs.
    """

    name: str
    before: float
    after: float
    told: float
    kept: str
    is_host: bool
    at_bound: bool = False


@dataclass(frozen=True, slots=True)
class PointErrors:
    """Relative errors of a point by metric: before, under all points' constants, under those of the other points."""

    label: str
    before: dict[str, float]
    fitted: dict[str, float]
    held_out: dict[str, float]


@dataclass(frozen=True)
class CalibrationFit:
    """Constants, errors, and whether left-out points are met better.

    Parameters
    ----------
    error_before, error_after
        Mean absolute error of the points before, and of left-out points after, weighed as in the fit.
    gain, gain_interval
        Factor by which the error of a point falls, its geometric mean over the points with 95 % interval; ``FLOOR`` is
        added to each error.
    improved
        Whether the interval lies above 1, and the mean error is lower by more than ``LEAST_GAIN``.
    """

    constants: tuple[FittedConstant, ...]
    points: tuple[PointErrors, ...]
    error_before: float
    error_after: float
    gain: float
    gain_interval: tuple[float, float]
    improved: bool
    calibration: Calibration
    simulations: int


def calibrate(
    experiment: Experiment,
    system: str,
    placement: Placement,
    points: Sequence[Point],
    folder: Path,
    executor: Executor,
    advance: Advance = lambda _share, _what: None,
) -> CalibrationFit:
    """Fit the constants to points of the same system.

    Parameters
    ----------
    folder
        Takes the calibrations that are tried.

    Raises
    ------
    DataError
        If there are too few points, or these state neither TPOT nor TTFT nor throughput.
    """
    observed = _observations(points)
    problem = Problem(_constants(experiment, placement), points, observed, system, placement, folder, executor, advance)
    size = len(problem.constants)
    before = problem.errors(np.zeros(size))
    slopes = problem.slopes()
    fitted, told, kept = identified([one.name for one in problem.constants], slopes, problem.expected)
    shifts, slopes = solve(problem.errors, problem.expected, before, slopes, fitted)
    after = problem.errors(shifts)
    groups = np.array([one.group for one in observed])
    held_out = np.empty(len(observed))
    for group in sorted(set(groups.tolist())):
        part = groups == group
        without = linear(after, slopes, problem.expected, shifts, fitted, ~part)
        held_out[part] = problem.errors(without, only=group)[part]
    scores = {
        name: _scores(errors, groups, problem.expected) for name, errors in (("before", before), ("after", held_out))
    }
    interval = t_interval(np.log((scores["before"] + FLOOR) / (scores["after"] + FLOOR)), floor=None)
    assert interval is not None, "there are several points"
    gain, low, high = (math.exp(one) for one in (interval.mean, interval.low, interval.high))
    improved = bool(low > 1.0 and (scores["before"] - scores["after"]).mean() >= LEAST_GAIN)
    constants = tuple(
        FittedConstant(
            one.name,
            one.value,
            one.at(float(shift)),
            float(share),
            why,
            one.gpu is None,
            at_bound=not why and one.at(float(shift)) in (0.0, one.most),
        )
        for one, shift, share, why in zip(problem.constants, shifts, told, kept, strict=True)
    )
    return CalibrationFit(
        constants, _point_errors(observed, groups, before, after, held_out), float(scores["before"].mean()),
        float(scores["after"].mean()), gain, (low, high), improved,
        _stated(experiment, problem, shifts, fitted), problem.simulations,
    )  # fmt: skip


def _observations(points: Sequence[Point]) -> list[Observation]:
    """Return the figures to fit: of each point, or of parts of the points where there are too few of them."""
    if len(points) >= LEAST_POINTS:
        found = [_figures(number, point) for number, point in enumerate(points)]
        return [one for of_point in found for one in of_point]
    parts = []
    for number, point in enumerate(points):
        requests = point.benchmark.requests
        count = len(requests.ttft_s)
        if count < PARTS * LEAST_REQUESTS or not len(requests.start_s) or not len(requests.prompt_tokens):
            raise DataError(
                f"{point.label}: calibration needs at least {LEAST_POINTS} points of different load, or one with "
                f"starts and lengths of at least {PARTS * LEAST_REQUESTS} single requests (vllm bench serve "
                f"--save-detailed since January 2026), got {len(points)} with {count} requests"
            )
        edges = np.linspace(0, count, PARTS + 1).astype(int)
        for at in range(PARTS):
            part = slice(int(edges[at]), int(edges[at + 1]))
            label, group = f"{point.label}, requests {edges[at] + 1} to {edges[at + 1]}", number * PARTS + at
            for metric, values in (("mean_tpot_ms", requests.step_s), ("mean_ttft_ms", requests.ttft_s)):
                mean = float(np.nanmean(values[part])) if np.isfinite(values[part]).any() else 0.0
                if mean > 0:
                    parts.append(Observation(number, group, label, metric, 1e3 * mean, EXPECTED[metric], part))
    return parts


def _figures(number: int, point: Point) -> list[Observation]:
    stated = {key: value for key, value in point.benchmark.figures.items() if key in EXPECTED and value > 0}
    step = next((key for key in ("mean_tpot_ms", "mean_itl_ms") if key in stated), "")
    chosen = [key for key in (step, "mean_ttft_ms") if key in stated]
    if not chosen:
        chosen = [key for key in stated if key in ("mean_e2el_ms", "output_throughput")][-1:]
    if not chosen:
        raise DataError(f"{point.label}: nothing to fit: the file states no {', '.join(EXPECTED)}")
    together = (point.benchmark.load.concurrency or 1) > 1 and point.has_assumed_lengths
    expected = EXPECTED | (UNKNOWN_SPREAD if together else {})
    return [Observation(number, number, point.label, key, stated[key], expected[key]) for key in chosen]


def _constants(experiment: Experiment, placement: Placement) -> list[Constant]:
    """Return what may be fitted: host times of the engine, and factors of each GPU that holds layers."""
    resolved = experiment.resolve()
    engine, cluster = resolved.engine, resolved.fleet.cluster
    own = _own(experiment)
    constants = [
        Constant(key, getattr(engine, f"{key}_ns") / NS_PER_S, spread)
        for key, spread in HOST_SPREADS_S.items()
        if key in OVERHEADS
    ]
    nodes = [node for node in cluster.nodes if node.id in placement.ranges]
    for gpu in dict.fromkeys(node.gpu for node in nodes):
        joined = any(node.gpus > 1 for node in nodes if node.gpu == gpu)
        for key, spread in FACTOR_SPREADS.items():
            if key != "interconnect" or joined:
                known = catalog.load_gpu(gpu).under(backend_of(engine.name)) if catalog.is_gpu(gpu) else None
                most = math.inf if known is None else largest_factor(known, key)
                constants.append(Constant(key, own.gpus.get(gpu, {}).get(key, 1.0), spread, gpu, most))
    return constants


def _own(experiment: Experiment) -> Calibration:
    """Return the calibration that the experiment has already, else an empty one."""
    name = experiment.resolve().document["engine"].get("calibration")
    return load_calibration(_beside(experiment, name)) if name else Calibration({}, {})


def _stated(experiment: Experiment, problem: Problem, shifts: Floats, fitted: Sequence[int]) -> Calibration:
    """Return the fitted constants with those that the experiment's own calibration has."""
    own, everything = _own(experiment), problem.calibration(shifts)
    host, gpus = dict(own.host_s), {name: dict(factors) for name, factors in own.gpus.items()}
    for index in fitted:
        one = problem.constants[index]
        if one.gpu is None:
            host[one.key] = everything.host_s[one.key]
        else:
            gpus.setdefault(one.gpu, {})[one.key] = everything.gpus[one.gpu][one.key]
    return Calibration(host, gpus)


def _beside(experiment: Experiment, name: str) -> Path:
    path = Path(name)
    return path if path.is_absolute() else experiment.path.parent / path


def _scores(errors: Floats, groups: NDArray[np.int_], expected: Floats) -> Floats:
    """Return the mean absolute error of each group, weighed by what is expected."""
    found = []
    for group in sorted(set(groups.tolist())):
        part = groups == group
        found.append(float(np.average(np.abs(np.expm1(errors[part])), weights=1.0 / expected[part])))
    return np.array(found)


def _point_errors(
    observed: Sequence[Observation], groups: NDArray[np.int_], before: Floats, after: Floats, held_out: Floats
) -> tuple[PointErrors, ...]:
    found = []
    for group in sorted(set(groups.tolist())):
        rows = np.flatnonzero(groups == group).tolist()
        by_metric = [
            {observed[row].metric: float(np.expm1(errors[row])) for row in rows} for errors in (before, after, held_out)
        ]
        found.append(PointErrors(observed[rows[0]].label, *by_metric))
    return tuple(found)


def errors_of(points: Sequence[PointErrors], when: str) -> Mapping[str, list[float]]:
    """Return the errors of all points by metric; ``when``: ``before``, ``fitted`` or ``held_out``."""
    found: dict[str, list[float]] = {}
    for point in points:
        for metric, error in getattr(point, when).items():
            found.setdefault(metric, []).append(error)
    return found
