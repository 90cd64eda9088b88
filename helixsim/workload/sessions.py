"""Requests that share prefixes: system prompts, and sessions whose turns extend one another.

Lengths are those of the user's message and of the answer. A prompt is the system prompt, the messages and answers of
the session so far, and the new message, so prompts grow from turn to turn.

Arrival times are left as they are: an arrival continues the session whose next turn has been due longest, and begins a
new one if none is due. A turn is due after a think time from the arrival of the one before. There is so always about
the arrival rate times the mean think time of open sessions, after such a time from the start.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from helixsim.domain.request import Prefix, Request
from helixsim.errors import ConfigError, Problem
from helixsim.rng import stream
from helixsim.units import NS_PER_S
from helixsim.workload.readers.values import MAX_SPAN_NS
from helixsim.workload.spec import LengthLimits, SessionsSpec, SystemPromptsSpec, WorkloadSpec


class _Session(NamedTuple):
    """A session between two turns: its number, its system prompt, its tokens so far, and the turns left."""

    number: int
    system_prompt: int
    tokens: int
    turns_left: int


class Conversations:
    """The session and prefix of each request of a generated load, in order of arrival.

    Parameters
    ----------
    spec
        The load, with ``sessions`` or ``system_prompts``.
    seed
        Seed of the experiment; the random stream is ``sessions``, so that arrival times and lengths do not change.
    """

    def __init__(self, spec: WorkloadSpec, seed: int) -> None:
        prompts = spec.system_prompts
        self.sessions = spec.sessions
        self.system_tokens = _system_tokens(spec)
        self.num_prompts = 0 if prompts is None else prompts.count
        most = spec.limits.max_prompt_tokens
        self.most_tokens = None if most is None else spec.scale.lengths(most, 1)[0]
        self._popularity = None if prompts is None else _popularity(prompts)
        self._rng = stream(seed, "sessions")
        self._due: list[tuple[int, _Session]] = []
        self._begun = 0

    def joined(self, request: Request) -> Request:
        """Return a request, which has the lengths of a message and its answer, as a turn of a session."""
        at_ns, message_tokens = request.arrival_ns, request.prompt_tokens
        session = None
        if self._due and self._due[0][0] <= at_ns:
            session = heapq.heappop(self._due)[1]
            if self.most_tokens is not None and session.tokens + message_tokens > self.most_tokens:
                session = None  # it has grown too long and ends here
        session = session or self._begin()
        prompt_tokens = session.tokens + message_tokens
        if self.sessions is None:
            prefix = Prefix((session.system_prompt,), (self.system_tokens,), self.system_tokens)
            return replace(request, prompt_tokens=prompt_tokens, prefix=prefix)
        tokens = prompt_tokens + request.output_tokens
        if session.turns_left > 1:
            due_ns = at_ns + self._think_time_ns(self.sessions)
            heapq.heappush(self._due, (due_ns, session._replace(tokens=tokens, turns_left=session.turns_left - 1)))
        identifier = self.num_prompts + session.number
        if self.num_prompts:
            prefix = Prefix((session.system_prompt, identifier), (self.system_tokens, tokens), tokens)
        else:
            prefix = Prefix((identifier,), (tokens,), tokens)
        return replace(request, prompt_tokens=prompt_tokens, session=str(session.number), prefix=prefix)

    def _begin(self) -> _Session:
        """Return a new session without messages."""
        prompt = 0
        if self._popularity is not None:
            prompt = int(np.searchsorted(self._popularity, self._rng.random(), side="right"))
        self._begun += 1
        return _Session(self._begun - 1, prompt, self.system_tokens, self._turns())

    def _turns(self) -> int:
        sessions = self.sessions
        if sessions is None:
            return 1
        if sessions.turns_distribution == "geometric":
            return int(self._rng.geometric(1 / sessions.turns))
        return round(sessions.turns)

    def _think_time_ns(self, sessions: SessionsSpec) -> int:
        mean_ns = sessions.think_time_s * NS_PER_S
        drawn_ns = self._rng.exponential(mean_ns) if sessions.think_time_distribution == "exponential" else mean_ns
        return round(min(drawn_ns, MAX_SPAN_NS))


def conversations(spec: WorkloadSpec, seed: int) -> Conversations | None:
    """Return the sessions of a load; None if its requests share nothing.

    Raises
    ------
    ConfigError
        If the load has no place for sessions or system prompts.
    """
    if spec.sessions is None and spec.system_prompts is None:
        return None
    key = "sessions" if spec.sessions is not None else "system_prompts"
    if spec.arrivals.process == "trace" and spec.lengths is None:
        message = "the prompts of a trace are those that it records; give workload.lengths, or another arrival process"
        raise ConfigError([Problem("", key, message)])
    if spec.sessions is not None and spec.arrivals.process in ("closed_loop", "saturate"):
        message = f"sessions need arrival times, which {spec.arrivals.process} does not have before it runs"
        raise ConfigError([Problem("", "sessions", message)])
    message_limits(spec)
    return Conversations(spec, seed)


def message_limits(spec: WorkloadSpec) -> LengthLimits:
    """Return the limits of the first message of a session, such that those of the load hold for its prompt.

    Raises
    ------
    ConfigError
        If the system prompt leaves no room.
    """
    limits, prompts = spec.limits, spec.system_prompts
    if prompts is None:
        return limits
    most = limits.max_prompt_tokens
    if most is not None and most <= prompts.tokens:
        message = f"{prompts.tokens} tokens leave none for a message within limits.max_prompt_tokens {most}"
        raise ConfigError([Problem("", "system_prompts.tokens", message)])
    return LengthLimits(
        max(1, limits.min_prompt_tokens - prompts.tokens),
        None if most is None else most - prompts.tokens,
        limits.min_output_tokens,
        limits.max_output_tokens,
    )


def with_prefixes(shared: Conversations | None, requests: Iterator[Request]) -> Iterator[Request]:
    """Return the requests with the prompts of their sessions; unchanged if ``shared`` is None."""
    if shared is None:
        return requests
    return map(shared.joined, requests)


def _system_tokens(spec: WorkloadSpec) -> int:
    return 0 if spec.system_prompts is None else spec.scale.lengths(spec.system_prompts.tokens, 1)[0]


def _popularity(prompts: SystemPromptsSpec) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the cumulative shares of the sessions with each system prompt, by Zipf's law."""
    weights = np.arange(1, prompts.count + 1, dtype=np.float64) ** -prompts.skew
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    return cumulative
