"""Throughput, goodput and SLO attainment.

``output_throughput`` counts the output tokens delivered in the window, ``total_token_throughput`` also the prompt
tokens prefilled in it, for all requests. Goodput counts requests that finish in the window and meet every objective; a
request with one output token meets any TPOT. Attainment is their share of the requests with a known outcome: those that
finished in the window, arrived in it and were rejected or failed, or were not finished at its end but had missed an
objective already: no first token, or a late one, or not finished in time. The others are undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from helixsim.domain.request import Slo
from helixsim.domain.result import BoolArray, IntArray, RequestColumns, RequestStatus, RunResult
from helixsim.metrics.latency import finished_in_window, tpot_ns
from helixsim.metrics.stats import Interval, batch_means, batch_rates, interval_of_batches
from helixsim.metrics.window import cumulative_in_window, duration_s, growth_in_window, in_window
from helixsim.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Throughput:
    """Counts and rates of the window; rates are per second, NaN if the window is empty."""

    duration_s: float
    arrived: int
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    good_requests: int | None
    """Requests that met every objective; None without objectives."""
    prefix_hit_tokens: int
    """Tokens found in prefix caches, of the ``prompt_tokens``."""
    overdue: int
    """Requests that were not finished at the end of the window, but had missed an objective already."""
    undecided: int
    """Requests that were not finished at the end of the window, and may still meet every objective."""

    def rate(self, count: float) -> float:
        """Return ``count`` per second of the window."""
        return count / self.duration_s if self.duration_s else math.nan

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens."""
        return self.prompt_tokens + self.output_tokens

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens found in prefix caches; NaN without prompts."""
        return self.prefix_hit_tokens / self.prompt_tokens if self.prompt_tokens else math.nan

    @property
    def slo_attainment(self) -> float | None:
        """Share of requests that met every objective; None without objectives, NaN without requests."""
        if self.good_requests is None:
            return None
        decided = self.completed + self.failed + self.overdue
        return self.good_requests / decided if decided else math.nan


def throughput(run: RunResult, slo: Slo) -> Throughput:
    """Return the counts of the window."""
    requests = run.requests
    arrived = in_window(requests.arrival_ns, run)
    return Throughput(
        duration_s=duration_s(run),
        arrived=int(arrived.sum()),
        completed=len(finished_in_window(run)),
        failed=int((arrived & refused(requests)).sum()),
        prompt_tokens=int(growth_in_window(run.series.prompt_tokens, run)),
        output_tokens=int(growth_in_window(run.series.output_tokens, run)),
        good_requests=_good_requests(run, slo),
        prefix_hit_tokens=int(requests.cached_tokens[in_window(requests.first_token_ns, run)].sum()),
        overdue=_count(run, slo, late),
        undecided=_count(run, slo, lambda part, own: unfinished(part) & ~late(part, own)) if slo.is_stated else 0,
    )


def delivered_tokens(run: RunResult) -> float:
    """Return the output tokens of the requests that were delivered in the window, for example of one class.

    Runs do not keep the time of each token: those after the first are taken to come evenly until the request finishes,
    or until the end of the run. This concerns requests alone that begin before the window or end behind it.
    """
    requests, (start_ns, end_ns) = run.requests, (run.window_start_ns, run.window_end_ns)
    ran = requests.output_tokens > 0
    first_ns, more = requests.first_token_ns[ran], requests.output_tokens[ran] - 1
    finish_ns = requests.finish_ns[ran]
    last_ns = np.where(finish_ns >= 0, finish_ns, np.maximum(first_ns, run.series.time_ns[-1]))
    inside_ns = np.minimum(last_ns, end_ns) - np.maximum(first_ns, start_ns)
    shares = np.maximum(inside_ns, 0) / np.maximum(last_ns - first_ns, 1)
    at_once = (last_ns == first_ns) & (first_ns > start_ns) & (first_ns <= end_ns)
    return float(in_window(first_ns, run).sum() + (more * np.where(at_once, 1.0, shares)).sum())


def output_throughput_interval(run: RunResult) -> Interval | None:
    """Return the 95 % interval of output tokens/s, or None if the window is too short for one."""
    return interval_of_batches(batch_rates(*cumulative_in_window(run.series.output_tokens, run)))


def attainment_interval(run: RunResult, slo: Slo) -> Interval | None:
    """Return the 95 % interval of the SLO attainment, by batches of requests in order of arrival; None: too few."""
    if not slo.is_stated:
        return None
    arrivals, are_good = outcomes(run, slo)
    return interval_of_batches(batch_means(are_good[np.argsort(arrivals, kind="stable")].astype(np.float64)))


def outcomes(run: RunResult, slo: Slo) -> tuple[IntArray, BoolArray]:
    """Return the arrival [ns] of each request with a known outcome, and whether it met every objective."""
    arrivals: list[IntArray] = []
    are_good: list[BoolArray] = []
    for _, part, own in by_objective(run, slo):
        requests = part.requests
        finished = finished_in_window(part)
        rejected = in_window(requests.arrival_ns, part) & refused(requests)
        missed = np.flatnonzero(rejected | late(part, own))
        arrivals += [requests.arrival_ns[finished], requests.arrival_ns[missed]]
        are_good += [_good(part, own), np.zeros(len(missed), dtype=bool)]
    return np.concatenate(arrivals), np.concatenate(are_good)


def of_class(run: RunResult, name: str | None, others: Sequence[str] = ()) -> RunResult:
    """Return a run with the requests of a class alone; None: those of none of the classes ``others``.

    What is not counted by request (tokens, gaps, series) remains that of the whole run.
    """
    columns = run.requests
    numbers = [number for number, one in enumerate(run.classes) if (one == name if name is not None else one in others)]
    kept = np.isin(columns.slo_class, numbers, invert=name is None)
    return replace(
        run, requests=RequestColumns(**{one.name: getattr(columns, one.name)[kept] for one in fields(columns)})
    )


def by_objective(run: RunResult, slo: Slo) -> Iterator[tuple[str | None, RunResult, Slo]]:
    """Yield (class, its requests, their objective); None for all requests without an objective of their class."""
    if not slo.classes:
        yield None, run, slo
        return
    names = [name for name, _ in slo.classes]
    yield None, of_class(run, None, names), replace(slo, classes=())
    for name, own in slo.classes:
        yield name, of_class(run, name), own


def _good_requests(run: RunResult, slo: Slo) -> int | None:
    if not slo.is_stated:
        return None
    return sum(int(_good(part, own).sum()) for _, part, own in by_objective(run, slo))


def _good(run: RunResult, slo: Slo) -> BoolArray:
    """Return for each request that finished in the window whether it met every objective."""
    requests, finished = run.requests, finished_in_window(run)
    columns = (requests.arrival_ns, requests.first_token_ns, requests.finish_ns, requests.output_tokens)
    return met_objectives(*(column[finished] for column in columns), slo=slo)


def met_objectives(
    arrival_ns: IntArray, first_token_ns: IntArray, finish_ns: IntArray, output_tokens: IntArray, *, slo: Slo
) -> BoolArray:
    """Return from columns of finished requests whether each met every objective; those of classes are left out."""
    good = np.ones(len(finish_ns), dtype=bool)
    if slo.ttft_s is not None:
        good &= first_token_ns - arrival_ns <= slo.ttft_s * NS_PER_S
    if slo.tpot_s is not None:
        tpot = tpot_ns(first_token_ns, finish_ns, output_tokens)
        good &= np.isnan(tpot) | (tpot <= slo.tpot_s * NS_PER_S)
    if slo.e2el_s is not None:
        good &= finish_ns - arrival_ns <= slo.e2el_s * NS_PER_S
    return good


def unfinished(run: RunResult) -> BoolArray:
    """Return for each request whether it had arrived, but not finished, at the end of the window; not if refused."""
    requests, end_ns = run.requests, run.window_end_ns
    alive = ~refused(requests) & (requests.arrival_ns <= end_ns)
    still: BoolArray = alive & ((requests.finish_ns < 0) | (requests.finish_ns > end_ns))
    return still


def without_first_token(run: RunResult) -> BoolArray:
    """Return for each request whether it was waiting for its first token at the end of the window, or had failed."""
    first_ns, failed = run.requests.first_token_ns, run.requests.status == RequestStatus.FAILED
    failed &= in_window(run.requests.arrival_ns, run)
    waiting: BoolArray = (unfinished(run) | failed) & ((first_ns < 0) | (first_ns > run.window_end_ns))
    return waiting


def refused(requests: RequestColumns) -> BoolArray:
    """Return for each request whether it was rejected or has failed, so that it will never finish."""
    found: BoolArray = requests.status >= RequestStatus.REJECTED
    return found


def past(run: RunResult, limit_s: float) -> BoolArray:
    """Return for each request whether this time after its arrival [s] is before the end of the window."""
    passed: BoolArray = run.requests.arrival_ns + limit_s * NS_PER_S < run.window_end_ns
    return passed


def late(run: RunResult, slo: Slo) -> BoolArray:
    """Return for each request whether it was not finished at the end of the window, but had missed an objective.

    TPOT is open until a request finishes, as the number of its tokens is.
    """
    requests, open_ = run.requests, unfinished(run)
    found: BoolArray = np.zeros(len(requests.status), dtype=bool)
    if slo.ttft_s is not None:
        waiting = without_first_token(run)
        came_late = ~waiting & (requests.first_token_ns - requests.arrival_ns > slo.ttft_s * NS_PER_S)
        found |= open_ & np.where(waiting, past(run, slo.ttft_s), came_late)
    if slo.e2el_s is not None:
        found |= open_ & past(run, slo.e2el_s)
    return found


def _count(run: RunResult, slo: Slo, mask: Callable[[RunResult, Slo], BoolArray]) -> int:
    return sum(int(mask(part, own).sum()) for _, part, own in by_objective(run, slo))
