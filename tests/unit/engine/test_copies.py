"""Copies of KV memory at other replicas: what they may not change, what they cost, and what goes on from them."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from copy_cases import (
    CACHING,
    EVERY,
    INSIDE,
    NODES,
    ONE,
    case_of,
    columns,
    copied_bytes,
    simulate,
    token_bytes,
)
from fault_cases import clients, plan_of, plans
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from replica_cases import clusters, engines, shared_load
from simulating import MS, SECOND, random_load, requests, run

from helixsim.domain.faults import FailureCause, Replication
from helixsim.domain.result import RequestStatus
from helixsim.errors import ConfigError


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    case=clusters(ranks=(1, 1, 3)), engine=engines(), seed=st.integers(0, 99), copies=st.integers(1, 2),
    interval_ms=st.sampled_from([5, 30]), caches=st.booleans(),
)  # fmt: skip
def test_without_a_failure_requests_see_nothing_of_copies(case, engine, seed, copies, interval_ms, caches):
    assume(len(set(case[2].pipelines.values())) > copies)
    load = shared_load(seed, 20, rate_rps=40.0) if caches else random_load(seed, 20, rate_rps=40.0, prompt=60)
    how = {"engine": replace(engine, caches_prefixes=caches), "seed": seed}
    plain = simulate(case, load, plan_of(), None, **how)
    assert plain.faults.copies is None
    result = simulate(case, load, plan_of(), Replication(copies, interval_ns=interval_ms * MS), **how)
    assert columns(result) == columns(plain)
    stats = result.faults.copies
    assert stats.sent_bytes == copied_bytes(result) == pytest.approx(stats.tokens * token_bytes(case))
    assert stats.restored == stats.left_out == 0


@pytest.mark.parametrize(("count", "stages"), [(3, 1), (3, 2)])
def test_each_copy_has_the_tokens_in_kv_memory_at_the_last_message(count, stages):
    """One request of 32 tokens that decodes 200: at 100 ms, 200 ms, ... what is in KV memory is sent."""
    case = case_of(count, stages)
    load = requests((0, 32, 200))
    one, two = (simulate(case, load, plan_of(), Replication(copies)) for copies in (1, 2))
    first, last = int(one.requests.first_token_ns[0]), int(one.requests.finish_ns[0])
    step_ns = (last - first) / 199
    at_ns = last // (100 * MS) * 100 * MS
    assert one.faults.copies.tokens == pytest.approx(32 + (at_ns - first) / step_ns, abs=2)
    assert two.faults.copies.tokens == 2 * one.faults.copies.tokens
    assert two.faults.copies.sent_bytes == 2 * one.faults.copies.sent_bytes
    assert two.faults.copies.peak_bytes == one.faults.copies.peak_bytes == one.faults.copies.sent_bytes


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("stages", [1, 2])
def test_what_had_come_is_not_computed_again(count, stages):
    case = case_of(count, stages, step_ms=10, token_ms=2, blocks=400)
    load = random_load(1, 20, rate_rps=10.0, prompt=60, output=60)
    faults = plan_of((1500, "down", [ONE]))
    plain, result = simulate(case, load, faults, None), simulate(case, load, faults)
    assert plain.faults.rows.tolist() == result.faults.rows.tolist()
    stats = result.faults.copies
    assert stats.restored > 0
    assert stats.restored_tokens > 0
    assert result.faults.recomputed_tokens + stats.restored_tokens == plain.faults.recomputed_tokens
    computed, again = int(result.nodes.prompt_tokens.sum()), int(plain.nodes.prompt_tokens.sum())
    assert again - computed == stats.restored_tokens * stages
    assert result.requests.finish_ns.max() < plain.requests.finish_ns.max()


def test_a_request_goes_on_from_the_last_message_that_had_come():
    """Step of 20 ms, messages of 50 ms: at 1.1 s the copy has what was in KV memory at 1.05 s."""
    case = case_of(2, step_ms=20)
    result = simulate(case, requests((0, 32, 100)), plan_of((1090, "down", [ONE])), Replication(1, interval_ns=50 * MS))
    assert result.faults.copies.restored == 1
    before = int((1050 * MS - result.requests.first_token_ns[0]) // (20 * MS))
    assert result.faults.copies.restored_tokens == pytest.approx(32 + before, abs=1)
    assert 1 <= result.faults.recomputed_tokens <= 5
    assert result.requests.transfer_ns[0] > 0


def test_a_copy_elsewhere_takes_the_time_of_its_link_and_one_at_hand_that_of_host_memory():
    """Two replicas: the other one has the copy. Three: the ring has it at the second, the third is emptier."""
    size = 8 * (32 + 200) * token_bytes(case_of())
    waits = {}
    for name, count, rate in (("fast", 2, 1e12), ("slow", 2, size), ("link", 3, 1e12)):
        case = case_of(count, bandwidth_bps=1e9)
        load = requests((0, 32, 400), (1, 32, 1000 if count == 3 else 1))
        down = plan_of((401, "down", [ONE]), detection_ns=0)
        result = simulate(case, load, down, Replication(1, interval_ns=MS, load_bps=rate), routing="round_robin")
        assert result.faults.copies.restored == 1
        waits[name] = int(result.requests.transfer_ns[0])
        copy_bytes = result.faults.copies.restored_tokens * token_bytes(case)
    assert waits["slow"] == pytest.approx(SECOND, rel=0.1)
    assert waits["fast"] < 10 * MS
    assert waits["link"] > 8 * copy_bytes / 1e9 * SECOND


@settings(deadline=None, max_examples=6)
@given(
    plan=plans(NODES), seed=st.integers(0, 99), copies=st.integers(1, 2), interval_ms=st.sampled_from([5, 40]),
    caches=st.booleans(), stages=st.sampled_from([1, 1, 2]), more=st.one_of(st.none(), clients()),
    memory=st.sampled_from([None, 2_000_000]), bandwidth_bps=st.sampled_from([1e7, 1e10]),
    blocks=st.sampled_from([12, 100]), nic_bps=st.sampled_from([None, 8e8]), at_notice=st.booleans(),
)  # fmt: skip
def test_whatever_fails_all_requests_end_and_equal_runs_are_equal(
    plan, seed, copies, interval_ms, caches, stages, more, memory, bandwidth_bps, blocks, nic_bps, at_notice
):
    load = shared_load(seed, 20, rate_rps=15.0) if caches else random_load(seed, 20, rate_rps=15.0, prompt=60)
    case = case_of(3, stages, bandwidth_bps=bandwidth_bps, blocks=blocks, nic_bps=nic_bps, step_ms=12, token_ms=1.2)
    replication = Replication(copies, interval_ns=interval_ms * MS, memory_bytes=memory, at_notice=at_notice)
    how = {"engine": CACHING if caches else INSIDE, "seed": seed}
    plan = replace(plan, clients=more, links=())
    result = simulate(case, load, plan, replication, **how)
    attempts = 0 if more is None else result.faults.clients.sent_again
    assert len(result.requests.status) == len(load) + attempts
    failed = result.requests.status == RequestStatus.FAILED
    assert set(result.requests.status[~failed].tolist()) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert set(result.faults.causes.values()) <= {FailureCause.GIVEN_UP}
    stats = result.faults.copies
    assert result.faults.recomputed_tokens >= 0
    assert stats.restored <= result.faults.retried
    assert memory is None or stats.peak_bytes <= memory
    assert columns(simulate(case, load, plan, replication, **how)) == columns(result)


def test_a_request_computes_all_its_tokens_if_its_copy_is_lost_on_its_way():
    """The first replica fails, and the second, which has its copies, before the third one has got them."""
    case = case_of(3, bandwidth_bps=2e7, blocks=400)
    load, first = requests((0, 32, 3000), (1, 16, 1)), (3000, "down", NODES[:1])
    both = plan_of(first, (3600, "down", NODES[1:2]), detection_ns=500 * MS)
    plain, result = (simulate(case, load, both, one, routing="round_robin") for one in (None, EVERY))
    assert result.faults.copies.restored == result.faults.copies.restored_tokens == 0
    assert result.faults.recomputed_tokens == plain.faults.recomputed_tokens
    waited_ns = int(result.requests.finish_ns[0] - plain.requests.finish_ns[0])
    assert waited_ns == pytest.approx(600 * MS, abs=10 * MS), "from one detection to the other"
    alone = simulate(case, load, plan_of(first, detection_ns=500 * MS), routing="round_robin")
    assert alone.faults.copies.restored == 1, "it takes longer than until the second failure"
    assert alone.requests.transfer_ns[0] > SECOND


def test_what_is_under_way_when_its_sender_fails_never_comes():
    """The first message takes 4 s; its sender fails after 3, which is known after 5."""
    case = case_of(2, bandwidth_bps=2e6, blocks=400)
    result = simulate(case, requests((0, 32, 3000)), plan_of((3000, "down", [ONE]), detection_ns=2 * SECOND))
    assert result.faults.copies.restored == 0
    assert result.faults.retried == 1


def test_a_copy_that_was_behind_is_completed_by_the_replica_that_goes_on():
    case = case_of(3, bandwidth_bps=2e7, blocks=400)
    faults = plan_of((3000, "down", [ONE]), detection_ns=0)
    result = simulate(case, requests((0, 32, 3000)), faults, Replication(2, interval_ns=MS), routing="round_robin")
    stats = result.faults.copies
    links = zip(result.links.src, result.links.dst, result.links.bytes, strict=True)
    (size,) = (int(size) for src, dst, size in links if (src, dst) == (NODES[1], NODES[2]))
    assert stats.restored_tokens < 300, "few had come"
    assert 32 + 3000 - stats.restored_tokens - 10 < size / token_bytes(case) <= 32 + 3000


@pytest.mark.parametrize(("until", "restored"), [(2000, 1), (9000, 0)])
def test_a_replica_that_is_back_gets_copies_again(until, restored):
    faults = plan_of((1000, "down", NODES[1:2]), (4000, "down", [ONE]), (until, "up", NODES[1:2]), (9500, "up", [ONE]))
    faults = replace(faults, faults=tuple(sorted(faults.faults, key=lambda fault: fault.at_ns)))
    result = simulate(case_of(2, blocks=400), requests((0, 32, 3000)), faults, routing="round_robin")
    assert result.faults.copies.restored == restored
    if restored:
        assert result.faults.recomputed_tokens <= 3


def test_host_memory_is_free_again_when_requests_end():
    case, load = case_of(2), requests(*((1000 * number, 32, 200) for number in range(6)))
    stats = simulate(case, load, plan_of()).faults.copies
    assert stats.peak_bytes == pytest.approx(stats.sent_bytes / 6, rel=0.05)
    some = stats.peak_bytes // 2
    limited = simulate(case, load, plan_of(), replace(EVERY, memory_bytes=some)).faults.copies
    assert limited.peak_bytes <= some
    assert limited.left_out > 0
    assert limited.sent_bytes < stats.sent_bytes


def test_copies_go_to_another_machine_if_there_is_one():
    """Three replicas, of which the first one and another are parts of one machine: the next one, or the last."""
    fleet, capacity, placement = case_of(3)
    for shares in (1, 2):
        nodes = [
            replace(node, machine="m" if number in (0, shares) else None)
            for number, node in enumerate(fleet.cluster.nodes)
        ]
        case = replace(fleet, cluster=replace(fleet.cluster, nodes=tuple(nodes))), capacity, placement
        load = requests(*((number, 32, 100) for number in range(3)))
        result = simulate(case, load, plan_of(), routing="round_robin")
        ends = {pair for pair in zip(result.links.src, result.links.dst, strict=True) if "coordinator" not in pair}
        alone = NODES[3 - shares]
        assert len(ends) == 3
        assert {dst for src, dst in ends if src != alone} == {alone}


def test_what_has_no_place_for_copies_is_refused():
    with pytest.raises(ConfigError, match=r"faults\.replicate\.copies: needs 3 replicas or more, .* has 2"):
        simulate(case_of(2), requests((0, 32, 2)), plan_of(), Replication(2))
    kind = builders.profile("n0", 2, kv_blocks=(200, 100))
    fleet = builders.fleet([kind] * 2, num_layers=4)
    branching = (
        fleet, builders.capacity_of(fleet, {"n0": (200.0, 100.0)}),
        builders.placement_of(fleet, {"n0-0": (0, 2), "n0-1": (2, 4)}),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"faults\.replicate: needs routes that are chains"):
        run(branching, requests((0, 32, 2)), faults=plan_of(replication=EVERY))
