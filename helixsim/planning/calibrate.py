"""Fit of the overheads of an engine to a measured run, with the errors on held-out requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.benchmarks.benchmark import Benchmark, Requests
from helixsim.config.edit import edits_of
from helixsim.domain.result import FloatArray, RunResult
from helixsim.errors import DataError
from helixsim.experiment import Experiment
from helixsim.metrics.measured_run import mean_error, mean_loss
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.readers.chat import NO_START_TIMES

LADDERS_S: dict[str, tuple[float, ...]] = {
    "batch_overhead": (0.0, 0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    "layer_launch": (0.0, 0.1e-3, 0.2e-3, 0.4e-3, 0.8e-3, 1.6e-3),
    "sequence_overhead": (0.0, 0.02e-3, 0.05e-3, 0.1e-3, 0.2e-3),
}
"""Candidate values of each overhead [s]."""

SWEEPS = 2
LEAST_REQUESTS = 20
LEAST_GAIN = 1e-3
"""Least improvement of the mean absolute log error."""

Errors = tuple[float | None, float | None]
"""Relative errors of mean TTFT and mean decode step; None if undefined."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Overheads [s], and errors on both halves before and after the fit.

    ``improved``: whether the overheads fit the first half better than those of the engine, and the second not worse. If
    not, ``overheads_s`` are those of the engine.
    """

    improved: bool
    overheads_s: dict[str, float]
    fit_before: Errors
    fit_after: Errors
    held_out_before: Errors
    held_out_after: Errors
    runs: int


def calibrate(
    experiment: Experiment,
    system: str,
    measured_path: Path,
    measured_run: Benchmark,
    *,
    result: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Calibration:
    """Replay the measured arrivals and lengths on one system, and fit the overheads to the first half.

    The second half is held out for the final test. Coordinate descent over ``LADDERS_S``, in ``SWEEPS`` rounds, starts
    at the overheads of the engine.

    Raises
    ------
    DataError
        If the measured run has no arrays, no start times or too few requests, or the system is unknown.
    """
    measured = measured_run.requests
    count = len(measured.ttft_s)
    if count < LEAST_REQUESTS:
        raise DataError(
            f"{measured_path}: calibration needs the arrays of at least {LEAST_REQUESTS} requests, got {count} "
            "(vllm bench serve --save-result --save-detailed)"
        )
    if not len(measured.start_s):
        raise DataError(f"{measured_path}: calibration replays the measured arrivals: {NO_START_TIMES}")
    half = count // 2
    chosen = {} if result is None else {"result": result}
    replay = {
        "workload.trace": {"path": str(measured_path.resolve()), "format": "vllm", **chosen},
        "workload.arrivals": {"process": "trace"},
        "workload.warmup": "0 s",
        "workload.duration": f"{float(measured.start_s[-1]) + 1.0:.9f} s",
        "workload.drain": True,
    }
    replayed = experiment.with_(edits_of(replay))
    own = _own_overheads_s(replayed)
    ladders = {name: sorted({*values, own[name]}) for name, values in LADDERS_S.items()}
    known: dict[tuple[float, ...], tuple[FloatArray, FloatArray]] = {}
    total = SWEEPS * sum(len(ladder) for ladder in ladders.values())

    def simulated(point: dict[str, float]) -> tuple[FloatArray, FloatArray]:
        key = tuple(point.values())
        if key not in known:
            overheads = {f"engine.{name}": f"{seconds * 1e3:.9g} ms" for name, seconds in point.items() if point != own}
            known[key] = _latencies(replayed.with_(edits_of(overheads)), system)
        return known[key]

    def loss(point: dict[str, float], part: slice) -> float:
        ours = [values[part] for values in simulated(point)]
        return mean_loss(ours, [measured.ttft_s[part], measured.step_s[part]])

    before = simulated(own)
    if len(before[0]) != count:
        raise DataError(f"{measured_path}: {count} requests measured, but {len(before[0])} simulated: check the limits")
    first, second = slice(0, half), slice(half, count)
    best, best_loss = own, loss(own, first)
    if not math.isfinite(best_loss):
        raise DataError(f"{measured_path}: no positive times to first token or decode steps to fit")
    tried = 0
    for _ in range(SWEEPS):
        for name, ladder in ladders.items():
            for value in ladder:
                point = {**best, name: value}
                if loss(point, first) < best_loss - 1e-12:  # keep the current point on ties
                    best, best_loss = point, loss(point, first)
                tried += 1
                if progress is not None:
                    progress(tried / total, name)
    improved = best_loss <= loss(own, first) - LEAST_GAIN and loss(best, second) <= loss(own, second)
    if not improved:
        best = own
    after = simulated(best)
    return Calibration(
        improved,
        best,
        fit_before=_errors(before, measured, first),
        fit_after=_errors(after, measured, first),
        held_out_before=_errors(before, measured, second),
        held_out_after=_errors(after, measured, second),
        runs=len(known),
    )


def _errors(run: tuple[FloatArray, FloatArray], measured: Requests, part: slice) -> Errors:
    ttft_s, step_s = run
    return mean_error(ttft_s[part], measured.ttft_s[part]), mean_error(step_s[part], measured.step_s[part])


def _own_overheads_s(experiment: Experiment) -> dict[str, float]:
    """Return the overheads of the engine of the experiment [s]."""
    engine = experiment.resolve().engine
    return {name: getattr(engine, f"{name}_ns") / NS_PER_S for name in LADDERS_S}


def _latencies(experiment: Experiment, system: str) -> tuple[FloatArray, FloatArray]:
    """Return TTFT and mean decode step [s] of every request, in order of arrival."""
    loaded = experiment.resolve()
    found = next((spec for spec in loaded.systems if spec.name == system), None)
    if found is None:
        known = ", ".join(spec.name for spec in loaded.systems)
        raise DataError(f"{experiment.path}: unknown system {system!r} (known: {known})")
    return request_latencies_s(simulate_system(loaded, place_system(loaded, found, by_flow=True)))


def request_latencies_s(run: RunResult) -> tuple[FloatArray, FloatArray]:
    """Return TTFT and mean decode step [s] of each finished request, NaN with one output token."""
    requests = run.requests
    done = requests.finish_ns >= 0
    first, finish = requests.first_token_ns[done], requests.finish_ns[done]
    steps = (requests.output_tokens[done] - 1).astype(np.float64)
    steps[steps < 1] = np.nan
    ttft: FloatArray = (first - requests.arrival_ns[done]) / NS_PER_S
    step: FloatArray = (finish - first) / steps / NS_PER_S
    return ttft, step
