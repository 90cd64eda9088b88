"""Simulates measured points, each once, in parallel, kept on disk by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import helixsim as hx
from helixsim.accuracy.express import document, experiment_of
from helixsim.accuracy.points import DISAGGREGATED, MeasuredPoint, throughput
from helixsim.datafiles import data_path
from helixsim.domain.result import RequestStatus
from helixsim.errors import HelixsimError, InfeasibleError
from helixsim.hardware.operator_library import SYSTEMS, backend_of, installed_version, static_estimate
from helixsim.papers.helix.tasks import Outcome, perform_all
from helixsim.runtime.identity import content_key
from helixsim.runtime.pool import Executor, Report
from helixsim.units import NS_PER_MS

PREDICTORS = ("analytic", "operators", "static")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Means that a method predicts for a point; throughput by Little's law, as for the measured means."""

    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class PointResult:
    """A point and what is predicted for it.

    Parameters
    ----------
    analytic, operators
        Simulated with the laws of kernels, and with tables of measured kernels; None: not asked for, or failed.
    static
        The library's own estimate: one decode step and one prompt, without a simulation.
    reasons
        Why a prediction is missing, by its name.
    """

    point: MeasuredPoint
    analytic: Prediction | None = None
    operators: Prediction | None = None
    static: Prediction | None = None
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str | None:
        """Why the point has no analytic prediction, None if it has one."""
        return dict(self.reasons).get("analytic")


@dataclass(frozen=True, slots=True)
class PointRun:
    """A prediction of one point (a ``tasks.Task``)."""

    point: MeasuredPoint
    predictor: str

    @property
    def title(self) -> str:
        """See ``Task.title``."""
        one = self.point
        return f"{one.model} on {one.gpus} {one.gpu}, {one.engine}, {one.concurrency} in flight"

    def key(self) -> str:
        """See ``Task.key``."""
        version = installed_version() if self.predictor != "analytic" else None
        described = document(self.point, timings=self.predictor)
        return json.dumps([described, self.predictor, version, profiles_digest()])

    def perform(self, _cache: Path | None) -> Outcome:
        """Return ``ttft_ms`` and ``tpot_ms``."""
        try:
            if self.predictor == "static":
                return static_means(self.point)
            return simulated_means(self.point, self.predictor)
        except InfeasibleError as error:
            return {"failed": f"does not fit into the GPUs as simulated: {error}"}
        except HelixsimError as error:
            return {"failed": str(error)}


def simulated_means(point: MeasuredPoint, timings: str = "analytic") -> Outcome:
    """Simulate a point and return the means of TTFT and TPOT over the requests that completed [ms]."""
    experiment = experiment_of(point, timings=timings).resolve()
    run = hx.simulate(experiment, hx.place(experiment, "instance", by_flow=True))
    requests = run.requests
    done = requests.status == RequestStatus.FINISHED
    steps = requests.output_tokens[done] - 1
    spans = (requests.finish_ns - requests.first_token_ns)[done]
    several = steps > 0
    waits = (requests.first_token_ns - requests.arrival_ns)[done]
    return {
        "ttft_ms": float(waits.mean()) / NS_PER_MS,
        "tpot_ms": float(np.mean(spans[several] / steps[several])) / NS_PER_MS,
    }


def static_means(point: MeasuredPoint) -> Outcome:
    """Return the library's estimate of a prompt alone and of a decode step of all sequences in flight [ms]."""
    if point.kind == DISAGGREGATED:
        return {"failed": "the tables' static estimate is of one instance"}
    backend = backend_of(point.engine)
    if backend is None or point.gpu not in SYSTEMS:
        return {"failed": "no tables of this engine or GPU"}
    ttft_ms, tpot_ms = static_estimate(
        point.id_of_model,
        point.gpu,
        backend,
        tensor_parallel=point.tensor_parallel,
        data_parallel=point.data_parallel,
        expert_parallel=point.expert_parallel,
        sequences=point.concurrency,
        prompt_tokens=point.prompt_tokens,
        output_tokens=point.output_tokens,
    )
    return {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms}


def evaluate(
    measured: Sequence[MeasuredPoint],
    cache_dir: Path,
    executor: Executor,
    *,
    predictors: Sequence[str] = ("analytic",),
    force: bool = False,
    progress: Report = lambda _share, _title: None,
) -> list[PointResult]:
    """Return the results of points, in their order.

    Parameters
    ----------
    cache_dir
        Folder in which predictions are kept under their content key and found again.
    predictors
        Of ``PREDICTORS``.
    force
        Compute again what the folder holds.
    """
    runs = [PointRun(point, name) for name in predictors for point in measured]
    results = perform_all(runs, cache_dir, executor, force=force, progress=progress)
    found: list[PointResult] = []
    for point in measured:
        made: dict[str, Any] = {}
        missing: list[tuple[str, str]] = []
        for name in predictors:
            outcome = results.outcome(PointRun(point, name))
            if "failed" in outcome:
                missing.append((name, outcome["failed"]))
            else:
                means = outcome["ttft_ms"], outcome["tpot_ms"]
                made[name] = Prediction(*means, throughput(point, *means))
        found.append(PointResult(point, **made, reasons=tuple(missing)))
    return found


@cache
def profiles_digest() -> str:
    """Return a digest of all profiles: they decide what points predict."""
    folder = data_path("profiles")
    kinds = ("engines", "gpus", "kernels", "links", "models")
    return content_key([(path, path.read_text()) for kind in kinds for path in sorted((folder / kind).glob("*.yaml"))])


def result_json(result: PointResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    document = asdict(result) | {"reasons": dict(result.reasons)}
    document["point"]["kind"] = result.point.kind
    document["point"]["output_tokens_per_s"] = result.point.output_tokens_per_s
    return document
