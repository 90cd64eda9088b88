"""Clients that give up and send their requests again, where times are known beforehand."""

from __future__ import annotations

from itertools import pairwise

import builders
import numpy as np
import pytest
from fault_cases import plan_of
from replica_cases import chains, kind_of
from simulating import MS, inputs_of, requests

from helixsim.domain.clients import ClientSpec, ClientStats
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.faults import FailureCause
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.engine.simulate import simulate

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
NEAR = LinkSpec(1e12, 0)


def replica(blocks=100, stages=1):
    """One replica whose steps take 20 ms a stage."""
    return chains([[kind_of("n0", budget=64, blocks=blocks, decode_ns=20 * MS)] * stages], intra=NEAR)


def nodes(blocks=100):
    kind = builders.profile("n0", 2, decode_ns=20 * MS, kv_blocks=(2 * blocks, blocks))
    fleet = builders.fleet([kind] * 2, num_layers=4, intra=NEAR)
    ranges = {"n0-0": (0, 2), "n0-1": (2, 4)}
    return fleet, builders.capacity_of(fleet, {"n0": (200.0, 100.0)}), builders.placement_of(fleet, ranges)


CASES = {"replica": (replica, INSIDE), "chain": (lambda blocks=100: replica(blocks, 2), INSIDE), "nodes": (nodes, None)}


def run(case, load, *, engine, timeout_ms, retries=3, until="end", jitter=0.0, most_ms=400, seed=0, **how):
    spec = ClientSpec(timeout_ms * MS, until, retries, 100 * MS, most_ms * MS, jitter)
    how |= {} if engine is None else {"engine": engine}
    return simulate(inputs_of(case, load, faults=plan_of(clients=spec), seed=seed, **how))


@pytest.mark.parametrize("name", CASES)
def test_attempts_follow_after_the_timeout_and_a_wait_that_doubles(name):
    make, engine = CASES[name]
    result = run(make(), requests((0, 32, 1000)), engine=engine, timeout_ms=500, retries=4)
    arrivals = [0, 600, 600 + 700, 600 + 700 + 900, 600 + 700 + 900 + 900]  # waits of 100, 200, 400 and again 400 ms
    assert [at_ns // MS for at_ns in result.requests.arrival_ns] == arrivals
    assert list(result.requests.status) == [RequestStatus.FAILED] * 5
    assert result.faults.clients == ClientStats(gave_up=5, sent_again=4, abandoned=1)
    assert set(result.faults.causes.values()) == {FailureCause.GIVEN_UP}
    assert (result.requests.output_tokens > 0).all()


@pytest.mark.parametrize("name", CASES)
def test_memory_of_a_request_that_is_given_up_goes_to_those_that_wait(name):
    """Of 22 blocks of 16 tokens the first request has 21: the second one starts with the first step without it."""
    make, engine = CASES[name]
    load = requests((0, 320, 280), (1900, 320, 8))
    result = run(make(blocks=22), load, engine=engine, timeout_ms=2000, retries=0, high_water=1.0)
    patient = run(make(blocks=22), load, engine=engine, timeout_ms=10**6, high_water=1.0)
    assert list(result.requests.status) == [RequestStatus.FAILED, RequestStatus.FINISHED]
    step_ns = 200 * MS
    assert 2000 * MS <= result.requests.admitted_ns[1] <= 2000 * MS + step_ns
    assert not 2000 * MS <= patient.requests.admitted_ns[1] <= 2000 * MS + step_ns


@pytest.mark.parametrize("name", CASES)
def test_a_client_that_waits_for_the_first_token_does_not_give_up_behind_it(name):
    make, engine = CASES[name]
    result = run(make(), requests((0, 32, 100)), engine=engine, timeout_ms=500, until="first_token")
    assert list(result.requests.status) == [RequestStatus.FINISHED]
    assert result.requests.finish_ns[0] > 500 * MS > result.requests.first_token_ns[0]


def test_jitter_shortens_waits_by_the_seed():
    waits = {}
    for seed in (0, 0, 1):
        result = run(replica(), requests((0, 32, 1000)), engine=INSIDE, timeout_ms=500, jitter=0.5, seed=seed)
        arrivals = result.requests.arrival_ns
        found = [int(later - before) - 500 * MS for before, later in pairwise(arrivals)]
        assert waits.setdefault(seed, found) == found
        for wait_ns, full_ms in zip(found, (100, 200, 400), strict=True):
            assert full_ms / 2 * MS <= wait_ns <= full_ms * MS
    assert waits[0] != waits[1]


@pytest.mark.parametrize("name", CASES)
def test_a_closed_loop_keeps_the_place_of_a_client_that_will_send_again(name):
    make, engine = CASES[name]
    load = requests((0, 32, 1000), (0, 32, 3), (0, 32, 3))
    result = run(
        make(), load, engine=engine, timeout_ms=2000, retries=1, mode=FeedMode.CLOSED_LOOP, concurrency=1
    )  # fmt: skip
    assert [int(one) for one in result.requests.request_id] == [0, 0, 1, 2]
    assert [at_ns // MS for at_ns in result.requests.arrival_ns[:2]] == [0, 2100]
    assert result.requests.arrival_ns[2] >= 4100 * MS
    assert result.faults.clients == ClientStats(gave_up=2, sent_again=1, abandoned=1)


def test_an_overload_is_worse_with_clients_that_send_again():
    """Requests sent again keep a replica busy with tokens of attempts that will be given up."""
    load = requests(*((40 * number, 64, 12) for number in range(100)))
    patient, storm = (
        run(replica(40), load, engine=INSIDE, timeout_ms=timeout_ms, retries=5, most_ms=100)
        for timeout_ms in (10**6, 500)
    )
    assert len(patient.requests.status) == 100
    assert len(storm.requests.status) > 150
    firsts = np.unique(storm.requests.request_id, return_index=True)[1]
    assert np.array_equal(storm.requests.arrival_ns[firsts], patient.requests.arrival_ns)
    served = storm.requests.status == RequestStatus.FINISHED
    assert storm.faults.clients.abandoned == 100 - served.sum() > 0
    assert storm.series.output_tokens[-1] > storm.requests.output_tokens[served].sum()
