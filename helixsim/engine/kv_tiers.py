"""Memory behind the KV cache of the GPUs: host memory, and disks behind it.

A block that the prefix cache evicts moves to the first tier, one that this evicts to the next, and the last tier drops
what it evicts; each evicts the block that came first. Blocks at the end of a request leave a level before those at its
beginning, so that the blocks of a request lie on the levels in their order. A request that finds blocks here takes
memory for them, and its prompt goes on when all of them have come over the links of the nodes; then they are in the
prefix cache and no longer here. Until then, others find them here too. What is computed anew leaves as well: no block
is on two levels.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from helixsim.engine.prefix_cache import Chain, PrefixCache


@dataclass(frozen=True, slots=True)
class TierRules:
    """One level behind the GPUs of a replica.

    Parameters
    ----------
    name
        ``host`` or ``disk``.
    blocks
        KV blocks that it keeps: those of the stage that keeps the fewest.
    block_ns
        Time of a block on its link, for each stage [ns].
    latency_ns
        What a load takes besides [ns].
    """

    name: str
    blocks: int
    block_ns: tuple[float, ...]
    latency_ns: int


class _Run:
    """Blocks ``start`` .. ``end - 1`` of a segment (see ``prefix_cache``)."""

    __slots__ = ("end", "segment", "start")

    def __init__(self, segment: int, start: int, end: int) -> None:
        self.segment = segment
        self.start = start
        self.end = end


class Tier:
    """Blocks that came from the level before, first in, first out; ``behind`` takes what is evicted, None: it is lost.

    Of the blocks that ``came``, ``used`` are here, ``left`` have gone back to the GPUs or were computed there, and
    ``evicted`` have gone on. ``peak`` is the most that there were.
    """

    __slots__ = ("_order", "_runs", "behind", "came", "capacity", "evicted", "left", "peak", "used")

    def __init__(self, capacity: int, behind: Tier | None) -> None:
        self.capacity = capacity
        self.behind = behind
        self.used = self.peak = self.came = self.left = self.evicted = 0
        self._runs: dict[int, list[_Run]] = {}  # of a segment, the last blocks first
        self._order: OrderedDict[_Run, None] = OrderedDict()

    def put(self, segment: int, start: int, end: int) -> None:
        """Take in blocks of a segment, the last one first; those behind them have come before or are nowhere."""
        runs = self._runs.setdefault(segment, [])
        if runs and runs[-1].start == end and next(reversed(self._order)) is runs[-1]:
            runs[-1].start = start
        else:
            runs.append(_Run(segment, start, end))
            self._order[runs[-1]] = None
        self.came += end - start
        self.used += end - start
        if self.used > self.capacity:
            self._evict(self.used - self.capacity)
        self.peak = max(self.peak, self.used)

    def _evict(self, blocks: int) -> None:
        self.used -= blocks
        self.evicted += blocks
        while blocks:
            run = next(iter(self._order))
            size = min(run.end - run.start, blocks)
            blocks -= size
            run.end -= size
            if self.behind is not None:
                self.behind.put(run.segment, run.end, run.end + size)
            if run.start == run.end:
                del self._order[run]
                runs = self._runs[run.segment]
                del runs[0]
                if not runs:
                    del self._runs[run.segment]

    def clear(self) -> None:
        """Lose all blocks."""
        self.evicted += self.used
        self.used = 0
        self._runs.clear()
        self._order.clear()

    def counted(self) -> int:
        """Return how many blocks are here, one run after the other."""
        return sum([run.end - run.start for run in self._order])

    def reach(self, segment: int, start: int, end: int) -> int:
        """Return up to where the blocks of a segment from ``start`` on are here without a gap, at most ``end``."""
        for run in reversed(self._runs.get(segment, ())):
            if run.start > start or start == end:
                break
            if run.end > start:
                start = min(run.end, end)
        return start

    def forget(self, segment: int, end: int) -> None:
        """Remove the blocks of a segment before ``end``: they are in the prefix cache."""
        runs = self._runs.get(segment)
        while runs and runs[-1].start < end:
            run = runs[-1]
            gone = min(run.end, end) - run.start
            run.start += gone
            self.used -= gone
            self.left += gone
            if run.start == run.end:
                del self._order[run]
                runs.pop()
                if not runs:
                    del self._runs[segment]


class TieredCache(PrefixCache):
    """A prefix cache whose evicted blocks go to tiers, and the links that these come back over.

    ``loads`` and ``loaded_blocks`` count what has been asked of each tier.
    """

    __slots__ = ("_free_at_ns", "_rules", "loaded_blocks", "loads", "tiers")

    def __init__(self, capacity: int, block_tokens: int, rules: tuple[TierRules, ...]) -> None:
        super().__init__(capacity, block_tokens)
        self._rules = rules
        self.tiers: list[Tier] = []
        for rule in reversed(rules):
            self.tiers.insert(0, Tier(rule.blocks, self.tiers[0] if self.tiers else None))
        self._free_at_ns = [[0] * len(rule.block_ns) for rule in rules]
        self.loads = 0
        self.loaded_blocks = [0] * len(rules)

    def clear(self) -> None:
        """See ``PrefixCache.clear``: those of the tiers, too."""
        super().clear()
        for tier in self.tiers:
            tier.clear()

    def stored(self, chain: Chain, tokens: int, found: int) -> list[int]:
        """Return how many of a request's blocks behind the ``found`` first are on each tier, without a gap.

        As in the prefix cache: whole blocks, and never the last of its ``tokens`` tokens.
        """
        most, start = (tokens - 1) // self.block_tokens, 0
        counts = [0] * len(self.tiers)
        for segment, end in zip(*chain, strict=True):
            low, high = max(found, start) - start, min(end, most) - start
            while low < high:
                before = low
                for number, tier in enumerate(self.tiers):
                    reached = tier.reach(segment, low, high)
                    counts[number] += reached - low
                    low = reached
                if low == before:
                    return counts
            start = max(start, end)
        return counts

    def load(self, counts: list[int], now_ns: int) -> int:
        """Send blocks of each tier to the GPUs; return when the last of them is there [ns].

        Each node sends its layers of them, what is on disk through host memory, behind all that was asked of a link
        before.
        """
        self.loads += 1
        ready_ns = now_ns
        for number, blocks in enumerate(counts):
            self.loaded_blocks[number] += blocks
            for stage in range(len(self._rules[0].block_ns)) if blocks else ():
                at_ns = now_ns
                for level in range(number, -1, -1):
                    rule, free_at_ns = self._rules[level], self._free_at_ns[level]
                    free_at_ns[stage] = max(at_ns, free_at_ns[stage]) + round(blocks * rule.block_ns[stage])
                    at_ns = free_at_ns[stage] + rule.latency_ns
                ready_ns = max(ready_ns, at_ns)
        return ready_ns

    def publish(self, chain: Chain, held: int, tokens: int) -> int:
        """See ``PrefixCache.publish``; what is cached now is on no tier."""
        full = super().publish(chain, held, tokens)
        if full > held:
            start = 0
            for segment, end in zip(*chain, strict=True):
                if end > held and start < full:
                    for tier in self.tiers:
                        tier.forget(segment, min(end, full) - start)
                start = max(start, end)
        return full

    def _evicted(self, segment: int, start: int, end: int) -> None:
        self.tiers[0].put(segment, start, end)
