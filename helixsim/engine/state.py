"""Requests in flight, and cohorts of them that travel together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import simpy

from helixsim.domain.request import Request


class Sender(Protocol):
    """One direction of a link, seen by what is sent over it (``network.Channel``)."""

    def send(self, parcel: Parcel, tokens: int) -> None:
        """Send a parcel that takes so many tokens on the link."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One hop of a path: worker number, the layers run there and their number, the routing edge that leads to it."""

    worker: int
    start: int
    end: int
    layers: int
    edge: int


@dataclass(frozen=True, slots=True)
class Path:
    """A route in worker numbers; requests on equal routes share one object.

    ``channels[i]`` leads to stage ``i``, the last one back to the coordinator. ``back`` takes decode steps to the first
    stage: ``channels[0]``, or the way from the last stage where tokens stay in the engine. ``longest_chunk``: most
    tokens of a prompt in a step, where nodes have a token budget; what fits the first stage then fits all others, too.
    """

    number: int
    stages: tuple[Stage, ...]
    channels: tuple[Sender, ...]
    back: Sender
    longest_chunk: int = 0


class ActiveRequest:
    """A request from arrival to end.

    ``blocks`` are the KV blocks it holds on each node of its path, ``reserved_blocks`` those it is expected to need.
    ``is_held``: it waits at the coordinator for a KV block. ``preempt_for``: the worker that wants its memory; set
    while a step of it is on the way, because it can be taken off the cluster only between two steps. ``due_tokens``:
    with that many tokens generated the coordinator has to look at it, because it ends, outgrows its KV blocks or is to
    be preempted. ``queue_ns`` and ``compute_ns`` are parts of the time since arrival; the rest it was on the network.
    ``moved_on_ns``: when it last left the coordinator after a wait there. ``row``: its row in the recorder, -1: it has
    not arrived yet. ``cached_tokens``: those of its prompt that a prefix cache held at its first admission.
    """

    loaded: Mapping[str, int] | None = None

    __slots__ = (
        "admitted_ns",
        "arrival_ns",
        "blocks",
        "cached_tokens",
        "compute_ns",
        "due_tokens",
        "first_token_ns",
        "generated",
        "is_held",
        "last_token_ns",
        "moved_on_ns",
        "order",
        "output_tokens",
        "path",
        "preempt_for",
        "preemptions",
        "prompt_tokens",
        "queue_ns",
        "request",
        "reserved_blocks",
        "row",
    )

    def __init__(self, request: Request, arrival_ns: int, row: int, output_tokens: int) -> None:
        self.request = request
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
        self.moved_on_ns = arrival_ns
        self.due_tokens = 0
        self.path: Path | None = None
        self.order = -1
        self.blocks = 0
        self.reserved_blocks = 0
        self.preemptions = 0
        self.cached_tokens = 0
        self.is_held = False
        self.preempt_for: int | None = None

    @property
    def at_coordinator_since_ns(self) -> int:
        """When it last came to the coordinator, with a token or at arrival [ns]."""
        return self.last_token_ns if self.generated else self.arrival_ns

    @property
    def network_ns(self) -> int:
        """Time on the network, up to its last token or to when it last moved on [ns]."""
        return max(self.last_token_ns, self.moved_on_ns) - self.arrival_ns - self.queue_ns - self.compute_ns

    def plan_attention(self, block_tokens: int) -> None:
        """Set when the coordinator next has to look at it: at its end, or when its KV blocks are full."""
        self.due_tokens = min(self.output_tokens, self.blocks * block_tokens - self.prompt_tokens + 1)

    @property
    def context_tokens(self) -> int:
        """Tokens whose keys and values the next step needs: prompt and all tokens generated so far."""
        return self.prompt_tokens + self.generated


class Cohort:
    """Requests that left the coordinator at one instant on one path, doing the same kind of step.

    Everything on the way happens to all of them alike, so nodes and links handle cohorts; only the coordinator looks
    at single requests. A prefill is a cohort of one; where prompts are cut, it is a chunk behind ``past`` tokens of the
    prompt, or what is left of the prompt at its first stage, and only the last one (``is_last``) gets a token and
    returns. ``number`` is the departure number of the first request, the
    others follow. ``tokens`` is what a step feeds in for all of them together, ``context_tokens`` the KV they read.

    Where requests travel one by one, each arrives a little after the one before it. ``queue_ns`` is that of the first
    request; each following one has waited ``spread_ns`` less than the one before it, and been on links for longer.
    """

    __slots__ = (
        "compute_ns",
        "context_tokens",
        "hop",
        "is_last",
        "is_prefill",
        "number",
        "past",
        "path",
        "queue_ns",
        "requests",
        "spread_ns",
        "tokens",
    )

    def __init__(
        self,
        number: int,
        path: Path,
        requests: list[ActiveRequest],
        is_prefill: bool,
        tokens: int,
        context_tokens: int,
    ) -> None:
        self.number = number
        self.path = path
        self.requests = requests
        self.is_prefill = is_prefill
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.hop = 0
        self.queue_ns = 0
        self.compute_ns = 0
        self.spread_ns = 0
        self.past = 0
        self.is_last = True

    def cut(self, tokens: int) -> Cohort:
        """Take the first tokens of a prompt away into a chunk of their own, which keeps no account of its time."""
        chunk = Cohort(self.number, self.path, self.requests, True, tokens, self.context_tokens)
        chunk.hop, chunk.past, chunk.is_last = self.hop, self.past, False
        self.past += tokens
        self.tokens -= tokens
        return chunk

    def split(self, count: int) -> Cohort:
        """Take the first ``count`` requests of a decoding cohort away into a new one."""
        taken, self.requests = self.requests[:count], self.requests[count:]
        context = sum([request.context_tokens for request in taken])
        front = Cohort(self.number, self.path, taken, False, count, context)
        front.hop, front.spread_ns = self.hop, self.spread_ns
        front.queue_ns, front.compute_ns = self.queue_ns, self.compute_ns
        self.number += count
        self.tokens -= count
        self.context_tokens -= context
        self.queue_ns -= count * self.spread_ns
        return front


class Message(simpy.Event):
    """What travels over a link in one piece; the event is its arrival.

    ``is_prefill``: it is prompts rather than decode steps, which may travel one by one, each ``spacing_ns`` after the
    one before it.
    """

    sent_ns: int
    size_bytes: int
    arrived_ns: int
    spacing_ns = 0
    is_prefill = True

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self._value = None
        self._ok = True


class Parcel(Message):
    """Cohorts that travel as one message.

    A prompt, or a chunk of one, is a parcel of its own. ``number`` is that of its first cohort. The first request
    arrives at ``arrived_ns`` and each other ``spacing_ns`` after the one before it; 0: all arrive together.

    ``hops``, ``queue_ns`` and ``compute_ns``: what it went through as a whole and its cohorts have not been told yet.
    """

    def __init__(self, env: simpy.Environment, cohorts: list[Cohort], tokens: int, is_prefill: bool = False) -> None:
        self.env = env  # as ``Message`` does, without its call: there are many parcels
        self._value = None
        self._ok = True
        self.cohorts = cohorts
        self.tokens = tokens
        self.is_prefill = is_prefill
        self.spacing_ns = 0
        self.hops = 0
        self.queue_ns = 0
        self.compute_ns = 0
        self._context_tokens = -1

    @property
    def stage(self) -> Stage:
        """Where it is: its cohorts may have come and may go different ways, but are at one node."""
        cohort = self.cohorts[0]
        return cohort.path.stages[cohort.hop + self.hops]

    @property
    def number(self) -> int:
        """Departure number of its first request."""
        return self.cohorts[0].number

    @property
    def past(self) -> int:
        """Tokens of its prompt before those of a chunk."""
        return self.cohorts[0].past

    def arrived_by(self, now_ns: int) -> int:
        """Return how many of its requests have arrived."""
        if not self.spacing_ns:
            return self.tokens if self.arrived_ns <= now_ns else 0
        return max(0, min(self.tokens, (now_ns - self.arrived_ns) // self.spacing_ns + 1))

    def context_tokens(self) -> int:
        """Return the KV that its steps read; summed up once for all nodes it passes as a whole."""
        if self._context_tokens < 0:
            self._context_tokens = sum([cohort.context_tokens for cohort in self.cohorts])
        return self._context_tokens

    def pass_whole(self, queue_ns: int, compute_ns: int) -> None:
        """Book a node on all its cohorts alike."""
        self.hops += 1
        self.queue_ns += queue_ns
        self.compute_ns += compute_ns

    def settle(self) -> None:
        """Tell the cohorts what they went through together."""
        if self.hops:
            for cohort in self.cohorts:
                cohort.hop += self.hops
                cohort.queue_ns += self.queue_ns
                cohort.compute_ns += self.compute_ns
            self.hops = self.queue_ns = self.compute_ns = 0

    def split(self, count: int) -> Parcel:
        """Take the first ``count`` decode steps away into a new parcel."""
        self.settle()
        self._context_tokens = -1
        taken: list[Cohort] = []
        left = count
        for position, cohort in enumerate(self.cohorts):
            if cohort.tokens > left:
                if left:
                    taken.append(cohort.split(left))
                self.cohorts = self.cohorts[position:]
                break
            taken.append(cohort)
            left -= cohort.tokens
        front = Parcel(self.env, taken, count)
        front.sent_ns, front.arrived_ns, front.spacing_ns = self.sent_ns, self.arrived_ns, self.spacing_ns
        self.tokens -= count
        self.arrived_ns += count * self.spacing_ns
        return front

    def cut(self, tokens: int) -> Parcel:
        """Take the first tokens of a prompt away into a chunk of their own."""
        chunk = Parcel(self.env, [self.cohorts[0].cut(tokens)], tokens, is_prefill=True)
        chunk.sent_ns, chunk.arrived_ns = self.sent_ns, self.arrived_ns
        self.tokens -= tokens
        return chunk

    def apart(self) -> list[Parcel]:
        """Return a parcel for each cohort."""
        parcels = []
        while len(self.cohorts) > 1:
            parcels.append(self.split(self.cohorts[0].tokens))
        return [*parcels, self]
