"""KV memory of a replica as its scheduler sees it: who has which blocks, and whether there is room for a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from helixsim.engine.kv_tiers import Tier, TieredCache, TierRules
from helixsim.engine.output_reserve import OutputReserve
from helixsim.engine.prefix_cache import PrefixCache, chain_of
from helixsim.engine.rules import Rules
from helixsim.engine.sequences import Decodes, Sequence
from helixsim.engine.waiting_queue import WaitingQueue


class KvRoom:
    """The requests of a replica, waiting and running, and the KV blocks that they have or will need.

    ``prompts`` are the running sequences whose prompts are not in steps yet, ``ready`` the decoding ones that are in
    no step under way; ``loading`` those whose blocks come from the memory behind the GPUs (``kv_tiers``). ``peak``: the
    most blocks that running sequences have had.
    """

    def __init__(self, blocks: int, block_tokens: int, rules: Rules) -> None:
        self.block_tokens = block_tokens
        self.rules = rules
        self.tiers = TieredCache(blocks, block_tokens, rules.tiers) if rules.tiers else None
        self.kv: PrefixCache = self.tiers or PrefixCache(blocks, block_tokens)
        self.peak = 0
        self.max_sequences = max(1, min(rules.max_sequences, rules.budget // rules.tokens_per_decode))
        self.queue = WaitingQueue(rules)
        self.waiting = self.queue.waiting
        self.running: dict[int, Sequence] = {}
        self.prompts: deque[Sequence] = deque()
        self.loading: list[Sequence] = []
        self.ready: Decodes | None = None
        self.reserve = OutputReserve(rules.new_token_ratio)
        self._reserved = 0
        self._has_prefixes = self.tiers is not None
        self._most_reserved = int(rules.most_reserved_share * blocks)
        self._least_free = int(rules.min_free_share * blocks)

    def blocks_of(self, tokens: int) -> int:
        """Return the KV blocks that so many tokens fill."""
        return -(-tokens // self.block_tokens)

    def own_blocks(self) -> int:
        """Return the sum over its sequences of the blocks that they have for themselves, which ``kv.own`` must be."""
        own = 0
        for sequence in self.running.values():
            decodes = sequence.decodes
            tokens = sequence.computed
            if decodes is not None:
                tokens = decodes.held_tokens(sequence, decodes is not self.ready)
            own += self.blocks_of(tokens) - sequence.held
        return own

    def cached_tokens(self, sequence: Sequence) -> int:
        """Return how many tokens of a request need not be computed here."""
        hit = self._find(sequence)[0]
        return (hit + sum(self._stored(sequence, hit))) * self.block_tokens

    def _find(self, sequence: Sequence, tokens: int | None = None) -> tuple[int, int]:
        """Return the blocks of a prompt that are cached, and how many of them no running sequence holds.

        ``tokens``: of its first so many tokens, all but the last; None: of those that it has to compute.
        """
        if not self.rules.caches_prefixes:
            return 0, 0
        if sequence.chain is None:
            sequence.chain = chain_of(sequence.request, self.block_tokens)
        if sequence.request.prefix is not None:
            self._has_prefixes = True
        elif not sequence.preemptions:
            return 0, 0
        return self.kv.find(sequence.chain, sequence.target if tokens is None else tokens)

    def _stored(self, sequence: Sequence, hit: int) -> list[int]:
        """Return how many blocks behind those that are cached each tier has."""
        if self.tiers is None or sequence.chain is None:
            return []
        return self.tiers.stored(sequence.chain, sequence.target, hit)

    def kept(self) -> Iterable[tuple[TierRules, Tier]]:
        """Return the tiers, with their rules."""
        return () if self.tiers is None else zip(self.rules.tiers, self.tiers.tiers, strict=True)

    def could_admit(self, sequence: Sequence, coming: Iterable[Sequence]) -> bool:
        """Return whether a request could be admitted at once, behind those ``coming``, which are on their way here."""
        ahead = [*self.waiting, *self.queue.unread, *coming]
        if not ahead and not self.running:
            return self.blocks_of(sequence.target) <= self.kv.free_blocks
        if len(self.running) + len(ahead) >= self.max_sequences:
            return False
        promised = sum([self.blocks_of(one.target) for one in ahead]) + self._unfinished_blocks()
        if promised + self.blocks_of(sequence.target) + self._least_free > self.kv.free_blocks:
            return False
        return self._keeps(sum([self._expected_blocks(one) for one in ahead]) + self._expected_blocks(sequence))

    def _has_room(self, sequence: Sequence, grown: int, due: int) -> bool:
        """Return whether a request that needs so many blocks may be admitted, where decodes are due some."""
        least = self._least_free if self.running else 0
        if grown + least + due > self.kv.free_blocks:
            return False
        return not self.running or self._keeps(self._expected_blocks(sequence), due)

    def _keeps(self, expected: int, due: int = 0) -> bool:
        """Return whether so many blocks for others leave those that running sequences are expected to need.

        ``due``: blocks that the decodes of the step being formed will take.
        """
        if self.rules.new_token_ratio is None:
            return self._reserved + expected <= self._most_reserved
        share, used = self.reserve.share, self.kv.used_blocks + due
        return used + share * max(self._reserved - used, 0) + expected <= self._most_reserved

    def _expected_blocks(self, sequence: Sequence) -> int:
        """Return the blocks that admission keeps for a sequence."""
        if (expected := self.rules.expected_output_tokens) is None:
            return 0
        return self.blocks_of(max(sequence.prompt_tokens + expected, sequence.context_tokens + 1))

    def _unfinished_blocks(self) -> int:
        """Return the blocks that the prompts of running sequences still need."""
        unfinished = [*self.prompts, *self.loading] if self.loading else self.prompts
        return sum([self.blocks_of(one.target) - self.blocks_of(one.computed) for one in unfinished])

    def _make_room(self, blocks: int) -> None:
        """Evict what the blocks of decodes, which are taken when the step is formed, leave no room for.

        Decodes go first: prompts of the same step find in the cache what these leave.
        """
        if blocks and self._has_prefixes:
            self.kv.make_room(blocks)

    def take_blocks(self, blocks: int) -> None:
        """Take blocks that sequences are due."""
        if blocks:
            self.kv.take(blocks)
            self.peak = max(self.peak, self.kv.used_blocks)
