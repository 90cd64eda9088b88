"""Generation of requests from a workload specification."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice, starmap, takewhile
from operator import attrgetter
from typing import cast

import numpy as np

from helixsim.domain.request import Feed, FeedMode, Request
from helixsim.errors import ConfigError, DataError, Problem
from helixsim.rng import stream
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import ArrivalProcess, process_of
from helixsim.workload.classes import classified
from helixsim.workload.course import Warp, moved, of_counts
from helixsim.workload.lengths.base import LengthDistribution, LimitedMeans, Tokens, draw, limited_means, spreads
from helixsim.workload.lengths.recorded import RecordedPairs
from helixsim.workload.lengths.registry import build, reads_file
from helixsim.workload.readers.base import ReadLog, Times
from helixsim.workload.readers.registry import FORMATS, get, read_trace
from helixsim.workload.sessions import conversations, message_limits, with_prefixes
from helixsim.workload.spec import (
    ArrivalsSpec,
    LengthLimits,
    LengthsSpec,
    TraceCourse,
    TraceSpec,
    WorkloadSpec,
    WorkloadStats,
)
from helixsim.workload.streams import Stream, mixed_stats, streams_of
from helixsim.workload.transforms import limited, mean_rate_rps, rescaled, windowed

_LEAST_PROMPTS_IN_FLIGHT = 20
"""Default of requests between admission and first token under saturation (20 at the start in the paper artifact)."""

_PROMPTS_SAMPLED = 10_000
"""Number of drawn prompts whose maximum is used as the longest prompt."""

_SESSIONS_SAMPLED = 20_000
"""Number of requests whose means are those of a load with sessions; all of it, if it has fewer."""


def make_feed(spec: WorkloadSpec, seed: int, num_nodes: int, arrivals: ArrivalsSpec | None = None) -> Feed:
    """Return the requests of a workload, generated lazily and numbered from 0 in order of arrival.

    Times are drawn from the random stream ``arrivals``, lengths from ``lengths``: request i has the same lengths under
    every arrival process and rate. Sessions and system prompts are drawn from ``sessions``. With a trace and a process
    other than ``trace``, length pairs are drawn from the trace with replacement.

    Parameters
    ----------
    num_nodes
        Number of nodes; the default of ``prompts_in_flight`` is the larger of 20 and this.
    arrivals
        Arrivals that replace ``spec.arrivals``.

    Raises
    ------
    ConfigError
        If the specification is contradictory or endless.
    DataError
        If the trace cannot be read, also during iteration.
    """
    spec = spec if arrivals is None else replace(spec, arrivals=arrivals)
    if streams := streams_of(spec, seed):
        return Feed(FeedMode.OPEN, merged(streams))
    process = process_of(spec.arrivals)
    if process.mode is FeedMode.OPEN:
        return Feed(FeedMode.OPEN, classified(_open_requests(spec, process, seed, ReadLog()), spec.classes, seed))
    pairs = enumerate(_drawn_pairs(spec, seed))
    drawn = (Request(number, 0, prompt, output) for number, (prompt, output) in pairs)
    requests = classified(with_prefixes(conversations(spec, seed), drawn), spec.classes, seed)
    if process.mode is FeedMode.CLOSED_LOOP:
        requests = islice(requests, spec.arrivals.num_requests)
        return Feed(process.mode, requests, concurrency=spec.arrivals.concurrency)
    in_flight = spec.arrivals.prompts_in_flight or max(_LEAST_PROMPTS_IN_FLIGHT, num_nodes)
    return Feed(process.mode, requests, prompts_in_flight=in_flight, feed_below=spec.arrivals.feed_below)


def workload_stats(spec: WorkloadSpec, seed: int) -> WorkloadStats:
    """Return statistics of a workload before it runs; raises as ``make_feed``.

    Exact for recorded times and lengths; for drawn lengths see ``lengths.base.limited_means``.
    """
    if streams := streams_of(spec, seed):
        return mixed_stats(spec, [workload_stats(one, own_seed) for _, one, own_seed in streams])
    process = process_of(spec.arrivals)
    if spec.arrivals.process == "trace":
        return _recorded_stats(spec, process, seed)
    if process.mode is FeedMode.OPEN:
        _require_an_end(spec)
    means = _means(spec, _lengths(spec))
    if spec.sessions is not None or spec.system_prompts is not None:
        return _sampled_stats(spec, seed, means.redrawn_share)
    return WorkloadStats(
        mean_prompt_tokens=means.prompt_tokens * spec.scale.prompt_tokens,
        mean_output_tokens=means.output_tokens * spec.scale.output_tokens,
        offered_rps=offered_rps(spec),
        num_requests=spec.arrivals.num_requests if _end_ns(spec) is None else None,
        redrawn_share=means.redrawn_share,
        assumptions=_assumptions(spec),
        prompt_spread=means.prompt_spread,
        output_spread=means.output_spread,
        joint_spread=means.joint_spread,
        classes=tuple(one.name for one in spec.classes if one.share),
    )


def longest_prompt(spec: WorkloadSpec, seed: int) -> int:
    """Return the longest prompt of the load within its limits [tokens].

    Exact for recorded lengths; for drawn lengths, the maximum of the first 10 000.
    """
    if streams := streams_of(spec, seed):
        return max(longest_prompt(one, own_seed) for _, one, own_seed in streams)
    if spec.arrivals.process == "trace" and spec.lengths is None:
        return max(
            request.prompt_tokens for request in _open_requests(spec, process_of(spec.arrivals), seed, ReadLog())
        )
    if spec.sessions is not None or spec.system_prompts is not None:
        return max(request.prompt_tokens for request in islice(make_feed(spec, seed, 1).requests, _PROMPTS_SAMPLED))
    lengths = _lengths(spec)
    if isinstance(lengths, RecordedPairs):
        return spec.scale.lengths(lengths.longest_prompt_tokens(spec.limits), 1)[0]
    return max(prompt for prompt, _ in islice(_drawn_pairs(spec, seed), _PROMPTS_SAMPLED))


def merged(streams: Sequence[Stream]) -> Iterator[Request]:
    """Return the requests of several streams in order of arrival, numbered from 0, in their classes."""

    def classed(stream: Stream) -> Iterator[Request]:
        one, spec, seed = stream
        for request in _open_requests(spec, process_of(spec.arrivals), seed, ReadLog()):
            yield replace(request, slo_class=one.name, priority=one.priority)

    for number, request in enumerate(heapq.merge(*map(classed, streams), key=attrgetter("arrival_ns"))):
        yield replace(request, id=number)


def _open_requests(spec: WorkloadSpec, process: ArrivalProcess, seed: int, log: ReadLog) -> Iterator[Request]:
    """Return the requests of an open process; faults of the specification are raised immediately."""
    requests: Iterator[Request]
    if process.generate is None:
        requests = _recorded_requests(spec, seed, log)
    else:
        _require_an_end(spec)
        chunks = process.generate(spec.arrivals, cast("float", spec.arrivals.rate_rps), stream(seed, "arrivals"))
        if (warp := _warp(spec)) is not None:
            chunks = moved(chunks, warp)
        times = chain.from_iterable(chunk.tolist() for chunk in chunks)
        requests = (
            Request(number, at_ns, prompt, output)
            for number, (at_ns, (prompt, output)) in enumerate(zip(times, _drawn_pairs(spec, seed), strict=False))
        )
    requests = with_prefixes(conversations(spec, seed), requests)
    end_ns = _end_ns(spec)
    if end_ns is not None:
        requests = takewhile(lambda request: request.arrival_ns < end_ns, requests)
    return islice(requests, spec.arrivals.num_requests)


def offered_rps(spec: WorkloadSpec) -> float | None:
    """Return the mean rate of a load whose arrivals state one [requests/s]; None: they state none."""
    if streams := streams_of(spec, 0):
        return sum(offered_rps(one) or 0.0 for _, one, _ in streams)
    rate_rps, warp, end_ns = spec.arrivals.rate_rps, _warp(spec), _end_ns(spec)
    if rate_rps is None or warp is None:
        return rate_rps
    if end_ns is not None:
        end_s = end_ns / NS_PER_S
        return rate_rps * warp.integral_s(end_s) / end_s
    count = spec.arrivals.num_requests or 1
    return count / float(warp.times_s(np.array([count / rate_rps]))[0])


def _warp(spec: WorkloadSpec) -> Warp | None:
    """Return the course of the arrivals; None: a constant rate."""
    course = spec.arrivals.over_time
    if isinstance(course, TraceCourse):
        if spec.trace is None:
            raise ConfigError([Problem("", "arrivals.over_time", "trace requires workload.trace")])
        requests = limited(_windowed(spec.trace, ReadLog()), spec.limits, Counter())
        times_ns = np.fromiter((request.arrival_ns for request in requests), dtype=np.int64)
        course = of_counts(times_ns, course.bins, course.period_s)
    return None if course is None else Warp(course)


def _require_an_end(spec: WorkloadSpec) -> None:
    if _end_ns(spec) is None and spec.arrivals.num_requests is None:
        message = "the load is endless; give workload.duration or arrivals.num_requests"
        raise ConfigError([Problem("", "workload", message)])


def _end_ns(spec: WorkloadSpec) -> int | None:
    window = spec.window
    return None if window.duration_ns is None else window.warmup_ns + window.duration_ns


def _recorded_requests(spec: WorkloadSpec, seed: int, log: ReadLog) -> Iterator[Request]:
    """Return the requests of the trace at their recorded times, rescaled to the rate if one is given."""
    trace = spec.trace
    if trace is None:
        raise ConfigError([Problem("", "arrivals.process", "trace requires workload.trace")])
    if not get(trace.format).has_times:
        timed = ", ".join(name for name, known in FORMATS.items() if known.has_times)
        message = f"{trace.format} has no arrival times; choose another process (formats with times: {timed})"
        raise ConfigError([Problem("", "arrivals.process", message)])
    limits = spec.limits if spec.lengths is None else LengthLimits()
    requests = _not_empty(limited(_windowed(trace, log), limits, log.dropped), trace, log.dropped)
    if spec.arrivals.rate_rps is not None or trace.stretch_s is not None:
        recorded = list(limited(_windowed(trace, ReadLog()), limits, Counter()))
        recorded_rps = mean_rate_rps(recorded)
        if recorded_rps is None:
            raise DataError(f"{trace.path}: fewer than two arrival times, which cannot be rescaled to a rate")
        rate_rps = spec.arrivals.rate_rps
        if rate_rps is None:
            rate_rps = spec.scale.rate * len(recorded) / cast("float", trace.stretch_s)
        requests = rescaled(requests, recorded_rps / rate_rps)
    elif spec.scale.rate != 1:
        requests = rescaled(requests, 1 / spec.scale.rate)
    if spec.lengths is not None:
        requests = _with_lengths(requests, _drawn_pairs(spec, seed), log)
    elif (spec.scale.prompt_tokens, spec.scale.output_tokens) != (1.0, 1.0):
        requests = (
            replace(
                request,
                prompt_tokens=prompt,
                output_tokens=output,
                prefix=request.prefix and request.prefix.scaled(spec.scale.prompt_tokens),
            )
            for request in requests
            for prompt, output in (spec.scale.lengths(request.prompt_tokens, request.output_tokens),)
        )
    return requests


def _with_lengths(requests: Iterator[Request], pairs: Iterator[tuple[int, int]], log: ReadLog) -> Iterator[Request]:
    """Yield the requests with other lengths, and therefore without the identity of their tokens."""
    told = False
    for request, (prompt, output) in zip(requests, pairs, strict=False):
        if request.prefix is not None and not told:
            told = True
            log.notes.append("shared prefixes are not used, because the lengths are not those of the trace")
        yield replace(request, prompt_tokens=prompt, output_tokens=output, prefix=None)


def _windowed(trace: TraceSpec, log: ReadLog, times: Times = "required") -> Iterator[Request]:
    requests = read_trace(trace.path, trace.format, trace.reading, times=times, log=log)
    return windowed(requests, trace.start_s, trace.duration_s, log.dropped)


def _not_empty(requests: Iterator[Request], trace: TraceSpec, dropped: Counter[str]) -> Iterator[Request]:
    first = next(requests, None)
    if first is None:
        reasons = "".join(f"; {count} dropped: {reason}" for reason, count in dropped.items())
        raise DataError(f"{trace.path}: no request within trace.start, trace.duration and the limits{reasons}")
    yield first
    yield from requests


def _lengths(spec: WorkloadSpec) -> LengthDistribution:
    """Return the distribution of drawn lengths."""
    if spec.lengths is not None:
        return build(spec.lengths)
    if spec.trace is None:
        raise ConfigError([Problem("", "workload", "no lengths; give workload.lengths or workload.trace")])
    is_whole = spec.trace.start_s == 0 and spec.trace.duration_s is None
    return RecordedPairs(_windowed(spec.trace, ReadLog(), "ignored" if is_whole else "required"))


def _means(spec: WorkloadSpec, lengths: LengthDistribution) -> LimitedMeans:
    """Return the means of the drawn lengths; raises if the limits exclude all requests."""
    if spec.lengths is None or reads_file(spec.lengths):
        return limited_means(lengths, message_limits(spec))
    return _built_means(spec.lengths, message_limits(spec))


@lru_cache(maxsize=64)
def _built_means(spec: LengthsSpec, limits: LengthLimits) -> LimitedMeans:
    """Return the means of a distribution that no file can change: every simulation of a search asks for them."""
    return limited_means(build(spec), limits)


def _drawn_pairs(spec: WorkloadSpec, seed: int) -> Iterator[tuple[int, int]]:
    lengths, limits = _lengths(spec), message_limits(spec)
    _means(spec, lengths)  # raises if the limits exclude all requests
    return starmap(spec.scale.lengths, draw(lengths, limits, stream(seed, "lengths")))


def _sampled_stats(spec: WorkloadSpec, seed: int, redrawn_share: float) -> WorkloadStats:
    """Return the statistics of the first requests, whose prompts depend on the sessions they belong to."""
    requests = list(islice(make_feed(spec, seed, 1).requests, _SESSIONS_SAMPLED))
    prompts, outputs = _lengths_of(requests)
    prompt_spread, output_spread, joint_spread = spreads(prompts, outputs)
    return WorkloadStats(
        mean_prompt_tokens=float(prompts.mean()),
        mean_output_tokens=float(outputs.mean()),
        offered_rps=offered_rps(spec),
        num_requests=spec.arrivals.num_requests if _end_ns(spec) is None else None,
        redrawn_share=redrawn_share,
        assumptions=_assumptions(spec),
        prompt_spread=prompt_spread,
        output_spread=output_spread,
        joint_spread=joint_spread,
    )


def _recorded_stats(spec: WorkloadSpec, process: ArrivalProcess, seed: int) -> WorkloadStats:
    log = ReadLog()
    requests = list(classified(_open_requests(spec, process, seed, log), spec.classes, seed))
    prompts, outputs = _lengths_of(requests)
    prompt_spread, output_spread, joint_spread = spreads(prompts, outputs)
    return WorkloadStats(
        mean_prompt_tokens=float(prompts.mean()),
        mean_output_tokens=float(outputs.mean()),
        offered_rps=mean_rate_rps(requests),
        num_requests=len(requests),
        dropped=tuple(log.dropped.items()),
        redrawn_share=0.0 if spec.lengths is None else _means(spec, _lengths(spec)).redrawn_share,
        assumptions=(*_assumptions(spec), *(f"{_name(spec)}: {sentence}" for sentence in log.sentences())),
        classes=tuple(sorted({request.slo_class for request in requests if request.slo_class is not None})),
        prompt_spread=prompt_spread,
        output_spread=output_spread,
        joint_spread=joint_spread,
    )


def _lengths_of(requests: Sequence[Request]) -> tuple[Tokens, Tokens]:
    """Return the lengths of prompts and outputs."""
    lengths = np.array([(request.prompt_tokens, request.output_tokens) for request in requests])
    return lengths[:, 0], lengths[:, 1]


def _name(spec: WorkloadSpec) -> str:
    return "" if spec.trace is None else spec.trace.path.name


def _assumptions(spec: WorkloadSpec) -> tuple[str, ...]:
    assumptions = []
    if spec.trace is not None and spec.trace.reading.chars_per_token is not None:
        ratio = f"{spec.trace.reading.chars_per_token:g} characters per token"
        assumptions.append(f"{spec.trace.path.name}: lengths of texts without token counts are estimated at {ratio}")
    if spec.trace is not None and spec.lengths is None and spec.arrivals.process != "trace":
        assumptions.append(f"{spec.trace.path.name}: lengths are drawn with replacement, arrival times are not used")
    return tuple(assumptions)
