"""A measured benchmark of a serving engine, whichever tool wrote it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from helixsim.domain.result import FloatArray

STATISTICS = ("mean", "median", "p50", "p75", "p90", "p95", "p99")

METRICS = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    *(f"{statistic}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for statistic in STATISTICS),
)
"""Keys of both ``vllm bench serve`` and ``summary.json``."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens: mean and standard deviation; the latter is None if it is not known."""

    mean: float
    sd: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a benchmark asked of the engine; None where the file does not state it.

    Parameters
    ----------
    rate_rps
        Requests per second that were sent, whether or not earlier ones had been answered; infinite: all at once.
    burstiness
        Shape of the gamma distribution of the times between them: 1 is Poisson, infinite is equal times.
    concurrency
        Most requests in the system.
    requests
        Number of requests.
    prompt_tokens, output_tokens
        Lengths of prompts and outputs.
    """

    rate_rps: float | None = None
    burstiness: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests come at a rate, not one after another."""
        return self.rate_rps is not None and math.isfinite(self.rate_rps)


def _none() -> FloatArray:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class Requests:
    """Single successful requests in order of start; arrays are empty where the file has no such column.

    Parameters
    ----------
    start_s
        Start since that of the first one [s].
    ttft_s, step_s
        TTFT and mean decode step [s]; NaN for one output token.
    """

    start_s: FloatArray = field(default_factory=_none)
    prompt_tokens: FloatArray = field(default_factory=_none)
    output_tokens: FloatArray = field(default_factory=_none)
    ttft_s: FloatArray = field(default_factory=_none)
    step_s: FloatArray = field(default_factory=_none)


@dataclass(frozen=True)
class Benchmark:
    """A measured benchmark.

    Parameters
    ----------
    tool
        Tool that wrote the file.
    name
        Which result of the file it is; empty if the file has one.
    figures
        Those of ``METRICS`` that the file states.
    load
        What was asked.
    requests
        Single requests.
    model
        Model as the file names it; empty if it does not.
    notes
        Sentences on the interpretation of the file.
    """

    tool: str
    figures: Mapping[str, float]
    load: Load = Load()
    requests: Requests = field(default_factory=Requests)
    name: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()
