"""Laws of runs in which nodes with roles fail; ``simulate`` itself raises if INV-1 .. INV-10 break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fault_cases import clients, plan_of, plans
from fault_checks import check_causes, check_clients, check_sent_again, same
from hypothesis import given, settings
from hypothesis import strategies as st
from leg_cases import cases, routings, transfers
from replica_cases import engines, shared_load
from simulating import inputs_of_legs, random_load

from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.domain.timeline import Timeline
from helixsim.engine.simulate import _Run, simulate


@st.composite
def runs(draw, **plan):
    """Inputs of a run of replicas with roles, made anew with each call, and its number of requests."""
    case, engine, seed = draw(cases()), draw(engines()), draw(st.integers(0, 1000))
    mode = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 6} if draw(st.booleans()) else {}
    caches = draw(st.booleans())
    share = draw(st.sampled_from([1.0, 1.0, 0.6, None]))
    engine = replace(engine, attention_balance=None, caches_prefixes=caches)
    if share != 1.0:
        engine = replace(engine, chunks_prompts=True)
    load = (
        shared_load(seed, 30, rate_rps=25.0) if caches else random_load(seed, 30, rate_rps=25.0, prompt=60, output=20)
    )
    how = {
        "engine": engine, "routing": draw(routings), "decode_routing": draw(routings), "prefill_share": share,
        "most_local_tokens": draw(st.sampled_from([None, None, 10, 50])),
    }  # fmt: skip
    transfer = draw(transfers)
    made = draw(plans([node.id for node in case[0].cluster.nodes], **plan))
    made = replace(made, links=())

    def again(faults=made):
        return inputs_of_legs(case, load, transfer, seed=seed, faults=faults, **mode, **how)

    return again, len(load)


def run(inputs):
    """Simulate; at the end nothing is booked, reserved or waited for any more."""
    made = _Run(inputs, None)
    result = made.execute()
    (system,) = made.system._parts
    view, ends = system.frontend.view, {RequestStatus.FINISHED, RequestStatus.REJECTED, RequestStatus.FAILED}
    assert set(result.requests.status) <= ends
    assert not any([*view.submitted, *view.submitted_tokens, *view.coming])
    for replica in system.replicas:
        scheduler = replica.scheduler
        left = (replica.generated, scheduler.pending_tokens, scheduler.receiving, scheduler.sending)
        assert left == (0, 0, 0, 0), replica.role
        assert not [*scheduler.loading, *scheduler.running, *replica.leaving]
    return result


def check_ends(result, count):
    rows = result.requests
    assert len(rows.status) == count
    assert set(rows.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED}
    check_sent_again(result)
    assert result.series.output_tokens[-1] == rows.output_tokens.sum()


@given(drawn=runs())
@settings(max_examples=6, deadline=None)
def test_all_requests_end_where_every_node_is_repaired_and_none_gives_up(drawn):
    make, count = drawn
    result = run(make())
    check_ends(result, count)
    assert same(result, simulate(make()))


@given(drawn=runs(retry_limit=1, timeout_ns=600_000_000))
@settings(max_examples=4, deadline=None)
def test_requests_fail_for_a_cause_only(drawn):
    make, count = drawn
    check_causes(run(make()), count)


@given(drawn=runs())
@settings(max_examples=4, deadline=None)
def test_without_faults_replicas_that_can_fail_are_those_that_cannot(drawn):
    make, _ = drawn
    plain, faulty = simulate(make(None)), simulate(make(plan_of()))
    assert same(plain, faulty)
    assert same(plain, simulate(replace(make(plan_of()), timeline=Timeline(0, 10**15, 10**6))))
    for one, other in zip(
        (plain.transfers.duration_ns, plain.transfers.bytes), (faulty.transfers.duration_ns, faulty.transfers.bytes),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, other)


@given(drawn=clients().flatmap(lambda spec: runs(clients=spec)))
@settings(max_examples=4, deadline=None)
def test_every_request_of_clients_that_give_up_ends_once(drawn):
    make, count = drawn
    check_clients(run(make()), count)


@pytest.mark.slow
@given(drawn=(st.none() | clients()).flatmap(lambda spec: runs(clients=spec)))
@settings(max_examples=400, deadline=None)
def test_a_thousand_schedules(drawn):
    make, count = drawn
    result = run(make())
    if result.faults.clients is not None:
        check_clients(result, count)
    else:
        check_ends(result, count)
