"""What a batching policy sees and decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from helixsim.domain.hardware import BatchLimits


class BatchItem(Protocol):
    """One request's work on the node: all its prompt tokens, or one token of a decode step."""

    tokens: int
    is_prefill: bool


Item = TypeVar("Item", bound=BatchItem)


class BatchingPolicy(Protocol):
    """Forms the next batch of a node.

    ``Options`` is a frozen dataclass; its fields become keys of ``batching:`` in exp.yaml, checked with positions.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def plan(self, queue: Sequence[Item], limits: BatchLimits) -> tuple[list[Item], list[Item]]:
        """Split the queue, oldest first, into (batch, rest), both in queue order.

        The batch is not empty if the queue is not, and keeps the limits, except that a single prompt longer than
        ``max_prefill_tokens`` may form the only prefill of its batch.
        """
        ...
