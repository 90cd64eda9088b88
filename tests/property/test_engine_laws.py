"""Laws of every run, on small random fleets and loads; simulate() itself raises if INV-1 .. INV-10 break."""

from __future__ import annotations

import random

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import cases
from simulating import SECOND, random_load, run

from helixsim.batching import registry as batching_registry
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RequestStatus
from helixsim.engine import kernel as kernel_module
from helixsim.routing import registry as routing_registry


@pytest.mark.parametrize("routing", routing_registry.names())
@given(
    case=cases(),
    seed=st.integers(0, 1000),
    batching=st.sampled_from(batching_registry.names()),
    is_one_by_one=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_a_drained_run_finishes_or_rejects_everything(routing, case, seed, batching, is_one_by_one):
    load = random_load(seed, 40, rate_rps=20.0)
    result = run(case, load, routing=routing, batching=batching, seed=seed, is_one_by_one=is_one_by_one)
    rows = result.requests
    assert set(rows.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert len(rows.status) == len(load)
    done = rows.status == RequestStatus.FINISHED
    assert list(rows.output_tokens[done]) == [
        request.output_tokens for request, ok in zip(load, done, strict=True) if ok
    ]
    assert result.series.output_tokens[-1] == rows.output_tokens.sum()
    # Every token of every step passes every stage once (INV-5, counted at the nodes).
    by_stage: dict[int, int] = {}
    for start, tokens in zip(result.nodes.start, result.nodes.decode_tokens, strict=True):
        by_stage[start] = by_stage.get(start, 0) + tokens
    assert len(set(by_stage.values())) == 1
    assert result.gaps.count.sum() == (rows.output_tokens - (rows.output_tokens > 0)).sum()


@given(case=cases(), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_outcomes_do_not_depend_on_the_order_in_which_events_of_one_instant_were_scheduled(case, seed):
    """INV-12: ties in (time, priority) are drawn at random; every request still ends at the same nanosecond."""
    load = random_load(seed, 30, rate_rps=50.0)
    load = [type(r)(r.id, r.arrival_ns // SECOND * SECOND, r.prompt_tokens, r.output_tokens) for r in load]
    plain = run(case, load)

    class Shuffled(simpy.Environment):
        def __init__(self, start):
            super().__init__(start)
            order = random.Random(seed)
            self._eid = iter(order.random, None)

    original = kernel_module.simpy.Environment
    kernel_module.simpy.Environment = Shuffled
    try:
        shuffled = run(case, load)
    finally:
        kernel_module.simpy.Environment = original
    for name in ("request_id", "admitted_ns", "first_token_ns", "finish_ns", "queue_ns", "compute_ns", "network_ns"):
        np.testing.assert_array_equal(getattr(plain.requests, name), getattr(shuffled.requests, name), name)


@given(case=cases(), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_equal_inputs_give_equal_results(case, seed):
    load = random_load(seed, 30, rate_rps=30.0)
    first, second = run(case, load, routing="random"), run(case, load, routing="random")
    for name in ("admitted_ns", "first_token_ns", "finish_ns", "route", "preemptions"):
        np.testing.assert_array_equal(getattr(first.requests, name), getattr(second.requests, name))
    assert first.counters == second.counters


@given(case=cases(), seed=st.integers(0, 1000), mode=st.sampled_from([FeedMode.CLOSED_LOOP, FeedMode.SATURATE]))
@settings(max_examples=6, deadline=None)
def test_closed_feeds_run_to_the_horizon_and_keep_their_limits(case, seed, mode):
    load = random_load(seed, 10_000, rate_rps=1.0, prompt=20)
    result = run(
        case, load, mode=mode, concurrency=5, prompts_in_flight=3, window=Window(SECOND, 4 * SECOND, False), seed=seed
    )
    assert result.end_ns == 5 * SECOND
    assert result.window_end_ns == result.series.time_ns[-1] == 5 * SECOND
    assert result.window_start_ns in result.series.time_ns
    if mode is FeedMode.CLOSED_LOOP:
        assert set(result.series.waiting + result.series.running) == {5}
