"""The scheduler of a replica: which requests run, what the next step computes, and who has which KV blocks.

The rules are those of vLLM V1, with the variants of other engines as options (docs/engine.md).
"""

from __future__ import annotations

from helixsim.domain.step_time import BatchShape, prefill_pairs
from helixsim.engine.drafts import DraftedDecodes
from helixsim.engine.kv_room import KvRoom
from helixsim.engine.rules import Plan, Rules
from helixsim.engine.sequences import Decodes, Sequence
from helixsim.engine.system import Numbered


class Scheduler(KvRoom):
    """Waiting and running requests of one replica, and its KV memory.

    ``replica`` is what requests that run have as their path. ``ready`` are the decoding
    sequences that are in no step under way; those in ``_paused`` can take no part in the one that is being formed.
    ``outgrown`` are sequences that no longer fit the replica even alone, to be rejected. ``pending_tokens``: prompt
    tokens not yet computed. ``coming`` are loads that were begun, with their ends [ns]. ``sending`` counts the
    sequences whose prompts have been computed here and whose blocks are kept until they have been sent to another
    replica (``leg_scheduler``).
    """

    def __init__(self, replica: Numbered, blocks: int, block_tokens: int, rules: Rules) -> None:
        super().__init__(blocks, block_tokens, rules)
        self.replica = replica
        self.pending_tokens = 0
        self.outgrown: list[Sequence] = []
        self.coming: list[tuple[int, Sequence]] = []
        self._paused: Decodes | None = None
        self.preemptions = 0
        self.recomputed_tokens = 0
        self._tokens_per_decode = rules.tokens_per_decode
        self._orders = 0
        self.sending = 0
        self._expected_tokens = rules.expected_output_tokens or 0

    # Queues -----------------------------------------------------------------------------------------------------------

    def receive(self, sequence: Sequence) -> bool:
        """Take a request that has come; return whether the steps under way have to be planned anew for it."""
        self.pending_tokens += sequence.target
        return self.queue.receive(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """Take a request off that waits for admission."""
        self.queue.withdraw(sequence)
        self.pending_tokens -= sequence.target

    def leave(self, sequence: Sequence, computed_tokens: int, now_ns: int) -> None:
        """Take a sequence that is in no step off the replica, with all the blocks of its computed tokens.

        What it was neither computed nor sent since its admission, it waited.
        """
        self._stop(sequence, computed_tokens, now_ns)
        self._give(sequence, computed_tokens)

    def _stop(self, sequence: Sequence, computed_tokens: int, now_ns: int) -> None:
        del self.running[sequence.order]
        self.queue.leave(sequence)
        self._reserved -= sequence.reserved_blocks
        sequence.queue_ns += now_ns - sequence.since_ns - sequence.compute_ns - sequence.network_ns
        sequence.since_ns = now_ns
        if sequence.chain is not None and (self._has_prefixes or sequence.held):
            sequence.held = self.kv.publish(sequence.chain, sequence.held, computed_tokens)

    def _give(self, sequence: Sequence, computed_tokens: int) -> None:
        self.kv.give(self.blocks_of(computed_tokens) - sequence.held)
        if sequence.chain is not None and sequence.held:
            self.kv.release(sequence.chain, sequence.held)
            sequence.held = 0

    def _admit(self, sequence: Sequence, now_ns: int) -> None:
        sequence.queue_ns += now_ns - sequence.since_ns + sequence.compute_ns + sequence.network_ns
        sequence.since_ns = now_ns
        sequence.order = self._orders
        sequence.path = self.replica
        if sequence.admitted_ns < 0:
            sequence.admitted_ns = now_ns
        self._orders += 1
        self.running[sequence.order] = sequence
        sequence.reserved_blocks = self._expected_blocks(sequence)
        self._reserved += sequence.reserved_blocks
        self.prompts.append(sequence)

    def _rank(self, sequence: Sequence) -> tuple[int, int]:
        """Return what orders running sequences: the last one is preempted first."""
        return (sequence.request.priority if self.rules.by_priority else 0), sequence.order

    def _is_last(self, sequence: Sequence) -> bool:
        return self._rank(sequence) == max(map(self._rank, self.running.values()))

    def _victim(self, needy: Sequence | None) -> Sequence | None:
        """Return the last running sequence that is in no step; None if it would come before ``needy``."""
        found = None
        for sequence in reversed(self.running.values()):
            if sequence.in_flight or sequence.decodes not in (None, self.ready, self._paused):
                continue
            if found is None or sequence.request.priority > found.request.priority:
                found = sequence
            if not self.rules.by_priority:
                break
        return found if found is None or needy is None or self._rank(found) >= self._rank(needy) else None

    def detach(self, sequence: Sequence, now_ns: int) -> int:
        """Take a running sequence that is in no step off its prompts or decodes; return its tokens in KV memory."""
        if sequence.decodes is not None:
            sequence.decodes.leave(sequence)
            return sequence.context_tokens - 1
        self.prompts.remove(sequence)
        self.pending_tokens -= sequence.target - sequence.computed
        sequence.compute_ns += now_ns - sequence.since_ns
        return sequence.computed

    def _preempt(self, found: Sequence, now_ns: int) -> None:
        """Take a sequence that is in no step off; it will compute its prompt and its tokens anew."""
        computed = self.detach(found, now_ns)
        if found.chain is not None:  # it finds what is left of its blocks when it is admitted again
            self._has_prefixes = True  # what others leave from now on is evicted after it
            found.held = self.kv.publish(found.chain, found.held, computed)
        self.leave(found, computed, now_ns)
        found.path = None
        found.computed, found.target, found.lost_tokens = 0, found.context_tokens, computed
        if not self.running and not self.sending:  # it has all the memory that there is
            self.outgrown.append(found)
        else:
            found.preemptions += 1
            self.preemptions += 1
            self.pending_tokens += found.target
            self.queue.put_back(found)

    # Forming a step ---------------------------------------------------------------------------------------------------

    def form(self, now_ns: int) -> Plan | None:
        """Choose what the next step computes and take the blocks for it; None: there is nothing to compute."""
        self.queue.look(is_idle=not self.running)
        decodes = self.ready
        if decodes is not None and decodes.count and not self.prompts and not self.waiting:
            due = decodes.blocks_due(0, 1)
            if due <= self.kv.free_blocks:
                self.reserve.decode(1)
                return self._plan(decodes, [], 0.0, due)
        plan = self._form(now_ns)
        if self._paused is not None:
            self.ready = self._paused if self._paused.count else self.ready
            self._paused = None
        if plan is None and not self.running and not self.waiting:
            self.reserve.reset()
        return plan

    def _form(self, now_ns: int) -> Plan | None:
        rules, before = self.rules, self.preemptions
        if not rules.is_mixed:
            plan = self._with_chunks(None, rules.budget, before, now_ns)
            if plan is not None:
                return plan
        decodes, has_retracted = self.ready, False
        while decodes is not None and (lacking := decodes.blocks_due(0, 1) - self.kv.free_blocks) > 0:
            victim = self._victim(None)
            assert victim is not None
            if lacking <= self._blocks_of_step(victim) and not self._is_last(victim):
                self._pause(victim)
            else:
                has_retracted = True
                self._preempt(victim, now_ns)
        if decodes is not None and not decodes.count:
            decodes = self.ready = None
        if has_retracted and decodes is not None:
            self.reserve.retract(decodes.generated(), decodes.count, decodes.count * self._expected_tokens)
        if not rules.is_mixed:
            plan = None if decodes is None else self._plan(decodes, [], 0.0, decodes.blocks_due(0, 1))
        else:
            budget = rules.budget - (decodes.count * self._tokens_per_decode if decodes else 0)
            plan = self._with_chunks(decodes, budget, before, now_ns)
        if plan is not None and not plan.chunks and not has_retracted:
            self.reserve.decode(1)
        return plan

    def _blocks_of_step(self, sequence: Sequence) -> int:
        """Return the blocks that a running sequence needs for its next token."""
        decodes = sequence.decodes
        if decodes is None or decodes is not self.ready:
            return 0
        after, before = decodes.held_tokens(sequence, True), decodes.held_tokens(sequence, False)
        return self.blocks_of(after) - self.blocks_of(before)

    def _pause(self, sequence: Sequence) -> None:
        """Let a decoding sequence take part in no step until one of those behind it can be preempted for it."""
        assert sequence.decodes is not None
        sequence.decodes.leave(sequence)
        if self._paused is None:
            self._paused = self._group()
        self._paused.join(sequence, sequence.last_token_ns)

    def _group(self) -> Decodes:
        speculation = self.rules.speculation
        if speculation is None:
            return Decodes(self.block_tokens)
        return DraftedDecodes(self.block_tokens, speculation, self.rules.seed)

    def _with_chunks(self, decodes: Decodes | None, budget: int, preemptions: int, now_ns: int) -> Plan | None:
        """Return a step of these decodes and of as many prompt tokens as budget and memory have room for."""
        chunks: list[tuple[Sequence, int]] = []
        pairs, due = 0.0, decodes.blocks_due(0, 1) if decodes is not None else 0
        self._make_room(due)
        for sequence in list(self.prompts):
            count = self._chunk(sequence.target - sequence.computed, budget, is_alone=False)
            if not count or sequence.path is None:
                continue
            grown = self.blocks_of(sequence.computed + count) - self.blocks_of(sequence.computed)
            decoding = decodes.count if decodes is not None else 0
            while sequence.path is not None and grown + due > self.kv.free_blocks:
                victim = self._victim(sequence)
                if victim is None or (victim is sequence and not self._is_last(sequence)):
                    break
                self._preempt(victim, now_ns)
                due = decodes.blocks_due(0, 1) if decodes is not None else 0
            budget += (decoding - (decodes.count if decodes is not None else 0)) * self._tokens_per_decode
            if sequence.path is not None and grown + due <= self.kv.free_blocks:
                pairs += self._take_chunk(sequence, count, chunks, due)
                budget -= count
        while self.waiting and self.queue.is_open and budget > 0 and len(self.running) < self.max_sequences:
            if self.preemptions != preemptions and self.running:
                break
            sequence = self.waiting[0]
            if sequence.transfer is not None:
                if not sequence.transfer.reserve(due, now_ns):
                    break
                continue
            hit, idle = self._find(sequence)
            if self.tiers is not None and any(stored := self._stored(sequence, hit)):
                if not self._load(sequence, hit, idle, stored, due, now_ns):
                    break
                continue
            computed = hit * self.block_tokens
            count = self._chunk(sequence.target - computed, budget, is_alone=not chunks and decodes is None)
            # Where decodes pause for prompts, one without memory to go on would hold them up for ever.
            tokens = computed + count if self.rules.is_mixed else sequence.target
            unfinished = 0 if self.rules.is_mixed else self._unfinished_blocks()
            if not count or not self._has_room(sequence, self.blocks_of(tokens) - hit + idle + unfinished, due):
                break
            self.queue.take()
            self._admit(sequence, now_ns)
            if hit and sequence.chain is not None:
                sequence.held = self.kv.acquire(sequence.chain, sequence.target)
                sequence.computed = computed
                self.pending_tokens -= computed
            if sequence.preemptions:
                self.recomputed_tokens += max(0, sequence.lost_tokens - computed)
            else:
                sequence.cached_tokens = computed
            pairs += self._take_chunk(sequence, count, chunks, due)
            budget -= count
        if decodes is not None and not decodes.count:
            decodes = self.ready = None
        return None if decodes is None and not chunks else self._plan(decodes, chunks, pairs, due)

    def _load(self, sequence: Sequence, hit: int, idle: int, stored: list[int], due: int, now_ns: int) -> bool:
        """Admit the first waiting request, whose next blocks are on tiers; False: there is no memory for it."""
        assert self.tiers is not None
        assert sequence.chain is not None
        blocks = sum(stored)
        tokens = (hit + blocks) * self.block_tokens
        needed = self.blocks_of(tokens if self.rules.is_mixed else sequence.target) - hit + idle
        if not self._has_room(sequence, needed + (0 if self.rules.is_mixed else self._unfinished_blocks()), due):
            return False
        self.queue.take()
        self._admit(sequence, now_ns)
        self.loading.append(self.prompts.pop())
        sequence.held = self.kv.acquire(sequence.chain, sequence.target)
        self.take_blocks(blocks)
        self._make_room(due)
        sequence.computed = tokens
        sequence.in_flight += 1  # it cannot be preempted before they are here
        self.pending_tokens -= tokens
        loaded = sequence.loaded = sequence.loaded or {"load_ns": 0}
        if sequence.preemptions:
            self.recomputed_tokens += max(0, sequence.lost_tokens - tokens)
        else:
            sequence.cached_tokens = tokens
            for rule, count in zip(self.rules.tiers, stored, strict=True):
                loaded[f"{rule.name}_tokens"] = count * self.block_tokens
        self.coming.append((self.tiers.load(stored, now_ns), sequence))
        return True

    def take_in(self, sequence: Sequence, now_ns: int) -> None:
        """Let a prompt go on whose blocks have come from the tiers; from now on others share them."""
        assert sequence.chain is not None
        assert sequence.loaded is not None
        sequence.held = self.kv.publish(sequence.chain, sequence.held, sequence.computed)
        sequence.in_flight -= 1
        sequence.loaded["load_ns"] += now_ns - sequence.since_ns
        sequence.since_ns = now_ns
        self._go_on(sequence)

    def _go_on(self, sequence: Sequence) -> None:
        """Let the rest of a prompt be computed whose beginning has come, in the order of admission."""
        self.loading.remove(sequence)
        behind = [self.prompts.pop() for one in list(self.prompts) if one.order > sequence.order]
        self.prompts.append(sequence)
        self.prompts.extend(reversed(behind))

    def _chunk(self, left: int, budget: int, is_alone: bool) -> int:
        """Return how many of the tokens that a prompt has left the step may compute."""
        if not self.rules.is_chunked:
            return left if left <= budget or is_alone else 0
        longest = self.rules.longest_chunk
        return min(left, budget, left if longest is None else longest)

    def _take_chunk(self, sequence: Sequence, count: int, chunks: list[tuple[Sequence, int]], due: int) -> float:
        """Add the next chunk of a prompt to a step whose decodes are due so many blocks; return its pairs."""
        pairs = prefill_pairs(count, sequence.computed)
        before = self.blocks_of(sequence.computed)
        sequence.computed += count
        self.pending_tokens -= count
        self.kv.take(self.blocks_of(sequence.computed) - before)
        self._make_room(due)
        if sequence.chain is not None and sequence.request.prefix is not None:
            sequence.held = self.kv.publish(sequence.chain, sequence.held, sequence.computed)
        sequence.in_flight += 1
        chunks.append((sequence, count))
        if sequence.computed == sequence.target:
            self.prompts.remove(sequence)
        return pairs

    def repeat(self, decodes: Decodes, first: int, steps: int) -> None:
        """Take note that so many steps like the one formed have begun, from the ``first``-th after those taken."""
        self.take_blocks(decodes.blocks_due(first, steps))
        self.reserve.decode(steps)

    def _plan(self, decodes: Decodes | None, chunks: list[tuple[Sequence, int]], pairs: float, due: int) -> Plan:
        """Return a step of these decodes, which are due some blocks, and of chunks, which have theirs."""
        if decodes is None:
            decodes = self._group()
        else:
            self.ready = None
        self.queue.count_step(has_prompts=bool(chunks))
        count, tokens = decodes.count, 0
        ending: list[Sequence] = []
        for sequence, chunk in chunks:
            tokens += chunk
            if sequence.computed == sequence.target:
                ending.append(sequence)
        self.take_blocks(due)
        if chunks:
            self.peak = max(self.peak, self.kv.used_blocks)
        shape = BatchShape(tokens, pairs, len(chunks), count, decodes.context, count + len(ending))
        return Plan(decodes, chunks, ending, shape, tokens + count * self._tokens_per_decode)
