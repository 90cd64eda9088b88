"""Parametric length distributions, with independent prompt and output lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from helixsim.workload.lengths.base import Tokens

MOST_TOKENS = 10**9
"""Longest prompt or output."""

MOST_SPREAD = 1_000.0
"""Largest coefficient of variation; that of recorded loads is up to about 3."""


@dataclass(frozen=True, slots=True)
class FixedOptions:
    """Both lengths [tokens]."""

    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        _in_range(prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens)


class Fixed:
    """Every request has the same lengths."""

    summary: ClassVar[str] = "every request has the same lengths"
    Options: ClassVar[type[FixedOptions]] = FixedOptions

    def __init__(self, options: FixedOptions) -> None:
        self._options = options

    def sample(self, _rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` equal pairs [tokens]."""
        return (
            np.full(n, self._options.prompt_tokens, dtype=np.int64),
            np.full(n, self._options.output_tokens, dtype=np.int64),
        )

    def mean(self) -> tuple[float, float]:
        """Return the two lengths [tokens]."""
        return float(self._options.prompt_tokens), float(self._options.output_tokens)


@dataclass(frozen=True, slots=True)
class UniformOptions:
    """Smallest and largest lengths, both included [tokens]."""

    prompt_min: int
    prompt_max: int
    output_min: int
    output_max: int

    def __post_init__(self) -> None:
        _in_range(
            prompt_min=self.prompt_min,
            prompt_max=self.prompt_max,
            output_min=self.output_min,
            output_max=self.output_max,
        )
        for name, low, high in (
            ("prompt", self.prompt_min, self.prompt_max),
            ("output", self.output_min, self.output_max),
        ):
            if high < low:
                raise ValueError(f"{name}_max {high} is below {name}_min {low}")


class Uniform:
    """Every whole number between two bounds is equally likely."""

    summary: ClassVar[str] = "uniform over whole numbers between two bounds"
    Options: ClassVar[type[UniformOptions]] = UniformOptions

    def __init__(self, options: UniformOptions) -> None:
        self._options = options

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` independent pairs [tokens]."""
        options = self._options
        return (
            rng.integers(options.prompt_min, options.prompt_max, n, endpoint=True),
            rng.integers(options.output_min, options.output_max, n, endpoint=True),
        )

    def mean(self) -> tuple[float, float]:
        """Return the midpoints [tokens]."""
        options = self._options
        return (options.prompt_min + options.prompt_max) / 2, (options.output_min + options.output_max) / 2


@dataclass(frozen=True, slots=True)
class LognormalOptions:
    """Means [tokens] and coefficients of variation (standard deviation / mean)."""

    prompt_mean: float
    prompt_cv: float
    output_mean: float
    output_cv: float

    def __post_init__(self) -> None:
        _in_range(prompt_mean=self.prompt_mean, output_mean=self.output_mean)
        for name, value in (("prompt_cv", self.prompt_cv), ("output_cv", self.output_cv)):
            if not 0 <= value <= MOST_SPREAD:
                raise ValueError(f"{name} must be 0 to {MOST_SPREAD:g}, got {value:.6g}")


class Lognormal:
    """Log-normal lengths, rounded to whole tokens and at least 1, with long tails like most recorded loads."""

    summary: ClassVar[str] = "log-normal by mean and coefficient of variation"
    Options: ClassVar[type[LognormalOptions]] = LognormalOptions

    def __init__(self, options: LognormalOptions) -> None:
        self._prompt = _parameters(options.prompt_mean, options.prompt_cv)
        self._output = _parameters(options.output_mean, options.output_cv)

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` independent pairs [tokens]."""
        prompt = rng.lognormal(*self._prompt, n)
        output = rng.lognormal(*self._output, n)
        return _whole(prompt), _whole(output)

    def mean(self) -> tuple[float, float]:
        """Return the means of the rounded lengths [tokens]."""
        return _rounded_mean(*self._prompt), _rounded_mean(*self._output)


def _parameters(mean: float, cv: float) -> tuple[float, float]:
    """Return location and scale of the underlying normal distribution."""
    variance = math.log1p(cv * cv)
    return math.log(mean) - variance / 2, math.sqrt(variance)


def _whole(lengths: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tokens:
    return np.maximum(np.rint(lengths), 1).astype(np.int64)


def _rounded_mean(location: float, scale: float) -> float:
    """Return E[max(1, round(X))] = E[X] + P(X < 1/2), neglecting the effect of rounding on the mean."""
    mean = math.exp(location + scale * scale / 2)
    if scale == 0:
        return float(max(round(mean), 1))
    return mean + 0.5 * math.erfc((location - math.log(0.5)) / (scale * math.sqrt(2)))


def _in_range(**lengths: float) -> None:
    for name, value in lengths.items():
        if not 1 <= value <= MOST_TOKENS:
            raise ValueError(f"{name} must be 1 to {MOST_TOKENS:.0e} tokens, got {value:.6g}")
