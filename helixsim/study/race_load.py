"""The load of a race: its rate, how long a request takes, and how long the windows of trials have to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from helixsim.domain.request import FeedMode, Window
from helixsim.placement.base import Contender
from helixsim.study.evaluator import Evaluator
from helixsim.study.systems import operating_load
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import process_of

LONGEST_NS = 600 * NS_PER_S
"""Longest warm-up and window of the race; the last comparison has those of the report."""

TRIALS = (0.25, 0.5)
"""Longest window of each trial as a share of that."""

SETTLED_RESIDENCES, LEAST_REQUESTS = 3.0, 400
"""A trial need not be longer than so many times that a request takes, each for warm-up and window, nor have more
requests."""


@dataclass(frozen=True, slots=True)
class RaceLoad:
    """What is offered to the entries of a race.

    Parameters
    ----------
    is_open
        Whether requests arrive at their own times; otherwise as many are in flight as fit (saturation).
    rate_rps
        Requests/s that arrive; under saturation those that the best contender is estimated to serve. None: not known.
    residence_s
        Estimated time that a request takes [s]; None: not known.
    """

    is_open: bool
    rate_rps: float | None
    residence_s: float | None

    def windows(self, full: Window) -> list[Window]:
        """Return the windows of the trials: shares of the reported one, or less where requests are short and many."""
        duration_ns = LONGEST_NS if full.duration_ns is None else min(full.duration_ns, LONGEST_NS)
        warmup_ns = min(max(full.warmup_ns, duration_ns // 2), LONGEST_NS)
        settled_ns = math.inf
        if self.rate_rps and self.residence_s is not None:
            settled_ns = max(SETTLED_RESIDENCES * self.residence_s, LEAST_REQUESTS / self.rate_rps) * NS_PER_S
        longest_ns = [settled_ns * share / TRIALS[0] for share in TRIALS]
        return [
            Window(int(min(share * warmup_ns, most_ns)), int(min(share * duration_ns, most_ns)), drain=False)
            for share, most_ns in zip(TRIALS, longest_ns, strict=True)
        ]


def race_load(evaluator: Evaluator, contenders: Sequence[Contender]) -> RaceLoad:
    """Return the load of a race, by the estimates of its contenders."""
    experiment, system = evaluator.experiment, evaluator.system
    stats, own = experiment.workload_stats, system.arrivals
    if process_of(own or experiment.workload.arrivals).mode is FeedMode.SATURATE:
        load = operating_load(experiment, system)
        points = [evaluator.point(one.placement) for one in contenders]
        points = [point for point in points if point.output_tokens_per_s > 0]
        if not points:
            return RaceLoad(is_open=False, rate_rps=None, residence_s=None)
        served = max(point.output_tokens_per_s for point in points) / stats.mean_output_tokens
        return RaceLoad(False, served, median(load.mean_steps * point.round_trip_s for point in points))
    rate_rps = stats.offered_rps if own is None else own.rate_rps
    estimates = [one.estimate for one in contenders if one.estimate is not None and one.estimate > 0]
    if not rate_rps or not estimates:
        return RaceLoad(True, rate_rps, None)
    # Offered output tokens/s over the estimate is the time of a token.
    return RaceLoad(True, rate_rps, rate_rps * stats.mean_output_tokens**2 / median(estimates))
