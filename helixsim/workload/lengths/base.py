"""Interface of length distributions, and sampling within limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from helixsim.errors import ConfigError
from helixsim.rng import stream
from helixsim.workload.spec import LengthLimits

Tokens = NDArray[np.int64]

_CHUNK = 4096
"""Pairs per draw; the requests depend on it."""

_PROBE = 2**18
"""Size of the sample that estimates means within limits; the error is 0.2 % at a coefficient of variation of 1."""


class LengthDistribution(Protocol):
    """A joint distribution of prompt and output lengths.

    ``Options`` is a frozen dataclass; its fields become keys of ``lengths:`` in exp.yaml, checked with positions.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None: ...

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` prompt and ``n`` output lengths, all at least 1 [tokens]."""
        ...

    def mean(self) -> tuple[float, float]:
        """Return the mean prompt and output length, before any limits [tokens]."""
        ...


@dataclass(frozen=True, slots=True)
class NoOptions:
    """A distribution without parameters."""


def inside(limits: LengthLimits, prompt: Tokens, output: Tokens) -> NDArray[np.bool_]:
    """Return a mask of the pairs within the limits."""
    kept = (prompt >= limits.min_prompt_tokens) & (output >= limits.min_output_tokens)
    if limits.max_prompt_tokens is not None:
        kept &= prompt <= limits.max_prompt_tokens
    if limits.max_output_tokens is not None:
        kept &= output <= limits.max_output_tokens
    return kept


def exclusion(limits: LengthLimits, prompt_tokens: int, output_tokens: int) -> str | None:
    """Return the limit that excludes a recorded request, None if it is within all."""
    if prompt_tokens < limits.min_prompt_tokens:
        return "prompt below min_prompt_tokens"
    if limits.max_prompt_tokens is not None and prompt_tokens > limits.max_prompt_tokens:
        return "prompt above max_prompt_tokens"
    if output_tokens < limits.min_output_tokens:
        return "output below min_output_tokens"
    if limits.max_output_tokens is not None and output_tokens > limits.max_output_tokens:
        return "output above max_output_tokens"
    return None


@dataclass(frozen=True, slots=True)
class LimitedMeans:
    """Mean lengths within limits [tokens], and the share of pairs outside the limits, which are drawn again.

    ``prompt_spread`` is the mean of squared prompt lengths over the square of their mean: 1 if all are equal;
    ``output_spread`` the same of outputs, ``joint_spread`` that of the products of both.
    """

    prompt_tokens: float
    output_tokens: float
    redrawn_share: float
    prompt_spread: float = 1.0
    output_spread: float = 1.0
    joint_spread: float = 1.0


def limited_means(distribution: LengthDistribution, limits: LengthLimits) -> LimitedMeans:
    """Return means within ``limits``: exact if they exclude nothing, else from a large sample with a fixed seed.

    Raises
    ------
    ConfigError
        If the limits exclude more than 99.9 % of the pairs.
    """
    prompt, output = distribution.sample(stream(0, "lengths probe"), _PROBE)
    kept = inside(limits, prompt, output)
    count = int(kept.sum())
    if count == _PROBE:
        return LimitedMeans(*distribution.mean(), 0.0, *spreads(prompt, output))
    if count < _PROBE // 1000:
        message = (
            f"workload.limits: {limits} admit {count} of {_PROBE} drawn requests, which have prompts of "
            f"{prompt.min()} .. {prompt.max()} and outputs of {output.min()} .. {output.max()} tokens"
        )
        raise ConfigError(message)
    means = float(prompt[kept].mean()), float(output[kept].mean())
    return LimitedMeans(*means, 1 - count / _PROBE, *spreads(prompt[kept], output[kept]))


def spreads(prompt: Tokens, output: Tokens) -> tuple[float, float, float]:
    """Return the mean of squared prompt lengths over the square of their mean, of outputs, and of the products."""
    lengths = prompt.astype(np.float64), output.astype(np.float64)
    first, second = (one.mean() for one in lengths)
    products = (lengths[0] ** 2).mean(), (lengths[1] ** 2).mean(), (lengths[0] * lengths[1]).mean()
    return float(products[0] / first**2), float(products[1] / second**2), float(products[2] / first / second)


def draw(distribution: LengthDistribution, limits: LengthLimits, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield (prompt, output) lengths endlessly; pairs outside the limits are drawn again.

    Call ``limited_means`` first, which refuses limits that would cause an infinite loop.
    """
    while True:
        prompt, output = distribution.sample(rng, _CHUNK)
        kept = inside(limits, prompt, output)
        yield from zip(prompt[kept].tolist(), output[kept].tolist(), strict=True)
