"""Laws of pools of replicas whose number changes: what the controller may not lose, and what it may not cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_cases import kind_of, shared_load
from scaled_cases import INSIDE, POLICIES, case_of, columns, scaled
from simulating import SECOND, random_load, requests, run

from helixsim.autoscaling.base import Others, PoolState
from helixsim.domain.autoscaling import AutoscalingSpec, Entry, PolicySpec, Pool
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import Prefix, Slo
from helixsim.domain.result import RequestStatus
from helixsim.engine.inputs import Autoscaling
from helixsim.engine.scaling_policies import decider, scheduled
from helixsim.errors import SimulationError

CACHING = replace(INSIDE, caches_prefixes=True)
SINGLE = kind_of("single", seqs=1)


@pytest.mark.parametrize("routing", ["flow_weighted", "round_robin", "earliest_finish"])
def test_a_fixed_number_is_the_run_without_autoscaling(routing):
    load = random_load(1, 60, rate_rps=20)
    plain = run(case_of(3), load, engine=INSIDE, routing=routing)
    assert columns(scaled(case_of(3), load, PolicySpec("fixed"), routing=routing)) == columns(plain)


def test_so_many_of_more_replicas_are_a_smaller_cluster():
    load = random_load(1, 60, rate_rps=20)
    plain = run(case_of(2), load, engine=INSIDE, routing="round_robin")
    some = scaled(case_of(5), load, PolicySpec("fixed"), start=2, routing="round_robin")
    assert columns(some) == columns(plain)


@settings(deadline=None, max_examples=40)
@given(
    policy=st.sampled_from(POLICIES), seed=st.integers(0, 99), rate=st.sampled_from([2.0, 10.0, 40.0]),
    startup_s=st.sampled_from([0.0, 0.7, 4.0]), stabilisation_s=st.sampled_from([0.0, 3.0]), shares=st.booleans(),
    routing=st.sampled_from(["least_loaded", "flow_weighted", "prefix_aware"]),
)  # fmt: skip
def test_no_request_is_lost_and_the_pool_keeps_its_bounds(
    policy, seed, rate, startup_s, stabilisation_s, shares, routing
):
    """Whatever the policy: all requests end (the numbered laws are checked all along), and equal runs are equal."""
    load = shared_load(seed, 60, rate_rps=rate) if shares else random_load(seed, 60, rate_rps=rate)
    how = {
        "startup_s": startup_s,
        "stabilisation_s": stabilisation_s,
        "engine": CACHING if shares else INSIDE,
        "routing": routing,
    }
    result = scaled(case_of(4), load, policy, **how)
    assert set(result.requests.status.tolist()) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert len(result.requests.status) == len(load)
    (pool,) = result.autoscaling.pools
    assert pool.serving.min() >= 1
    assert pool.paid.max() <= 4
    assert (np.diff(pool.time_ns) > 0).all()
    again = scaled(case_of(4), load, policy, **how)
    assert columns(again) == columns(result)
    assert again.autoscaling.pools[0].time_ns.tolist() == pool.time_ns.tolist()


@settings(deadline=None, max_examples=20)
@given(
    policy=st.sampled_from(POLICIES[:6]), seed=st.integers(0, 99), startup_s=st.sampled_from([0.0, 2.0]),
    gap_s=st.integers(8, 30),
)  # fmt: skip
def test_from_zero_replicas_no_request_is_lost_and_nothing_is_paid_while_none_comes(policy, seed, startup_s, gap_s):
    """Two bursts: nothing before the first, and after ``stabilisation_s`` without requests nothing again."""
    first = random_load(seed, 20, rate_rps=10.0)
    end_ns = max(request.arrival_ns for request in first)
    later = [
        replace(request, id=request.id + len(first), arrival_ns=request.arrival_ns + end_ns + gap_s * SECOND)
        for request in first
    ]
    result = scaled(case_of(3), [*first, *later], policy, floor=0, startup_s=startup_s, stabilisation_s=2.0)
    assert set(result.requests.status.tolist()) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert len(result.requests.status) == 2 * len(first)
    (pool,) = result.autoscaling.pools
    assert (pool.serving[0], pool.starting[0]) == (0, 0)
    served_ns = pool.time_ns[pool.serving > 0].min()
    assert result.requests.first_token_ns[result.requests.first_token_ns > 0].min() > served_ns >= startup_s * SECOND
    last_ns = result.requests.finish_ns[: len(first)].max()
    begin_ns = min(request.arrival_ns for request in later)
    if begin_ns - last_ns > 8 * SECOND:  # looks at 1 s, stabilisation of 2 s, one replica less at a time
        during = pool.paid[(pool.time_ns > last_ns) & (pool.time_ns < begin_ns)]
        assert during.min() == 0


def entries(*pairs):
    return PolicySpec("schedule", entries=tuple(Entry(*pair) for pair in pairs))


def test_a_replica_that_starts_serves_after_its_start_up():
    load = requests(*[(250 * number, 30, 400) for number in range(80)])
    result = scaled(case_of(2, SINGLE), load, entries((0, 1), (5, 2)), startup_s=3.0)
    (pool,) = result.autoscaling.pools
    assert pool.time_ns.tolist()[:3] == [0, 5 * SECOND, 8 * SECOND]
    assert pool.starting.tolist()[:3] == [0, 1, 0]
    assert pool.serving.tolist()[:3] == [1, 1, 2]
    on_second = result.requests.arrival_ns[result.requests.route == 1]
    assert 0 < len(on_second) < len(load)
    assert on_second.min() >= 8 * SECOND


def test_a_replica_that_drains_gets_nothing_and_is_paid_until_it_is_empty():
    load = requests(*[(100 * number, 30, 300) for number in range(100)])
    result = scaled(case_of(2), load, entries((0, 2), (4, 1)))
    (pool,) = result.autoscaling.pools
    rows = result.requests
    (gone,) = {0, 1} - set(rows.route[rows.arrival_ns > 4 * SECOND].tolist())
    last_ns = rows.finish_ns[rows.route == gone].max()
    assert pool.paid.tolist() == [2, 2, 1]
    assert pool.draining.tolist() == [0, 1, 0]
    assert pool.time_ns.tolist() == [0, 4 * SECOND, last_ns]
    assert (rows.status == RequestStatus.FINISHED).all()


@pytest.mark.parametrize("busy", [0, 1])
def test_the_replica_with_the_fewest_requests_drains(busy):
    """Every other request, all to one of two replicas in turn, takes long."""
    load = requests(*[(250 * number, 30, 400 if number % 2 == busy else 5) for number in range(24)])
    result = scaled(case_of(2), load, entries((0, 2), (4, 1)), routing="round_robin")
    rows = result.requests
    assert set(rows.route[rows.arrival_ns > 4 * SECOND].tolist()) == {rows.route[busy]}


def test_a_replica_that_starts_again_has_an_empty_prefix_cache():
    """The same prompt, served by the second replica before it is removed and after it is back."""
    prefix = Prefix((1,), (64,), 64)
    times_ms = (0, 10, 9000, 9010)
    load = [replace(one, prefix=prefix) for one in requests(*[(at_ms, 80, 50) for at_ms in times_ms])]
    policy = entries((0, 2), (2, 1), (4, 2))
    kept = scaled(case_of(2), load, PolicySpec("fixed"), engine=CACHING, routing="round_robin")
    lost = scaled(case_of(2), load, policy, engine=CACHING, routing="round_robin")
    assert (kept.requests.cached_tokens > 0).tolist() == [False, False, True, True]
    assert sorted((lost.requests.cached_tokens > 0).tolist()) == [False, False, False, True]


@pytest.mark.parametrize("policy", [entries((0, 1), (2, 3)), PolicySpec("target", metric="in_flight", target=2.0)])
def test_a_longer_start_up_never_shortens_the_wait(policy):
    """Requests one after the other on each replica, all alike: what comes later waits longer."""
    load = requests(*[(150 * number, 30, 400) for number in range(60)])
    waits = []
    for startup_s in (0.0, 1.0, 3.0, 8.0):
        rows = scaled(case_of(3, SINGLE), load, policy, startup_s=startup_s, stabilisation_s=1e6).requests
        waits.append((rows.first_token_ns - rows.arrival_ns).mean())
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def state(**values):
    names = ("now_s", "interval_s", "serving", "starting", "in_flight", "waiting", "kv_use", "sent", "decided", "good")
    return PoolState(**{**dict.fromkeys(names, 0), "interval_s": 15.0, "serving": 1, **values})


@pytest.mark.parametrize(
    ("serving", "starting", "in_flight", "expected"),
    [
        (50, 0, 50 * 90, 60),  # the example of Kubernetes' release notes of 1.33
        (4, 0, 4 * 150, 8),
        (4, 0, 4 * 37.5, 2),
        (4, 0, 4 * 82, 4),  # within the tolerance
        (4, 4, 4 * 150, 8),  # those that start will take their share
        (4, 2, 4 * 150, 8),
        (4, 4, 4 * 37.5, 6),  # ... and before it shrinks, they count as on target
    ],
)
def test_target_is_the_rule_of_kubernetes(serving, starting, in_flight, expected):
    decide = decider(PolicySpec("target", metric="in_flight", target=75.0))
    assert decide(state(serving=serving, starting=starting, in_flight=in_flight)) == expected


def test_each_pool_keeps_its_own_target():
    """The same load on two pools of one replica each; the one with the lower target grows."""
    case = case_of(4)
    nodes = tuple(case[2].ranges)
    spec = AutoscalingSpec(PolicySpec("target", target=1000.0), (), interval_s=1.0)
    pools = (
        Pool("one", nodes[:2], 1, 2, 1, 1, 2.0, target=1.0),
        Pool("other", nodes[2:], 1, 2, 1, 1, 2.0),
    )
    load = random_load(1, 60, rate_rps=20)
    result = run(case, load, engine=INSIDE, routing="least_loaded", autoscaling=Autoscaling(spec, pools, Slo()))
    assert [one.serving.max() for one in result.autoscaling.pools] == [2, 1]


@pytest.mark.parametrize(("hour", "replicas"), [(3, 5), (6, 2), (7, 2), (20, 5), (24 + 7, 2), (48 + 1, 5)])
def test_a_schedule_begins_again_and_holds_over_the_end_of_its_period(hour, replicas):
    policy = PolicySpec("schedule", entries=(Entry(6, 2), Entry(18, 5)), period_s=24)
    assert scheduled(policy, hour) == replicas


def test_a_pool_shrinks_to_the_largest_number_of_late():
    """Load until 4 s; with stabilisation the number falls when the last large decision is so old, without at once."""
    load = requests(*[(20 * number, 30, 60) for number in range(200)], (20_000, 30, 60))
    policy = PolicySpec("target", metric="rate", target=20.0)
    falls = []
    for stabilisation_s in (0.0, 6.0):
        (pool,) = scaled(case_of(3), load, policy, stabilisation_s=stabilisation_s).autoscaling.pools
        ready = pool.serving + pool.starting
        assert ready.max() == 3
        falls.append(pool.time_ns[np.flatnonzero(ready == 3)[-1] + 1])
    assert falls[1] - falls[0] == pytest.approx(6 * SECOND, abs=SECOND)


def test_goodput_adds_replicas_while_objectives_are_missed():
    load = requests(*[(160 * number, 30, 40) for number in range(800)])  # each takes about half a second
    policy = PolicySpec("goodput", least=0.95)
    result = scaled(case_of(6, SINGLE), load, policy, slo=Slo(ttft_s=2.0), startup_s=1.0)
    waits_ns = result.requests.first_token_ns - result.requests.arrival_ns
    assert waits_ns[-50:].max() < 2 * SECOND < waits_ns.max()
    (pool,) = result.autoscaling.pools
    assert pool.serving.max() >= 3


def test_systems_without_whole_replicas_are_refused():
    with pytest.raises(SimulationError, match="autoscaling needs replicas"):
        scaled(case_of(2), random_load(1, 5, rate_rps=1), PolicySpec("fixed"), engine=EngineSpec())


BURST = requests(
    *[(900 * number, 30, 60) for number in range(5)],
    *[(4500 + 90 * number, 30, 60) for number in range(60)],
    *[(30_000 + 900 * number, 30, 60) for number in range(30)],
)
"""Few requests, then more than one replica can serve, then few."""

LIMITS = [
    PolicySpec("target", target=2.0),
    PolicySpec("target", metric="waiting", target=1.0),
    PolicySpec("target", metric="rate", target=4.0),
    PolicySpec("queue", high=1.0, low=0.1),
    PolicySpec("goodput", least=0.9),
]


def served_with(policy, *, activation=1.0, is_pool=True, zeros=1, slo=None):
    """Return the pools without replicas at first, after a burst on one replica that serves, in a pool or in none."""
    case = case_of(1 + zeros, SINGLE)
    nodes = tuple(case[2].ranges)
    spec = AutoscalingSpec(policy, (), interval_s=0.5, stabilisation_s=2.0)
    pools = [Pool("full", nodes[:1], 1, 1, 1, 1, 2.0)] if is_pool else []
    pools += [
        Pool(f"spare-{number}", (node,), 0, 1, 0, 1, 2.0, SECOND, activation=activation)
        for number, node in enumerate(nodes[1:])
    ]
    given = Autoscaling(spec, tuple(pools), slo or Slo(ttft_s=1.0))
    result = run(case, BURST, engine=INSIDE, routing="least_loaded", autoscaling=given, check=True)
    assert set(result.requests.status.tolist()) == {RequestStatus.FINISHED}
    return result.autoscaling.pools[is_pool:]


@pytest.mark.parametrize("policy", LIMITS, ids=lambda one: f"{one.name}-{one.metric}")
def test_a_pool_from_zero_is_started_by_the_load_of_the_others_and_given_up_after_it(policy):
    (spare,) = served_with(policy)
    times_ns = spare.time_ns
    starting, last = np.flatnonzero(spare.starting)[0], np.flatnonzero(spare.serving)[-1]
    starting, ended = times_ns[starting], times_ns[min(last + 1, len(times_ns) - 1)]
    assert 4.5 * SECOND < starting < 12 * SECOND
    assert policy.name == "goodput" or 8 * SECOND < ended < 40 * SECOND
    (never,) = served_with(policy, activation=1e6)
    assert never.starts == 0


@pytest.mark.parametrize("policy", LIMITS[:2])
def test_replicas_of_no_pool_are_among_the_others(policy):
    (spare,) = served_with(policy, is_pool=False)
    assert spare.serving.max() == 1


def test_pools_from_zero_are_started_one_after_the_other():
    first, second = served_with(LIMITS[0], zeros=2)
    one, other = (pool.time_ns[np.flatnonzero(pool.starting)[0]] for pool in (first, second))
    assert other >= one + SECOND  # the first one serves by then


@given(
    serving=st.integers(1, 9), in_flight=st.integers(0, 40), starting=st.integers(0, 1), activation=st.floats(0.2, 3.0),
    own=st.integers(1, 9),
)  # fmt: skip
@settings(deadline=None)
def test_what_starts_the_first_replica_is_not_what_gives_it_up(serving, in_flight, starting, activation, own):
    """Where a pool would be activated at once again, its last replica is kept."""
    decide = decider(PolicySpec("target", target=4.0), activation)
    assert decide(state(in_flight=1, sent=1, others=Others(9, 0, 0.0, 4.0))) == 0  # nine others can do without it
    started = decide(state(serving=0, others=Others(serving, starting, in_flight / 4.0, 4.0)))
    assert started == (not starting and in_flight / 4.0 > activation * serving)
    if decide(state(in_flight=own, sent=1, others=Others(serving, 0, in_flight / 4.0, 4.0))) == 0:
        assert decide(state(serving=0, others=Others(serving, 0, (in_flight + own) / 4.0, 4.0))) == 0
