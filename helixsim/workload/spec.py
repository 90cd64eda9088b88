"""What load an experiment asks for: plain values, filled in by config and turned into requests by ``feed``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.domain.request import Window
from helixsim.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a trace file leaves open.

    Parameters
    ----------
    chars_per_token
        Turns text into token counts where a file has text only (ShareGPT; about 4 for English).
    unit
        Unit of numeric times, one of ``TIME_UNITS``; None: that of the format, or found from the column.
    columns
        (part, column) pairs: which column holds ``arrival``, ``prompt``, ``output``, ``slo_class`` or ``session``.
        A dotted name reaches into nested JSON.
    where
        (column, value) pairs: only rows in which each column has the value count.
    result
        Which result of a file that holds several (``vllm bench serve --append-result``), from 1.
    """

    chars_per_token: float | None = None
    unit: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    result: int | None = None


AS_WRITTEN = ReadOptions()
"""Nothing is stated beyond the file."""

TIME_UNITS = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1_000, "ns": 1}
"""Units of numeric times [ns]."""

COLUMN_PARTS = ("arrival", "prompt", "output", "slo_class", "session")
"""What ``ReadOptions.columns`` may map."""


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """A request trace in one of the formats of ``readers.registry``.

    ``start_s`` and ``duration_s`` cut a window out of the trace's own time; its first request is then at 0.
    """

    format: str
    path: Path
    start_s: float = 0.0
    duration_s: float | None = None
    reading: ReadOptions = AS_WRITTEN


@dataclass(frozen=True, slots=True)
class LengthsSpec:
    """Where prompt and output lengths come from when not from the trace.

    ``distribution`` names an entry of ``lengths.registry``; ``options`` are its parameters.
    """

    distribution: str
    options: tuple[tuple[str, float | int | str], ...] = ()


SLOWEST_RPS = 1e-6
"""One request in twelve days; a clock of 64-bit nanoseconds cannot count far below that."""

FASTEST_RPS = 1e6
"""Gaps of a microsecond on average; gaps near a nanosecond would be lost to rounding."""


@dataclass(frozen=True, slots=True)
class ArrivalsSpec:
    """When requests arrive.

    Parameters
    ----------
    process
        ``trace``, ``poisson``, ``gamma``, ``constant``, ``bursty``, ``closed_loop`` or ``saturate``.
    rate_rps
        Requests per second; for ``trace`` the mean rate it is stretched to (None: as recorded).
    burstiness
        Shape of the gamma gaps: 1 = Poisson, below 1 burstier (as in ``vllm bench serve``).
    concurrency
        Requests in the system (``closed_loop``).
    prompts_in_flight
        Requests between admission and first token (``saturate``); None: the larger of 20 and the number of nodes.
    feed_below
        Share of expected KV use up to which a first token or a finished request lets the next request in
        (``saturate``); None: each is let in as soon as it fits.
    num_requests
        Stop after that many; None: as many as the duration or the trace allows. In a closed loop the run ends when
        they have finished.
    """

    process: str
    rate_rps: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    prompts_in_flight: int | None = None
    feed_below: float | None = None
    num_requests: int | None = None


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """Requests outside are left out of the load, and counted [tokens]."""

    min_prompt_tokens: int = 1
    max_prompt_tokens: int | None = None
    min_output_tokens: int = 1
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TrafficScale:
    """Factors on the traffic, applied after the limits.

    ``rate`` concerns recorded times without a stated rate; a rate that is stated carries the factor already.
    """

    rate: float = 1.0
    prompt_tokens: float = 1.0
    output_tokens: float = 1.0

    def lengths(self, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Return the lengths of a request [tokens], at least one token each."""
        return max(1, round(prompt_tokens * self.prompt_tokens)), max(1, round(output_tokens * self.output_tokens))


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """The whole load of an experiment."""

    trace: TraceSpec | None
    lengths: LengthsSpec | None
    arrivals: ArrivalsSpec
    limits: LengthLimits
    window: Window
    scale: TrafficScale = TrafficScale()


@dataclass(frozen=True, slots=True)
class WorkloadStats:
    """What an operator knows of the load before it runs: means, and what the limits left out.

    ``offered_rps`` is None for closed loops and where all requests arrive at once. ``dropped`` pairs a reason with a
    count. ``redrawn_share`` is the share of drawn length pairs that the limits refused and that were drawn again.
    ``prompt_spread`` is the mean of squared prompt lengths over the square of their mean.
    ``assumptions`` are sentences on what stands for missing data.
    """

    mean_prompt_tokens: float
    mean_output_tokens: float
    offered_rps: float | None
    num_requests: int | None
    dropped: tuple[tuple[str, int], ...] = ()
    redrawn_share: float = 0.0
    assumptions: tuple[str, ...] = ()
    prompt_spread: float = 1.0
