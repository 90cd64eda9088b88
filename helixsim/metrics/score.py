"""What a run shows of a system, in parts of its window, so that systems can be compared on the same requests.

``metrics.criteria`` has the order of systems. With objectives the share of requests within them comes first. Where two
shares are equal (``SAME_SHARE``), the latency decides: the geometric mean of TTFT and TPOT, each taken
as the mean of its 50th, 95th and 99th percentile. It has no weights and no reference, so that the order of two systems
does not depend on a third one; and as percentiles of a kind are added, a tail that grows by a second is not made up for
by a median that falls by half of one.

Intervals are those of differences in ten parts of the window, for the latency of its pseudo-values (delete-a-group
jackknife: Shao and Tu, "The Jackknife and Bootstrap", 1995, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.figures import RankingFigures
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo
from helixsim.domain.result import FloatArray, IntArray, RequestStatus, RunResult
from helixsim.domain.summary import Summary
from helixsim.jsonio import json_values, significant
from helixsim.metrics.autoscaling import paid_usd_per_hour
from helixsim.metrics.latency import finished_in_window, request_tpot_ns
from helixsim.metrics.saturation import Saturation, saturation
from helixsim.metrics.stats import interval_of_batches
from helixsim.metrics.throughput import outcomes
from helixsim.metrics.window import cumulative_in_window, duration_s, in_window
from helixsim.units import NS_PER_S

PARTS = 10
"""Parts of a window for the interval of a difference."""

PERCENTILES = (50, 95, 99)
"""Percentiles of TTFT and TPOT that count, each alike."""

SAME_SHARE = 0.02
"""Shares of requests within the objectives that differ by no more than this, and by no more than their interval, are
taken to be equal."""

_LEAST_S = 1e-6
"""Latencies below count as this: their logarithm is taken."""


@dataclass(frozen=True)
class Score:
    """What a run showed, by parts of its window.

    ``good`` and ``decided``: requests that met all objectives, and all with a known outcome, by the part in which they
    arrived. ``log_latency``: pseudo-values of the logarithm of the latency [s]. ``output_tokens``: tokens delivered.
    ``cost``: price [$/h] and number of the nodes with layers. ``ttft_s`` and ``tpot_s``: ``PERCENTILES``, NaN without
    any. ``used``: nodes that computed something. ``cost_first``: the price decides before the latency. ``least_share``:
    share within the objectives of the class that is served least; 1 without classes, and in races, which do not use it.
    """

    good: FloatArray
    decided: FloatArray
    log_latency: FloatArray
    output_tokens: FloatArray = field(default_factory=lambda: np.zeros(PARTS))
    duration_s: float = 1.0
    cost: tuple[float, int] = (0.0, 0)
    cost_first: bool = False
    is_overloaded: bool = False
    ttft_s: tuple[float, ...] = ()
    tpot_s: tuple[float, ...] = ()
    used: frozenset[str] = field(default_factory=frozenset)
    least_share: float = 1.0

    @property
    def share(self) -> float:
        """Share of requests within the objectives; 0 without any."""
        total = float(self.decided.sum())
        return float(self.good.sum()) / total if total else 0.0

    @property
    def shares(self) -> FloatArray:
        """Values of each part whose mean is the share, and whose spread is that of a ratio of sums of parts."""
        share, mean = self.share, float(self.decided.mean())
        values: FloatArray = share + (self.good - share * self.decided) / (mean or 1.0)
        return values

    @property
    def latency_s(self) -> float:
        """Geometric mean of TTFT and TPOT, each the mean of its percentiles [s]."""
        return math.exp(float(self.log_latency.mean()))

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens/s."""
        return float(self.output_tokens.sum()) / self.duration_s

    @property
    def goodput_per_s(self) -> float:
        """Requests/s within the objectives."""
        return float(self.good.sum()) / self.duration_s

    def share_exceeds(self, other: Score) -> bool:
        """Whether the share of this one is larger by more than the interval of the difference."""
        return is_above(self.shares - other.shares)

    def is_faster(self, other: Score) -> bool:
        """Whether the latency is less by more than the interval of the difference."""
        if not (math.isfinite(self.latency_s) and math.isfinite(other.latency_s)):
            return self.latency_s < other.latency_s
        return is_above(other.log_latency - self.log_latency)

    def beats(self, other: Score) -> bool:
        """Whether this one surely has the larger share, or an equal one and less latency (or first a lower price)."""
        if self.share_exceeds(other) or other.share_exceeds(self) or abs(self.share - other.share) > SAME_SHARE:
            return self.share_exceeds(other)
        if self.cost_first and self.cost[0] != other.cost[0]:
            return self.cost[0] < other.cost[0]
        return self.is_faster(other)

    def figures(self) -> RankingFigures:
        """Return what summaries keep."""
        lists = {name: tuple(json_values(getattr(self, name))) for name in _KEPT}
        return RankingFigures(**lists, usd_per_hour=self.cost[0], nodes=self.cost[1], cost_first=self.cost_first)


_KEPT = ("good", "decided", "log_latency", "output_tokens")


def score_of(run: RunResult, slo: Slo, fleet: Deployment, placement: Placement, *, cost_first: bool = False) -> Score:
    """Return the score of a run; without objectives each request that is served is within them."""
    edges = np.linspace(run.window_start_ns, run.window_end_ns, PARTS + 1)
    arrival_ns, is_good = outcomes(run, slo)
    parts = _parts(arrival_ns, edges)
    ttft_s, ttft_parts = _ttft(run, edges)
    finished = finished_in_window(run)
    tpot_s = request_tpot_ns(run, finished) / NS_PER_S
    tpot_parts = _parts(run.requests.finish_ns[finished], edges)
    known = np.isfinite(tpot_s)
    tpot_s, tpot_parts = tpot_s[known], tpot_parts[known]
    worked = run.nodes.prompt_tokens + run.nodes.decode_tokens > 0
    nodes = [fleet.cluster.node(node) for node in placement.ranges]
    return Score(
        np.bincount(parts[is_good], minlength=PARTS).astype(np.float64),
        np.bincount(parts, minlength=PARTS).astype(np.float64),
        _log_latency(((ttft_s, ttft_parts), (tpot_s, tpot_parts))),
        _growth(run, edges),
        max(duration_s(run), 1e-9),
        (significant(_price(run, fleet, nodes)), len(nodes)),
        cost_first,
        saturation(run) is Saturation.OVERLOADED,
        ttft_s=_percentiles(ttft_s),
        tpot_s=_percentiles(tpot_s),
        used=frozenset(name for name, at_work in zip(run.nodes.node_id, worked, strict=True) if at_work),
    )


def _price(run: RunResult, fleet: Deployment, nodes: Sequence[Node]) -> float:
    """Return the price of the nodes with layers [$/h], of pools the mean of those that are paid for."""
    if run.autoscaling is not None:
        return paid_usd_per_hour(run, fleet)
    return math.fsum(node.cost_usd_per_hour for node in nodes)


def of_summary(summary: Summary) -> Score:
    """Return the score in a summary; of an older version, without intervals."""
    kept, done = summary.ranking, summary.throughput
    duration = max(summary.window.duration_s, 1e-9)
    is_overloaded = summary.load.saturation == Saturation.OVERLOADED
    if kept is not None:
        shares = [one.slo_attainment for one in summary.classes.values() if one.slo_attainment is not None]
        score = of_figures(kept, duration, is_overloaded=is_overloaded)
        return replace(score, least_share=min(shares, default=1.0))
    share = 1.0 if done.slo_attainment is None else done.slo_attainment
    means = [
        sum(values) / len(values)
        for one in (summary.ttft, summary.tpot)
        if (values := [value for value in (one.p50_s, one.p95_s, one.p99_s) if value is not None])
    ]
    latency = sum(math.log(max(_LEAST_S, mean)) for mean in means) / len(means) if means else math.inf
    ones = np.full(PARTS, done.completed / PARTS)
    return Score(
        share * ones,
        ones,
        np.full(PARTS, latency),
        np.full(PARTS, (done.output_tokens_per_s or 0.0) * duration / PARTS),
        duration,
        (summary.cost.usd_per_hour, len(summary.cluster.kv_tokens)),
        is_overloaded=is_overloaded,
    )


def of_figures(kept: RankingFigures, duration_s: float, *, is_overloaded: bool = False) -> Score:
    """Return the score of which a summary keeps these figures."""
    good, decided, log_latency, output_tokens = (
        np.array([math.inf if value is None else value for value in getattr(kept, name)]) for name in _KEPT
    )
    cost = kept.usd_per_hour, kept.nodes
    return Score(good, decided, log_latency, output_tokens, duration_s, cost, kept.cost_first, is_overloaded)


def _growth(run: RunResult, edges: FloatArray) -> FloatArray:
    """Return the output tokens delivered in each part."""
    times_ns, tokens = cumulative_in_window(run.series.output_tokens, run)
    if not len(times_ns):
        return np.zeros(PARTS)
    at_edges = np.interp(edges, times_ns, tokens)
    if run.window_start_ns == 0:
        at_edges[0] = 0.0
    return np.diff(at_edges)


def _ttft(run: RunResult, edges: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return TTFT [s] and the part of the window of each; requests that wait at its end count with the wait so far."""
    requests, end_ns = run.requests, run.window_end_ns
    first = in_window(requests.first_token_ns, run)
    waits = (requests.first_token_ns < 0) | (requests.first_token_ns > end_ns)
    waits &= (requests.status != RequestStatus.REJECTED) & (requests.arrival_ns < end_ns)
    until_ns = np.where(waits, end_ns, requests.first_token_ns)
    chosen = np.flatnonzero(first | waits)
    # By arrival, as those that wait would otherwise all be in the last part.
    ttft_s: FloatArray = (until_ns[chosen] - requests.arrival_ns[chosen]) / NS_PER_S
    return ttft_s, _parts(requests.arrival_ns[chosen], edges)


def _parts(times_ns: IntArray, edges: FloatArray) -> IntArray:
    """Return the part in which each time is; the first for times before the window."""
    places: IntArray = np.clip(np.searchsorted(edges, times_ns, side="right") - 1, 0, PARTS - 1)
    return places


def _percentiles(values_s: FloatArray) -> tuple[float, ...]:
    if not len(values_s):
        return (math.nan,) * len(PERCENTILES)
    return tuple(float(value) for value in np.percentile(values_s, PERCENTILES))


def _log_latency(kinds: Sequence[tuple[FloatArray, IntArray]]) -> FloatArray:
    """Return the pseudo-values of the mean logarithm of these kinds of latency; infinite where there is none at all."""
    known = [(values, parts) for values, parts in kinds if len(values)]
    if not known:
        return np.full(PARTS, math.inf)

    def merit(left_out: int | None) -> float:
        total = 0.0
        for values, parts in known:
            kept = values if left_out is None else values[parts != left_out]
            total += math.log(max(_LEAST_S, float(np.percentile(kept if len(kept) else values, PERCENTILES).mean())))
        return total / len(known)

    # About the value of the whole sample: the jackknife's correction of bias is far off for percentiles of tails.
    others = np.array([merit(part) for part in range(PARTS)])
    values = merit(None) + (PARTS - 1) * (others.mean() - others)
    return np.array([significant(value) for value in values.tolist()])  # as in summaries


def is_above(differences: FloatArray) -> bool:
    """Whether the mean of these differences is above zero by more than its 95 % interval."""
    interval = interval_of_batches(differences, floor=None)
    return float(differences.mean()) > 0 and (interval is None or interval.low > 0)
