"""Prompts of attention ranks that wait for each other (TensorRT-LLM: ``attention_dp_config``)."""

from __future__ import annotations

from helixsim.domain.engine import AttentionBalance
from helixsim.engine.sequences import Sequence


class RankBalance:
    """Whether a step may admit requests: each rank has one that waits, or a limit of steps is reached.

    A request belongs to a rank from its arrival: the one with the fewest. ``is_open`` is the answer for the step that
    is being formed.

    Parameters
    ----------
    ranks
        Number of attention ranks.
    rule
        The limits, in steps.

    Notes
    -----
    ``_lacking`` counts steps since each rank had a waiting request, or since the limit was reached, whether any
    request waits or not, as TensorRT-LLM does; ``_gathering`` steps since each rank has one.
    """

    def __init__(self, ranks: int, rule: AttentionBalance) -> None:
        self.is_open = True
        self._rule = rule
        self._present = [0] * ranks
        self._waiting = [0] * ranks
        self._lacking = self._gathering = 0
        self._next = 0, 0
        self._is_complete = self._is_idle = False  # of the step formed last, and of those that repeat it

    def receive(self, sequence: Sequence) -> None:
        """Give a request that has come to the rank with the fewest."""
        sequence.rank = self._present.index(min(self._present))
        self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        """Let a request of a rank wait, for the first time or after a preemption."""
        self._present[sequence.rank] += 1
        self._waiting[sequence.rank] += 1

    def admit(self, sequence: Sequence) -> None:
        """Take note that a request is admitted."""
        self._waiting[sequence.rank] -= 1

    def leave(self, sequence: Sequence) -> None:
        """Take note that an admitted request leaves."""
        self._present[sequence.rank] -= 1

    def look(self) -> None:
        """Decide for the step to be formed."""
        self._note()
        lacking, gathering = self._lacking, self._gathering
        if self._is_complete:
            lacking = 0
            self.is_open = self._is_idle or gathering >= self._rule.batching_wait_iters
            if not self._is_idle:
                gathering = 0 if self.is_open else gathering + 1
        else:
            lacking += 1
            self.is_open = self._is_idle or lacking >= self._rule.timeout_iters
            if self.is_open:
                lacking = 0
        self._next = lacking, gathering

    def count_step(self) -> None:
        """Take note that a step was formed."""
        self._lacking, self._gathering = self._next
        self._note()

    def repeat_decodes(self, steps: int) -> None:
        """Take note that the decodes of the last step were computed so many times more, at least once."""
        if self._is_complete or self._is_idle:
            self._lacking = 0
            self._gathering += 0 if self._is_idle else steps
        else:
            self._lacking = (self._lacking + steps) % self._rule.timeout_iters

    @property
    def steps_until_open(self) -> int | None:
        """Decode steps, the one formed last included, until requests may be admitted; None: none waits."""
        if not any(self._waiting):
            return None
        if self._is_idle:
            return 1
        if self._is_complete:
            return 1 + max(self._rule.batching_wait_iters - self._gathering, 0)
        return max(self._rule.timeout_iters - self._lacking, 1)

    def _note(self) -> None:
        self._is_complete = all(self._waiting)
        self._is_idle = any(here == waiting for here, waiting in zip(self._present, self._waiting, strict=True))
