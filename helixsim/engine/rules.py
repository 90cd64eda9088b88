"""What the scheduler of a replica is given, and what it returns: the rules of its engine, and the plan of a step."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.domain.engine import AttentionBalance, NewTokenRatio
from helixsim.domain.speculation import Speculation
from helixsim.domain.step_time import BatchShape
from helixsim.engine.kv_tiers import TierRules
from helixsim.engine.sequences import Decodes, Sequence


@dataclass(frozen=True, slots=True)
class Rules:
    """How a scheduler forms steps.

    Parameters
    ----------
    budget
        Tokens of a step (vLLM: ``max_num_batched_tokens``).
    max_sequences
        Sequences that run at once.
    longest_chunk
        Prompt tokens of one sequence in a step; None: the budget (vLLM: ``long_prefill_token_threshold``).
    is_chunked
        Prompts are cut where the budget ends; otherwise each is computed as a whole.
    is_mixed
        Prompts and decodes share steps; otherwise decodes pause while there are prompts to compute.
    by_priority
        Requests of a lower ``priority`` number are admitted first and preempted last.
    expected_output_tokens
        Admission keeps blocks for prompts and so many tokens of output of all running sequences; None: for none.
    new_token_ratio
        Share of what running sequences are still expected to need that is kept when another one is admitted; None: all.
    most_reserved_share
        What admission keeps is at most this share of the blocks, 0..1.
    min_free_share
        Share of the blocks that must stay free when a request is admitted beside others, 0..1.
    caches_prefixes
        Blocks are kept and shared by requests that begin alike.
    receive_interval
        Decode steps after which the scheduler looks for new requests; it also does behind prompts, and when idle.
    tiers
        Memory behind the KV cache that evicted blocks go to; none without ``caches_prefixes``.
    ranks, balance
        Attention ranks, and how their prompts wait for each other; None: they do not.
    speculation, seed
        Draft tokens that decoding sequences verify in each step, None: none; and the seed of how many are accepted.
    """

    budget: int
    max_sequences: int
    longest_chunk: int | None = None
    is_chunked: bool = True
    is_mixed: bool = True
    by_priority: bool = False
    expected_output_tokens: int | None = None
    new_token_ratio: NewTokenRatio | None = None
    most_reserved_share: float = 1.0
    min_free_share: float = 0.0
    caches_prefixes: bool = False
    tiers: tuple[TierRules, ...] = ()
    receive_interval: int = 1
    ranks: int = 1
    balance: AttentionBalance | None = None
    speculation: Speculation | None = None
    seed: int = 0

    @property
    def tokens_per_decode(self) -> int:
        """Tokens of the budget that a decoding sequence takes: its last one and the draft tokens behind it."""
        return 1 if self.speculation is None else 1 + self.speculation.k


@dataclass(slots=True)
class Plan:
    """What a step computes.

    ``chunks`` are prompts with the tokens of each in this step, ``ending`` those of them that get a token. ``tokens``:
    of prompts and decoding sequences, drafts included.
    """

    decodes: Decodes
    chunks: list[tuple[Sequence, int]]
    ending: list[Sequence]
    shape: BatchShape
    tokens: int
