"""Laws of runs with faults, on small random clusters; ``simulate`` itself raises if INV-1 .. INV-10 break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import replica_cases
from fault_cases import NEVER_NS, clients, plan_of, plans
from fault_checks import check_causes, check_clients, check_sent_again, same
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import cases
from simulating import MS, inputs_of, random_load

from helixsim.domain.clients import ClientStats
from helixsim.domain.faults import LinkFault
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.domain.timeline import Timeline
from helixsim.engine.inputs import Replacement
from helixsim.engine.simulate import simulate
from helixsim.flow.maxflow import max_flow


def replacement(case, down, load_ns, how):
    """The same placement without some nodes, or without the last of those that could stay; None: no route is left."""
    fleet, capacity, placement = case
    left = list(placement.ranges.keys() - down)
    if max_flow(fleet, placement.part(left), capacity).max_flow_tokens_per_s <= 0:
        return None
    fewer = placement.part(left[:-1])
    if max_flow(fleet, fewer, capacity).max_flow_tokens_per_s <= 0:
        fewer = placement.part(left)
    return Replacement(inputs_of((fleet, capacity, fewer), [], **how), load_ns)


@st.composite
def runs(draw, *, places_anew=False, **plan):
    """Inputs of a run of replicas or of branching routes, made anew with each call, and its number of requests."""
    seed, closed = draw(st.integers(0, 1000)), draw(st.booleans())
    mode = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 6} if closed else {}
    if draw(st.booleans()):
        case, engine = draw(replica_cases.clusters()), draw(replica_cases.engines())
        load = (
            replica_cases.shared_load(seed, 30, rate_rps=25.0)
            if draw(st.booleans())
            else random_load(seed, 30, rate_rps=25.0, prompt=60, output=20)
        )
        how = {"engine": engine, "routing": draw(st.sampled_from(["least_loaded", "flow_weighted", "shortest_queue"]))}
    else:
        case, load = draw(cases()), random_load(seed, 30, rate_rps=15.0)
        how = {
            "routing": draw(st.sampled_from(["flow_weighted", "swarm", "least_loaded", "random"])),
            "is_one_by_one": draw(st.booleans()),
        }
    nodes = [node.id for node in case[0].cluster.nodes]
    if places_anew:
        load_ns = draw(st.sampled_from([MS, 300 * MS]))
        plan = {**plan, "replace": lambda out, **_: replacement(case, out.nodes, load_ns, how), "delay_ns": 20 * MS}
    made = draw(plans(nodes, **plan))

    def again(faults=made):
        return inputs_of(case, load, seed=seed, faults=faults, **mode, **how)

    return again, len(load)


@given(drawn=runs())
@settings(max_examples=20, deadline=None)
def test_all_requests_end_where_every_node_is_repaired_and_none_gives_up(drawn):
    make, count = drawn
    result = simulate(make())
    rows = result.requests
    assert len(rows.status) == count
    assert set(rows.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    check_sent_again(result)
    assert result.series.output_tokens[-1] == rows.output_tokens.sum()


@given(drawn=runs(places_anew=True))
@settings(max_examples=15, deadline=None)
def test_all_requests_end_where_the_model_is_placed_anew(drawn):
    make, count = drawn
    result = simulate(make())
    rows = result.requests
    assert len(rows.status) == count
    assert set(rows.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    check_sent_again(result)
    assert same(result, simulate(make()))
    served = rows.route[rows.status == RequestStatus.FINISHED]
    assert ((served >= 0) & (served < len(result.routes))).all()


@given(drawn=runs(retry_limit=1, timeout_ns=600_000_000))
@settings(max_examples=20, deadline=None)
def test_requests_fail_for_a_cause_only_and_runs_repeat(drawn):
    make, count = drawn
    first, again = simulate(make()), simulate(make())
    assert same(first, again)
    assert first.faults.events == again.faults.events
    check_causes(first, count)


@given(drawn=st.tuples(st.booleans(), clients()).flatmap(lambda how: runs(places_anew=how[0], clients=how[1])))
@settings(max_examples=12, deadline=None)
def test_every_request_of_clients_that_give_up_ends_once(drawn):
    make, count = drawn
    result = simulate(make())
    check_clients(result, count)
    assert same(result, simulate(make()))


@given(drawn=runs(), spec=clients())
@settings(max_examples=8, deadline=None)
def test_clients_give_up_where_no_node_fails_and_patient_ones_change_nothing(drawn, spec):
    make, count = drawn
    plain = simulate(make(None))
    result = simulate(make(plan_of(clients=spec)))
    check_clients(result, count)
    rows = result.requests
    served = rows.status == RequestStatus.FINISHED
    came_ns = rows.first_token_ns if spec.until == "first_token" else rows.finish_ns
    assert (came_ns[served] - rows.arrival_ns[served] <= spec.timeout_ns).all()
    patient = simulate(make(plan_of(clients=replace(spec, timeout_ns=NEVER_NS))))
    assert same(plain, patient)
    assert patient.faults.clients == ClientStats()


@given(drawn=runs())
@settings(max_examples=10, deadline=None)
def test_without_faults_nodes_that_can_fail_are_those_that_cannot(drawn):
    make, _ = drawn
    plain = simulate(make(None))
    assert plain.faults is None
    assert same(plain, simulate(make(plan_of())))
    # what happens after the last request has ended hurts none
    late = plan_of((10**7, "down", ["n0"]), (10**7 + 1, "up", ["n0"]))
    assert np.array_equal(plain.requests.finish_ns, simulate(make(late)).requests.finish_ns)


@given(drawn=st.booleans().flatmap(lambda anew: runs(places_anew=anew)))
@settings(max_examples=6, deadline=None)
def test_a_run_that_is_recorded_is_the_same(drawn):
    make, _ = drawn
    timeline = Timeline(0, 10**15, 10**6)
    assert same(simulate(make()), simulate(replace(make(), timeline=timeline)))
    assert all(one.start_ns <= one.end_ns for one in (*timeline.iterations, *timeline.transfers))


@given(drawn=runs())
@settings(max_examples=10, deadline=None)
def test_links_that_can_fail_and_do_not_are_those_that_cannot(drawn):
    make, _ = drawn
    never = LinkFault(10**16, None, frozenset({"n0"}), frozenset({"n1"}))
    assert same(simulate(make(plan_of())), simulate(make(plan_of(links=(never,)))))


@pytest.mark.slow
@given(
    drawn=st.tuples(st.booleans(), st.none() | clients()).flatmap(lambda how: runs(places_anew=how[0], clients=how[1]))
)
@settings(max_examples=1000, deadline=None)
def test_a_thousand_schedules(drawn):
    make, count = drawn
    result = simulate(make())
    if result.faults.clients is not None:
        check_clients(result, count)
        return
    assert set(result.requests.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    assert len(result.requests.status) == count
