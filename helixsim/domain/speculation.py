"""Speculative decoding: how many tokens a step yields when draft tokens are verified in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Speculation:
    """A step proposes ``k`` draft tokens for each sequence and verifies them together with its own next token.

    Draft tokens are accepted up to the first that is rejected, whose place the model's own token takes: a step yields
    one token more than it accepts.

    Parameters
    ----------
    rates
        ``rates[i]`` is the probability that a step accepts more than ``i`` draft tokens, in 0..1 and not increasing:
        the per-position acceptance rates that vLLM logs. ``k`` is their number.
    draft_cost
        Time to make one draft token for all sequences of a step, as a share of the time of their decode step.
    is_mtp
        Draft tokens are made one after the other by a module of the model (multi-token prediction): a layer like its
        last one with weights and keys and values of its own, and the output head. ``draft_cost`` comes on top.
    overhead_ns
        What the host does between verifying and drafting while the GPU waits, with ``is_mtp``, in each step [ns].
    """

    rates: tuple[float, ...]
    draft_cost: float = 0.0
    is_mtp: bool = False
    overhead_ns: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= rate <= 1 for rate in self.rates):
            raise ValueError("acceptance rates must be between 0 and 1")
        if any(later > earlier for earlier, later in pairwise(self.rates)):
            raise ValueError("acceptance rates must not increase from one position to the next")

    @classmethod
    def of_rate(cls, k: int, rate: float, draft_cost: float = 0.0) -> Speculation:
        """Return the speculation where each draft token is accepted with ``rate`` if all before it are."""
        return cls(tuple(rate**position for position in range(1, k + 1)), draft_cost)

    @classmethod
    def of_counts(cls, shares: tuple[float, ...], draft_cost: float = 0.0) -> Speculation:
        """Return the speculation where a share ``shares[n]`` of the steps accepts exactly ``n`` draft tokens.

        Raises
        ------
        ValueError
            If the shares do not add up to 1.
        """
        if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
            raise ValueError(f"shares of the numbers of accepted tokens must add up to 1, got {sum(shares):.6g}")
        more = [sum(shares[position:]) / sum(shares) for position in range(1, len(shares))]
        return cls(tuple(min(1.0, rate) for rate in more), draft_cost)

    @property
    def k(self) -> int:
        """Draft tokens of a step and sequence."""
        return len(self.rates)

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a step and sequence: the mean acceptance length, 1 to ``k + 1``."""
        return 1 + sum(self.rates)

    def step_tokens(self, tokens: int, seed: int, request: int, done: int = 0) -> NDArray[np.int64]:
        """Return the tokens of each step until a sequence has ``tokens`` more; the last step is cut at the end.

        What a step accepts depends on ``seed``, ``request`` and the number of tokens in front of it alone (``done``,
        in front of the first one): it is the same on every system, whatever batches the request is computed in, and
        after a preemption.
        """
        draws = np.random.default_rng(np.random.SeedSequence([seed, request])).random(done + tokens)[done:]
        drawn = np.ones(len(draws), dtype=np.int64)
        for rate in self.rates:
            drawn += draws < rate
        yields, steps, at = drawn.tolist(), [], 0
        while at < tokens:
            taken = yields[at]
            steps.append(taken)
            at += taken
        if steps:
            steps[-1] -= at - tokens
        return np.array(steps, dtype=np.int64)
