"""The prefix cache against a plain model that keeps every block by itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.request import Prefix, Request
from helixsim.engine.prefix_cache import PrefixCache, chain_of
from helixsim.errors import SimulationError

BLOCK = 4


class PlainCache:
    """Every block by itself: (segment, number) -> references, and the free ones in order of their release."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.own = 0
        self.refs = {}
        self.free = OrderedDict()

    @staticmethod
    def keys(chain):
        """The blocks of a chain one by one, without end."""
        number = 0
        for segment, end in zip(*chain, strict=True):
            while number < end:
                yield segment, number
                number += 1

    def hit(self, chain, tokens):
        found = []
        for key, _ in zip(self.keys(chain), range((tokens - 1) // BLOCK), strict=False):
            if key not in self.refs:
                break
            found.append(key)
        return found

    def reference(self, keys):
        for key in keys:
            self.free.pop(key, None)
            self.refs[key] = self.refs.get(key, 0) + 1

    def publish(self, chain, held, tokens):
        full = max(held, tokens // BLOCK)
        self.reference([key for key, _ in zip(self.keys(chain), range(full), strict=False)][held:])
        self.own -= full - held
        return full

    def release(self, chain, held):
        for key in reversed([key for key, _ in zip(self.keys(chain), range(held), strict=False)]):
            self.refs[key] -= 1
            if not self.refs[key]:
                self.free[key] = None

    def take(self, blocks):
        self.own += blocks
        while self.own + len(self.refs) > self.capacity:
            del self.refs[self.free.popitem(last=False)[0]]

    @property
    def free_blocks(self):
        return self.capacity - self.own - len(self.refs) + len(self.free)


@st.composite
def requests(draw):
    """Requests whose prefixes are paths of one tree; a segment has one start, and any length in each request."""
    starts = {0: 0}
    paths = [((), 0)]
    for segment in range(draw(st.integers(1, 4))):
        ids, end = paths[draw(st.integers(0, len(paths) - 1))]
        starts[segment] = end
        paths.append(((*ids, segment), end + draw(st.integers(1, 30))))
    found = []
    for number in range(draw(st.integers(2, 6))):
        ids, end = paths[draw(st.integers(1, len(paths) - 1)) if draw(st.integers(0, 4)) else 0]
        ends = (*(starts[segment] for segment in ids[1:]), end) if ids else ()
        known = draw(st.integers(starts[ids[-1]] + 1, end)) if ids else 0
        prompt = draw(st.integers(1, 40))
        found.append(Request(number, 0, prompt, 1, prefix=Prefix(ids, ends, known) if ids else None))
    return found


@dataclass
class Running:
    """A request in the cache: published blocks, and all its blocks."""

    request: Request
    held: int
    blocks: int
    tokens: int


def tell(cache, plain, loads):
    """Compare all that can be seen of the two."""
    assert cache.free_blocks == plain.free_blocks
    assert cache.own == plain.own
    assert cache.cached == len(plain.free)
    assert cache.used_blocks == plain.own + len(plain.refs) - len(plain.free)
    assert cache.own + cache.shared + cache.cached <= cache.capacity
    for request in loads:
        chain = chain_of(request, BLOCK)
        for tokens in (request.prompt_tokens, 60):
            hit = plain.hit(chain, tokens)
            assert cache.cached_tokens(chain, tokens) == BLOCK * len(hit)
            assert cache.find(chain, tokens) == (len(hit), sum(key in plain.free for key in hit))


@settings(max_examples=150, deadline=None)
@given(
    requests(),
    st.integers(6, 40),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from((0, 1, 1, 2, 4))), min_size=20, max_size=80),
)
def test_every_number_is_that_of_a_cache_of_single_blocks(loads, capacity, steps):
    cache, plain = PrefixCache(capacity, BLOCK), PlainCache(capacity)
    running = {}
    for number, action in steps:
        request = loads[number % len(loads)]
        chain = chain_of(request, BLOCK)
        state = running.get(request.id)
        if state is None:
            needed = -(-request.prompt_tokens // BLOCK)
            found, idle = cache.find(chain, request.prompt_tokens)
            if needed - found + idle > cache.free_blocks:
                continue
            held = cache.acquire(chain, request.prompt_tokens)
            assert held == found
            plain.reference(plain.hit(chain, request.prompt_tokens))
            cache.take(needed - held)
            plain.take(needed - held)
            running[request.id] = Running(request, held, needed, BLOCK * held)
        elif action < 2:  # a chunk, which may go on behind the prompt
            state.tokens += (3, 19)[action]
            more = -(-state.tokens // BLOCK) - state.blocks
            if more > cache.free_blocks:
                state.tokens = BLOCK * state.blocks
            elif more > 0:
                cache.take(more)
                plain.take(more)
                state.blocks += more
            held = cache.publish(chain, state.held, state.tokens)
            assert held == plain.publish(chain, state.held, state.tokens)
            state.held = held
        elif action == 2:  # the end
            cache.give(state.blocks - state.held)
            plain.own -= state.blocks - state.held
            cache.release(chain, state.held)
            plain.release(chain, state.held)
            del running[request.id]
        else:
            freed = cache.evict(2)
            assert freed == min(2, len(plain.free))
            for _ in range(freed):
                del plain.refs[plain.free.popitem(last=False)[0]]
        tell(cache, plain, loads)


def serve(cache, request):
    """Run a request alone to the end of its prompt; return the tokens it found."""
    chain = chain_of(request, cache.block_tokens)
    held = cache.acquire(chain, request.prompt_tokens)
    hit = held * cache.block_tokens
    blocks = -(-request.prompt_tokens // cache.block_tokens)
    cache.take(blocks - held)
    held = cache.publish(chain, held, request.prompt_tokens)
    cache.give(blocks - held)
    cache.release(chain, held)
    return hit


def trace_of(draws):
    """Requests of blocks of 32 tokens, as a Mooncake trace has them, from paths in a tree."""
    ids: dict[tuple[int, ...], int] = {}
    found = []
    for number, path in enumerate(draws):
        blocks = [ids.setdefault(tuple(path[: i + 1]), len(ids)) for i in range(len(path))]
        prefix = Prefix(tuple(blocks), range(32, 32 * len(path) + 1, 32), 32 * len(path))
        found.append(Request(number, 0, 32 * len(path) + 1, 1, prefix=prefix))
    return found


def counted(requests):
    """Blocks whose identifier was there before, all of which stand at the front."""
    seen: set[int] = set()
    hits = 0
    for request in requests:
        hits += sum(block in seen for block in request.prefix.ids)
        seen.update(request.prefix.ids)
    return hits


PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40)


@given(PATHS)
def test_a_cache_without_end_reuses_what_counting_the_identifiers_says(draws):
    requests = trace_of(draws)
    cache = PrefixCache(10**9, 16)
    assert sum(serve(cache, request) for request in requests) == 32 * counted(requests)


@given(PATHS, st.integers(14, 60))
def test_a_smaller_cache_never_reuses_more_than_one_without_end(draws, capacity):
    requests = trace_of(draws)
    assert sum(serve(PrefixCache(10**9, 16), request) for request in requests[:1]) == 0
    infinite, finite = PrefixCache(10**9, 16), PrefixCache(capacity, 16)
    for request in requests:
        assert serve(finite, request) <= serve(infinite, request)


def test_blocks_of_a_chain_belong_to_the_segment_of_their_last_token():
    prefix = Prefix((5, 9), (40, 100), 70)
    assert chain_of(Request(3, 0, 90, 1, prefix=prefix), 16) == ((5, 9, ~3), (2, 4, 1 << 62))
    assert chain_of(Request(3, 0, 90, 1), 16) == ((~3,), (1 << 62,))


def test_the_last_token_is_always_computed():
    cache = PrefixCache(10, 16)
    whole = Prefix((7,), (32,), 32)
    serve(cache, Request(0, 0, 32, 1, prefix=whole))
    assert cache.cached_tokens(chain_of(Request(1, 0, 32, 1, prefix=whole), 16), 32) == 16
    assert cache.cached_tokens(chain_of(Request(2, 0, 33, 1, prefix=whole), 16), 33) == 32


def test_the_end_of_a_request_goes_before_its_beginning_and_older_ones_before_newer_ones():
    cache = PrefixCache(8, 16)
    first, second = (Request(n, 0, 65, 1, prefix=Prefix((n,), (64,), 64)) for n in range(2))
    serve(cache, first)
    chains = [chain_of(request, 16) for request in (first, second)]
    cache.take(1)
    assert cache.cached_tokens(chains[0], 65) == 64
    cache.give(1)
    serve(cache, second)
    cache.take(2)
    assert [cache.cached_tokens(chain, 65) for chain in chains] == [32, 64]


def test_blocks_without_an_owner_are_refused():
    cache = PrefixCache(2, 16)
    with pytest.raises(SimulationError, match="taken of 2 free"):
        cache.take(3)
    with pytest.raises(SimulationError, match="had not been taken"):
        cache.publish(chain_of(Request(0, 0, 16, 1), 16), 0, 16)
    with pytest.raises(SimulationError, match="given back of"):
        cache.give(1)
