"""Fair sharing of a link: closed forms, and laws with traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import two_node_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from simulating import MS, random_load, requests, run

from helixsim.engine.kernel import Kernel, Priority
from helixsim.engine.sharing import FairLink


def ends(*messages, ns_per_byte=1.0):
    """When messages of (start [ns], bytes) end on one link, by number."""
    kernel, done = Kernel(), {}
    link = FairLink(kernel, ns_per_byte, lambda number: done.__setitem__(number, kernel.now_ns))
    for number, (start, size) in enumerate(messages):
        kernel.call_in(start, Priority.DELIVER, lambda event: link.send(event.argument[1], event.argument[0]),
                       (number, size))  # fmt: skip
    kernel.run()
    return [done[number] for number in range(len(messages))]


def test_alone_a_message_takes_its_bytes_over_the_bandwidth():
    assert ends((5, 1000), ns_per_byte=0.5) == [505]


def test_two_equal_messages_take_twice_as_long_and_end_together():
    assert ends((0, 1000), (0, 1000)) == [2000, 2000]


def test_a_small_message_overtakes_a_large_one():
    # 1000 bytes alone until 500; then both at half rate: the small one needs 200 ns, after which the large one goes on.
    assert ends((0, 1000), (500, 100)) == [1100, 700]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 2000)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_link_works_without_pause_and_nobody_is_faster_than_alone(messages):
    found = ends(*messages)
    free = 0
    for start, size in sorted(messages):
        free = max(free, start) + size
    assert abs(max(found) - free) <= len(messages)  # the end of all work does not depend on the order of service
    assert all(end >= start + size for (start, size), end in zip(messages, found, strict=True))


def shared(case):
    fleet, capacity, placement = case
    network = replace(fleet.cluster.network, is_shared=True)
    return replace(fleet, cluster=replace(fleet.cluster, network=network)), capacity, placement


def test_a_request_alone_does_not_notice():
    results = [run(case, requests((0, 100, 4))) for case in (two_node_pipeline(), shared(two_node_pipeline()))]
    assert results[0].requests.finish_ns[0] == pytest.approx(results[1].requests.finish_ns[0], abs=20)


def test_laws_hold_and_all_bytes_arrive():
    case = shared(two_node_pipeline())
    result = run(case, random_load(3, 80, rate_rps=40))
    rows = result.requests
    assert (rows.finish_ns > 0).all()
    parts = rows.queue_ns + rows.compute_ns + rows.network_ns
    assert list(parts) == list(rows.finish_ns - rows.arrival_ns)
    assert (result.links.busy_ns <= result.end_ns).all()
    fifo = run(two_node_pipeline(), random_load(3, 80, rate_rps=40))
    assert result.links.bytes.sum() == fifo.links.bytes.sum()
    assert result.requests.finish_ns.max() > 10 * MS
