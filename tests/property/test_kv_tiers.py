"""Host memory and disks behind the prefix cache: the fast engine against the plain one, and the laws of both."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from comparing_replicas import INSIDE, compare
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_replica import Reference
from replica_cases import chains, clusters, engines, kind_of, shared_load
from simulating import MS, inputs_of

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import KvTier
from helixsim.domain.request import FeedMode, Prefix, Request
from helixsim.engine.simulate import simulate

BLOCK_BYTES = 12 * 16 * 2000
"""Of a block in all layers of the model of the tests."""

CACHING = replace(INSIDE, caches_prefixes=True)
ENDLESS = 10**15


def tier(name="host", blocks=40, gb_per_s=0.5, latency_ns=0):
    return KvTier(name, blocks * BLOCK_BYTES, gb_per_s * 1e9, latency_ns)


def assert_equal(case, load, **how):
    result = simulate(inputs_of(case, load, **how))
    compare(result, Reference(inputs_of(case, load, **how)).run())
    return result


@st.composite
def tiers(draw):
    """One or two levels, some of them of no size, of slow and fast links."""
    levels = draw(st.sampled_from([("host",), ("host", "disk")]))
    return tuple(
        tier(name, *(draw(st.sampled_from(values)) for values in ([0, 3, 20, 400], [0.02, 0.5, 1e6], [0, 1_300_000])))
        for name in levels
    )


every_case = given(
    case=clusters(ranks=[1]),
    engine=engines(),
    behind=tiers(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=st.sampled_from(["least_loaded", "prefix_aware", "earliest_finish"]),
    feed=st.sampled_from([{"rate_rps": 30.0}, {"rate_rps": 1000.0}, {"mode": FeedMode.CLOSED_LOOP, "concurrency": 4}]),
)


def assert_agrees(case, engine, behind, seed, batching, routing, feed):
    engine = replace(engine, caches_prefixes=True, chunks_prompts=True, kv_tiers=behind)
    how = {name: value for name, value in feed.items() if name != "rate_rps"}
    load = shared_load(seed, 60, rate_rps=feed.get("rate_rps", 1.0), prompt=60, output=20)
    assert_equal(case, load, engine=engine, batching=batching, routing=routing, seed=seed, **how)


@every_case
@settings(max_examples=15, deadline=None)
def test_every_time_and_every_hit_is_that_of_the_plain_engine(**drawn):
    assert_agrees(**drawn)


@pytest.mark.slow
@every_case
@settings(max_examples=300, deadline=None)
def test_many_cases_agree(**drawn):
    assert_agrees(**drawn)


@pytest.mark.parametrize("batching", batching_registry.names())
@pytest.mark.parametrize("stages", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_comparison_reaches_what_is_rare(stages, batching):
    """Hits on both tiers, preempted requests that find their blocks there, several loads on a link."""
    seen = Counter()
    for blocks in (14, 20):
        case = chains([[kind_of("n", blocks=blocks, budget=40)] * stages], intra=LinkSpec(1e9, 20_000))
        for seed in range(3):
            load = shared_load(seed, 80, rate_rps=100.0, prompt=60, output=60)
            engine = replace(CACHING, kv_tiers=(tier(blocks=8, gb_per_s=0.05), tier("disk", 400, 0.05)))
            result = assert_equal(case, load, engine=engine, batching=batching)
            seen["preempted"] += result.nodes.preemptions.sum()
            seen["host"] += result.requests.host_tokens.sum()
            seen["disk"] += result.requests.disk_tokens.sum()
            first = result.offloading.loaded_tokens
            seen["again"] += sum(first.values()) - (result.requests.host_tokens + result.requests.disk_tokens).sum()
    assert min(seen.values()) > 0, seen


ONE = chains([[kind_of("n", blocks=30, budget=64)]])


def turn_by_turn(seed=0, count=80, blocks=30, kv_tiers=(), **how):
    """Requests one after the other: their order is that of their arrivals on every system."""
    case = chains([[kind_of("n", blocks=blocks, budget=64)]])
    load = shared_load(seed, count, rate_rps=1.0, prompt=60, output=20)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 1, "engine": replace(CACHING, kv_tiers=kv_tiers), **how}
    return simulate(inputs_of(case, load, **how))


def assert_same(one, other):
    for name in ("finish_ns", "first_token_ns", "cached_tokens", "queue_ns", "compute_ns", "load_ns"):
        np.testing.assert_array_equal(getattr(one.requests, name), getattr(other.requests, name), name)


@pytest.mark.parametrize("rate_rps", [20.0, 200.0])
def test_tiers_of_no_size_are_no_tiers(rate_rps):
    load = shared_load(3, 80, rate_rps=rate_rps, prompt=60, output=40)
    none, empty = (
        simulate(inputs_of(ONE, load, engine=replace(CACHING, kv_tiers=behind)))
        for behind in ((), (tier(blocks=0), tier("disk", blocks=0)))
    )
    assert_same(none, empty)
    assert empty.offloading.loads == 0


@pytest.mark.parametrize("seed", range(3))
def test_an_endless_tier_without_time_finds_what_endless_gpu_memory_does(seed):
    small = turn_by_turn(seed, kv_tiers=(tier(blocks=ENDLESS, gb_per_s=1e9),))
    large = turn_by_turn(seed, blocks=5000)
    np.testing.assert_array_equal(small.requests.cached_tokens, large.requests.cached_tokens)
    assert small.requests.host_tokens.sum() > 0
    assert not small.requests.load_ns.any()
    np.testing.assert_array_equal(
        small.requests.finish_ns - small.requests.arrival_ns, large.requests.finish_ns - large.requests.arrival_ns
    )


@pytest.mark.parametrize("seed", range(3))
def test_hits_never_fall_with_the_size_of_a_tier(seed):
    """On a fixed order of requests, for each of them: what least recently used memory keeps, more of it keeps too."""
    before = turn_by_turn(seed).requests.cached_tokens
    for host, disk in ((3, 0), (8, 0), (8, 5), (30, 5), (30, 90), (400, 400)):
        now = turn_by_turn(seed, kv_tiers=(tier(blocks=host), tier("disk", blocks=disk))).requests
        assert (now.cached_tokens >= before).all()
        assert (now.host_tokens + now.disk_tokens <= now.cached_tokens).all()
        before = now.cached_tokens
    assert before.sum() > turn_by_turn(seed).requests.cached_tokens.sum()


@pytest.mark.parametrize("seed", range(3))
def test_two_tiers_find_together_what_one_of_their_size_does(seed):
    parted = turn_by_turn(seed, kv_tiers=(tier(blocks=11, gb_per_s=1e9), tier("disk", 19, gb_per_s=1e9)))
    whole = turn_by_turn(seed, kv_tiers=(tier(blocks=30, gb_per_s=1e9),))
    both = parted.requests.host_tokens + parted.requests.disk_tokens
    np.testing.assert_array_equal(both, whole.requests.host_tokens)
    assert parted.requests.disk_tokens.any()


def test_a_load_takes_latency_and_bytes_over_bandwidth():
    """One conversation, pushed out by another prompt, comes back: the disk's part through both links, in order."""
    behind = (tier(blocks=10, gb_per_s=2.0, latency_ns=70_000), tier("disk", 400, 0.5, 300_000))
    requests = turn_by_turn(1, kv_tiers=behind).requests
    block_ns = BLOCK_BYTES / 2.0, BLOCK_BYTES / 0.5
    expected = []
    for host, disk in zip(requests.host_tokens // 16, requests.disk_tokens // 16, strict=True):
        host_ns = round(host * block_ns[0])
        disk_ns = round(disk * block_ns[1]) + 300_000
        through_ns = max(disk_ns, host_ns) + round(disk * block_ns[0]) + 70_000
        expected.append(max(host_ns + 70_000 if host else 0, through_ns if disk else 0))
    assert requests.load_ns.tolist() == expected
    assert (requests.host_tokens > 0).any()
    assert (requests.disk_tokens > 0).any()


def test_loads_of_a_node_share_its_link_in_order():
    """Two requests that need the same bytes at once: the second is there one load later than the first."""
    case = chains([[kind_of("n", blocks=40, budget=4000)]])
    talks = [Prefix((number,), (160,), 160) for number in (1, 2)]
    load = [Request(number, number * 100 * MS, 161, 1, prefix=talk) for number, talk in enumerate(talks)]
    load.append(Request(2, 300 * MS, 620, 1, prefix=Prefix((3,), (620,), 620)))  # it pushes both out
    load += [Request(3 + number, 5000 * MS, 161, 1, prefix=talk) for number, talk in enumerate(talks)]
    engine = replace(CACHING, kv_tiers=(tier(blocks=400, gb_per_s=0.1),))
    rows = simulate(inputs_of(case, load, engine=engine)).requests
    assert rows.host_tokens.tolist() == [0, 0, 0, 160, 160]
    load_ns = round(10 * BLOCK_BYTES / 0.1)
    apart_ns = int(rows.admitted_ns[4] - rows.admitted_ns[3])  # the second one's token ids come behind the first one's
    assert rows.load_ns.tolist() == [0, 0, 0, load_ns, 2 * load_ns - apart_ns]
    np.testing.assert_array_equal(
        rows.queue_ns + rows.compute_ns + rows.network_ns + rows.load_ns, rows.finish_ns - rows.arrival_ns
    )
