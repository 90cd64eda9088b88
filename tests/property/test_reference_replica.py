"""The engine of replicas, which moves groups and leaps, against the plain one that does not: equal to the ns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from comparing_replicas import INSIDE, compare
from fault_cases import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_replica import Reference
from reference_replica_faults import FaultyReference
from replica_cases import chains, clusters, engines, kind_of, of_one_instant, shared_load, with_classes
from simulating import MS, SECOND, inputs_of, random_load

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RequestStatus
from helixsim.engine.simulate import simulate


def assert_equal(case, load, kind=Reference, **how):
    """Run both engines on inputs made anew for each and compare all they leave."""
    result = simulate(inputs_of(case, load, **how))
    compare(result, kind(inputs_of(case, load, **how)).run())
    return result


routings = st.sampled_from(
    ["flow_weighted", "least_loaded", "shortest_queue", "random", "prefix_aware", "earliest_finish", "auto"]
)


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=routings,
    rate_rps=st.sampled_from([5.0, 60.0, 1000.0]),
)
@settings(max_examples=40, deadline=None)
def test_requests_that_come_at_a_rate(case, engine, seed, batching, routing, rate_rps):
    load = random_load(seed, 40, rate_rps=rate_rps, prompt=60, output=20)
    assert_equal(case, load, engine=engine, batching=batching, routing=routing, seed=seed)


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=routings,
    number=st.sampled_from([12, 5000]),
)
@settings(max_examples=25, deadline=None)
def test_requests_that_come_as_others_leave(case, engine, seed, batching, routing, number):
    load = random_load(seed, number, rate_rps=1.0, prompt=60, output=20)
    window = Window(SECOND // 8, SECOND // 2, drain=False) if number > 12 else Window(0, None, drain=True)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 9, "window": window}
    assert_equal(case, load, engine=engine, batching=batching, routing=routing, seed=seed, **how)


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=routings,
    prompts_in_flight=st.sampled_from([1, 3, 20]),
)
@settings(max_examples=25, deadline=None)
def test_requests_that_come_as_soon_as_they_fit(case, engine, seed, batching, routing, prompts_in_flight):
    load = random_load(seed, 5000, rate_rps=1.0, prompt=60, output=20)
    how = {"mode": FeedMode.SATURATE, "prompts_in_flight": prompts_in_flight}
    how |= {"window": Window(SECOND // 8, SECOND // 2, drain=False)}
    assert_equal(case, load, engine=engine, batching=batching, routing=routing, seed=seed, **how)


@given(
    count=st.integers(2, 3),
    stages=st.sampled_from([1, 1, 2]),
    blocks=st.sampled_from([14, 100]),
    caches=st.booleans(),
    chunks=st.booleans(),
    routing=routings,
    is_saturated=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=20, deadline=None)
def test_events_of_one_instant(count, stages, blocks, caches, chunks, routing, is_saturated, seed):
    """Steps end, requests arrive and are routed at the same times, so that their order within an instant counts."""
    load = random_load(seed, 200 if is_saturated else 40, rate_rps=60.0, prompt=20, output=20)
    case, load = of_one_instant(load, count, stages, blocks=blocks, budget=50 if chunks else 400)
    how = {"engine": replace(INSIDE, chunks_prompts=chunks, caches_prefixes=caches), "routing": routing, "seed": seed}
    if is_saturated:
        how |= {"mode": FeedMode.SATURATE, "prompts_in_flight": 5, "window": Window(0, SECOND // 5, drain=False)}
    assert_equal(case, load, **how)


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    edges=st.tuples(st.integers(0, 400), st.integers(40, 400)),
)
@settings(max_examples=10, deadline=None)
def test_windows_that_cut_anywhere(case, engine, seed, edges):
    load = random_load(seed, 30, rate_rps=100.0, prompt=60, output=60)
    warmup, duration = (edge * 997_003 for edge in edges)
    for drain in (False, True):
        assert_equal(case, load, engine=engine, window=Window(warmup, duration, drain))


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    rate_rps=st.sampled_from([60.0, 1000.0]),
)
@settings(max_examples=40, deadline=None)
def test_classes_of_different_priority(case, engine, seed, batching, rate_rps):
    load = with_classes(random_load(seed, 40, rate_rps=rate_rps, prompt=60, output=60), seed)
    assert_equal(case, load, engine=replace(engine, scheduling_policy="priority"), batching=batching, seed=seed)


@pytest.mark.parametrize("stages", [1, 3])
def test_a_prompt_of_a_low_class_keeps_the_chunk_that_it_has_in_a_step(stages):
    """It came before one of a high class that lacks memory in the same step, which waits for the next one."""
    case = chains([[kind_of("n", blocks=9, budget=50, seqs=3)] * stages], intra=LinkSpec(1e8, 0))
    engine = replace(INSIDE, scheduling_policy="priority", long_prefill_token_threshold=7)
    seen = 0
    for seed in range(12):
        load = with_classes(random_load(seed, 30, rate_rps=200.0, prompt=60, output=20), seed)
        seen += assert_equal(case, load, engine=engine).counters["preemptions"]
    assert seen


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_long_decodes_between_few_arrivals(stages):
    """Where nothing happens for hundreds of steps, which a fast engine takes as one."""
    case = chains([[kind_of("n", blocks=400, budget=64, context_ns=7.3)] * stages])
    assert_equal(case, random_load(3, 25, rate_rps=0.5, prompt=100, output=400), engine=INSIDE)


def test_steps_keep_their_order_at_every_stage():
    """A step that comes while a stage computes must not overtake one that was sent before it and is under way."""
    load = random_load(8, 30, rate_rps=60.0, prompt=60, output=20)
    for budget, decode_ns, prefill_ns, latency in ((16, 1.3e6, 300.0, 3_000_000), (48, 1e5, 5000.0, 70_000)):
        kind = kind_of(
            "n", blocks=400, budget=budget, decode_ns=decode_ns, prefill_ns=prefill_ns, pair_ns=20.0, context_ns=30.0
        )
        assert_equal(chains([[kind] * 3], intra=LinkSpec(1e8, latency)), load, engine=INSIDE)


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("batching", batching_registry.names())
def test_the_comparison_reaches_what_is_rare(stages, batching):
    """What the random cases are there for does happen, so that they cannot agree on easy runs only."""
    seen = Counter()
    for blocks, threshold in ((14, 0), (14, 20), (30, 7)):
        case = chains([[kind_of("n", blocks=blocks, budget=40)] * stages])
        load = random_load(1, 60, rate_rps=60.0, prompt=60, output=80)
        engine = replace(INSIDE, long_prefill_token_threshold=threshold)
        result = assert_equal(case, load, engine=engine, batching=batching)
        seen["preemptions"] += result.counters["preemptions"]
        seen["rejected"] += (result.requests.status == RequestStatus.REJECTED).sum()
        seen["twice"] += (result.requests.preemptions > 1).sum()
    assert min(seen[name] for name in ("preemptions", "rejected", "twice")) > 0


@pytest.mark.parametrize("stages", [1, 2])
def test_a_rejection_counts_from_when_the_scheduler_decides(stages):
    """Runs that end while the client of a request that has outgrown the replica does not know of it yet."""
    case = chains([[kind_of("n", blocks=5, budget=50)] * stages], intra=LinkSpec(1e10, 3_000_000))
    load = random_load(1, 20, rate_rps=1.0, prompt=60, output=200)
    closed = {"engine": INSIDE, "mode": FeedMode.CLOSED_LOOP, "concurrency": 1}
    first = Reference(inputs_of(case, load[:1], **closed)).run()
    (replica,) = first.replicas
    decided = max(end for _, end in replica.stages[-1].node.busy) + replica.return_ns
    for after in (-1_000_000, 0, 1_000_000, 2_999_999, 4_000_000):
        window = Window(0, decided + after, drain=False)
        result = assert_equal(case, load, window=window, **closed)
        if 0 < after < 3_000_000:
            assert result.requests.status.tolist() == [RequestStatus.REJECTED]


@pytest.mark.slow
@given(
    case=clusters(),
    engine=engines(),
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
    output=st.sampled_from([20, 60, 200]),
)
@settings(max_examples=600, deadline=None)
def test_all_of_it_together(case, engine, caches, seed, batching, routing, feed, edges, output):
    """Prefix caches, drafts, priorities, rules of admission and windows under all feeds, one by one in quick tests."""
    rate_rps = feed.get("rate_rps")
    make = shared_load if caches else random_load
    load = with_classes(make(seed, 40 if rate_rps else 600, rate_rps=rate_rps or 1.0, prompt=60, output=output), seed)
    how = {"engine": replace(engine, caches_prefixes=caches), "batching": batching, "routing": routing, "seed": seed}
    how |= {name: value for name, value in feed.items() if name != "rate_rps"}
    warmup, duration = (edge * 997_003 for edge in edges)
    assert_equal(case, load, window=Window(warmup, duration, drain=False), **how)


@st.composite
def runs_with_failures(draw):
    """A case, a load, and how to run them, with nodes that fail at different instants and are all back in the end."""
    case, seed, rate_rps = draw(clusters()), draw(st.integers(0, 10**6)), draw(st.sampled_from([10.0, 60.0]))
    make = draw(st.sampled_from([random_load, shared_load]))
    nodes = [node.id for node in case[0].cluster.nodes]
    times = iter(sorted(draw(st.lists(st.integers(0, 2500), min_size=8, max_size=8, unique=True))))
    faults = []
    for _ in range(draw(st.integers(1, 4))):
        chosen = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True))
        faults += [(next(times) + 0.25, kind, chosen) for kind in ("down", "up")]
    detection_ns = draw(st.sampled_from([0, 30, 900])) * MS + 500_000
    how = {
        "engine": draw(engines()),
        "routing": draw(routings),
        "batching": draw(st.sampled_from(batching_registry.names())),
        "faults": plan_of(*faults, (faults[-1][0] + 3, "up", nodes), detection_ns=detection_ns),
        "seed": seed,
    }
    how |= {"mode": FeedMode.CLOSED_LOOP, "concurrency": 9} if draw(st.booleans()) else {}
    return case, make(seed, 40, rate_rps=rate_rps, prompt=60, output=20), how


@given(run=runs_with_failures())
@settings(max_examples=6, deadline=None)
def test_nodes_that_fail(run):
    case, load, how = run
    assert_equal(case, load, FaultyReference, **how)


@pytest.mark.slow
@given(run=runs_with_failures())
@settings(max_examples=300, deadline=None)
def test_many_failures(run):
    case, load, how = run
    assert_equal(case, load, FaultyReference, **how)
