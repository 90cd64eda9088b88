"""Fits an engine's overheads to a measured run, and says how good the fit is on requests it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.config.resolve import load_experiment
from helixsim.domain.result import FloatArray, RunResult
from helixsim.errors import DataError
from helixsim.metrics.measured_run import MeasuredRun, mean_loss
from helixsim.planning.placing import place_system
from helixsim.planning.registries import registries
from helixsim.planning.systems import simulate_system
from helixsim.units import NS_PER_S

LADDERS_S: dict[str, tuple[float, ...]] = {
    "batch_overhead": (0.0, 0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    "layer_launch": (0.0, 0.1e-3, 0.2e-3, 0.4e-3, 0.8e-3, 1.6e-3),
    "sequence_overhead": (0.0, 0.02e-3, 0.05e-3, 0.1e-3, 0.2e-3),
}
"""Values tried of each overhead [s], one after the other."""

SWEEPS = 2
LEAST_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted overheads [s]; errors of mean TTFT and mean decode step on both halves, before and after."""

    overheads_s: dict[str, float]
    fit_before: tuple[float, float]
    fit_after: tuple[float, float]
    held_out_before: tuple[float, float]
    held_out_after: tuple[float, float]
    runs: int


def calibrate(
    experiment: Path,
    system: str,
    measured_path: Path,
    measured: MeasuredRun,
    *,
    overrides: Sequence[str] = (),
    progress: Callable[[float, str], None] | None = None,
) -> Calibration:
    """Replay the measured arrivals and lengths on one system and choose the overheads that meet the first half best.

    The halves are those of the measured time: the second is only looked at in the end. Overheads are tried on ladders,
    one at a time, each kept at its best, in ``SWEEPS`` rounds.

    Raises
    ------
    DataError
        If the measured run has no arrays or too few requests, or the experiment no such system.
    """
    count = len(measured.start_s)
    if count < LEAST_REQUESTS:
        raise DataError(
            f"{measured_path}: calibration needs the arrays of at least {LEAST_REQUESTS} requests, got {count} "
            "(vllm bench serve --save-result --save-detailed)"
        )
    half = count // 2
    replay = [
        f"workload.trace={{path: {measured_path.resolve()}, format: vllm}}",
        "workload.arrivals={process: trace}",
        "workload.warmup=0 s",
        f"workload.duration={float(measured.start_s[-1]) + 1.0:g} s",
        "workload.drain=true",
    ]
    known: dict[tuple[float, ...], tuple[FloatArray, FloatArray]] = {}
    total = SWEEPS * sum(len(ladder) for ladder in LADDERS_S.values())

    def simulated(point: dict[str, float]) -> tuple[FloatArray, FloatArray]:
        key = tuple(point.values())
        if key not in known:
            settings = [f"engine.{name}={seconds * 1e3:g} ms" for name, seconds in point.items()]
            known[key] = _latencies(experiment, system, [*overrides, *replay, *(settings if point else [])])
        return known[key]

    def loss(point: dict[str, float]) -> float:
        return mean_loss([part[:half] for part in simulated(point)], [measured.ttft_s[:half], measured.step_s[:half]])

    before = simulated({})
    if len(before[0]) != count:
        raise DataError(f"{measured_path}: {count} requests measured, but {len(before[0])} simulated: check the limits")
    best = dict.fromkeys(LADDERS_S, 0.0)
    tried = 0
    for _ in range(SWEEPS):
        for name, ladder in LADDERS_S.items():
            scores = []
            for value in ladder:
                scores.append((loss({**best, name: value}), value))
                tried += 1
                if progress is not None:
                    progress(tried / total, name)
            best[name] = min(scores)[1]
    after = simulated(best)
    halves = slice(0, half), slice(half, count)
    errors = [
        tuple(
            float(np.nanmean(ours[part]) / np.nanmean(theirs[part]) - 1.0)
            for ours, theirs in zip(run, (measured.ttft_s, measured.step_s), strict=True)
        )
        for part in halves
        for run in (before, after)
    ]
    fit_before, fit_after, held_before, held_after = ((ttft, step) for ttft, step in errors)
    return Calibration(best, fit_before, fit_after, held_before, held_after, len(known))


def _latencies(experiment: Path, system: str, overrides: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return TTFT and mean decode step [s] of every request, in order of arrival."""
    loaded = load_experiment(experiment, overrides, registries=registries())
    found = next((spec for spec in loaded.systems if spec.name == system), None)
    if found is None:
        raise DataError(f"{experiment}: no system {system!r} (there are: {', '.join(s.name for s in loaded.systems)})")
    return request_latencies_s(simulate_system(loaded, place_system(loaded, found, judged=False)))


def request_latencies_s(run: RunResult) -> tuple[FloatArray, FloatArray]:
    """Return TTFT and mean decode step [s] of each finished request, NaN where it had one output token."""
    requests = run.requests
    done = requests.finish_ns >= 0
    first, finish = requests.first_token_ns[done], requests.finish_ns[done]
    steps = (requests.output_tokens[done] - 1).astype(np.float64)
    steps[steps < 1] = np.nan
    ttft: FloatArray = (first - requests.arrival_ns[done]) / NS_PER_S
    step: FloatArray = (finish - first) / steps / NS_PER_S
    return ttft, step
