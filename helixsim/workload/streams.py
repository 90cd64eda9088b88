"""Loads of several streams: classes of requests that have arrivals and lengths of their own."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

from helixsim.workload.spec import RequestClass, WorkloadSpec, WorkloadStats

Stream = tuple[RequestClass, WorkloadSpec, int]
"""A class of requests, the load that it brings, and the seed of its random streams."""


def streams_of(spec: WorkloadSpec, seed: int) -> list[Stream]:
    """Return the streams of a load; empty if its classes have no arrivals of their own.

    Their rates are scaled alike, so that they add up to that of the load. They are independent of each other: each has
    a seed of its own, by the name of its class.
    """
    own = [(one, one.arrivals) for one in spec.classes if one.arrivals is not None]
    if not own:
        return []
    factor = (spec.arrivals.rate_rps or 0.0) / math.fsum(arrivals.rate_rps or 0.0 for _, arrivals in own)
    return [
        (
            one,
            replace(
                spec, arrivals=replace(arrivals, rate_rps=(arrivals.rate_rps or 0.0) * factor), lengths=one.lengths,
                limits=one.limits, classes=(),
            ),
            (seed << 32) + zlib.crc32(one.name.encode()),
        )
        for one, arrivals in own
    ]  # fmt: skip


def mixed_stats(spec: WorkloadSpec, parts: Sequence[WorkloadStats]) -> WorkloadStats:
    """Return the statistics of a load from those of its streams, each of which has a rate."""
    rates = [part.offered_rps or 0.0 for part in parts]
    total = math.fsum(rates)

    def mean(values: Sequence[float]) -> float:
        return math.fsum(rate * one for rate, one in zip(rates, values, strict=True)) / total

    prompt_tokens = mean([part.mean_prompt_tokens for part in parts])
    output_tokens = mean([part.mean_output_tokens for part in parts])
    prompt_squares = mean([part.prompt_spread * part.mean_prompt_tokens**2 for part in parts])
    output_squares = mean([part.output_spread * part.mean_output_tokens**2 for part in parts])
    products = mean([part.joint_spread * part.mean_prompt_tokens * part.mean_output_tokens for part in parts])
    counts = [part.num_requests for part in parts]
    return WorkloadStats(
        mean_prompt_tokens=prompt_tokens,
        mean_output_tokens=output_tokens,
        offered_rps=total,
        num_requests=None if None in counts else sum(count or 0 for count in counts),
        redrawn_share=mean([part.redrawn_share for part in parts]),
        assumptions=tuple(dict.fromkeys(text for part in parts for text in part.assumptions)),
        prompt_spread=prompt_squares / prompt_tokens**2,
        output_spread=output_squares / output_tokens**2,
        joint_spread=products / prompt_tokens / output_tokens,
        classes=tuple(one.name for one in spec.classes),
    )
