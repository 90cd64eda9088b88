"""What a simulation shows of a placement with its routing, and when one does better than another.

The share of requests within the objectives comes first. Where two shares do not differ by more than their interval,
the latency decides, or with ``by_cost`` the price of the nodes in use before it. The latency is the geometric mean of
TTFT and TPOT, each taken as the mean of its 50th, 95th and 99th percentile. It has no weights and no reference, so that
the order of two plans does not depend on a third one; and as percentiles of a kind are added, a tail that grows by a
second is not made up for by a median that falls by half of one.

Where that does not tell two plans apart either, nodes in use are spared: the price decides, then their number.

Intervals are those of differences in ten parts of the window, for the latency of its pseudo-values (delete-a-group
jackknife: Shao and Tu, "The Jackknife and Bootstrap", 1995, section 2.3). Plans are compared on the same requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.result import FloatArray, IntArray, RequestStatus, RunResult
from helixsim.metrics.latency import finished_in_window, request_tpot_ns
from helixsim.metrics.stats import interval_of_batches
from helixsim.metrics.throughput import by_objective
from helixsim.metrics.window import duration_s, growth_in_window, in_window
from helixsim.units import NS_PER_S

PARTS = 10
"""Parts of a window for the interval of a difference."""

PERCENTILES = (50, 95, 99)
"""Percentiles of TTFT and TPOT that count, each alike."""

ALIKE = 0.05
"""Latencies that differ by no more than this share, and by no more than their interval, are taken to be equal."""

_LEAST_S = 1e-6
"""Latencies below count as this: their logarithm is taken."""


@dataclass(frozen=True)
class Score:
    """What a simulation showed, by parts of its window.

    ``good`` and ``decided``: requests that arrived in a part and met all objectives, and all with a known outcome.
    ``log_latency``: pseudo-values of the logarithm of the latency [s]. ``ttft_s`` and ``tpot_s``: ``PERCENTILES``, NaN
    without any. ``used``: nodes that computed something. ``cost``: price [$/h] and number of the nodes with layers.
    """

    good: FloatArray
    decided: FloatArray
    log_latency: FloatArray
    ttft_s: tuple[float, ...] = ()
    tpot_s: tuple[float, ...] = ()
    used: frozenset[str] = field(default_factory=frozenset)
    output_tokens_per_s: float = 0.0
    cost: tuple[float, int] = (0.0, 0)

    @property
    def share(self) -> float:
        """Share of requests within the objectives; 0 without any."""
        total = float(self.decided.sum())
        return float(self.good.sum()) / total if total else 0.0

    @property
    def latency_s(self) -> float:
        """Geometric mean of TTFT and TPOT, each the mean of its percentiles [s]."""
        return math.exp(float(self.log_latency.mean()))

    def share_exceeds(self, other: Score) -> bool:
        """Whether the share of this one is larger by more than the interval of the difference."""
        return _is_above(self._shares() - other._shares())

    def _shares(self) -> FloatArray:
        """Return the share of each part; that of all where nothing is known of a part."""
        known = self.decided > 0
        return np.where(known, self.good / np.where(known, self.decided, 1.0), self.share)

    def beats(self, other: Score, *, by_cost: bool = False) -> bool:
        """Whether this one has the larger share, or an equal one with less latency (``by_cost``: at a lower price)."""
        if self.share_exceeds(other) or other.share_exceeds(self):
            return self.share_exceeds(other)
        if by_cost and self.cost[0] != other.cost[0]:
            return self.cost[0] < other.cost[0]
        return self.is_faster(other)

    def is_faster(self, other: Score) -> bool:
        """Whether the latency is less by more than the interval of the difference."""
        if not (math.isfinite(self.latency_s) and math.isfinite(other.latency_s)):
            return self.latency_s < other.latency_s
        return _is_above(other.log_latency - self.log_latency)


def order(score: Score) -> tuple[float, float]:
    """Return the key by which the best of some scores is the largest, without intervals."""
    return score.share, -score.latency_s


def ranked(names: Sequence[str], scores: Mapping[str, Score], *, by_cost: bool = False) -> list[str]:
    """Return names, the best first: those that equal the largest share by latency, then the others by share.

    Those that are as fast as the fastest, within the interval and ``ALIKE``, come in the order of their cost.
    """
    if not names:
        return []
    top = max((scores[name] for name in names), key=order)
    equal = [scores[name] for name in names if not top.share_exceeds(scores[name])]
    fastest = min(equal, key=lambda score: score.latency_s)

    def key(name: str) -> tuple[float | int, ...]:
        score = scores[name]
        if top.share_exceeds(score):
            return 1.0 - score.share, score.latency_s
        if by_cost:
            return 0.0, score.cost[0], score.latency_s
        if score.latency_s <= (1 + ALIKE) * fastest.latency_s and not fastest.is_faster(score):
            return 0.0, 0.0, *score.cost, score.latency_s
        return 0.0, score.latency_s

    return sorted(names, key=key)


def score_of(run: RunResult, experiment: ResolvedExperiment) -> Score:
    """Return the score of a run by the objectives of an experiment."""
    edges = np.linspace(run.window_start_ns, run.window_end_ns, PARTS + 1)
    good, decided = _within(run, experiment, edges)
    ttft_s, ttft_parts = _ttft(run, edges)
    finished = finished_in_window(run)
    tpot_s = request_tpot_ns(run, finished) / NS_PER_S
    tpot_parts = _parts(run.requests.finish_ns[finished], edges)
    known = np.isfinite(tpot_s)
    tpot_s, tpot_parts = tpot_s[known], tpot_parts[known]
    worked = run.nodes.prompt_tokens + run.nodes.decode_tokens > 0
    return Score(
        good,
        decided,
        _log_latency(((ttft_s, ttft_parts), (tpot_s, tpot_parts))),
        ttft_s=_percentiles(ttft_s),
        tpot_s=_percentiles(tpot_s),
        used=frozenset(name for name, at_work in zip(run.nodes.node_id, worked, strict=True) if at_work),
        output_tokens_per_s=float(growth_in_window(run.series.output_tokens, run)) / max(duration_s(run), 1e-9),
    )


def _within(run: RunResult, experiment: ResolvedExperiment, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the requests within the objectives, and those with a known outcome, by the part in which they arrived.

    A request that has no first token and is overdue has missed; one that is still decoding is not counted.
    """
    good, decided = np.zeros(PARTS), np.zeros(PARTS)
    for _, part, slo in by_objective(run, experiment.slo):
        columns = part.requests
        arrival, first, end = columns.arrival_ns, columns.first_token_ns, run.window_end_ns
        finished = (columns.finish_ns >= 0) & (columns.finish_ns <= end)
        within = finished.copy()
        missed = np.zeros(len(arrival), dtype=bool)
        if slo.ttft_s is not None:
            limit_ns = slo.ttft_s * NS_PER_S
            late = np.where((first >= 0) & (first <= end), first, end) - arrival > limit_ns
            missed |= late
        if slo.tpot_s is not None:
            tpot_ns = request_tpot_ns(part, np.arange(len(arrival)))
            missed |= finished & (tpot_ns > slo.tpot_s * NS_PER_S)
        if slo.e2el_s is not None:
            missed |= np.where(finished, columns.finish_ns, end) - arrival > slo.e2el_s * NS_PER_S
        within &= ~missed
        known = within | missed
        good += np.histogram(arrival[within], edges)[0]
        decided += np.histogram(arrival[known], edges)[0]
    return good, decided


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
    values: FloatArray = merit(None) + (PARTS - 1) * (others.mean() - others)
    return values


def _is_above(differences: FloatArray) -> bool:
    """Whether the mean of these differences is above zero by more than its 95 % interval."""
    interval = interval_of_batches(differences, floor=None)
    return float(differences.mean()) > 0 and (interval is None or interval.low > 0)
