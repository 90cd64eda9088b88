"""Measured points of a calibration, simulated under other constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helixsim import yamlio
from helixsim.domain.placement import Placement
from helixsim.domain.result import FloatArray, RunResult
from helixsim.errors import DataError, HelixsimError
from helixsim.hardware.calibration import Calibration
from helixsim.planning.calibrate_fit import Floats
from helixsim.planning.replay import Point, ReplayTask, replay
from helixsim.results.run import Run
from helixsim.runtime.pool import Executor
from helixsim.units import NS_PER_S
from helixsim.writing import write_text

EXPECTED = {
    "mean_tpot_ms": 0.02,
    "mean_itl_ms": 0.02,
    "mean_ttft_ms": 0.1,
    "mean_e2el_ms": 0.03,
    "output_throughput": 0.03,
}
"""Relative errors that remain when the constants are right: TTFT depends on how requests happen to meet."""

UNKNOWN_SPREAD = {"mean_ttft_ms": 0.5, "mean_tpot_ms": 0.1, "mean_itl_ms": 0.1}
"""The same of closed loops whose lengths spread in an unknown way: requests of equal length end and begin together."""

_STEP = 0.5
"""Shift of a constant, in units of its uncertainty, from which its slope is computed."""

Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Constant:
    """A host time [s] (no ``gpu``), or a factor on constants of a GPU.

    ``spread``: uncertainty before any point, absolute for host times, relative for factors.
    """

    key: str
    value: float
    spread: float
    gpu: str | None = None
    most: float = math.inf

    def at(self, shift: float) -> float:
        """Return the value ``shift`` spreads away."""
        if self.gpu is None:
            return max(0, round((self.value + shift * self.spread) * NS_PER_S)) / NS_PER_S
        return min(self.most, self.value * math.exp(shift * self.spread))

    @property
    def name(self) -> str:
        """Name to print."""
        return self.key if self.gpu is None else f"{self.gpu} {self.key}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured figure of a point, or of some of its requests (``part``); ``group`` is left out as a whole.

    ``expected``: relative error that remains when the constants are right.
    """

    point: int
    group: int
    label: str
    metric: str
    measured: float
    expected: float
    part: slice | None = None


class Problem:
    """Simulates the points under constants, and keeps what was simulated."""

    def __init__(
        self,
        constants: Sequence[Constant],
        points: Sequence[Point],
        observed: Sequence[Observation],
        system: str,
        placement: Placement,
        folder: Path,
        executor: Executor,
        advance: Advance,
    ) -> None:
        self.constants, self.points, self.observed = constants, points, observed
        self.system, self.placement = system, placement
        self.folder, self.executor, self.advance = folder, executor, advance
        self.expected = np.array([one.expected for one in observed])
        self._known: dict[tuple[int, bytes], Run] = {}
        self._likely = len(points) * (2 * len(constants) + 5)

    @property
    def simulations(self) -> int:
        """Number of simulations so far."""
        return len(self._known)

    def calibration(self, shifts: Floats) -> Calibration:
        """Return the constants at ``shifts``."""
        host: dict[str, float] = {}
        gpus: dict[str, dict[str, float]] = {}
        for one, shift in zip(self.constants, shifts, strict=True):
            if one.gpu is None:
                host[one.key] = one.at(float(shift))
            else:
                gpus.setdefault(one.gpu, {})[one.key] = one.at(float(shift))
        return Calibration(host, gpus)

    def errors(self, shifts: Floats, only: int | None = None) -> Floats:
        """Return ln(simulated / measured) of each observation, NaN outside the group ``only``."""
        wanted = [only is None or one.group == only for one in self.observed]
        points = dict.fromkeys(one.point for one, is_wanted in zip(self.observed, wanted, strict=True) if is_wanted)
        self._simulate([(number, shifts) for number in points])
        key = shifts.tobytes()
        return np.array(
            [
                self._error(one, self._known[one.point, key]) if is_wanted else math.nan
                for one, is_wanted in zip(self.observed, wanted, strict=True)
            ]
        )

    def slopes(self) -> Floats:
        """Return the derivatives of the errors (rows) by the shifts (columns), from differences of ``_STEP``."""
        size = len(self.constants)
        ends = []
        for index in range(size):
            for sign in (-1, 1):
                moved = np.zeros(size)
                moved[index] = sign * _STEP
                ends.append(moved)
        self._simulate([(number, moved) for moved in ends for number in range(len(self.points))])
        found = np.array([self.errors(moved) for moved in ends])
        slopes: Floats = ((found[1::2] - found[::2]) / (2 * _STEP)).T
        return slopes

    def _simulate(self, wanted: Sequence[tuple[int, Floats]]) -> None:
        missing = [(number, shifts) for number, shifts in wanted if (number, shifts.tobytes()) not in self._known]
        tasks: list[ReplayTask] = []
        for number, shifts in missing:
            path = self.folder / f"calibration-{len(self._known)}-{len(tasks)}.yaml"
            write_text(path, yamlio.dump(_exact(self.calibration(shifts))))
            changes: tuple[tuple[str, Any], ...] = (("engine.calibration", str(path.resolve())),)
            tasks.append(ReplayTask(self.points[number], self.system, self.placement, changes))
        for at, outcome in self.executor.carry_out(replay, tasks, lambda _share, _what: None):
            number, shifts = missing[at]
            if isinstance(outcome, HelixsimError):
                raise outcome.within(self.points[number].label)
            self._known[number, shifts.tobytes()] = outcome
            self.advance(min(1.0, self.simulations / self._likely), f"{self.simulations} simulations")

    def _error(self, observed: Observation, run: Run) -> float:
        if observed.part is None:
            simulated = run.summary.vllm_keys()[observed.metric]
        else:
            ttft, step = request_latencies_s(run.simulation.result)
            values = (step if observed.metric == "mean_tpot_ms" else ttft)[observed.part]
            simulated = 1e3 * float(np.nanmean(values)) if np.isfinite(values).any() else None
        if not simulated:
            raise DataError(f"{observed.label}: the simulated run has no {observed.metric}: no request was finished")
        return math.log(simulated / observed.measured)


def _exact(calibration: Calibration) -> dict[str, Any]:
    """Return the contents of a file with all digits."""
    host = {key: f"{round(seconds * NS_PER_S)} ns" for key, seconds in calibration.host_s.items()}
    return {"schema": 1, "host": host, "gpus": {name: dict(one) for name, one in calibration.gpus.items()}}


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
