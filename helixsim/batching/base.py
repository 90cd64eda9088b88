"""What a batching policy sees and decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from helixsim.domain.hardware import BatchLimits


class BatchingPolicy(Protocol):
    """Decides how much of a node's queue forms its next batch.

    ``Options`` is a frozen dataclass; its fields become keys of ``batching:`` in exp.yaml, checked with positions.
    A policy is built as ``Policy(options)`` and must be pure: equal arguments, equal answer.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def plan(self, prefill_tokens: Sequence[int], decode_seqs: int, limits: BatchLimits) -> tuple[int, int]:
        """Return how many prefills and how many decoding sequences to take, each from the front of its queue.

        Parameters
        ----------
        prefill_tokens
            Prompt tokens of each waiting prefill, oldest first.
        decode_seqs
            Sequences that wait for a decode step.
        limits
            What a batch may hold. A single prompt longer than ``max_prefill_tokens`` may still be the only prefill
            of its batch; otherwise it would wait for ever. Something must be taken if anything waits.
        """
        ...
