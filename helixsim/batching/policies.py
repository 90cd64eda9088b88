"""The batching policies that come with helixsim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from helixsim.domain.hardware import BatchLimits
from helixsim.plugins import NoOptions


def prefills_that_fit(prefill_tokens: Sequence[int], limits: BatchLimits) -> int:
    """Return how many prefills fit the limits, oldest first, at least one if any waits."""
    count = total = 0
    for tokens in prefill_tokens:
        total += tokens
        if count and (count == limits.max_prefill_requests or total > limits.max_prefill_tokens):
            break
        count += 1
    return count


class Continuous:
    """Prefills and decode steps share each batch (the paper's execution policy).

    A replica of an engine that schedules itself mixes chunks of prompts with decodes in each step (docs/engine.md).
    """

    scheduler: ClassVar[str] = "mixed"
    summary: ClassVar[str] = "prefills and decode steps share a batch, oldest first, up to the node's limits"
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def plan(self, prefill_tokens: Sequence[int], decode_seqs: int, limits: BatchLimits) -> tuple[int, int]:
        """See ``BatchingPolicy.plan``."""
        prefills = prefills_that_fit(prefill_tokens, limits) if prefill_tokens else 0
        return prefills, min(decode_seqs, limits.max_decode_seqs)


class PrefillFirst:
    """A batch is all prefill while any prompt waits, else all decode (vLLM 0.4 without chunked prefill, SGLang)."""

    scheduler: ClassVar[str] = "prefill_first"
    summary: ClassVar[str] = "waiting prompts run first and alone, decode steps only when no prompt waits"
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def plan(self, prefill_tokens: Sequence[int], decode_seqs: int, limits: BatchLimits) -> tuple[int, int]:
        """See ``BatchingPolicy.plan``."""
        if prefill_tokens:
            return prefills_that_fit(prefill_tokens, limits), 0
        return 0, min(decode_seqs, limits.max_decode_seqs)
