"""Laws of pools on spot machines: what preemptions may not lose, what policies keep, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_cases import chains, kind_of
from scaled_cases import INSIDE, columns, spot
from simulating import SECOND, random_load, run

from helixsim.autoscaling.spot_base import Mix, SpotState, ZoneState
from helixsim.autoscaling.spot_policies import FixedShare, FixedShareOptions, SpotHedge, SpotHedgeOptions
from helixsim.domain.autoscaling import AutoscalingSpec, PolicySpec, Pool
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus
from helixsim.domain.spot import Shortage, SpotSpec
from helixsim.engine.inputs import Autoscaling
from helixsim.metrics.autoscaling import mean_paid, mean_usd_per_hour

KIND, ROOMY = kind_of("kind", blocks=30, seqs=4), kind_of("kind", blocks=900, seqs=4)
FIXED = PolicySpec("fixed")
ENDLESS_S = 1e9


def of_pool(load, mixture, *, count=9, zones=3, start=2, policy=FIXED, startup_s=0.5, kind=KIND, **how):
    case = chains([[kind]] * count, intra=LinkSpec(1e12, 0))
    nodes = tuple(case[2].ranges)
    spec = AutoscalingSpec(policy, (), interval_s=1.0, stabilisation_s=3.0, spot=mixture)
    in_turn = tuple(number % zones for number in range(count)) if mixture is not None else ()
    pool = Pool("kind", nodes, 1, count, start, 1, 2.0, round(startup_s * SECOND), zones=in_turn)
    return run(
        case,
        load,
        engine=INSIDE,
        routing="least_loaded",
        autoscaling=Autoscaling(spec, (pool,), Slo(ttft_s=1.0)),
        **how,
    )


POLICIES = [
    spot("spot_hedge"), spot("spot_hedge", spare=2), spot("spot_only"), spot("spot_only", spare=1, notice_s=0.0),
    spot("fixed_share", on_demand=0.5), spot("on_demand"), spot("spot_hedge", available_s=2.0, short_s=6.0),
]  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(
    mixture=st.sampled_from(POLICIES), seed=st.integers(0, 99), rate=st.sampled_from([3.0, 15.0]),
    startup_s=st.sampled_from([0.0, 0.7, 3.0]),
    policy=st.sampled_from([FIXED, PolicySpec("target", metric="in_flight", target=3.0)]),
)  # fmt: skip
def test_no_request_is_lost_to_preemptions_and_equal_runs_are_equal(mixture, seed, rate, startup_s, policy):
    load = random_load(seed, 60, rate_rps=rate)
    result = of_pool(load, mixture, policy=policy, startup_s=startup_s)
    failed = result.requests.status == RequestStatus.FAILED  # after three losses, as with faults
    assert set(result.requests.status[~failed].tolist()) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert len(result.requests.status) == len(load)
    (pool,) = result.autoscaling.pools
    assert pool.paid.max() <= 9
    assert (pool.spot <= pool.paid).all()
    if mixture.policy == "on_demand":
        assert pool.spot.max() == pool.preempted == 0
    if mixture.policy == "spot_only":
        assert (pool.spot == pool.paid).all()
    assert columns(of_pool(load, mixture, policy=policy, startup_s=startup_s)) == columns(result)


def test_on_demand_is_the_run_without_spot_machines_and_spot_machines_that_stay_cost_their_share():
    load = random_load(1, 60, rate_rps=15.0)
    plain = of_pool(load, None)
    assert columns(of_pool(load, spot("on_demand"))) == columns(plain)
    steady = of_pool(load, spot("spot_only", available_s=ENDLESS_S))
    assert columns(steady) == columns(plain)
    (pool,) = steady.autoscaling.pools
    assert mean_usd_per_hour(pool, steady) == pytest.approx(0.3 * mean_paid(pool, steady) * 2.0)


@pytest.mark.parametrize("seed", range(3))
def test_hedged_replicas_serve_more_of_the_time_than_spot_machines_alone_and_cost_less_than_on_demand(seed):
    load = random_load(seed, 400, rate_rps=4.0)
    how = {"count": 12, "start": 4, "startup_s": 0.5, "seed": seed}
    share, price = {}, {}
    for name, options in (("spot_only", {}), ("spot_hedge", {"spare": 2}), ("on_demand", {})):
        result = of_pool(load, spot(name, available_s=20.0, short_s=8.0, **options), **how)
        (pool,) = result.autoscaling.pools
        lasts_ns = np.diff(np.append(pool.time_ns, result.end_ns))
        share[name] = float(lasts_ns @ (pool.serving >= pool.wanted)) / result.end_ns
        price[name] = mean_usd_per_hour(pool, result)
    assert share["on_demand"] == 1.0
    assert share["spot_only"] < share["spot_hedge"] <= 1.0
    assert price["spot_hedge"] < price["on_demand"] == pytest.approx(8.0)


def test_requests_of_a_preempted_replica_are_sent_again_after_the_notice():
    """One zone whose machines are taken: the longest request begins anew elsewhere, with its tokens so far."""
    load, how = random_load(3, 80, rate_rps=20.0), {"zones": 1, "startup_s": 0.2, "kind": ROOMY}
    at_once = of_pool(load, spot("spot_hedge", available_s=0.4, short_s=2.0, notice_s=0.0), **how)
    (pool,) = at_once.autoscaling.pools
    assert pool.preempted > 0
    lenient = of_pool(load, spot("spot_hedge", available_s=0.4, short_s=2.0, notice_s=60.0), **how)
    prompts = int(lenient.requests.prompt_tokens.sum())

    def computed(result):
        return int(result.nodes.prompt_tokens.sum())

    assert computed(lenient) == prompts, "a long notice lets all requests end where they are"
    assert computed(at_once) > prompts


@given(
    wanted=st.integers(0, 9), spare=st.integers(0, 4),
    zones=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=4),
)  # fmt: skip
def test_spot_hedge_keeps_as_many_as_wanted_and_never_more_on_demand(wanted, spare, zones):
    state = SpotState(0.0, wanted, tuple(ZoneState(*zone) for zone in zones), 0, 0)
    mix = SpotHedge(SpotHedgeOptions(spare)).mix(state)
    assert mix.spot == wanted + spare
    assert 0 <= mix.on_demand <= wanted
    assert state.spot_serving + mix.on_demand >= wanted
    if state.spot_serving >= wanted + spare:
        assert mix.on_demand == 0


def test_a_fixed_share_is_rounded_up():
    state = SpotState(0.0, 4, (ZoneState(0, 0, False),), 0, 0)
    assert FixedShare(FixedShareOptions(0.25)).mix(state) == Mix(3, 1)
    assert FixedShare(FixedShareOptions(0.1)).mix(state) == Mix(3, 1)
    assert FixedShare(FixedShareOptions(0.0)).mix(state) == Mix(4, 0)


def test_stated_shortages_hit_their_zone_at_their_time():
    """One replica in each zone; that of the first zone is started anew in the second one, which then loses two."""
    load = random_load(1, 100, rate_rps=10.0)
    stated = (Shortage(0, 2 * SECOND, 4 * SECOND), Shortage(1, 6 * SECOND, 7 * SECOND))
    mixture = replace(spot("spot_only", notice_s=0.0), stated=stated)
    (pool,) = of_pool(load, mixture, start=3, startup_s=0.5).autoscaling.pools
    at = [int(np.searchsorted(pool.time_ns, second * SECOND, side="right")) - 1 for second in (1.9, 2.1, 3.9, 6.1)]
    assert [int(pool.serving[index]) for index in at] == [3, 2, 3, 1]
    assert pool.preempted == 3


def test_a_zone_without_machines_starts_none_until_it_has_some_again():
    load = random_load(1, 100, rate_rps=10.0)
    mixture = replace(spot("spot_only", notice_s=0.0), stated=(Shortage(0, 2 * SECOND, 5 * SECOND),))
    (pool,) = of_pool(load, mixture, zones=1, start=3, startup_s=0.5).autoscaling.pools
    during = (pool.time_ns >= 2 * SECOND) & (pool.time_ns < 5 * SECOND)
    assert during.any()
    assert pool.paid[during].max() == 0
    assert pool.serving[-1] == 3


def test_shortages_have_the_stated_share_of_time_and_are_the_same_for_all_systems():
    spec = SpotSpec(available_s=60.0, short_s=20.0)
    found = spec.shortages(1, "l40s", 0)
    spans = [next(found) for _ in range(4000)]
    short_ns = sum(until - since for since, until in spans)
    assert short_ns / spans[-1][1] == pytest.approx(0.25, abs=0.02)
    again, other = spec.shortages(1, "l40s", 0), spec.shortages(1, "l40s", 1)
    assert next(again) == spans[0] != next(other)
