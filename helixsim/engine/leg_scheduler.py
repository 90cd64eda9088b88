"""The scheduler of a replica that serves one of the two legs of some requests: prefill here, decode there.

On the decode side a request waits until there is memory for its whole prompt; what comes is reserved before anything is
sent. It decodes when the prompt has come, or goes on as a prompt where only its beginning has. On the prefill side the
blocks of a computed prompt stay until they are sent.
"""

from __future__ import annotations

from helixsim.engine.rules import Rules
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Sequence
from helixsim.engine.system import Numbered


class LegScheduler(Scheduler):
    """Waiting and running requests of one replica, and its KV memory.

    ``receiving`` counts the running sequences whose prompts are on their way here. ``_sent_blocks`` are those kept for
    transfers that no other sequences use.
    """

    def __init__(self, replica: Numbered, blocks: int, block_tokens: int, rules: Rules) -> None:
        super().__init__(replica, blocks, block_tokens, rules)
        self.receiving = 0
        self._sent_blocks = 0

    def receive(self, sequence: Sequence) -> bool:
        """See ``Scheduler.receive``; what comes of a prompt from elsewhere is not to be computed."""
        if sequence.transfer is not None:
            self.pending_tokens += sequence.target - sequence.transfer.tokens
            return self.queue.receive(sequence)
        return super().receive(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """See ``Scheduler.withdraw``."""
        super().withdraw(sequence)
        if sequence.transfer is not None:
            self.pending_tokens += sequence.transfer.tokens

    def own_blocks(self) -> int:
        """See ``Scheduler.own_blocks``."""
        return super().own_blocks() + self._sent_blocks

    # The prefill side -------------------------------------------------------------------------------------------------

    def keep(self, sequence: Sequence, now_ns: int) -> None:
        """Take a sequence off whose prompt is computed, but keep its blocks until they have been sent."""
        self._stop(sequence, sequence.computed, now_ns)
        self.sending += 1
        self._sent_blocks += self.blocks_of(sequence.computed) - sequence.held

    def let_go(self, sequence: Sequence) -> None:
        """Give back the blocks of a sequence that have been sent."""
        self.sending -= 1
        self._sent_blocks -= self.blocks_of(sequence.computed) - sequence.held
        self._give(sequence, sequence.computed)

    # The decode side --------------------------------------------------------------------------------------------------

    def expect(self, sequence: Sequence, tokens: int, due: int, now_ns: int) -> bool:
        """Admit the first waiting request, of whose prompt ``tokens`` come; False: there is no memory for all of it."""
        hit, idle = self._find(sequence, tokens)
        if not self._has_room(sequence, self.blocks_of(sequence.target) - hit + idle + self._unfinished_blocks(), due):
            return False
        self.queue.take()
        self._admit(sequence, now_ns)
        self.prompts.pop()
        if tokens < sequence.target:
            self.loading.append(sequence)
        if not self.rules.caches_prefixes:
            sequence.chain = None  # it may have been found on the other side
        elif hit and sequence.chain is not None:
            sequence.held = self.kv.acquire(sequence.chain, tokens)
        self.take_blocks(self.blocks_of(tokens) - hit)
        self._make_room(due)
        sequence.computed = tokens
        sequence.in_flight = 1  # it cannot be preempted before it is here
        self.receiving += 1
        return True

    def forsake(self, sequence: Sequence) -> None:
        """Let a sequence compute what it had expected, but for what it shares with others here."""
        self._expect_nothing(sequence)
        self._go_on(sequence)

    def retract(self, sequence: Sequence, now_ns: int) -> None:
        """Take a sequence off whose prompt does not come."""
        if sequence.computed < sequence.target:
            self.loading.remove(sequence)
        self._expect_nothing(sequence)
        self.pending_tokens -= sequence.target - sequence.computed
        self.leave(sequence, sequence.computed, now_ns)
        sequence.path, sequence.computed = None, 0

    def _expect_nothing(self, sequence: Sequence) -> None:
        """Give back the memory for what a sequence had expected, but for what it shares with others here."""
        kept = sequence.held * self.block_tokens
        self.kv.give(self.blocks_of(sequence.computed) - sequence.held)
        self.pending_tokens += sequence.computed - kept
        sequence.computed = kept
        self.receiving -= 1
        sequence.in_flight = 0

    def join(self, sequence: Sequence, now_ns: int) -> None:
        """Let a sequence decode whose prompt has come, or go on with its prompt; from now on others share it."""
        if sequence.chain is not None and sequence.request.prefix is not None:
            sequence.held = self.kv.publish(sequence.chain, sequence.held, sequence.computed)
        self.receiving -= 1
        sequence.in_flight = 0
        if sequence.computed < sequence.target:
            self._go_on(sequence)
            return
        if self.ready is None:
            self.ready = self._group()
        self.ready.join(sequence, now_ns)
