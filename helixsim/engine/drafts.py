"""Sequences that decode with draft tokens: each gets one or several tokens a step (speculative decoding)."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from helixsim.domain.speculation import Speculation
from helixsim.engine.sequences import Decodes, Sequence


class DraftedDecodes(Decodes):
    """Sequences of a replica that take part in the same steps.

    What each step will give a sequence is drawn when it joins (``Speculation.step_tokens``), so the tokens and the
    blocks of the steps to come are sums known beforehand. Blocks are counted for accepted tokens alone, not for
    rejected drafts.
    """

    is_even = False

    __slots__ = ("_blocks", "_seed", "_speculation", "_tokens")

    def __init__(self, block_tokens: int, speculation: Speculation, seed: int) -> None:
        super().__init__(block_tokens)
        self._speculation = speculation
        self._seed = seed
        self._tokens: dict[int, int] = {}
        self._blocks: dict[int, int] = {}

    def _enter(self, sequence: Sequence) -> int:
        left = sequence.output_tokens - sequence.generated
        steps = self._speculation.step_tokens(left, self._seed, sequence.request.id, sequence.generated)
        sequence.yields = list(accumulate(steps.tolist()))
        self._plan(sequence, 0, 1)
        return len(sequence.yields)

    def _exit(self, sequence: Sequence) -> None:
        self._plan(sequence, _steps_taken(sequence), -1)

    def _plan(self, sequence: Sequence, done: int, sign: int) -> None:
        """Add the steps of a sequence behind the ``done`` that it has taken to those of the group, or take them off."""
        size, tokens = self.block_tokens, self._tokens
        had = sequence.yields[done - 1] if done else 0
        start = sequence.context_tokens - had
        for number in range(done, len(sequence.yields)):
            has = sequence.yields[number]
            step = self.step - done + number
            tokens[step] = tokens.get(step, 0) + sign * (has - had)
            blocks = -(-(start + has - 1) // size) + (-(start + had - 1) // size)
            if blocks:
                self._blocks[step] = self._blocks.get(step, 0) + sign * blocks
            had = has

    def take_steps(self, steps: int) -> int:
        """See ``Decodes.take_steps``."""
        gained = 0
        for step in range(self.step, self.step + steps):
            gained += self._tokens.pop(step, 0)
            self._blocks.pop(step, None)
        self.step += steps
        self.context += gained
        return gained

    def blocks_due(self, first: int, steps: int) -> int:
        """See ``Decodes.blocks_due``."""
        at = self.step + first
        return sum([self._blocks.get(step, 0) for step in range(at, at + steps)])

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
