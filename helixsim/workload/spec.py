"""Specification of a load, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from helixsim.domain.request import Window
from helixsim.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options for reading a trace file.

    Parameters
    ----------
    chars_per_token
        Estimates token counts of text (ShareGPT; about 4 for English).
    unit
        Unit of numeric times, one of ``TIME_UNITS``; None: that of the format, or inferred from the column.
    columns
        (part, column) pairs: columns of the parts in ``COLUMN_PARTS``; dotted names are nested JSON keys.
    where
        (column, value) pairs that select rows.
    result
        Number of the result in a file with several (``vllm bench serve --append-result``), from 1.
    block_size
        Tokens of a block of ``hash_ids`` (Mooncake); None: 512.
    extend_sessions
        True: the prompt of each request of a session begins with the prompt and the output of the one before it.
    """

    chars_per_token: float | None = None
    unit: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    result: int | None = None
    block_size: int | None = None
    extend_sessions: bool | None = None


AS_WRITTEN = ReadOptions()
"""Default options."""

TIME_UNITS = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1_000, "ns": 1}
"""Units of numeric times [ns]."""

COLUMN_PARTS = ("arrival", "prompt", "output", "slo_class", "priority", "session", "prefix")
"""Parts in ``ReadOptions.columns``."""


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """A request trace in one of the formats of ``readers.registry``.

    ``start_s`` and ``duration_s`` select a window of the recorded time; its first request is then at 0. ``stretch_s``:
    its times are stretched so that the requests take so long [s]; None: as recorded.
    """

    format: str
    path: Path
    start_s: float = 0.0
    duration_s: float | None = None
    reading: ReadOptions = AS_WRITTEN
    stretch_s: float | None = None


@dataclass(frozen=True, slots=True)
class LengthsSpec:
    """Distribution of prompt and output lengths that replaces those of the trace.

    ``distribution`` names an entry of ``lengths.registry``; ``options`` are its parameters.
    """

    distribution: str
    options: tuple[tuple[str, float | int | str], ...] = ()


SLOWEST_RPS = 1e-6
"""Lowest rate, one request in twelve days; much lower rates overflow the clock of 64-bit nanoseconds."""

FASTEST_RPS = 1e6
"""Highest rate; much shorter interarrival times would be lost to rounding."""


class Corner(NamedTuple):
    """A corner of the course of a load: the factor on its rate at a time [s]."""

    time_s: float
    factor: float


@dataclass(frozen=True, slots=True)
class Course:
    """A factor on the rate over time, linear between corners (``course.Warp``); ``period_s`` None: it ends."""

    corners: tuple[Corner, ...]
    period_s: float | None = None


@dataclass(frozen=True, slots=True)
class TraceCourse:
    """The course of the arrivals of the trace, in equal bins, stretched to a period [s]."""

    period_s: float
    bins: int


@dataclass(frozen=True, slots=True)
class ArrivalsSpec:
    """Arrivals of requests.

    Parameters
    ----------
    process
        ``trace``, ``poisson``, ``gamma``, ``constant``, ``bursty``, ``closed_loop`` or ``saturate``.
    rate_rps
        Requests per second; for ``trace`` the mean rate to which times are rescaled (None: as recorded).
    burstiness
        Shape of gamma interarrival times: 1 = Poisson, below 1 burstier (as in ``vllm bench serve``).
    concurrency
        Requests in the system (``closed_loop``).
    prompts_in_flight
        Requests between admission and first token (``saturate``); None: the larger of 20 and the number of nodes.
    feed_below
        Share of expected KV use up to which a request is submitted at a first token or completion (``saturate``); None:
        submitted as soon as it fits.
    num_requests
        Number of requests; None: limited by the duration or the trace. In a closed loop the run ends when they have
        completed.
    over_time
        Factor on the rate of a generated open process; None: constant.
    """

    process: str
    rate_rps: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    prompts_in_flight: int | None = None
    feed_below: float | None = None
    num_requests: int | None = None
    over_time: Course | TraceCourse | None = None


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """Limits of lengths [tokens]; requests outside are dropped and counted."""

    min_prompt_tokens: int = 1
    max_prompt_tokens: int | None = None
    min_output_tokens: int = 1
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TrafficScale:
    """Factors on the traffic, applied after the limits.

    ``rate`` applies to recorded times without a given rate; a given rate already includes the factor.
    """

    rate: float = 1.0
    prompt_tokens: float = 1.0
    output_tokens: float = 1.0

    def lengths(self, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Return the lengths of a request [tokens], at least one token each."""
        return max(1, round(prompt_tokens * self.prompt_tokens)), max(1, round(output_tokens * self.output_tokens))


@dataclass(frozen=True, slots=True)
class SystemPromptsSpec:
    """System prompts at the beginning of all prompts.

    Parameters
    ----------
    count
        Number of different ones.
    tokens
        Length of each [tokens].
    skew
        Exponent of Zipf's law: the k-th is used in proportion to ``k ** -skew``. 0: all alike.
    """

    count: int
    tokens: int
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionsSpec:
    """Sessions of several turns, each of which extends the prompt and the answer of the one before.

    Parameters
    ----------
    turns
        Mean number of turns.
    turns_distribution
        ``geometric`` or ``constant``.
    think_time_s
        Mean time from the arrival of a turn until the next one is due [s].
    think_time_distribution
        ``exponential`` or ``constant``.
    """

    turns: float
    think_time_s: float
    turns_distribution: str = "geometric"
    think_time_distribution: str = "exponential"


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A class of requests.

    Parameters
    ----------
    share
        Share of the requests without a class of their own that are given this one; None: none of them.
    priority
        Priority of its requests where the trace states none, or 0.
    arrivals, lengths, limits
        Of its own, in place of those of the load; all classes have their own or none has.
    """

    name: str
    share: float | None = None
    priority: int = 0
    arrivals: ArrivalsSpec | None = None
    lengths: LengthsSpec | None = None
    limits: LengthLimits = LengthLimits()


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """The load of an experiment.

    With ``sessions`` or ``system_prompts``, lengths are those of a turn's message. ``classes`` are those of which a
    share or a priority is stated. Where they have arrivals of their own, the rate of ``arrivals`` is that of all.
    """

    trace: TraceSpec | None
    lengths: LengthsSpec | None
    arrivals: ArrivalsSpec
    limits: LengthLimits
    window: Window
    scale: TrafficScale = TrafficScale()
    sessions: SessionsSpec | None = None
    system_prompts: SystemPromptsSpec | None = None
    classes: tuple[RequestClass, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadStats:
    """Statistics of a load before it runs.

    ``offered_rps`` is None for closed loops and if all requests arrive at once. ``dropped`` has (reason, count) pairs.
    ``redrawn_share`` is the share of drawn length pairs outside the limits. ``prompt_spread`` is the mean of squared
    prompt lengths over the square of their mean, ``output_spread`` the same of outputs, ``joint_spread`` the mean of
    the products of both over the product of the means. ``assumptions`` are sentences on replacements of missing data.
    ``classes`` are the names of the classes that requests have.
    """

    mean_prompt_tokens: float
    mean_output_tokens: float
    offered_rps: float | None
    num_requests: int | None
    dropped: tuple[tuple[str, int], ...] = ()
    redrawn_share: float = 0.0
    assumptions: tuple[str, ...] = ()
    prompt_spread: float = 1.0
    output_spread: float = 1.0
    joint_spread: float = 1.0
    classes: tuple[str, ...] = ()
