"""Arrival processes of requests at the coordinator.

Times are integer nanoseconds, generated lazily in chunks from one random stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError, Problem, unknown_name
from helixsim.units import NS_PER_S
from helixsim.workload.spec import FASTEST_RPS, SLOWEST_RPS, ArrivalsSpec

Times = NDArray[np.int64]
Generate = Callable[[ArrivalsSpec, float, np.random.Generator], Iterator[Times]]
"""(Specification, rate [1/s], random stream) -> endless iterator of increasing arrival times [ns]."""

_CHUNK = 4096
"""Interarrival times per draw; results depend on it, as on ``_BINS``."""

_BIN_S = 3
_BINS = 64
_DISPERSION = 1.7
_LAG_1 = 0.25
_LAG_10 = 0.20
"""Statistics of counts per 3 s in the Azure conversation trace within the paper's length limits (paper artifact:
variance / mean 1.68, correlation 0.25 with the next bin, about 0.2 with the tenth)."""


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """A registered arrival process.

    Parameters
    ----------
    mode
        Mode of the feed.
    required
        Required fields of ``ArrivalsSpec``.
    optional
        Optional fields of ``ArrivalsSpec``.
    generate
        Generator of arrival times; None if they come from the trace or from the engine.
    """

    summary: str
    mode: FeedMode
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    generate: Generate | None = None


def poisson(_spec: ArrivalsSpec, rate_rps: float, rng: np.random.Generator) -> Iterator[Times]:
    """Return the times of a Poisson process."""
    return _renewal(lambda: rng.standard_exponential(_CHUNK), rate_rps)


def gamma(spec: ArrivalsSpec, rate_rps: float, rng: np.random.Generator) -> Iterator[Times]:
    """Return the times of a renewal process with gamma interarrival times of shape ``burstiness`` (as in vLLM)."""
    shape = spec.burstiness
    return _renewal(lambda: rng.standard_gamma(shape, _CHUNK) / shape, rate_rps)


def constant(_spec: ArrivalsSpec, rate_rps: float, _rng: np.random.Generator) -> Iterator[Times]:
    """Yield equidistant times from 0 on; each is rounded separately, so that errors do not accumulate."""
    first = 0
    while True:
        yield np.rint(np.arange(first, first + _CHUNK) / rate_rps * NS_PER_S).astype(np.int64)
        first += _CHUNK


def bursty(_spec: ArrivalsSpec, rate_rps: float, rng: np.random.Generator) -> Iterator[Times]:
    """Yield the times of a doubly stochastic Poisson process with the burstiness of the Azure conversation trace.

    The rate is constant within bins of 3 s: ``rate_rps * exp(z - var(z) / 2)``, log-normal with mean ``rate_rps``;
    ``z`` is the sum of white noise and a first-order autoregression. Given the rate, arrivals are Poisson.

    For counts N per bin with mean m, under a factor with variance v and autocovariance v_k, var(N) = m + m^2 v and
    cov_k(N) = m^2 v_k; for a log-normal factor, v_k = exp(cov_k(z)) - 1. Solved for z such that, at any rate, the
    variance of counts is 1.7 times their mean, and their correlation is 0.25 with the next bin and 0.20 with the tenth.
    """
    per_bin = rate_rps * _BIN_S
    variance = math.log1p((_DISPERSION - 1) / per_bin)
    covariance_1, covariance_10 = (math.log1p(_DISPERSION * lag / per_bin) for lag in (_LAG_1, _LAG_10))
    slope = (covariance_10 / covariance_1) ** (1 / 9)
    slow_variance = covariance_1 / slope
    step = math.sqrt(slow_variance * (1 - slope * slope))
    level = math.sqrt(slow_variance) * float(rng.standard_normal())
    first_bin = 0
    while True:
        slow = np.empty(_BINS)
        for position, shock in enumerate((step * rng.standard_normal(_BINS)).tolist()):
            slow[position] = level
            level = slope * level + shock
        white = math.sqrt(variance - slow_variance) * rng.standard_normal(_BINS)
        counts = rng.poisson(per_bin * np.exp(slow + white - variance / 2))
        bins = np.repeat(np.arange(first_bin, first_bin + _BINS), counts)
        yield np.sort((bins + rng.random(len(bins))) * (_BIN_S * NS_PER_S)).astype(np.int64)
        first_bin += _BINS


def _renewal(unit_gaps: Callable[[], NDArray[np.float64]], rate_rps: float) -> Iterator[Times]:
    """Yield cumulative sums of interarrival times with mean 1 / rate, exact in integer nanoseconds."""
    now_ns = 0
    while True:
        chunk = now_ns + np.cumsum(np.rint(unit_gaps() * (NS_PER_S / rate_rps)).astype(np.int64))
        now_ns = int(chunk[-1])
        yield chunk


PROCESSES: dict[str, ArrivalProcess] = {
    "trace": ArrivalProcess("recorded times; with a rate, rescaled to it", FeedMode.OPEN, optional=("rate_rps",)),
    "poisson": ArrivalProcess("independent arrivals", FeedMode.OPEN, ("rate_rps",), generate=poisson),
    "gamma": ArrivalProcess(
        "gamma interarrival times of shape burstiness", FeedMode.OPEN, ("rate_rps",), ("burstiness",), generate=gamma
    ),
    "constant": ArrivalProcess("equal interarrival times", FeedMode.OPEN, ("rate_rps",), generate=constant),
    "bursty": ArrivalProcess("bursts as in the Azure trace", FeedMode.OPEN, ("rate_rps",), generate=bursty),
    "closed_loop": ArrivalProcess(
        "a fixed number of requests in the system", FeedMode.CLOSED_LOOP, ("concurrency",), ("num_requests",)
    ),
    "saturate": ArrivalProcess(
        "an endless queue, the paper's offline mode", FeedMode.SATURATE, optional=("prompts_in_flight", "feed_below")
    ),
}
"""The processes by name. Open ones and the closed loop also use ``num_requests``."""


def names() -> tuple[str, ...]:
    """Return the names of the processes."""
    return tuple(PROCESSES)


def process_of(spec: ArrivalsSpec) -> ArrivalProcess:
    """Return the process of a specification.

    Raises
    ------
    ConfigError
        If the name is unknown, a value is out of range, or a field is missing or not used by the process.
    """
    if spec.process not in PROCESSES:
        raise ConfigError([Problem("", "arrivals.process", unknown_name("arrival process", spec.process, PROCESSES))])
    process = PROCESSES[spec.process]
    given = {
        "rate_rps": spec.rate_rps,
        "burstiness": None if spec.burstiness == 1.0 else spec.burstiness,
        "concurrency": spec.concurrency,
        "prompts_in_flight": spec.prompts_in_flight,
        "feed_below": spec.feed_below,
        "num_requests": spec.num_requests,
    }
    bounded = ("num_requests",) if process.mode is FeedMode.OPEN else ()
    used = (*process.required, *process.optional, *bounded)
    problems = []
    for name, value in given.items():
        key = f"arrivals.{'rate' if name == 'rate_rps' else name}"
        if value is None:
            if name in process.required:
                problems.append(Problem("", key, f"missing; required by {spec.process}"))
        elif name not in used:
            allowed = ", ".join(used) or "none"
            problems.append(Problem("", key, f"got {value}, but {spec.process} does not use it (it uses: {allowed})"))
        elif not 0 < value < math.inf:
            problems.append(Problem("", key, f"got {value}, expected a finite number above 0"))
        elif name == "rate_rps" and not SLOWEST_RPS <= value <= FASTEST_RPS:
            limits = f"{SLOWEST_RPS:g} .. {FASTEST_RPS:g} requests/s"
            problems.append(Problem("", key, f"got {value:g}, expected {limits}"))
    if spec.over_time is not None and process.generate is None:
        generated = ", ".join(name for name, one in PROCESSES.items() if one.generate is not None)
        message = f"{spec.process} does not use it (those that do: {generated})"
        problems.append(Problem("", "arrivals.over_time", message))
    if problems:
        raise ConfigError(problems)
    return process
