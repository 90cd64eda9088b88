"""The evaluator of placements: short simulations of the experiment's own load.

A request for a 70B model lives for minutes, so a placement that falls behind may look lively for as long. Where the
load comes at a rate and a candidate shows signs of strain, it is therefore also driven to saturation: one that cannot
serve more than is offered ranks below all that can, by how much it serves; among those, the criterion decides.
"""

from __future__ import annotations

import math
from dataclasses import replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RunResult
from helixsim.errors import ConfigError
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.flow.operating import operating_point
from helixsim.flow.station import OperatingPoint
from helixsim.metrics.throughput import throughput
from helixsim.placement.select import layout_of
from helixsim.study.systems import PlacedSystem, on_its_nodes, operating_load, simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import process_of
from helixsim.workload.spec import ArrivalsSpec

WARMUP_NS = 120 * NS_PER_S
DURATION_NS = 240 * NS_PER_S
"""Longest warm-up and window of a judging run."""

SATURATED_DURATION_NS = 120 * NS_PER_S

SEED_OFFSET = 1_000_003
"""Candidates are evaluated on other requests than those they are reported on, unless the load is a recorded trace."""

HEADROOM = 1.2
"""A placement keeps up if, saturated, it serves this many times the offered output tokens/s: at more than about five
sixths of what it can do, the bursts of real traces queue for minutes."""

KV_STRAIN, BUSY_STRAIN = 0.5, 0.8
"""Share of KV memory in use on some node, and of time some node computes, from which on saturation is looked into."""

_TIE_WEIGHT = 1e-9
"""Weight of throughput beside goodput: it decides between equals only."""

_ALMOST_NONE = 1e-3
"""Fewer requests in the system than this, on average, count as this many."""


class Evaluator:
    """Scores legal placements of one system; higher is better, negative: it falls behind the offered load.

    The criterion is that of the strategy's options (``auto``: ``throughput`` under saturation, else ``balanced``).
    ``balanced``: output tokens/s over the root of the time per token,
    which by Little's law is the mean number of requests in the system over throughput. One per cent of throughput is
    worth two of the time per token (in Kleinrock's power, throughput over delay, one).
    ``throughput``: output tokens/s. At a given rate every placement that keeps up serves the same tokens; there both
    are throughput over time per token. ``goodput``: requests/s that meet the experiment's objectives, equals ranked
    as by ``balanced``. ``latency``: tokens/s for each request in the system, the inverse of the time per token.
    """

    def __init__(self, experiment: ResolvedExperiment, system: SystemSpec, capacity: CapacityTable) -> None:
        self.experiment = experiment
        self.system = system
        self.capacity = capacity
        self.was_asked = False
        """A placement made without asking does not depend on the load."""
        self._points: dict[tuple[object, ...], OperatingPoint] = {}
        criterion: str = getattr(system.placement_options, "criterion", "balanced")
        arrivals = system.arrivals or experiment.workload.arrivals
        is_saturated = process_of(arrivals).mode is FeedMode.SATURATE
        if criterion in {"auto", "cost"}:
            criterion = "throughput" if is_saturated else "balanced"
        self.criterion = criterion
        slo = experiment.slo
        if self.criterion == "goodput" and slo.ttft_s is slo.tpot_s is slo.e2el_s is None:
            raise ConfigError(
                f"{system.name}: criterion goodput needs an objective: add slo: {{ttft: 5 s}} or the like"
            )

    def __call__(self, placement: Placement) -> float:
        """Return the score of a placement."""
        self.was_asked = True
        plan = max_flow(self.system.fleet, placement, self.capacity)
        if plan.max_flow_tokens_per_s <= 0:
            return float("-inf")
        placed = PlacedSystem(self.system, placement, plan)
        run = self._simulate(placed, DURATION_NS)
        offered = self._offered_tokens_per_s()
        if run.mode is FeedMode.OPEN and offered and _is_strained(run):
            saturated = replace(self.system, arrivals=ArrivalsSpec("saturate"))
            headroom = _served(self._simulate(replace(placed, system=saturated), SATURATED_DURATION_NS)) / offered
            if headroom < HEADROOM:
                return headroom - HEADROOM
        return self._merit(run)

    def estimate(self, placement: Placement) -> float:
        """Return roughly what the score will be, by the operating point of the placement.

        Of placements that keep up it ranks those first that need least time per token under the offered load.
        """
        point, offered = self.point(placement), self._offered_tokens_per_s()
        if offered is None:
            return self._weighed(point.output_tokens_per_s, 1.0 / point.round_trip_s)
        if point.output_tokens_per_s < offered:
            return point.output_tokens_per_s / offered - 1.0
        return offered / point.offered_round_trip_s

    def point(self, placement: Placement) -> OperatingPoint:
        """Return the operating point of a placement under the offered load; equal placements are computed once."""
        self.was_asked = True
        key = (layout_of(placement), tuple(placement.roles.items()))
        if key not in self._points:
            fleet, load = on_its_nodes(self.system, placement).fleet, operating_load(self.experiment, self.system)
            offered = self._offered_tokens_per_s()
            self._points[key] = operating_point(fleet, placement, load, offered_output_per_s=offered)
        return self._points[key]

    def _simulate(self, placed: PlacedSystem, longest_ns: int) -> RunResult:
        """Run the load on a cluster that has had time to fill: at least half of the window, however it is reported."""
        full = self.experiment.workload.window
        if full.duration_ns is None:
            window = Window(WARMUP_NS, longest_ns, drain=False)
        else:
            warmup_ns = min(WARMUP_NS, max(full.warmup_ns, full.duration_ns // 2))
            window = Window(warmup_ns, min(full.duration_ns, longest_ns), drain=False)
        arrivals = placed.system.arrivals or self.experiment.workload.arrivals
        if process_of(arrivals).mode is FeedMode.CLOSED_LOOP:  # measured while it runs, not by how it ends
            endless = replace(placed.system, arrivals=replace(arrivals, num_requests=None))
            placed = replace(placed, system=endless)
        return simulate_system(self.experiment, placed, window=window, seed=self.experiment.seed + SEED_OFFSET)

    def _offered_tokens_per_s(self) -> float | None:
        """Return the output tokens/s the load asks for; None where it has no rate."""
        stats, own = self.experiment.workload_stats, self.system.arrivals
        rate_rps = stats.offered_rps if own is None else own.rate_rps
        return None if rate_rps is None else rate_rps * stats.mean_output_tokens

    def _merit(self, run: RunResult) -> float:
        served = _served(run)
        inside = _inside(run)
        in_system = max(_ALMOST_NONE, float((run.series.waiting + run.series.running)[inside].mean()))
        each = served / in_system
        if self.criterion == "latency":
            return each
        merit = served * each if run.mode is FeedMode.OPEN else self._weighed(served, each)
        if self.criterion != "goodput":
            return merit
        counts = throughput(run, self.experiment.slo)
        return counts.rate(counts.good_requests or 0) + _TIE_WEIGHT * merit

    def _weighed(self, tokens_per_s: float, each_tokens_per_s: float) -> float:
        """Return what throughput and its share per request are worth together where the load has no rate."""
        if self.criterion == "latency":
            return each_tokens_per_s
        return tokens_per_s * (1.0 if self.criterion == "throughput" else math.sqrt(each_tokens_per_s))


def _inside(run: RunResult) -> slice:
    """Return the samples of the window; a judging run ends with it."""
    return slice(int((run.series.time_ns < run.window_start_ns).sum()), None)


def _served(run: RunResult) -> float:
    """Return output tokens/s in the window."""
    tokens = run.series.output_tokens[_inside(run)]
    return float(tokens[-1] - tokens[0]) * NS_PER_S / max(1, run.window_end_ns - run.window_start_ns)


def _is_strained(run: RunResult) -> bool:
    """Return whether a run gives reason to doubt that it could go on like this."""
    series, inside = run.series, _inside(run)
    spent_ns = int(series.time_ns[-1] - series.time_ns[inside][0])
    busy = (series.busy_ns[-1] - series.busy_ns[inside][0]) / max(1, spent_ns)
    return bool(series.waiting[inside].any() or series.kv_used[inside].max() >= KV_STRAIN or busy.max() >= BUSY_STRAIN)
