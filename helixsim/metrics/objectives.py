"""Verdicts on service-level objectives.

An objective is met if at least ``percentile`` % of the requests with a known outcome are within it. For TTFT these are
the requests with their first token in the window, and those without one whose objective has passed; for TPOT and E2EL
the requests that finished in the window, for E2EL also those overdue. Requests that arrived in the window and failed
(``faults``) miss each of them. A goodput share is the share of requests that
must meet all objectives; a request that misses one of them is among its misses (``throughput.late``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from helixsim.domain.figures import ObjectiveFigures
from helixsim.domain.request import Slo
from helixsim.domain.result import FloatArray, RequestStatus, RunResult
from helixsim.metrics.latency import finished_in_window, latency_samples
from helixsim.metrics.saturation import Saturation, saturation
from helixsim.metrics.throughput import by_objective, past, throughput, unfinished, without_first_token
from helixsim.metrics.window import in_window
from helixsim.units import NS_PER_S

PERCENTILE = 99.0
"""Percentile that must meet each objective, where none is stated."""


_UNMEASURED = "no request has a"


@dataclass(frozen=True, slots=True)
class Target:
    """Required objectives, the percentile that must meet each, and the share that must meet all (None: any)."""

    name: str
    slo: Slo
    percentile: float = PERCENTILE
    share: float | None = None


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """Whether a target is met, with a sentence on each missed objective.

    ``slack`` is the tightest objective over its measured percentile: below 1 it is missed.
    """

    is_met: bool
    misses: tuple[str, ...]
    tightest: str
    slack: float

    @property
    def is_measured(self) -> bool:
        """Whether a request had each latency with an objective; else a miss says nothing about the system."""
        return not any(miss.startswith(_UNMEASURED) for miss in self.misses)


def evaluate_target(run: RunResult, target: Target) -> TargetVerdict:
    """Return the verdict on a run for a target."""
    misses: list[str] = []
    slacks: list[tuple[float, str]] = []
    for name, limit_s, values_s in _objectives(run, target.slo):
        if not values_s.size:
            misses.append(f"{_UNMEASURED} {name} in the window")
            continue
        reached_s = _percentile(values_s, target.percentile)
        slacks.append((limit_s / reached_s if reached_s > 0 else math.inf, f"{name} p{target.percentile:g}"))
        if reached_s > limit_s:
            shown = "exceeds the window" if math.isinf(reached_s) else f"{reached_s:.3g} s"
            misses.append(f"{name} p{target.percentile:g} {shown}, allowed {limit_s:g} s")
    if target.share is not None:
        got = throughput(run, target.slo).slo_attainment
        if got is None or not got >= target.share:
            misses.append(
                f"{0.0 if got is None else got:.1%} of requests meet all objectives, required {target.share:.1%}"
            )
    if saturation(run) is Saturation.OVERLOADED:
        misses.append("unstable: the queue keeps growing")
    slack, tightest = min(slacks, default=(math.nan, ""))
    return TargetVerdict(not misses, tuple(misses), tightest, slack)


def objective_figures(run: RunResult, slo: Slo, percentile: float = PERCENTILE) -> dict[str, ObjectiveFigures]:
    """Return what a run reached of each objective, by name; empty without objectives."""
    found = {}
    for name, limit_s, values_s in _objectives(run, slo):
        reached_s = _percentile(values_s, percentile) if values_s.size else math.inf
        within = float((values_s <= limit_s).mean()) if values_s.size else None
        found[name] = ObjectiveFigures(limit_s, percentile, reached_s if math.isfinite(reached_s) else None, within)
    return found


def _percentile(values_s: FloatArray, percentile: float) -> float:
    """Return the least value that this percentage of the values does not exceed."""
    rank = max(0, math.ceil(values_s.size * percentile / 100) - 1)
    return float(np.sort(values_s)[rank])


def _objectives(run: RunResult, slo: Slo) -> Iterator[tuple[str, float, FloatArray]]:
    """Yield (name, objective [s], values [s]) of each objective of each class."""
    for part, requests, own in by_objective(run, slo):
        if part is None and slo.classes and not len(requests.requests.status):
            continue  # all requests have an objective of their class
        for name, limit_s, values_s in _latencies(requests, own):
            yield name if part is None else f"{part} {name}", limit_s, values_s


def _latencies(run: RunResult, slo: Slo) -> list[tuple[str, float, FloatArray]]:
    """Return (name, objective [s], values [s]) of each objective; those overdue or failed have infinite values."""
    samples, requests = latency_samples(run), run.requests
    has_failed = requests.status == RequestStatus.FAILED
    failed = int((has_failed & in_window(requests.arrival_ns, run)).sum())
    found: list[tuple[str, float, FloatArray]] = []
    if slo.ttft_s is not None:
        overdue = int((without_first_token(run) & past(run, slo.ttft_s) & ~has_failed).sum())
        first = in_window(requests.first_token_ns, run) & ~has_failed
        values = (requests.first_token_ns[first] - requests.arrival_ns[first]).astype(np.float64)
        found.append(("TTFT", slo.ttft_s, _with_overdue(values, overdue + failed)))
    if slo.tpot_s is not None:
        found.append(("TPOT", slo.tpot_s, _with_overdue(samples.tpot_ns, failed)))
    if slo.e2el_s is not None:
        overdue = failed + int((unfinished(run) & past(run, slo.e2el_s)).sum())
        done = finished_in_window(run)
        values = (requests.finish_ns[done] - requests.arrival_ns[done]).astype(np.float64)
        found.append(("E2EL", slo.e2el_s, _with_overdue(values, overdue)))
    return found


def _with_overdue(values_ns: FloatArray, overdue: int) -> FloatArray:
    values: FloatArray = np.concatenate([values_ns / NS_PER_S, np.full(overdue, math.inf)])
    return values
