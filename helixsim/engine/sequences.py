"""Requests inside a replica, and those of them that take one token a step together."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from helixsim.domain.request import Request
from helixsim.engine.prefix_cache import Chain
from helixsim.engine.system import Numbered


class Incoming(Protocol):
    """The KV cache of a prompt, or of its beginning, that comes from another replica (``kv_transfer.Transfer``).

    ``tokens``: how many of the prompt's tokens come.
    """

    tokens: int

    def reserve(self, due: int, now_ns: int) -> bool:
        """Reserve its memory and start it; False: the memory is not there, as decodes are due so many blocks."""
        ...


class Sequence:
    """A request from arrival to end in a system of replicas.

    ``computed``: tokens whose keys and values are in KV memory, while it is a prompt; ``target``: tokens to compute
    before its next token, those generated before a preemption included. ``decodes``: the group it decodes with, None
    before its first token. ``since_ns``: when the present part of its life (waiting, or running) began. ``path``: its
    replica from its admission to its end or preemption. ``in_flight``: chunks of it in steps under way. ``held``:
    blocks of its ``chain`` in the prefix cache that it refers to. ``rank``: its attention rank, -1 where none counts.
    ``cached_tokens``: those it found there when it was first admitted. ``lost_tokens``: those computed before its last
    preemption. ``yields``: tokens it will have after each step with draft tokens, since it joined its group.
    ``transfer`` brings the KV of its prompt, None: it is computed where it decodes.
    """

    transfer: Incoming | None = None

    __slots__ = (
        "admitted_ns",
        "arrival_ns",
        "cached_tokens",
        "chain",
        "compute_ns",
        "computed",
        "decodes",
        "ends_step",
        "first_token_ns",
        "generated",
        "held",
        "in_flight",
        "joined_step",
        "last_token_ns",
        "loaded",
        "lost_tokens",
        "network_ns",
        "order",
        "output_tokens",
        "path",
        "preemptions",
        "prompt_tokens",
        "queue_ns",
        "rank",
        "request",
        "reserved_blocks",
        "row",
        "since_ns",
        "target",
        "yields",
    )

    def __init__(self, request: Request, arrival_ns: int, row: int, output_tokens: int) -> None:
        self.request = request
        self.row = row
        self.arrival_ns = self.since_ns = arrival_ns
        self.prompt_tokens = self.target = request.prompt_tokens
        self.output_tokens = output_tokens
        self.computed = self.generated = self.preemptions = self.in_flight = self.reserved_blocks = 0
        self.admitted_ns = self.first_token_ns = self.last_token_ns = self.order = self.rank = -1
        self.queue_ns = self.compute_ns = self.network_ns = 0
        self.joined_step = self.ends_step = 0
        self.held = self.cached_tokens = self.lost_tokens = 0
        self.chain: Chain | None = None
        self.loaded: dict[str, int] | None = None
        self.yields: list[int] = []
        self.decodes: Decodes | None = None
        self.path: Numbered | None = None

    @property
    def context_tokens(self) -> int:
        """Prompt and all tokens generated so far, as of the last time its group told it."""
        return self.prompt_tokens + self.generated


class Decodes:
    """Sequences of a replica that take one token each in the same steps.

    A step costs the same work whatever their number: what differs between them are the step in which one ends, which
    a heap keeps, and the steps in which one needs a KV block. The latter come every ``block_tokens`` steps, so
    ``_due[i]`` counts the sequences that need one in steps whose number leaves the remainder ``i``.

    ``context`` is the sum of their contexts, ``step`` the number of steps taken, ``last_ns`` when they got their last
    token; ``late`` are those of another group that got theirs at another time, until the next step. ``compute_ns`` and
    ``network_ns`` add up over the steps.
    """

    is_even = True
    """Every step gives every sequence one token, so that many steps may be taken at once."""

    __slots__ = ("_due", "_ending", "block_tokens", "compute_ns", "context", "count", "last_ns", "late", "network_ns",
                 "step")  # fmt: skip

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.count = self.context = self.step = 0
        self.last_ns = -1
        self.late: list[Sequence] = []
        self.compute_ns = self.network_ns = 0
        self._due = [0] * block_tokens
        self._ending: list[tuple[int, int, Sequence]] = []

    def join(self, sequence: Sequence, last_ns: int) -> None:
        """Take in a sequence that got its last token at ``last_ns`` and feeds it in the next step."""
        if not self.count:
            self.last_ns = last_ns
        elif last_ns != self.last_ns:
            sequence.last_token_ns = last_ns
            self.late.append(sequence)
        sequence.decodes = self
        sequence.joined_step = self.step
        sequence.compute_ns -= self.compute_ns
        sequence.network_ns -= self.network_ns
        self.count += 1
        self.context += sequence.context_tokens
        sequence.ends_step = self.step + self._enter(sequence)
        heappush(self._ending, (sequence.ends_step, sequence.order, sequence))

    def leave(self, sequence: Sequence) -> None:
        """Let a sequence go, between two steps."""
        self.tell(sequence)
        sequence.compute_ns += self.compute_ns
        sequence.network_ns += self.network_ns
        if self.late and sequence in self.late:
            self.late.remove(sequence)
        else:
            sequence.last_token_ns = self.last_ns
        sequence.decodes = None
        self.count -= 1
        self.context -= sequence.context_tokens
        self._exit(sequence)

    def _enter(self, sequence: Sequence) -> int:
        """Note when a sequence needs blocks; return the steps until it has all its tokens."""
        self._due[(self.step + 1 - sequence.context_tokens) % self.block_tokens] += 1
        return sequence.output_tokens - sequence.generated

    def _exit(self, sequence: Sequence) -> None:
        """Forget when a sequence needs blocks."""
        self._due[(self.step + 1 - sequence.context_tokens) % self.block_tokens] -= 1

    def ended(self) -> list[Sequence]:
        """Let those go that have all their tokens, in order of admission."""
        gone, ending = [], self._ending
        while ending and ending[0][0] <= self.step:
            ends_step, _, sequence = heappop(ending)
            if sequence.decodes is self and sequence.ends_step == ends_step:
                self.leave(sequence)
                gone.append(sequence)
        return gone

    def take_steps(self, steps: int) -> int:
        """Take so many steps and return the tokens that they give."""
        tokens = steps * self.count
        self.step += steps
        self.context += tokens
        return tokens

    def blocks_due(self, first: int, steps: int) -> int:
        """Return the blocks that ``steps`` steps need, from the ``first``-th after the steps taken."""
        at = self.step + first
        if steps == 1:
            return self._due[at % self.block_tokens]
        rounds, rest = divmod(steps, self.block_tokens)
        return rounds * self.count + sum([self._due[(at + i) % self.block_tokens] for i in range(rest)])

    def steps_until_end(self) -> int:
        """Return how many steps the first of them to end still has; there must be one."""
        ending = self._ending
        while ending[0][2].decodes is not self or ending[0][2].ends_step != ending[0][0]:
            heappop(ending)
        return ending[0][0] - self.step

    def steps_within(self, first: int, blocks: int, most: int) -> int:
        """Return how many steps, at most ``most``, need no more than ``blocks`` blocks."""
        if most * self.count <= blocks or self.blocks_due(first, most) <= blocks:
            return most
        rounds = blocks // self.count
        steps, left = rounds * self.block_tokens, blocks - rounds * self.count
        at = self.step + first + steps
        while steps < most:
            left -= self._due[at % self.block_tokens]
            if left < 0:
                break
            at += 1
            steps += 1
        return steps

    def take_over(self, other: Decodes) -> None:
        """Take in all sequences of another group."""
        for sequence in other.members():
            other.leave(sequence)
            self.join(sequence, sequence.last_token_ns)

    def count_late(self) -> list[Sequence]:
        """Return those whose last token came at another time than that of the others; from now on it is theirs too."""
        late, self.late = self.late, []
        return late

    def members(self) -> list[Sequence]:
        """Return all sequences of the group."""
        return list({id(sequence): sequence for _, _, sequence in self._ending if sequence.decodes is self}.values())

    def generated(self) -> int:
        """Return how many tokens all of them have generated."""
        members = self.members()
        for sequence in members:
            self.tell(sequence)
        return sum([sequence.generated for sequence in members])

    def tell(self, sequence: Sequence) -> None:
        """Bring up to date how many tokens a sequence has generated."""
        sequence.generated += self.step - sequence.joined_step
        sequence.joined_step = self.step

    def held_tokens(self, sequence: Sequence, is_in_step: bool) -> int:
        """Return for how many tokens a sequence holds blocks: those computed, and those the step under way computes."""
        self.tell(sequence)
        return sequence.context_tokens - 1 + is_in_step
