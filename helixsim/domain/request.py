"""Requests, their feed, the measurement window and objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Prefix:
    """Identity of the first tokens of a request, by which prefix caches recognise tokens that they hold.

    The tokens from ``ends[k - 1]`` to ``ends[k]`` have the identifier ``ids[k]``, which stands for all tokens before
    them too, as the hash of a KV block does: an identifier has the same predecessors and the same start in all requests
    that contain it, and as far as two of them extend in it, their tokens are equal. Identifiers are not negative.

    Parameters
    ----------
    ids
        One identifier per segment: a block of a trace, a system prompt, a session.
    ends
        Last tokens of the segments, counted from the beginning of the prompt [tokens]; ascending, as many as ``ids``.
    tokens
        Number of identified tokens; those after it belong to this request alone. Cuts the last segments short. May
        exceed the prompt where a later turn of a session continues the output.
    """

    ids: tuple[int, ...]
    ends: Sequence[int]
    tokens: int

    def scaled(self, factor: float) -> Prefix:
        """Return the prefix of a request whose tokens are multiplied by ``factor``."""
        if factor == 1:
            return self
        return Prefix(self.ids, tuple(round(end * factor) for end in self.ends), round(self.tokens * factor))


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Routing and admission must not read ``output_tokens``.

    ``prefix``: identity of its tokens; None: it shares none with other requests. ``priority``: place in the queue of an
    engine with priority scheduling, lowest first, then by arrival.
    """

    id: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    slo_class: str | None = None
    session: str | None = None
    prefix: Prefix | None = None
    priority: int = 0


class FeedMode(StrEnum):
    """Mode of arrivals."""

    OPEN = "open"
    """Open loop: requests arrive at given times."""
    CLOSED_LOOP = "closed_loop"
    """Closed loop: a request arrives when another completes, so that their number is fixed."""
    SATURATE = "saturate"
    """Saturation: a request arrives as soon as it can be admitted (the paper's "offline")."""


@dataclass(frozen=True)
class Feed:
    """Requests in order, with the mode of their arrivals.

    In ``OPEN`` mode ``requests`` is sorted by arrival. In the other modes arrival times are ignored, and a request
    arrives when it is submitted; ``SATURATE`` is endless, ``CLOSED_LOOP`` may end, and then the run ends too.
    ``prompts_in_flight`` limits the requests between admission and first token in ``SATURATE`` mode.

    With ``feed_below`` (0..1), ``SATURATE`` is the feeder of the paper's prototype: it submits
    ``prompts_in_flight`` requests at the start, then one at each first token and each completion, unless the expected
    KV use of the scarcest layer exceeds ``feed_below`` or the request does not fit; in that case none is submitted.
    """

    mode: FeedMode
    requests: Iterator[Request]
    concurrency: int | None = None
    prompts_in_flight: int | None = None
    feed_below: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The measurement window: after the warm-up, up to and including warm-up + duration.

    ``duration_ns`` None: until the last request has finished. ``drain``: continue after the window until all requests
    have finished.
    """

    warmup_ns: int
    duration_ns: int | None
    drain: bool


@dataclass(frozen=True, slots=True)
class Slo:
    """Service-level objective; None: no limit. ``classes``: (name, objective) of requests of a class, in its place."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None
    classes: tuple[tuple[str, Slo], ...] = ()

    @property
    def is_stated(self) -> bool:
        """Whether there is any limit."""
        own = self.ttft_s is not None or self.tpot_s is not None or self.e2el_s is not None
        return own or any(slo.is_stated for _, slo in self.classes)

    def of(self, name: str) -> Slo:
        """Return the objective of the requests of a class."""
        return dict(self.classes).get(name, replace(self, classes=()))

    def to_json(self) -> dict[str, Any]:
        """Return the objective as JSON values."""
        own: dict[str, Any] = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2el_s": self.e2el_s}
        return {**own, "classes": {name: slo.to_json() for name, slo in self.classes}} if self.classes else own

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Slo:
        """Return the objective of ``to_json``."""
        classes = tuple((name, cls.from_json(one)) for name, one in document.get("classes", {}).items())
        return cls(document["ttft_s"], document["tpot_s"], document["e2el_s"], classes)
