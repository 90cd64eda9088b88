"""How sure the order of two systems is in view of the model error: in what share of its draws one is ahead.

The logarithm of the ratio of two figures has normal errors, so the share is exact without drawing. Errors of what both
estimates rest on are common to both (``Basis.covariance``): systems with the same GPU, engine and model have most of
their error in common, and it cancels. The sampling error of the runs, which has an interval of its own, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

from helixsim.domain.figures import Figure, ObjectiveFigures
from helixsim.domain.request import FeedMode
from helixsim.domain.summary import Summary
from helixsim.metrics.model_error import ModelError, model_error
from helixsim.metrics.saturation import Saturation


class Ranked(NamedTuple):
    """A figure by which systems are ranked: its key in summaries, the metric of its error, and its better direction."""

    key: str
    figure: Callable[[Summary], Figure]
    metric: str
    is_more_better: bool


RANKED = (
    Ranked("output_throughput", lambda summary: summary.throughput.output_tokens_per_s, "throughput", True),
    Ranked("mean_tpot_ms", lambda summary: summary.tpot.mean_s, "tpot", False),
    Ranked("mean_ttft_ms", lambda summary: summary.ttft.mean_s, "ttft", False),
)


def follows_load(summary: Summary) -> bool:
    """Return whether throughput is that of the arrivals, whatever the error of step times: in a stable open loop."""
    return summary.load.feed is FeedMode.OPEN and summary.load.saturation == Saturation.STABLE


def shares_ahead(summary: Summary, other: Summary) -> dict[str, float | None]:
    """Return the share of draws of the model error in which a system is ahead of another, by key of ``RANKED``.

    Ties count half. None where a figure or a model error is missing, and for the throughput of two systems that serve
    all of the load.
    """
    error, theirs = model_error(summary.setting), model_error(other.setting)
    found: dict[str, float | None] = {}
    for ranked in RANKED:
        mine, base = ranked.figure(summary), ranked.figure(other)
        certain = [ranked.metric == "throughput" and follows_load(one) for one in (summary, other)]
        if error is None or theirs is None or not mine or not base or all(certain):
            found[ranked.key] = None
            continue
        shift, variance = _difference(error, theirs, ranked.metric, certain)
        gain = math.log(mine / base) - shift
        found[ranked.key] = _above_zero(gain if ranked.is_more_better else -gain, variance)
    return found


def share_of_larger_capacity(rate_rps: float, error: ModelError, other_rps: float, other: ModelError) -> float:
    """Return the share of draws of the model error in which a capacity above 0 is larger than another.

    Capacities follow the time of steps inversely (``metrics.slowdown``); that longer steps also take of the slack is
    left out, as it lowers both.
    """
    shift, variance = _difference(error, other, "tpot", [False, False])
    return _above_zero(math.log(rate_rps / other_rps) + shift, variance)


def _difference(one: ModelError, other: ModelError, metric: str, certain: list[bool]) -> tuple[float, float]:
    """Return mean and variance of the difference of two log errors, of which that of a ``certain`` figure is zero."""
    mean, sd = (0.0, 0.0) if certain[0] else one.errors[metric]
    other_mean, other_sd = (0.0, 0.0) if certain[1] else other.errors[metric]
    shared = 0.0 if any(certain) else one.basis[metric].covariance(other.basis[metric])
    return mean - other_mean, max(0.0, sd**2 + other_sd**2 - 2 * shared)


def _above_zero(mean: float, variance: float) -> float:
    """Return the probability that a normal variable is above zero; of exactly zero, one half counts."""
    if variance < 1e-18:
        return 0.5 if abs(mean) < 1e-9 else float(mean > 0)
    return 1.0 - NormalDist(mean, math.sqrt(variance)).cdf(0.0)


def share_below(summary: Summary, metric: str, objective: ObjectiveFigures) -> float | None:
    """Return the share of draws of the model error in which an objective is met; None: not known.

    ``metric``: whose error its latency has. A percentile beyond the window is never within the objective.
    """
    error = model_error(summary.setting)
    if error is None or objective.within is None:
        return None
    if not objective.reached_s:
        return float(objective.reached_s is not None)
    mean, sd = error.errors[metric]
    return _above_zero(math.log(objective.limit_s / objective.reached_s) + mean, sd**2)
