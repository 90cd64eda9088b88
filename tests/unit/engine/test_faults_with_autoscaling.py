"""Pools of replicas whose machines fail: what no request may lose, what is started in place, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fault_cases import clients, plan_of, plans
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_cases import chains
from scaled_cases import INSIDE, KIND, NEAR, POLICIES, case_of, columns, scaled, spot
from simulating import MS, SECOND, random_load, requests, run

from helixsim.domain.autoscaling import AutoscalingSpec, PolicySpec, Pool
from helixsim.domain.faults import FailureCause
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus
from helixsim.domain.spot import Shortage
from helixsim.engine.inputs import Autoscaling

FIXED = PolicySpec("fixed")
NODES = [f"kind-{number}" for number in range(4)]
ONE = NODES[0]
ENDED = {RequestStatus.FINISHED, RequestStatus.REJECTED}


def at(pool, second, name="serving"):
    """Return how many replicas were in a state at a time [s]."""
    return int(getattr(pool, name)[np.searchsorted(pool.time_ns, second * SECOND, side="right") - 1])


@pytest.mark.parametrize("policy", [FIXED, *POLICIES[:6]])
@pytest.mark.parametrize("routing", ["least_loaded", "flow_weighted"])
def test_without_a_failure_the_run_is_that_without_faults(policy, routing):
    load = random_load(1, 60, rate_rps=20.0)
    how = {"start": 2, "startup_s": 0.5, "routing": routing, "stabilisation_s": 1.0}
    plain = scaled(case_of(4), load, policy, **how)
    same = scaled(case_of(4), load, policy, faults=plan_of(), **how)
    assert columns(same) == columns(plain)
    mine, own = same.autoscaling.pools[0], plain.autoscaling.pools[0]
    assert [mine.serving.tolist(), mine.draining.tolist()] == [own.serving.tolist(), own.draining.tolist()]
    assert mine.lost == 0


@pytest.mark.parametrize("routing", ["least_loaded", "flow_weighted"])
def test_where_all_serve_and_none_starts_again_the_run_is_that_of_replicas_without_autoscaling(routing):
    load = random_load(2, 60, rate_rps=20.0)
    faults = plan_of((900, "down", [ONE]), (1500, "slow", [NODES[1]], 3.0))
    plain = run(case_of(3), load, engine=INSIDE, routing=routing, faults=faults)
    assert columns(scaled(case_of(3), load, FIXED, routing=routing, faults=faults)) == columns(plain)
    assert len(plain.faults.rows)


@settings(deadline=None, max_examples=15)
@given(
    plan=plans(NODES), seed=st.integers(0, 99), rate=st.sampled_from([3.0, 20.0]),
    policy=st.sampled_from([FIXED, *POLICIES]),
    startup_s=st.sampled_from([0.0, 0.7]), start=st.sampled_from([None, 2]), more=st.one_of(st.none(), clients()),
    routing=st.sampled_from(["least_loaded", "flow_weighted", "prefix_aware"]),
)  # fmt: skip
def test_no_request_is_lost_and_equal_runs_are_equal(plan, seed, rate, policy, startup_s, start, more, routing):
    load = random_load(seed, 40, rate_rps=rate)
    how = {"startup_s": startup_s, "routing": routing, "start": start, "faults": replace(plan, clients=more)}
    result = scaled(case_of(4), load, policy, **how)
    attempts = 0 if more is None else result.faults.clients.sent_again
    assert len(result.requests.status) == len(load) + attempts
    failed = result.requests.status == RequestStatus.FAILED
    assert set(result.requests.status[~failed].tolist()) <= ENDED
    assert set(result.faults.causes.values()) <= {FailureCause.GIVEN_UP}
    (pool,) = result.autoscaling.pools
    assert pool.paid.max() <= 4
    again = scaled(case_of(4), load, policy, **how)
    assert columns(again) == columns(result)
    assert again.autoscaling.pools[0].time_ns.tolist() == pool.time_ns.tolist()


def two_of_four(faults, policy=FIXED, **how):
    return scaled(case_of(4), random_load(1, 200, rate_rps=20.0), policy, start=2, startup_s=1.0, faults=faults, **how)


def test_another_replica_is_started_when_the_loss_is_known_and_serves_after_its_start_up():
    result = two_of_four(plan_of((2000, "down", [ONE]), (6000, "up", [ONE]), detection_ns=500 * MS))
    (pool,) = result.autoscaling.pools
    states = [(at(pool, second), at(pool, second, "starting")) for second in (1.9, 2.4, 2.6, 3.4, 3.6)]
    assert states == [(2, 0), (2, 0), (1, 1), (1, 1), (2, 0)]
    assert (pool.lost, pool.starts) == (1, 1)
    assert at(pool, 7.5) == 2, "the machine that is back is not needed"
    hurt = result.faults.rows
    assert len(hurt)
    assert (result.requests.arrival_ns[hurt] < 2500 * MS).all()
    assert set(result.requests.status.tolist()) <= ENDED


def test_without_a_free_machine_the_lost_one_is_waited_for_and_costs_nothing():
    faults = plan_of((2000, "down", [ONE]), (6000, "up", [ONE]), detection_ns=500 * MS)
    load = random_load(1, 200, rate_rps=20.0)
    (pool,) = scaled(case_of(2), load, FIXED, startup_s=1.0, faults=faults).autoscaling.pools
    states = [(at(pool, second), at(pool, second, "starting")) for second in (2.4, 2.6, 5.9, 6.1, 7.1)]
    assert states == [(2, 0), (1, 0), (1, 0), (1, 1), (2, 0)]


def test_a_machine_that_fails_while_a_replica_starts_on_it_never_serves():
    """The replica that starts in place of the first one is on the third machine, which fails before it serves."""
    faults = plan_of((2000, "down", [ONE]), (3200, "down", [NODES[2]]), detection_ns=500 * MS)
    (pool,) = two_of_four(faults).autoscaling.pools
    states = [(at(pool, second), at(pool, second, "starting")) for second in (3.1, 3.6, 3.8, 4.8)]
    assert states == [(1, 1), (1, 1), (1, 1), (2, 0)]
    assert (pool.lost, pool.starts) == (2, 2)


def test_a_machine_with_notice_drains_while_another_replica_starts():
    faults = plan_of((2000, "notice", [ONE]), (9000, "down", [ONE]))
    load = requests((1800, 32, 400), (1800, 32, 400))
    result = scaled(case_of(4), load, FIXED, start=2, startup_s=1.0, faults=faults)
    (pool,) = result.autoscaling.pools
    assert (at(pool, 2.1), at(pool, 2.1, "starting"), at(pool, 2.1, "draining")) == (1, 1, 1)
    assert at(pool, 8.9, "draining") == 0
    assert len(result.faults.rows) == 0
    assert pool.lost == 0


def test_requests_give_up_while_no_replica_serves():
    load = requests((0, 32, 20), (300, 32, 2))
    faults = plan_of((10, "down", ["kind-0"]), timeout_ns=5 * SECOND)
    result = scaled(case_of(1), load, FIXED, faults=faults)
    assert result.faults.causes == {0: FailureCause.TIMEOUT, 1: FailureCause.TIMEOUT}


def test_a_replica_of_two_nodes_is_lost_with_one_of_them():
    case = chains([[KIND, KIND]] * 3, intra=NEAR)
    nodes = tuple(case[2].ranges)
    pool = Pool("kind", nodes[::2], 1, 3, 2, 2, 4.0, SECOND)
    plan = Autoscaling(AutoscalingSpec(FIXED, ()), (pool,), Slo(ttft_s=1.0))
    faults = plan_of((2000, "down", [nodes[1]]), (4000, "up", [nodes[1]]))
    load = random_load(1, 100, rate_rps=20.0)
    result = run(case, load, engine=INSIDE, routing="least_loaded", autoscaling=plan, faults=faults)
    (stats,) = result.autoscaling.pools
    assert (at(stats, 2.5), at(stats, 2.5, "starting"), at(stats, 3.2)) == (1, 1, 2)
    assert set(result.requests.status.tolist()) <= ENDED


def with_spot(load, mixture, faults, zones=(0, 1, 0, 1)):
    case = case_of(4)
    nodes = tuple(case[2].ranges)
    pool = Pool("kind", nodes, 1, 4, 2, 1, 2.0, SECOND, zones=zones)
    spec = AutoscalingSpec(FIXED, (), interval_s=1.0, spot=mixture)
    plan = Autoscaling(spec, (pool,), Slo(ttft_s=1.0))
    return run(case, load, engine=INSIDE, routing="least_loaded", autoscaling=plan, faults=faults)


@settings(deadline=None, max_examples=8)
@given(plan=plans(NODES), seed=st.integers(0, 99), policy=st.sampled_from(["spot_hedge", "spot_only", "on_demand"]))
def test_machines_fail_beside_preemptions(plan, seed, policy):
    load = random_load(seed, 40, rate_rps=20.0)
    result = with_spot(load, spot(policy, available_s=2.0, short_s=1.0), plan)
    assert len(result.requests.status) == len(load)
    assert set(result.requests.status.tolist()) <= ENDED
    assert columns(with_spot(load, spot(policy, available_s=2.0, short_s=1.0), plan)) == columns(result)


def test_a_spot_machine_that_has_failed_is_not_started_when_its_zone_has_machines_again():
    mixture = replace(spot("spot_only", notice_s=0.1), stated=(Shortage(0, 2 * SECOND, 3 * SECOND),))
    faults = plan_of((1950, "down", NODES[:2]), detection_ns=1000 * MS)
    (pool,) = with_spot(random_load(1, 100, rate_rps=20.0), mixture, faults, zones=(0, 0, 0, 0)).autoscaling.pools
    assert pool.preempted == 2
    assert at(pool, 6.0) == 2, "on the two machines that are left"
