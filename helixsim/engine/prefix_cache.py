"""KV memory of a replica with a prefix cache: blocks of tokens that several requests share.

As in vLLM V1: whole blocks only, found by the chain of everything before them; blocks of running requests are counted
by references; blocks without references stay cached until their memory is needed, least recently used first, those at
the end of a request before those at its beginning. At least the last token of a request is always computed. Unlike
there, and as in SGLang, a request that has computed blocks which another one has cached meanwhile frees its copies.

How a scheduler uses it, with ``held`` kept per request:

1. admission: with ``hit, idle = find(chain, tokens)`` and n blocks needed in all, the request fits if
   ``n - hit + idle <= free_blocks``; then ``held = acquire(chain, tokens)``, which is ``hit``, and ``take(n - held)``;
2. after each chunk of its prompt, and before it leaves: ``held = publish(chain, held, computed_tokens)``. vLLM does so
   when it schedules a chunk, so that requests of the same step share it;
3. a further block: ``take(1)``;
4. end or preemption: ``publish``, ``give(n)`` for the blocks that are not published (the last, incomplete one), and
   ``release(chain, held)``. A preempted request finds what is left of its blocks at its next admission.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import NamedTuple

from helixsim.domain.request import Request
from helixsim.errors import SimulationError

_ENDLESS = 1 << 62


class Chain(NamedTuple):
    """The KV blocks of a request: those up to ``ends[k]``, after the previous end, belong to segment ``ids[k]``.

    The last segment is the request's own and has no end. A block with tokens of two segments belongs to the later one.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]


def chain_of(request: Request, block_tokens: int) -> Chain:
    """Return the chain of a request for KV blocks of ``block_tokens`` tokens."""
    own = ~request.id
    prefix = request.prefix
    if prefix is None:
        return Chain((own,), (_ENDLESS,))
    known = prefix.tokens // block_tokens
    ends = tuple([min(end // block_tokens, known) for end in prefix.ends])
    return Chain((*prefix.ids, own), (*ends, _ENDLESS))


class _Run:
    """Consecutive blocks ``start`` .. ``end - 1`` of a segment, counted in it, with the same references."""

    __slots__ = ("end", "refs", "segment", "start")

    def __init__(self, segment: int, start: int, end: int, refs: int) -> None:
        self.segment = segment
        self.start = start
        self.end = end
        self.refs = refs


class PrefixCache:
    """The KV blocks of one replica.

    Parameters
    ----------
    capacity
        Number of blocks.
    block_tokens
        Tokens per block.

    Attributes
    ----------
    own
        Blocks of running requests that no other request can use: not published.
    shared
        Published blocks of running requests, each counted once.
    cached
        Published blocks without references.
    """

    __slots__ = ("_free", "_segments", "block_tokens", "cached", "capacity", "own", "shared")

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity = capacity
        self.block_tokens = block_tokens
        self.own = 0
        self.shared = 0
        self.cached = 0
        # Runs of a segment by position; there are gaps neither in them nor before them, and references only decrease.
        self._segments: dict[int, list[_Run]] = {}
        # Runs without references, the first to be evicted first: of one segment always the last run.
        self._free: OrderedDict[_Run, None] = OrderedDict()

    @property
    def free_blocks(self) -> int:
        """Blocks that can be taken: empty ones, and cached ones without references."""
        return self.capacity - self.own - self.shared

    @property
    def used_blocks(self) -> int:
        """Blocks of running requests."""
        return self.own + self.shared

    def clear(self) -> None:
        """Lose all blocks; none may be of a running request."""
        assert not self.used_blocks
        self.cached = 0
        self._segments.clear()
        self._free.clear()

    def cached_tokens(self, chain: Chain, tokens: int) -> int:
        """Return how many of a request's first ``tokens`` tokens are cached: whole blocks, never the last token."""
        most = (tokens - 1) // self.block_tokens
        segments = self._segments
        found = 0
        for segment, end in zip(*chain, strict=True):
            wanted = (end if end < most else most) - found
            if wanted > 0:
                runs = segments.get(segment)
                if runs is None:
                    break
                last = runs[-1].end
                if last < wanted:
                    found += last
                    break
                found += wanted
            if end >= most:
                break
        return found * self.block_tokens

    def find(self, chain: Chain, tokens: int) -> tuple[int, int]:
        """Return the number of blocks that ``acquire`` would reference, and how many of them are free at present."""
        found = self.cached_tokens(chain, tokens) // self.block_tokens
        start = idle = 0
        for segment, end in zip(*chain, strict=True):
            if start >= found:
                break
            wanted = min(end, found) - start
            for run in self._segments[segment] if wanted > 0 else ():
                if not run.refs and run.start < wanted:
                    idle += min(run.end, wanted) - run.start
            start = end
        return found, idle

    def acquire(self, chain: Chain, tokens: int) -> int:
        """Add references to the cached blocks of a request's first ``tokens`` tokens, and return their number.

        See ``cached_tokens``.
        """
        most = (tokens - 1) // self.block_tokens
        segments = self._segments
        held = 0
        for segment, end in zip(*chain, strict=True):
            wanted = (end if end < most else most) - held
            if wanted > 0:
                runs = segments.get(segment)
                if runs is None:
                    break
                last = runs[-1].end
                self._reference(runs, 0, wanted)
                if last < wanted:
                    held += last
                    break
                held += wanted
            if end >= most:
                break
        return held

    def publish(self, chain: Chain, held: int, tokens: int) -> int:
        """Cache the whole blocks of the first ``tokens`` tokens, which the request has computed in blocks of its own.

        Returns the number of published blocks that it holds now, the new ``held``. Copies of blocks that were already
        cached become empty.
        """
        full = tokens // self.block_tokens
        if full <= held:
            return held
        ids, ends = chain
        self.own -= full - held
        if self.own < 0:
            raise SimulationError(f"{full - held} blocks published, of which {-self.own} had not been taken")
        number = bisect_right(ends, held)
        start = ends[number - 1] if number else 0
        while held < full:
            end = ends[number]
            low, high = held - start, (end if end < full else full) - start
            if high > low:
                runs = self._segments.get(ids[number])
                if runs is None:
                    self._segments[ids[number]] = [_Run(ids[number], 0, high, 1)]
                    self.shared += high
                else:
                    last = runs[-1].end
                    if last > low:
                        self._reference(runs, low, high)
                    if last < high:
                        self.shared += high - last
                        if runs[-1].refs == 1:  # it is this request's: its references are those of all blocks before
                            runs[-1].end = high
                        else:
                            runs.append(_Run(ids[number], last, high, 1))
                held = start + high
            start = end
            number += 1
        return held

    def release(self, chain: Chain, held: int) -> None:
        """Give back the references on the first ``held`` blocks of a request, the last block first."""
        ids, ends = chain
        number = bisect_left(ends, held)
        while held > 0:
            start = ends[number - 1] if number else 0
            if held > start:
                runs = self._segments[ids[number]]
                low = held - start
                for run in runs:  # one of them at most becomes free, as those with one reference are one run
                    if run.start >= low:
                        break
                    run.refs -= 1
                    if not run.refs:
                        self._free[run] = None
                        self.shared -= run.end - run.start
                        self.cached += run.end - run.start
                if len(runs) > 1:
                    _merge(runs)
                held = start
            number -= 1

    def take(self, blocks: int) -> None:
        """Take blocks for a request of its own, evicting cached ones where none are empty.

        Raises
        ------
        SimulationError
            If there are fewer ``free_blocks``.
        """
        empty = self.capacity - self.own - self.shared - self.cached
        if blocks > empty:
            if blocks > empty + self.cached:
                raise SimulationError(f"{blocks} KV blocks taken of {self.free_blocks} free ones")
            self.evict(blocks - empty)
        self.own += blocks

    def make_room(self, blocks: int) -> None:
        """Evict cached blocks until so many are empty, or none is left."""
        missing = self.own + self.shared + self.cached + blocks - self.capacity
        if missing > 0:
            self.evict(missing)

    def give(self, blocks: int) -> None:
        """Give back blocks of a request that were not published."""
        if blocks > self.own:
            raise SimulationError(f"{blocks} KV blocks given back of {self.own} in use")
        self.own -= blocks

    def evict(self, blocks: int) -> int:
        """Remove the least recently used cached blocks and return their number, at most ``blocks``."""
        left = min(blocks, self.cached)
        freed = left
        self.cached -= left
        while left:
            run = next(iter(self._free))
            size = run.end - run.start
            if size > left:
                run.end -= left
                self._evicted(run.segment, run.end, run.end + left)
                break
            left -= size
            self._evicted(run.segment, run.start, run.end)
            del self._free[run]
            runs = self._segments[run.segment]
            runs.pop()
            if not runs:
                del self._segments[run.segment]
        return freed

    def _evicted(self, segment: int, start: int, end: int) -> None:
        """Take note that blocks of a segment are no longer cached, the last of those that were."""

    def _reference(self, runs: list[_Run], low: int, high: int) -> None:
        """Add a reference to the blocks ``low`` .. ``high - 1`` of a segment, as far as they are cached.

        A run starts at ``low``, as the request holds just the blocks before it, and others hold either more or fewer.
        """
        position = 0
        while position < len(runs):
            run = runs[position]
            if run.start >= high:
                break
            if run.start >= low:
                if run.end > high:
                    rest, run = run, _Run(run.segment, run.start, high, run.refs)
                    rest.start = high
                    runs.insert(position, run)  # the rest keeps its place among the free runs
                    if not run.refs:
                        self._take_back(run)
                elif not run.refs:
                    del self._free[run]
                    self._take_back(run)
                run.refs += 1
            position += 1
        if len(runs) > 1:
            _merge(runs)

    def _take_back(self, run: _Run) -> None:
        """Count the blocks of a free run as those of running requests."""
        self.shared += run.end - run.start
        self.cached -= run.end - run.start


def _merge(runs: list[_Run]) -> None:
    """Join neighbouring runs with equal references, other than none: the same requests hold them."""
    position = len(runs) - 1
    while position > 0:
        front, back = runs[position - 1], runs[position]
        if front.refs and front.refs == back.refs:
            front.end = back.end
            del runs[position]
        position -= 1
