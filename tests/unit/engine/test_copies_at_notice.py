"""Requests that move with their KV memory at a notice: what is copied from then on, and what goes on from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from copy_cases import EVERY, INSIDE, NODES, ONE, case_of, columns, copied_bytes, simulate, token_bytes
from fault_cases import plan_of, plans
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_cases import chains, kind_of
from scaled_cases import NEAR, POLICIES, scaled, spot
from simulating import MS, SECOND, random_load, requests, run

from helixsim.domain.autoscaling import AutoscalingSpec, Entry, PolicySpec, Pool
from helixsim.domain.faults import FaultKind, Replication
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus
from helixsim.domain.spot import Shortage
from helixsim.engine.inputs import Autoscaling

MOVED = replace(EVERY, at_notice=True)
ENDED = {RequestStatus.FINISHED, RequestStatus.REJECTED}
FIXED = PolicySpec("fixed")


def stop_of(at_ms, notice_ms, nodes=(ONE,)):
    return plan_of((at_ms - notice_ms, "notice", nodes), (at_ms, "down", nodes))


@settings(deadline=None, max_examples=5)
@given(plan=plans(NODES), seed=st.integers(0, 99))
def test_without_a_notice_nothing_is_copied(plan, seed):
    unknown = tuple(fault for fault in plan.faults if fault.kind is not FaultKind.NOTICE)
    plan, load = replace(plan, faults=unknown, links=()), random_load(seed, 20, rate_rps=15.0, prompt=60)
    moved = simulate(case_of(3), load, plan, MOVED)
    assert columns(moved) == columns(simulate(case_of(3), load, plan, None))
    assert moved.faults.copies.sent_bytes == copied_bytes(moved) == 0


def test_what_was_in_kv_memory_at_the_last_message_is_not_computed_again():
    """A prompt of 32 tokens, then 20 ms a token. Notice at 515 ms, messages at 515, 565, ..., 1065 ms, stop at 1099.

    The prompt takes no time and gives the first token. At 1065 ms 53 more have been computed, and the last of all is
    not in KV memory; at the stop there is one more.
    """
    case = case_of(2, step_ms=20)
    one = Replication(1, interval_ns=50 * MS, at_notice=True)
    result = simulate(case, requests((0, 32, 100)), stop_of(1099, 584), one)
    stats = result.faults.copies
    assert (stats.restored, stats.restored_tokens) == (1, 32 + 53)
    assert result.faults.recomputed_tokens == 2
    assert stats.tokens == 32 + 53, "each is sent once, and none from the other replica"
    assert stats.sent_bytes == stats.tokens * token_bytes(case)
    assert stats.peak_bytes == stats.sent_bytes


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_tokens_moved_and_those_sent_again_are_those_sent_again_without(seed, stages):
    """Until the stop nothing differs, and the same requests are lost."""
    case = case_of(3, stages, step_ms=10, token_ms=2, blocks=400)
    load, stop = random_load(seed, 20, rate_rps=10.0, prompt=60, output=90), stop_of(1500, 400)
    drained, moved = simulate(case, load, stop, None), simulate(case, load, stop, MOVED)
    assert len(drained.faults.rows)
    assert moved.faults.rows.tolist() == drained.faults.rows.tolist()
    stats = moved.faults.copies
    assert stats.restored > 0
    assert moved.faults.recomputed_tokens + stats.restored_tokens == drained.faults.recomputed_tokens
    early = drained.requests.finish_ns < 1500 * MS
    assert early.any()
    assert moved.requests.finish_ns[early].tolist() == drained.requests.finish_ns[early].tolist()
    assert stats.sent_bytes == pytest.approx(stats.tokens * token_bytes(case))


def test_copies_from_the_notice_on_save_what_copies_all_along_do():
    case = case_of(3, step_ms=10, token_ms=2, blocks=400)
    load, stop = random_load(3, 20, rate_rps=10.0, prompt=60, output=90), stop_of(1500, 400)
    moved, always = simulate(case, load, stop, MOVED), simulate(case, load, stop, EVERY)
    assert columns(moved) == columns(always)
    assert moved.faults.copies.restored_tokens == always.faults.copies.restored_tokens > 0
    assert moved.faults.copies.sent_bytes < always.faults.copies.sent_bytes / 2


def test_a_longer_notice_copies_no_less_of_requests_that_are_there():
    load = random_load(1, 20, rate_rps=200.0, prompt=60, output=90)
    sent = []
    for notice_ms in (0, 1, 50, 150, 300, 500):
        stats = simulate(case_of(3, step_ms=10), load, stop_of(700, notice_ms), MOVED).faults.copies
        sent.append(stats.tokens)
    assert sent == sorted(sent)
    assert sent[0] == 0 < sent[1] < sent[-1]


def test_what_does_not_pass_the_link_in_time_stays_behind_request_by_request():
    """Eight requests with equal contexts, and a link that carries half of them before the stop."""
    load, stop = requests(*((0, 32, 400) for _ in range(16))), stop_of(1500, 500)
    case = case_of(2, step_ms=10, blocks=900)
    wide = simulate(case, load, stop, MOVED, routing="round_robin").faults.copies
    first_bytes = wide.sent_bytes * 0.7  # those at the notice are about this much
    case = case_of(2, step_ms=10, blocks=900, bandwidth_bps=8 * first_bytes / 0.75)
    narrow = simulate(case, load, stop, MOVED, routing="round_robin").faults.copies
    assert wide.restored == 8
    assert 2 <= narrow.restored <= 6


def test_copies_go_to_none_that_will_stop_too():
    both = plan_of((500, "notice", NODES[:2]), (900, "down", NODES[:2]))
    load = requests(*((number, 32, 200) for number in range(3)))
    result = simulate(case_of(3, step_ms=10), load, both, MOVED, routing="round_robin")
    links = zip(result.links.src, result.links.dst, strict=True)
    assert {pair for pair in links if "coordinator" not in pair} == {(node, NODES[2]) for node in NODES[:2]}
    assert result.faults.copies.restored == 2


# Pools ----------------------------------------------------------------------------------------------------------------

ROOMY = kind_of("kind", blocks=900, seqs=8)


def with_spot(load, mixture, replication, *, count=4, zones=(0, 1, 0, 1), start=2, faults=None):
    case = chains([[ROOMY]] * count, intra=NEAR)
    pool = Pool("kind", tuple(case[2].ranges), 1, count, start, 1, 2.0, SECOND, zones=zones)
    spec = AutoscalingSpec(FIXED, (), interval_s=1.0, spot=mixture)
    plan = Autoscaling(spec, (pool,), Slo(ttft_s=1.0))
    faults = replace(faults or plan_of(), replication=replication)
    return case, run(case, load, engine=INSIDE, routing="least_loaded", autoscaling=plan, faults=faults)


def test_requests_of_a_preempted_replica_go_on_elsewhere():
    """Both requests of the replica in the zone that is short go on; those of the other one see nothing of it."""
    load = requests(*((number, 32, 2000) for number in range(4)))
    mixture = replace(spot("spot_only", notice_s=0.5), stated=(Shortage(0, 2 * SECOND, 9 * SECOND),))
    (case, drained), (_, moved) = with_spot(load, mixture, None), with_spot(load, mixture, MOVED)
    assert drained.autoscaling.pools[0].preempted == 1
    assert moved.faults.rows.tolist() == drained.faults.rows.tolist() == [0, 2]
    stats = moved.faults.copies
    assert stats.restored == 2
    assert stats.sent_bytes == copied_bytes(moved) == stats.tokens * token_bytes(case)
    assert moved.faults.recomputed_tokens + stats.restored_tokens == drained.faults.recomputed_tokens
    assert moved.faults.recomputed_tokens <= 2 * 3
    assert int(moved.nodes.prompt_tokens.sum()) == 4 * 32 + moved.faults.recomputed_tokens


def test_without_a_preemption_nothing_is_copied_and_the_pool_is_the_same():
    load = random_load(1, 60, rate_rps=15.0)
    mixture = replace(spot("spot_hedge"), stated=(Shortage(0, 60 * SECOND, 61 * SECOND),))
    (_, plain), (_, same) = with_spot(load, mixture, None), with_spot(load, mixture, MOVED)
    assert columns(same) == columns(plain)
    assert same.faults.copies.sent_bytes == 0


def test_a_replica_that_is_started_again_is_not_copied_until_the_next_notice():
    load = requests((0, 32, 10), *((9000 + number, 32, 400) for number in range(4)))
    mixture = replace(spot("spot_only", notice_s=0.5), stated=(Shortage(0, 2 * SECOND, 3 * SECOND),))
    _, result = with_spot(load, mixture, MOVED, count=2, zones=(0, 1))
    assert result.autoscaling.pools[0].starts == 1
    assert result.faults.copies.sent_bytes == 0


@settings(deadline=None, max_examples=8)
@given(
    plan=plans(NODES), seed=st.integers(0, 99), at_notice=st.booleans(), notice_s=st.sampled_from([0.0, 0.2, 2.0]),
    policy=st.sampled_from(["spot_hedge", "spot_only"]),
)  # fmt: skip
def test_machines_fail_and_are_preempted_and_all_requests_end(plan, seed, at_notice, notice_s, policy):
    load = random_load(seed, 40, rate_rps=20.0)
    plan = plan_of(*((fault.at_ns / MS, fault.kind, [f"kind-{node[-1]}" for node in fault.nodes], fault.factor)
                     for fault in plan.faults))  # fmt: skip
    how = (load, spot(policy, available_s=2.0, short_s=1.0, notice_s=notice_s), replace(MOVED, at_notice=at_notice))
    result = with_spot(*how, faults=plan)[1]
    assert len(result.requests.status) == len(load)
    assert set(result.requests.status.tolist()) <= ENDED
    assert result.faults.copies.sent_bytes == copied_bytes(result)
    assert result.faults.recomputed_tokens >= 0
    assert columns(with_spot(*how, faults=plan)[1]) == columns(result)


@settings(deadline=None, max_examples=8)
@given(plan=plans(NODES), seed=st.integers(0, 99), policy=st.sampled_from([FIXED, *POLICIES]), at_notice=st.booleans())
def test_replicas_come_and_go_and_fail_and_all_requests_end(plan, seed, policy, at_notice):
    load = random_load(seed, 40, rate_rps=20.0)
    plan = replace(plan, links=(), replication=replace(MOVED, at_notice=at_notice))
    how = {"startup_s": 0.7, "start": 2, "faults": plan}
    result = scaled(case_of(3), load, policy, **how)
    assert len(result.requests.status) == len(load)
    assert set(result.requests.status.tolist()) <= ENDED
    assert result.faults.recomputed_tokens >= 0
    assert columns(scaled(case_of(3), load, policy, **how)) == columns(result)


def test_copies_at_a_replica_that_is_removed_are_gone():
    """Messages at 1 s to the first replica, at 1.7 and 2.4 s to the third, which is removed at 3 s; stop at 3.05 s."""
    policy = PolicySpec("schedule", entries=(Entry(0, 2), Entry(3, 1)), period_s=100)
    faults = plan_of((1000, "notice", NODES[1:2]), (3050, "down", NODES[1:2]))
    kept = {}
    for name, own in (("removed", policy), ("stays", FIXED)):
        replication = Replication(1, interval_ns=700 * MS, at_notice=True)
        result = scaled(
            case_of(3, step_ms=10, blocks=900), requests((0, 32, 1), (1, 32, 1000)), own, start=2, startup_s=0.5,
            stabilisation_s=0.0, routing="round_robin", faults=replace(faults, replication=replication),
        )  # fmt: skip
        assert result.faults.copies.restored == 1
        kept[name] = result.faults.copies.restored_tokens
    assert kept["stays"] - kept["removed"] == pytest.approx(140, abs=2)
