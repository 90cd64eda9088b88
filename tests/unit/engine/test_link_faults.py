"""Links that are cut or slow in the middle of a run: what waits, what is lost, and what goes another way."""

from __future__ import annotations

import builders
import numpy as np
import pytest
from fault_cases import plan_of
from replica_cases import chains, kind_of
from simulating import MS, SECOND, inputs_of, random_load, requests

from helixsim.domain.cluster import COORDINATOR, LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.faults import CUT, MENDED, LinkFault, Outage, RandomLinkFaults
from helixsim.domain.result import RequestStatus
from helixsim.engine.kernel import Kernel, Priority
from helixsim.engine.link_faults import Links
from helixsim.engine.network import Channel, SharedChannel
from helixsim.engine.simulate import simulate
from helixsim.engine.state import Message

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")


def fault(at_ms, end_ms, near, far, **more):
    return LinkFault(
        at_ms * MS, None if end_ms is None else end_ms * MS, frozenset(near), frozenset(far),
        is_cut=not more, factor=more.get("factor", 1.0), extra_latency_ns=more.get("extra_ms", 0) * MS,
    )  # fmt: skip


def replicas(count=2, stages=1):
    return chains([[kind_of("n0", budget=64, blocks=100, decode_ns=20 * MS)] * stages] * count, intra=LinkSpec(1e9, MS))


LINK = LinkSpec(1e9, MS)


def branching(per_stage=2, link=LINK):
    kind = builders.profile("n0", 2, decode_ns=20 * MS, kv_blocks=(200, 100))
    fleet = builders.fleet([kind] * (2 * per_stage), num_layers=4, intra=link)
    ranges = {f"n0-{number}": (0, 2) if number < per_stage else (2, 4) for number in range(2 * per_stage)}
    return fleet, builders.capacity_of(fleet, {"n0": (200.0, 100.0)}), builders.placement_of(fleet, ranges)


CASES = [(replicas(), INSIDE, [COORDINATOR]), (replicas(2, 2), INSIDE, ["n0-1"]), (branching(), None, ["n0-2", "n0-3"])]


def run(case, engine, load, *links, detection_ms=100, **how):
    how |= {} if engine is None else {"engine": engine}
    return simulate(inputs_of(case, load, faults=plan_of(links=links, detection_ns=detection_ms * MS), **how))


class Sink:
    ends_ns = -1

    def __init__(self, kernel):
        self.kernel, self.arrived = kernel, []

    def receive(self, parcel):
        self.arrived.append((parcel.name, self.kernel.now_ns))


def sent(kind, sendings, happenings):
    """Arrivals [ms] of messages (name, time [ms], KB) over a link of 1 KB/ms and 5 ms, and the channel."""
    kernel, links = Kernel(), Links()
    sink = Sink(kernel)
    channel = links.kind(kind)(kernel, "a", "b", LinkSpec(8e6, 5 * MS), 1000, sink)

    def send(event):
        name, tokens = event.argument
        message = Message(kernel.env)
        message.name = name
        channel.send(message, tokens)

    for name, at_ms, tokens in sendings:
        kernel.call_in(at_ms * MS, Priority.DELIVER, send, (name, tokens))
    for at_ms, act in happenings:
        kernel.call_in(at_ms * MS, Priority.FAULT, lambda event: event.argument(links), act)
    kernel.run()
    links.close_cut()
    return {name: at_ns / MS for name, at_ns in sink.arrived}, channel


CUT_OFF, SLOW = fault(0, None, ["a"], ["b"]), fault(0, None, ["b"], ["a"], factor=3.0, extra_ms=40)
LOAD = [("first", 0, 20), ("second", 10, 10), ("third", 70, 10)]


@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_time_stands_still_on_a_link_that_is_cut(kind):
    plain, _ = sent(kind, LOAD, [])
    later = [*LOAD[:2], ("third", 200, 10)]
    late, channel = sent(
        kind, later, [(15, lambda links: links.begin(CUT_OFF)), (65, lambda links: links.end(CUT_OFF))]
    )
    assert late == {"first": plain["first"] + 50, "second": plain["second"] + 50, "third": 215}
    assert (channel.bytes_sent, channel.bytes_received) == (40_000, 40_000)
    if kind is Channel:  # what is sent behind the cut waits for what is under way
        at_once, _ = sent(
            kind, LOAD, [(15, lambda links: links.begin(CUT_OFF)), (65, lambda links: links.end(CUT_OFF))]
        )
        assert at_once["third"] == 15 + 65 + 10 + 5
    # sent while it is cut, and under way behind the last byte
    late, _ = sent(kind, LOAD, [(32, lambda links: links.begin(CUT_OFF)), (72, lambda links: links.end(CUT_OFF))])
    assert late == {"first": plain["first"] + (0 if plain["first"] <= 32 else 40), "second": 75, "third": 87}


@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_what_waits_for_a_cut_that_is_known_is_dropped_and_a_mended_link_is_as_new(kind):
    cut = [(15, lambda links: links.begin(CUT_OFF)), (60, lambda links: links.close(Outage(cuts=frozenset({CUT_OFF}))))]
    arrived, channel = sent(kind, LOAD, cut)
    assert arrived == {}
    assert channel.bytes_sent == channel.bytes_received == 0
    assert channel.busy_until(1000 * MS) == 15 * MS or kind is SharedChannel
    arrived, _ = sent(kind, LOAD, [*cut, (65, lambda links: links.end(CUT_OFF))])
    assert arrived == {"third": 85}


@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_a_slow_link_takes_longer_and_messages_do_not_overtake(kind):
    spans = [(0, lambda links: links.begin(SLOW)), (100, lambda links: links.end(SLOW))]
    arrived, _ = sent(kind, [("one", 5, 10), ("next", 101, 1)], spans)
    assert arrived == {"one": 5 + 30 + 45, "next": 107}
    arrived, _ = sent(kind, [("one", 30, 20), ("next", 101, 1)], spans)
    assert arrived["one"] == 30 + 60 + 45
    assert arrived["next"] == arrived["one"]


@pytest.mark.parametrize(("case", "engine", "far"), CASES, ids=["replicas", "chains", "branching"])
def test_a_cut_that_is_over_before_it_is_found_loses_nothing(case, engine, far):
    load = random_load(1, 20, rate_rps=5.0, prompt=40, output=10)
    usual = run(case, engine, load)
    result = run(case, engine, load, fault(1000, 1090, ["n0-0"], far))
    assert [what for _, what, _ in result.faults.events] == [CUT, MENDED]
    assert len(result.faults.rows) == 0
    assert set(result.requests.status) == {RequestStatus.FINISHED}
    assert usual.requests.finish_ns.max() <= result.requests.finish_ns.max() + SECOND  # others may have been faster


@pytest.mark.parametrize(("case", "engine", "far"), CASES, ids=["replicas", "chains", "branching"])
@pytest.mark.parametrize("routing", ["flow_weighted", "least_loaded", "earliest_finish", "swarm"])
def test_routes_over_a_cut_link_are_left_out_from_the_detection_on(case, engine, far, routing):
    load = random_load(1, 40, rate_rps=10.0, prompt=40, output=10)
    result = run(case, engine, load, fault(1000, None, ["n0-0"], far), routing=routing, sample_ns=100 * MS)
    assert list(result.requests.status) == [RequestStatus.FINISHED] * 40
    assert [(at_ns // MS, what) for at_ns, what, _ in result.faults.events] == [(1000, CUT), (1100, "detected")]
    done = result.series.batches[:, result.nodes.node_id.index("n0-0")]
    assert done[-1] > 0
    assert len(set(done[result.series.time_ns >= 1500 * MS])) == 1
    hurt = result.faults.rows
    assert (result.requests.arrival_ns[hurt] < 1100 * MS).all()
    back = run(case, engine, load, fault(1000, 2000, ["n0-0"], far), routing=routing)
    assert back.nodes.batches[0] > done[-1]


def test_without_a_route_over_links_requests_wait_until_they_are_mended():
    for case, engine, _ in CASES:
        nodes = list(case[2].ranges)
        result = run(case, engine, random_load(1, 20, rate_rps=10.0), fault(500, 3000, nodes, [COORDINATOR]))
        assert list(result.requests.status) == [RequestStatus.FINISHED] * 20
        late = result.requests.finish_ns > 600 * MS
        assert late.any()
        assert (result.requests.finish_ns[late] > 3000 * MS).all()


def test_latency_and_bandwidth_of_slow_links_show_in_the_time_on_the_network():
    case = branching(1, LinkSpec(1e6, 0))
    nodes = list(case[2].ranges)
    usual = run(case, None, requests((0, 32, 20)))
    slow = run(case, None, requests((0, 32, 20)), fault(0, None, [COORDINATOR, *nodes], nodes, factor=3.0))
    assert slow.requests.network_ns[0] == pytest.approx(3 * usual.requests.network_ns[0], abs=200)
    late = run(case, None, requests((0, 32, 20)), fault(0, None, [COORDINATOR, *nodes], nodes, extra_ms=7))
    assert late.requests.network_ns[0] == usual.requests.network_ns[0] + 20 * 3 * 7 * MS  # 3 links for each token
    both = [fault(0, None, nodes, [COORDINATOR], extra_ms=7), fault(0, None, nodes, nodes, extra_ms=7)]
    assert run(case, None, requests((0, 32, 20)), *both).requests.network_ns[0] == late.requests.network_ns[0]


def test_random_cuts_are_between_sites_and_depend_on_the_seed():
    sites = (frozenset({COORDINATOR, "a"}), frozenset({"b", "c"}), frozenset({"d"}))
    random = RandomLinkFaults(100.0, 20.0, sites)
    cuts = random.drawn(1, 100_000 * SECOND)
    assert cuts == random.drawn(1, 100_000 * SECOND)
    assert cuts != random.drawn(2, 100_000 * SECOND)
    assert {(one.near, one.far) for one in cuts} == {(sites[0], sites[1]), (sites[0], sites[2]), (sites[1], sites[2])}
    near, far, _ = sites
    between = [one for one in cuts if (one.near, one.far) == (near, far)]
    assert between == RandomLinkFaults(100.0, 20.0, (near, far)).drawn(1, 100_000 * SECOND)
    assert len({one.at_ns for one in cuts}) == len(cuts)  # each two sites at times of their own
    lengths_s = np.array([one.end_ns - one.at_ns for one in cuts]) / SECOND
    assert lengths_s.mean() == pytest.approx(20.0, rel=0.12)  # about 2 500: 5 standard errors are 10 %
    assert len(cuts) == pytest.approx(3 * 100_000 / 120, rel=0.1)
    parts = cuts[0].of_parts({"a": ("a.0", "a.1")})
    assert "a.1" in (parts.near | parts.far)
    assert "a" not in parts.near | parts.far
