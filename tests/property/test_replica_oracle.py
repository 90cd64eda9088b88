"""Laws that the oracle of the engine of replicas keeps by itself, so that agreement with it means something."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_replica import Reference
from replica_cases import chains, clusters, engines, kind_of
from simulating import SECOND, inputs_of, random_load, requests

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import Curve
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RequestStatus

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
NEAR = LinkSpec(1e12, 0)


def run(case, load, engine=INSIDE, **how):
    return Reference(inputs_of(case, load, engine=engine, **how)).run()


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    routing=st.sampled_from(["flow_weighted", "least_loaded", "shortest_queue"]),
)
@settings(max_examples=60, deadline=None)
def test_steps_keep_to_their_limits_and_everything_ends(case, engine, seed, batching, routing):
    load = random_load(seed, 30, rate_rps=60.0, prompt=60, output=20)
    reference = run(case, load, engine, batching=batching, routing=routing)
    tokens = outputs = 0
    for replica in reference.replicas:
        assert not replica.sequences()
        assert replica.peak <= replica.capacity
        for step in replica.steps:
            assert 0 < len(step.parts) <= replica.most
            chunks = [part for part in step.parts if part.is_chunk]
            is_alone = len(step.parts) == 1  # a whole prompt, or the drafts of one sequence
            assert step.tokens <= replica.budget or is_alone
            assert all(part.tokens == 1 + replica.drafts for part in step.parts if not part.is_chunk)
            assert batching == "continuous" or len(chunks) in (0, len(step.parts))
            assert engine.chunks_prompts or all(not part.before and part.samples for part in chunks)
            if engine.chunks_prompts and engine.long_prefill_token_threshold:
                assert max((part.tokens for part in chunks), default=0) <= engine.long_prefill_token_threshold
        assert (
            len({(stage.node.batches, stage.node.prompt_tokens, stage.node.decode_tokens) for stage in replica.stages})
            == 1
        )
        for stage in replica.stages:
            assert all(end <= start for (_, end), (start, _) in zip(stage.node.busy, stage.node.busy[1:], strict=False))
        tokens += sum(part.gained for step in replica.steps for part in step.parts if part.samples)
        outputs += sum(len(step.sampled()) for step in replica.steps)
    for sequence in reference.sequences:
        assert sequence.status in (RequestStatus.FINISHED, RequestStatus.REJECTED)
        assert sequence.generated == sequence.delivered
        if sequence.status is RequestStatus.FINISHED:
            assert sequence.delivered == sequence.output
            assert min(sequence.queue, sequence.network, sequence.compute) >= 0
            assert sequence.arrival <= sequence.admitted <= sequence.first_token <= sequence.finish
    assert tokens == sum(sequence.generated for sequence in reference.sequences)
    assert len(reference.gaps) == outputs - sum(sequence.delivered > 0 for sequence in reference.sequences)


@given(
    case=clusters(),
    engine=engines(),
    seed=st.integers(0, 10_000),
    mode=st.sampled_from([FeedMode.CLOSED_LOOP, FeedMode.SATURATE]),
)
@settings(max_examples=30, deadline=None)
def test_feeds_without_end_keep_their_limits(case, engine, seed, mode):
    load = random_load(seed, 5000, rate_rps=1.0, prompt=60, output=20)
    window = Window(SECOND // 8, SECOND // 2, False)
    reference = run(case, load, engine, mode=mode, concurrency=5, prompts_in_flight=3, window=window, seed=seed)
    for at in {sequence.arrival for sequence in reference.sequences}:
        alive = [
            s for s in reference.sequences
            if s.arrival <= at and not 0 <= s.finish <= at and s.status is not RequestStatus.REJECTED
        ]  # fmt: skip
        if mode is FeedMode.CLOSED_LOOP:
            assert len(alive) <= 5
        elif at:
            # What is submitted could run at once: none waits for others that were submitted before it. A request whose
            # last token is on its way to the client runs no more.
            alive = [s for s in alive if s.generated < s.output or s.finish >= 0]
            at_scheduler = [s for s in alive if not 0 <= s.finish - s.replica.client_ns <= at]
            assert all(sum(s.replica is r for s in at_scheduler) <= r.most for r in reference.replicas)
    assert reference.now <= window.warmup_ns + window.duration_ns


@given(seed=st.integers(0, 1000), stages=st.integers(1, 3), threshold=st.sampled_from([0, 9]))
@settings(max_examples=20, deadline=None)
def test_with_ample_memory_nothing_is_computed_twice(seed, stages, threshold):
    case = chains([[kind_of("n", blocks=2000, budget=40)] * stages])
    load = random_load(seed, 25, rate_rps=100.0, prompt=80, output=12)
    (replica,) = run(case, load, replace(INSIDE, long_prefill_token_threshold=threshold)).replicas
    assert not replica.preemptions
    node = replica.stages[0].node
    assert node.prompt_tokens == sum(request.prompt_tokens for request in load)
    assert node.decode_tokens == sum(request.output_tokens - 1 for request in load)


@given(seed=st.integers(0, 1000), stages=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_short_memory_recomputes_and_counts_it(seed, stages):
    load = random_load(seed, 25, rate_rps=100.0, prompt=60, output=40)
    (replica,) = run(chains([[kind_of("n", blocks=16, budget=40)] * stages]), load).replicas
    node, tokens = replica.stages[0].node, sum(sequence.generated for sequence in replica.reference.sequences)
    needed = sum(s.prompt + s.generated - 1 for s in replica.reference.sequences if s.generated)
    assert replica.preemptions == sum(sequence.preemptions for sequence in replica.reference.sequences)
    assert (node.prompt_tokens + node.decode_tokens > needed) == (replica.preemptions > 0)
    assert node.decode_tokens < tokens


@given(case=clusters(), engine=engines(), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_budget_beyond_all_prompts_is_the_same_as_whole_prompts(case, engine, seed):
    fleet, *rest = case
    kinds = {}
    for one in fleet.profiles:
        limits = tuple(replace(limit, max_prefill_tokens=10**6) for limit in one.limits)
        kinds[one.kind] = replace(one, limits=limits)
    case = replace(fleet, profiles=tuple(kinds[one.kind] for one in fleet.profiles)), *rest
    load = random_load(seed, 25, rate_rps=60.0, prompt=60, output=20)
    engine = replace(engine, long_prefill_token_threshold=0)
    whole, chunked = (run(case, load, replace(engine, chunks_prompts=chunks)).sequences for chunks in (False, True))
    ends = [[(s.status, s.admitted, s.first_token, s.finish) for s in sequences] for sequences in (whole, chunked)]
    assert ends[0] == ends[1]


@given(prompt=st.integers(1, 900), budget=st.integers(1, 900), stages=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_chunks_of_a_prompt_cost_at_least_as_much_as_the_whole(prompt, budget, stages):
    engine = replace(INSIDE, batch_overhead_ns=5_000, has_output_head=True)
    shape = {"blocks": 1000, "pair_ns": 1.5, "head": Curve((1.0,), (3e5,))}
    busy = []
    for tokens in (budget, 10**6):
        reference = run(chains([[kind_of("n", budget=tokens, **shape)] * stages]), requests((0, prompt, 1)), engine)
        busy.append(sum(end - start for node in reference.nodes for start, end in node.busy))
    assert busy[0] >= busy[1] - stages * (prompt // budget + 1)  # each step is rounded
    assert (busy[0] > busy[1]) == (prompt > budget)


def served(concurrency, stages=1, **kind):
    """Tokens/s and mean gap of so many requests in flight on one replica."""
    case = chains([[kind_of("n", blocks=2000, budget=4000, **kind)] * stages], intra=NEAR)
    load = requests(*[(0, 16, 100)] * (4 * concurrency))
    reference = run(case, load, mode=FeedMode.CLOSED_LOOP, concurrency=concurrency)
    tokens = sum(sequence.delivered for sequence in reference.sequences)
    return tokens / reference.now, sum(reference.gaps) / len(reference.gaps)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_more_in_flight_serve_more_and_each_waits_no_less(stages):
    rates, gaps = zip(*(served(count, stages, context_ns=10.0) for count in (1, 2, 3, 6, 12)), strict=True)
    assert rates[1] >= 1.9 * rates[0]
    assert list(rates) == sorted(rates)
    assert [round(gap / 1e5) for gap in gaps] == sorted(round(gap / 1e5) for gap in gaps)


def test_a_chunk_of_a_long_prompt_is_the_largest_gap():
    case = chains([[kind_of("n", blocks=4000, budget=128, seqs=64)]], intra=NEAR)
    load = requests(*[(0, 16, 200)] * 20, (300, 3000, 1))
    (replica,) = run(case, load).replicas
    longest = max(step.tokens for step in replica.steps)
    assert longest == 128
    assert max(replica.reference.gaps) <= 12 * (1_000_000 + 128 * 1000)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_latency_of_links_is_felt_in_proportion(stages):
    ends = []
    for latency in (0, 1, 1000, 1_000_000):
        kind = kind_of("n", blocks=2000, budget=4000)
        load = requests(*[(0, 16, 50)] * 12)
        ends.append(run(chains([[kind] * stages], intra=LinkSpec(1e12, latency)), load).now)
    assert ends[1] - ends[0] <= 3 * 50 * 4
    assert ends[2] - ends[0] <= 3 * 50 * 4 * 1000
    assert ends[3] - ends[0] <= 3 * 50 * 4 * 1_000_000
    assert ends == sorted(ends)
