"""Requests in flight, and cohorts of them that travel together."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.domain.request import Request


@dataclass(frozen=True, slots=True)
class Stage:
    """One hop of a path: worker number, the layers run there, and the routing edge that leads to it."""

    worker: int
    start: int
    end: int
    edge: int

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Path:
    """A route in worker numbers; requests on equal routes share one object."""

    number: int
    stages: tuple[Stage, ...]


class ActiveRequest:
    """A request from arrival to end.

    ``blocks`` are the KV blocks it holds on each node of its path, ``reserved_blocks`` those it is expected to need.
    ``is_held``: it waits at the coordinator for a KV block. ``preempt_for``: the worker that wants its memory; set
    while a step of it is on the way, because it can be taken off the cluster only between two steps.
    ``queue_ns``, ``compute_ns`` and ``network_ns`` split the time since arrival.
    """

    __slots__ = (
        "admitted_ns",
        "arrival_ns",
        "blocks",
        "compute_ns",
        "first_token_ns",
        "generated",
        "is_held",
        "last_token_ns",
        "network_ns",
        "order",
        "output_tokens",
        "path",
        "preempt_for",
        "preemptions",
        "prompt_tokens",
        "queue_ns",
        "reserved_blocks",
        "row",
    )

    def __init__(self, request: Request, arrival_ns: int, row: int, output_tokens: int) -> None:
        self.row = row
        self.arrival_ns = arrival_ns
        self.prompt_tokens = request.prompt_tokens
        self.output_tokens = output_tokens
        self.generated = 0
        self.admitted_ns = -1
        self.first_token_ns = -1
        self.last_token_ns = -1
        self.queue_ns = 0
        self.compute_ns = 0
        self.network_ns = 0
        self.path: Path | None = None
        self.order = -1
        self.blocks = 0
        self.reserved_blocks = 0
        self.preemptions = 0
        self.is_held = False
        self.preempt_for: int | None = None

    @property
    def at_coordinator_since_ns(self) -> int:
        """When it last came to the coordinator, with a token or at arrival [ns]."""
        return self.last_token_ns if self.generated else self.arrival_ns

    @property
    def context_tokens(self) -> int:
        """Tokens whose keys and values the next step needs: prompt and all tokens generated so far."""
        return self.prompt_tokens + self.generated


class Cohort:
    """Requests that left the coordinator at one instant on one path, doing the same kind of step.

    Everything on the way happens to all of them alike, so nodes and links handle cohorts; only the coordinator looks
    at single requests. A prefill is a cohort of one. ``tokens`` is what a step feeds in for all of them together,
    ``context_tokens`` the KV they read.

    Where requests travel one by one, the first arrives at ``arrived_ns`` and each other ``spacing_ns`` after the one
    before it; otherwise all arrive at once and ``spacing_ns`` is 0.
    """

    __slots__ = (
        "arrived_ns",
        "compute_ns",
        "context_tokens",
        "hop",
        "is_prefill",
        "layers_done",
        "network_ns",
        "number",
        "path",
        "queue_ns",
        "requests",
        "sent_ns",
        "spacing_ns",
        "tokens",
    )

    def __init__(
        self, number: int, path: Path, requests: list[ActiveRequest], is_prefill: bool, tokens: int, context_tokens: int
    ) -> None:
        self.number = number
        self.path = path
        self.requests = requests
        self.is_prefill = is_prefill
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.hop = 0
        self.layers_done = 0
        self.sent_ns = 0
        self.spacing_ns = 0
        self.arrived_ns = 0
        self.queue_ns = 0
        self.compute_ns = 0
        self.network_ns = 0

    def arrived_by(self, now_ns: int) -> int:
        """Return how many of its requests have arrived."""
        if not self.spacing_ns:
            return self.tokens if self.arrived_ns <= now_ns else 0
        return max(0, min(self.tokens, (now_ns - self.arrived_ns) // self.spacing_ns + 1))

    def split(self, count: int) -> Cohort:
        """Take the first ``count`` requests of a decoding cohort away into a new one."""
        taken, self.requests = self.requests[:count], self.requests[count:]
        front = Cohort(self.number, self.path, taken, False, count, sum(r.context_tokens for r in taken))
        self.tokens = len(self.requests)
        self.context_tokens -= front.context_tokens
        for name in ("hop", "layers_done", "sent_ns", "arrived_ns", "queue_ns", "compute_ns", "network_ns"):
            setattr(front, name, getattr(self, name))
        self.arrived_ns += count * self.spacing_ns
        self.network_ns += count * self.spacing_ns
        return front
