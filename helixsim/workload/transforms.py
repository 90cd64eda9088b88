"""Cutting, filtering and rescaling of recorded requests; dropped requests are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from helixsim.domain.request import Request
from helixsim.errors import DataError
from helixsim.units import NS_PER_S, seconds_to_ns
from helixsim.workload.lengths.base import exclusion
from helixsim.workload.readers.values import MAX_SPAN_NS
from helixsim.workload.spec import LengthLimits


def windowed(
    requests: Iterable[Request], start_s: float, duration_s: float | None, dropped: Counter[str]
) -> Iterator[Request]:
    """Yield the requests that arrive in [start, start + duration) of the recorded time [s].

    ``dropped`` is the counter of the reader, from which rows before the window are removed.
    """
    start_ns = seconds_to_ns(start_s)
    end_ns = None if duration_s is None else start_ns + seconds_to_ns(duration_s)
    for request in requests:
        if request.arrival_ns < start_ns:
            dropped.clear()
        elif end_ns is not None and request.arrival_ns >= end_ns:
            return
        else:
            yield request


def limited(requests: Iterable[Request], limits: LengthLimits, dropped: Counter[str]) -> Iterator[Request]:
    """Yield the requests within the limits, renumbered, the first at time 0; count the others by reason."""
    number = origin_ns = 0
    for request in requests:
        reason = exclusion(limits, request.prompt_tokens, request.output_tokens)
        if reason:
            dropped[reason] += 1
            continue
        if number == 0:
            origin_ns = request.arrival_ns
        yield Request(
            number,
            request.arrival_ns - origin_ns,
            request.prompt_tokens,
            request.output_tokens,
            request.slo_class,
            request.session,
            request.prefix,
            request.priority,
        )
        number += 1


def rescaled(requests: Iterable[Request], factor: float) -> Iterator[Request]:
    """Yield the requests with all times multiplied by ``factor``; ``DataError`` if they become too long."""
    for request in requests:
        if not request.arrival_ns * factor <= MAX_SPAN_NS:
            years = MAX_SPAN_NS / NS_PER_S / (365.25 * 86_400)
            raise DataError(f"rescaled to this rate, the trace is longer than {years:.0f} years")
        yield Request(
            request.id,
            round(request.arrival_ns * factor),
            request.prompt_tokens,
            request.output_tokens,
            request.slo_class,
            request.session,
            request.prefix,
            request.priority,
        )


def mean_rate_rps(requests: Iterable[Request]) -> float | None:
    """Return the mean rate of requests sorted by arrival [1/s]; None without a span."""
    gaps, first_ns, last_ns = -1, 0, 0
    for request in requests:
        gaps += 1
        last_ns = request.arrival_ns
        if gaps == 0:
            first_ns = last_ns
    return gaps * NS_PER_S / (last_ns - first_ns) if last_ns > first_ns else None
