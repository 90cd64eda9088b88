"""Requests, how they are fed to the cluster, and when they are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Routing and admission must not read ``output_tokens``."""

    id: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    slo_class: str | None = None
    session: str | None = None


class FeedMode(StrEnum):
    """How requests reach the coordinator."""

    OPEN = "open"
    """At their own arrival times."""
    CLOSED_LOOP = "closed_loop"
    """A fixed number in the system; the next one arrives when one finishes."""
    SATURATE = "saturate"
    """An endless queue; the next one arrives as soon as it can be admitted (the paper's "offline")."""


@dataclass(frozen=True)
class Feed:
    """Requests in order, and what releases them.

    In ``OPEN`` mode ``requests`` is sorted by arrival. In the other modes its arrival times mean nothing, and a request
    arrives at the moment it is launched; ``SATURATE`` is endless, ``CLOSED_LOOP`` may end, and the run with it.
    ``prompts_in_flight`` limits how many requests may be between admission and first token in ``SATURATE`` mode.

    With ``feed_below`` (0..1), ``SATURATE`` is the feeder of the paper's prototype (helix-spec 7.5): it launches
    ``prompts_in_flight`` requests at the start, and then one at each first token and at each finished request, unless
    the scarcest layer's expected KV use exceeds ``feed_below`` or the request does not fit; the chance is then lost.
    """

    mode: FeedMode
    requests: Iterator[Request]
    concurrency: int | None = None
    prompts_in_flight: int | None = None
    feed_below: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """When to measure: after the warm-up, up to and including warm-up + duration.

    ``duration_ns`` None: until the last request has finished. ``drain``: go on after the window until every request
    that arrived has finished.
    """

    warmup_ns: int
    duration_ns: int | None
    drain: bool


@dataclass(frozen=True, slots=True)
class Slo:
    """Service-level objective; None = not asked for."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None
