"""Laws of prefix caching in replicas, and agreement with the oracle that names every block."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_replica import Reference
from replica_cases import chains, clusters, engines, kind_of, shared_load
from simulating import MS, inputs_of, random_load, run

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import FeedMode, Prefix, Request, Window
from helixsim.domain.result import RequestColumns, RunResult
from helixsim.engine.simulate import simulate

CACHED = EngineSpec(
    "inside", loops_inside=True, copies_activations=False, chunks_prompts=True, caches_prefixes=True, admission="prompt"
)
NEAR = LinkSpec(1e12, 0)


def assert_equal(make_inputs) -> RunResult:
    """Run both on inputs made anew for each, and compare what requests and nodes tell."""
    result, reference = simulate(make_inputs()), Reference(make_inputs()).run()
    rows, sequences = result.requests, reference.sequences
    np.testing.assert_array_equal(rows.finish_ns, [one.finish for one in sequences])
    done = rows.finish_ns >= 0
    for name, values in {
        "request_id": [one.request.id for one in sequences],
        "status": [one.status for one in sequences],
        "admitted_ns": [one.admitted for one in sequences],
        "cached_tokens": [one.cached for one in sequences],
        "first_token_ns": [one.first_token for one in sequences],
        "output_tokens": [one.delivered for one in sequences],
        "preemptions": [one.preemptions for one in sequences],
    }.items():
        np.testing.assert_array_equal(getattr(rows, name)[done], np.array(values)[done], name)
    assert result.counters["recomputed_tokens"] == sum(replica.recomputed for replica in reference.replicas)
    ends = {node: replica for replica in reference.replicas for node in (stage.node.id for stage in replica.stages)}
    for number, node in enumerate(result.nodes.node_id):
        assert result.nodes.kv_peak_blocks[number] == ends[node].peak
    return result


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    rate_rps=st.sampled_from([5.0, 60.0, 400.0]),
    batching=st.sampled_from(batching_registry.names()),
    routing=st.sampled_from(["prefix_aware", "least_loaded", "random"]),
)
@settings(max_examples=40, deadline=None)
def test_every_time_and_every_hit_is_that_of_the_oracle(case, engine, seed, rate_rps, batching, routing):
    engine = replace(engine, caches_prefixes=True, admission="prompt")
    load = shared_load(seed, 30, rate_rps=rate_rps)
    assert_equal(lambda: inputs_of(case, load, engine=engine, routing=routing, batching=batching))


@given(case=clusters(), engine=engines(), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_closed_loop_agrees_too(case, engine, seed):
    engine = replace(engine, caches_prefixes=True, admission="prompt")
    load = shared_load(seed, 300, rate_rps=1.0)
    window = Window(100 * MS, 900 * MS, drain=False)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 8, "routing": "prefix_aware", "window": window}
    assert_equal(lambda: inputs_of(case, load, engine=engine, **how))


def replicas(count: int = 1, **how):
    """Equal replicas of one node each."""
    return chains([[kind_of("k", **how)]] * count, intra=NEAR)


def test_the_comparison_reaches_hits_evictions_and_preemption():
    case = replicas(2, blocks=30, budget=64)
    load = shared_load(5, 60, rate_rps=300.0, output=60)
    result = assert_equal(lambda: inputs_of(case, load, engine=CACHED, routing="prefix_aware"))
    ample = run(replicas(2, blocks=10_000, budget=64), load, engine=CACHED, routing="prefix_aware")
    assert 0 < result.requests.cached_tokens.sum() < ample.requests.cached_tokens.sum()
    assert result.counters["preemptions"] > 3
    assert result.counters["recomputed_tokens"] > 0
    assert (result.nodes.kv_peak_blocks <= 30).all()


@given(seed=st.integers(0, 10_000), blocks=st.sampled_from([30, 100, 3000]), rate_rps=st.sampled_from([20.0, 200.0]))
@settings(max_examples=20, deadline=None)
def test_hits_change_when_tokens_come_and_not_which(seed, blocks, rate_rps):
    case, load = replicas(2, blocks=blocks, budget=256), shared_load(seed, 40, rate_rps=rate_rps)
    without, cached = (
        run(case, load, engine=replace(CACHED, caches_prefixes=on), routing="least_loaded") for on in (False, True)
    )
    for name in ("request_id", "status", "output_tokens", "arrival_ns", "prompt_tokens"):
        np.testing.assert_array_equal(getattr(cached.requests, name), getattr(without.requests, name))
    assert not without.requests.cached_tokens.any()
    assert (cached.requests.cached_tokens < cached.requests.prompt_tokens).all()


@given(seed=st.integers(0, 10_000), rate_rps=st.sampled_from([20.0, 200.0]))
@settings(max_examples=20, deadline=None)
def test_prompts_that_share_nothing_are_served_as_without_a_cache(seed, rate_rps):
    case, load = replicas(2, blocks=300), random_load(seed, 40, rate_rps=rate_rps, prompt=60)
    results = [
        run(case, load, engine=replace(CACHED, caches_prefixes=on), routing=routing)
        for on, routing in ((False, "least_loaded"), (True, "least_loaded"), (True, "prefix_aware"))
    ]
    for column in fields(RequestColumns):
        first, *others = (getattr(result.requests, column.name) for result in results)
        for other in others:
            np.testing.assert_array_equal(first, other, column.name)


@given(seed=st.integers(0, 10_000), rate_rps=st.sampled_from([20.0, 500.0]))
@settings(max_examples=20, deadline=None)
def test_what_is_not_cached_is_computed(seed, rate_rps):
    load = shared_load(seed, 40, rate_rps=rate_rps)
    result = run(replicas(1, blocks=3000, budget=100), load, engine=CACHED)
    rows = result.requests
    assert not result.counters["preemptions"]
    assert result.nodes.prompt_tokens.sum() == rows.prompt_tokens.sum() - rows.cached_tokens.sum()


def test_a_cache_without_end_finds_what_a_count_of_equal_beginnings_says():
    load = shared_load(3, 200, rate_rps=0.5)  # one after the other: each finds all before it
    result = run(replicas(1, blocks=100_000, budget=4000), load, engine=CACHED)
    known: dict[int, int] = {}
    found = []
    for request in load:
        cached = 0
        if request.prefix is not None:
            for one, end in zip(request.prefix.ids, request.prefix.ends, strict=True):
                cached = max(cached, min(known.get(one, 0), end))
            for one, end in zip(request.prefix.ids, request.prefix.ends, strict=True):
                computed = request.prompt_tokens + request.output_tokens - 1  # the last token is never fed in
                known[one] = max(known.get(one, 0), min(end, computed) // 16 * 16)
        found.append(min(cached, request.prompt_tokens - 1) // 16 * 16)
    assert result.requests.cached_tokens.tolist() == found
    assert sum(found) > 0.25 * sum(request.prompt_tokens for request in load)


def test_more_memory_keeps_more_in_the_mean():
    hits = np.zeros(5)
    for seed in range(8):
        load = shared_load(seed, 80, rate_rps=1.0)
        for at, blocks in enumerate((12, 20, 40, 80, 10_000)):
            hits[at] += run(replicas(1, blocks=blocks, budget=4000), load, engine=CACHED).requests.cached_tokens.sum()
    assert (np.diff(hits) > 0).all()


def chats(sessions: int, turns: int, tokens: int) -> list[Request]:
    """Turns of many sessions in random order; each adds a message and an answer of so many tokens together."""
    rng = np.random.default_rng(0)
    order = rng.permutation(np.repeat(np.arange(sessions), turns)).tolist()
    lengths = dict.fromkeys(range(sessions), 0)
    found = []
    for number, session in enumerate(order):
        lengths[session] += tokens
        prefix = Prefix((session,), (lengths[session],), lengths[session])
        found.append(Request(number, 40 * MS * number, lengths[session] - 10, 10, prefix=prefix))
    return found


def test_routing_by_prefix_finds_more_than_routing_by_load():
    load = chats(40, 6, 64)
    shares = {
        routing: run(
            replicas(4, blocks=400, budget=4000), load, engine=CACHED, routing=routing
        ).requests.cached_tokens.sum()
        / sum(request.prompt_tokens for request in load)
        for routing in ("prefix_aware", "least_loaded", "random")
    }
    assert shares["prefix_aware"] > 0.6
    assert shares["prefix_aware"] > 1.5 * max(shares["least_loaded"], shares["random"])


def test_decodes_take_their_blocks_before_the_prompts_of_their_step():
    """Cached blocks that decodes evict are not found by a prompt that is admitted behind another one's chunk."""
    case = chains([[kind_of("k", blocks=20, budget=50)]])
    load = shared_load(12, 300, rate_rps=1.0)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 8, "window": Window(0, 400 * MS, drain=False)}
    assert_equal(lambda: inputs_of(case, load, engine=replace(CACHED, long_prefill_token_threshold=7), **how))
