"""Sequences that decode with draft tokens: each gets one or several tokens a step (speculative decoding)."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from helixsim.domain.speculation import Speculation
from helixsim.engine.sequences import Decodes, Sequence

_LEAST_STEPS = 256
"""Steps ahead of which sums are kept at the least."""


class DraftedDecodes(Decodes):
    """Sequences of a replica that take part in the same steps.

    What each step will give a sequence is drawn when it joins (``Speculation.step_tokens``), so the tokens and the
    blocks of the steps to come are sums known beforehand. Blocks are counted for accepted tokens alone, not for
    rejected drafts.
    """

    is_even = False

    __slots__ = ("_base", "_blocks", "_seed", "_speculation", "_tokens")

    def __init__(self, block_tokens: int, speculation: Speculation, seed: int) -> None:
        super().__init__(block_tokens)
        self._speculation = speculation
        self._seed = seed
        self._base = 0  # step of the group of which the first entry of the sums tells
        self._tokens = np.zeros(_LEAST_STEPS, dtype=np.int64)
        self._blocks = np.zeros(_LEAST_STEPS, dtype=np.int64)

    def _enter(self, sequence: Sequence) -> int:
        left = sequence.output_tokens - sequence.generated
        if not sequence.yields or sequence.yields[-1] != left:  # else it comes from another group, as it was there
            steps = self._speculation.step_tokens(left, self._seed, sequence.request.id, sequence.generated)
            sequence.yields = list(accumulate(steps.tolist()))
        self._plan(sequence, 0, 1)
        return len(sequence.yields)

    def _exit(self, sequence: Sequence) -> None:
        self._plan(sequence, _steps_taken(sequence), -1)

    def _plan(self, sequence: Sequence, done: int, sign: int) -> None:
        """Add the steps of a sequence behind the ``done`` that it has taken to those of the group, or take them off."""
        if done == len(sequence.yields):
            return
        had = sequence.yields[done - 1] if done else 0
        tokens = np.array([had, *sequence.yields[done:]], dtype=np.int64)
        blocks = -((1 - sequence.context_tokens + had - tokens) // self.block_tokens)
        first = self._first(len(tokens) - 1)
        steps = slice(first, first + len(tokens) - 1)
        self._tokens[steps] += sign * np.diff(tokens)
        self._blocks[steps] += sign * np.diff(blocks)

    def _first(self, steps: int) -> int:
        """Return the entry of the next step in the sums, which then hold so many steps from there on."""
        first = self.step - self._base
        if first + steps > len(self._tokens):
            size = max(2 * steps, _LEAST_STEPS)
            for name in ("_tokens", "_blocks"):
                left = getattr(self, name)[first:]
                setattr(self, name, np.concatenate([left, np.zeros(max(0, size - len(left)), dtype=np.int64)]))
            self._base, first = self.step, 0
        return first

    def take_steps(self, steps: int) -> int:
        """See ``Decodes.take_steps``."""
        first = self.step - self._base
        gained = int(self._tokens[first : first + steps].sum())
        self.step += steps
        self.context += gained
        return gained

    def blocks_due(self, first: int, steps: int) -> int:
        """See ``Decodes.blocks_due``."""
        at = self.step - self._base + first
        return int(self._blocks[at : at + steps].sum())

    def tell(self, sequence: Sequence) -> None:
        """See ``Decodes.tell``."""
        taken = self.step - sequence.joined_step
        if taken:
            before = _steps_taken(sequence)
            had = sequence.yields[before - 1] if before else 0
            sequence.generated += sequence.yields[before + taken - 1] - had
            sequence.joined_step = self.step

    def held_tokens(self, sequence: Sequence, is_in_step: bool) -> int:
        """See ``Decodes.held_tokens``."""
        self.tell(sequence)
        held = sequence.context_tokens - 1
        if not is_in_step:
            return held
        taken = _steps_taken(sequence)
        return held + sequence.yields[taken] - (sequence.yields[taken - 1] if taken else 0)


def _steps_taken(sequence: Sequence) -> int:
    """Return how many of its steps a sequence has taken, as of the last time its group told it."""
    left = sequence.output_tokens - sequence.generated
    return bisect_right(sequence.yields, sequence.yields[-1] - left)
