"""Statistics of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.request import Request
from helixsim.units import NS_PER_S
from helixsim.workload.readers.base import ReadLog
from helixsim.workload.readers.registry import detect_format, read_trace
from helixsim.workload.spec import AS_WRITTEN, ReadOptions

_MINUTE_NS = 60 * NS_PER_S


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Mean, percentiles and maximum of one kind of length [tokens]."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Statistics of a trace.

    Parameters
    ----------
    span_s
        Time from the first to the last arrival [s].
    mean_rate_rps
        Number of interarrival times over the span [1/s]; None without a span or arrival times.
    gap_cv
        Coefficient of variation of the interarrival times; 1 for Poisson arrivals.
    per_minute_min, per_minute_max
        Extremes of requests per full minute from the first arrival; None for shorter spans.
    equal_times_share
        Share of requests with the arrival time of their predecessor.
    correlation
        Correlation of prompt and output length; None if either is constant.
    reusable_share
        Share of the prompt tokens that earlier requests have too, by the identity of the tokens (``Prefix``): what a
        prefix cache without limit would find. None if no request has one.
    dropped
        (reason, number of rows) that are not requests.
    notes, warnings
        Sentences on the interpretation of the file, and on doubtful ones.
    """

    path: str
    format: str
    requests: int
    span_s: float
    mean_rate_rps: float | None
    gap_cv: float | None
    per_minute_min: int | None
    per_minute_max: int | None
    equal_times_share: float
    prompt_tokens: LengthSummary
    output_tokens: LengthSummary
    correlation: float | None
    reusable_share: float | None
    dropped: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def trace_info(
    path: Path, trace_format: str | None = None, options: ReadOptions = AS_WRITTEN, *, sort: bool = False
) -> TraceInfo:
    """Return the statistics of a trace; arguments and errors as ``readers.registry.read_trace``."""
    chosen = trace_format or detect_format(path, options)
    log = ReadLog()
    reuse = _Reuse()
    rows = [
        (request.arrival_ns, request.prompt_tokens, request.output_tokens)
        for request in reuse.count(read_trace(path, chosen, options, times="optional", sort=sort, log=log))
    ]
    arrival_ns, prompt, output = np.array(rows, dtype=np.int64).T
    gaps_ns = np.diff(arrival_ns)
    span_ns = int(arrival_ns[-1])
    has_span = span_ns > 0
    minutes = span_ns // _MINUTE_NS
    at, per_minute = np.unique(arrival_ns // _MINUTE_NS, return_counts=True)
    per_minute = per_minute[at < minutes]
    is_constant = len(rows) < 2 or bool(prompt.min() == prompt.max()) or bool(output.min() == output.max())
    return TraceInfo(
        path=str(path),
        format=chosen,
        requests=len(rows),
        span_s=span_ns / NS_PER_S,
        mean_rate_rps=len(gaps_ns) * NS_PER_S / span_ns if has_span else None,
        gap_cv=float(gaps_ns.std() / gaps_ns.mean()) if has_span else None,
        per_minute_min=None if not minutes else int(per_minute.min()) if len(per_minute) == minutes else 0,
        per_minute_max=int(per_minute.max()) if minutes else None,
        equal_times_share=float((gaps_ns == 0).sum() / len(rows)) if log.has_times else 0.0,
        prompt_tokens=_summary(prompt),
        output_tokens=_summary(output),
        correlation=None if is_constant else float(np.corrcoef(prompt, output)[0, 1]),
        reusable_share=reuse.tokens / int(prompt.sum()) if reuse.known else None,
        dropped=tuple(log.dropped.items()),
        notes=tuple(log.notes),
        warnings=tuple(log.warnings),
    )


class _Reuse:
    """Count of the prompt tokens that are equal to those of an earlier request, as far as both go from the start.

    ``known``: identified tokens so far, by identifier, counted from the beginning of the prompt.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.known: dict[int, int] = {}

    def count(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the requests, counting."""
        known = self.known
        for request in requests:
            prefix = request.prefix
            if prefix is not None:
                most, found = min(request.prompt_tokens, prefix.tokens), 0
                for identifier, end in zip(prefix.ids, prefix.ends, strict=True):
                    wanted = min(end, most)
                    if found < wanted:
                        found = max(found, min(known.get(identifier, 0), wanted))
                    if found < wanted or found == most:
                        break
                self.tokens += found
                for identifier, end in zip(prefix.ids, prefix.ends, strict=True):
                    known[identifier] = max(known.get(identifier, 0), min(end, prefix.tokens))
            yield request


def _summary(lengths: NDArray[np.int64]) -> LengthSummary:
    p50, p90, p99 = (float(value) for value in np.percentile(lengths, (50, 90, 99)))
    return LengthSummary(float(lengths.mean()), p50, p90, p99, int(lengths.max()))
