"""The engine with prefill and decode on different replicas against the plain one: equal to the nanosecond."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from comparing_replicas import INSIDE, compare
from hypothesis import given, settings
from hypothesis import strategies as st
from leg_cases import cases, routings, transfers
from reference_legs import LegReference
from replica_cases import chains, engines, kind_of, of_one_instant, shared_load
from simulating import inputs_of_legs, random_load, with_roles

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import KvTier
from helixsim.domain.request import FeedMode, Window
from helixsim.engine.simulate import simulate


def assert_equal(case, load, transfer, **how):
    """Run both engines on inputs made anew for each and compare all they leave."""
    how["engine"] = replace(how["engine"], attention_balance=None)  # not with roles
    if how.get("prefill_share", 1.0) < 1:
        how["engine"] = replace(how["engine"], chunks_prompts=True)
    result = simulate(inputs_of_legs(case, load, transfer, **how))
    reference = LegReference(
        inputs_of_legs(case, load, transfer, **how),
        lambda engine: replace(engine, admission="prompt", schedule_conservativeness=None, speculation=None),
        lambda engine: replace(engine, caches_prefixes=engine.caches_prefixes and how.get("decode_caches", True)),
    )
    compare(result, reference.run())
    return result


HOST, DISK = KvTier("host", 20 * 384_000, 5e8, 100_000), KvTier("disk", 400 * 384_000, 1e8, 1_000_000)


@given(
    case=cases(),
    engine=engines(),
    transfer=transfers,
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=routings,
    decode_routing=routings,
    rate_rps=st.sampled_from([5.0, 60.0, 1000.0]),
    share=st.sampled_from([1.0, 0.6]),
)
@settings(max_examples=20, deadline=None)
def test_requests_that_come_at_a_rate(case, engine, transfer, seed, batching, routing, decode_routing, rate_rps, share):
    load = random_load(seed, 40, rate_rps=rate_rps, prompt=60, output=20)
    how = {"engine": engine, "batching": batching, "routing": routing, "decode_routing": decode_routing}
    how["prefill_share"] = share
    assert_equal(case, load, transfer, seed=seed, **how)


@pytest.mark.parametrize("routing", ["least_loaded", "earliest_finish"])
@pytest.mark.parametrize("chunks", [False, True])
def test_prompts_come_as_steps_end(chunks, routing):
    """The KV cache of a prompt comes at the instant in which one of several steps taken at once ends."""
    roles = {"n-0": "prefill", "n-1": "decode", "n-2": "both"}
    for seed in range(5):
        load = random_load(seed, 40, rate_rps=60.0, prompt=20, output=20)
        case, load = of_one_instant(load, 3, 1, blocks=100)
        engine = replace(INSIDE, chunks_prompts=chunks)
        transfer = KvTransfer(False, latency_ns=3_000_000)
        assert_equal(with_roles(case, roles), load, transfer, engine=engine, routing=routing)


@pytest.mark.slow
@given(
    case=cases(),
    engine=engines(),
    transfer=transfers,
    caches=st.booleans(),
    seed=st.integers(0, 10**6),
    batching=st.sampled_from(batching_registry.names()),
    routing=routings,
    feed=st.sampled_from(
        [{"rate_rps": 60.0}, {"rate_rps": 1000.0}]
        + [{"mode": FeedMode.CLOSED_LOOP, "concurrency": requests} for requests in (2, 20)]
        + [{"mode": FeedMode.SATURATE, "prompts_in_flight": prompts} for prompts in (1, 20)]
    ),
    edges=st.tuples(st.sampled_from([0, 50, 200]), st.sampled_from([50, 100, 300])),
    output=st.sampled_from([20, 60]),
    most_local=st.sampled_from([None, 0, 10, 50]),
    decode_caches=st.booleans(),
    behind=st.sampled_from([(), (HOST,), (HOST, DISK)]),
    share=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
)
@settings(max_examples=400, deadline=None)
def test_all_of_it_together(
    case, engine, transfer, caches, seed, batching, routing, feed, edges, output, most_local, decode_caches, behind,
    share,
):  # fmt: skip
    """Prefix caches with tiers, short prompts that stay, drafts, rules of admission and windows under all feeds."""
    rate_rps = feed.get("rate_rps")
    make = shared_load if caches else random_load
    load = make(seed, 40 if rate_rps else 600, rate_rps=rate_rps or 1.0, prompt=60, output=output)
    how = {"engine": replace(engine, caches_prefixes=caches), "batching": batching, "routing": routing, "seed": seed}
    how |= {name: value for name, value in feed.items() if name != "rate_rps"}
    how |= {"most_local_tokens": most_local, "decode_caches": decode_caches, "prefill_share": share}
    if caches and behind:
        how["engine"] = replace(how["engine"], chunks_prompts=True, kv_tiers=behind)
    warmup, duration = (edge * 997_003 for edge in edges)
    assert_equal(case, load, transfer, window=Window(warmup, duration, drain=False), **how)


@pytest.mark.parametrize("is_layerwise", [False, True])
@pytest.mark.parametrize("batching", batching_registry.names())
def test_the_comparison_reaches_what_is_rare(is_layerwise, batching):
    """Full memory on either side, preempted decodes and prompts, shared cards: these do happen."""
    seen = Counter()
    for blocks in ((14, 40), (40, 14), (12, 12)):
        stages = [[kind_of("p", blocks=blocks[0], budget=40)] * 2, [kind_of("d", blocks=blocks[1], budget=40)] * 2]
        case = chains(stages, intra=LinkSpec(3e8, 70_000), nic_bps=2e8)
        roles = {"p-0": "prefill", "p-1": "prefill", "d-0": "decode", "d-1": "decode"}
        load = random_load(1, 30, rate_rps=60.0, prompt=60, output=80)
        result = assert_equal(with_roles(case, roles), load, KvTransfer(is_layerwise), engine=INSIDE, batching=batching)
        seen["preempted prompts"] += result.nodes.preemptions[:2].sum()
        seen["preempted decodes"] += result.nodes.preemptions[2:].sum()
        seen["transfers"] += len(result.transfers.bytes)
        seen["waits"] += result.links.queue_ns.sum()
    assert min(seen[name] for name in ("preempted decodes", "transfers", "waits")) > 0, seen
    assert is_layerwise or batching != "continuous" or seen["preempted prompts"]
