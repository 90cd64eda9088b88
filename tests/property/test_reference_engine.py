"""The engine, which moves groups of requests, against the plain one that moves each alone: equal to the ns."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import builders
import numpy as np
import pytest
import reference_engine
from fault_cases import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_faults import FaultyReference
from simulating import MS, SECOND, inputs_of, random_load

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RequestStatus
from helixsim.engine.recorder import GAP_RESOLUTION_NS
from helixsim.engine.simulate import simulate
from helixsim.routing import registry as routing_registry


@pytest.fixture(scope="module", autouse=True)
def nodes_schedule_themselves():
    """Replicas have an oracle of their own; here the loop inside the engine is that of single nodes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("simulate", "replacing"):
            patch.setattr(f"helixsim.engine.{module}.has_replicas", lambda _inputs: False)
        yield


@st.composite
def clusters(draw):
    """Two to four stages of one to three nodes, some of which hold layers of the stage before as well.

    Memory is often so short that requests are preempted, batches so small that steps wait and prompts are cut.
    """
    kinds = []
    for number in range(2):
        budget = draw(st.sampled_from([3, 20, 50, 4096]))
        blocks = draw(st.sampled_from([14, 30, 60, 600]))
        kind = builders.profile(
            f"k{number}", 4,
            prefill_ns_per_token=draw(st.sampled_from([300.0, 1000.0, 5000.0])),
            decode_ns=draw(st.sampled_from([1e5, 1.3e6, 5e6])),
            kv_blocks=(3 * blocks, 3 * blocks // 2, blocks, 3 * blocks // 4),
            max_decode_seqs=draw(st.sampled_from([1, 3, 64])),
        )  # fmt: skip
        per_token, copy = draw(st.sampled_from([(0.0, 0.0), (35.5, 12.25)]))
        compute = replace(
            kind.compute, decode_context_ns_per_token=per_token, activation_copy_ns_per_token=copy,
            reference_context_tokens=100, prefill_ns_per_pair=draw(st.sampled_from([0.0, 1.75])),
            head=draw(st.sampled_from([None, Curve((1.0, 9.0), (4e5, 7e5))])),
        )  # fmt: skip
        limits = tuple(replace(one, max_prefill_tokens=budget) for one in kind.limits)
        kinds.append(replace(kind, compute=compute, limits=limits))
    stages = draw(st.integers(2, 4))
    chosen = [draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)) for _ in range(stages)]
    nic_bps = draw(st.sampled_from([None, 8e8]))
    fleet = builders.fleet(
        [kind for stage in chosen for kind in stage], num_layers=2 * stages,
        intra=LinkSpec(draw(st.sampled_from([1e8, 1e9])), draw(st.sampled_from([0, 700_000]))),
        nic_bps=nic_bps, coordinator_nic_bps=nic_bps,
    )  # fmt: skip
    network = replace(fleet.cluster.network, is_shared=draw(st.booleans()))
    caps = draw(st.sampled_from([None, 4]))
    nodes = tuple(replace(node, max_requests=caps) for node in fleet.cluster.nodes)
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network, nodes=nodes))
    ranges, names = {}, iter(node.id for node in nodes)
    for number, stage in enumerate(chosen):
        for _ in stage:
            earlier = draw(st.sampled_from([0, 1, 2])) if number else 0
            ranges[next(names)] = (2 * number - earlier, 2 * number + 2)
    capacity = builders.capacity_of(fleet, {kind.kind: (300.0, 200.0, 100.0, 75.0) for kind in kinds})
    return fleet, capacity, builders.placement_of(fleet, ranges, partial_inference=True)


engines = st.sampled_from(
    [
        EngineSpec(),
        EngineSpec("inside", loops_inside=True),
        EngineSpec("chunks", loops_inside=True, chunks_prompts=True, has_output_head=True),
        EngineSpec(
            "short chunks", loops_inside=True, chunks_prompts=True, long_prefill_token_threshold=7, gather_ns=20_000,
            sequence_overhead_ns=7_000, shares_weight_reads=True, has_output_head=True,
        ),
        EngineSpec(
            "slow", gather_ns=20_000, batch_overhead_ns=100_000, sequence_overhead_ns=7_000, layer_launch_ns=150_000,
            message_overhead_ns=3_000, shares_weight_reads=True, min_free_share=0.05,
            copies_activations=False, has_output_head=True, loops_inside=True,
        ),
    ]
)  # fmt: skip


def assert_equal(make_inputs, kind=reference_engine.Reference):
    """Run both engines on inputs made anew for each and compare all they leave."""
    result, reference = simulate(make_inputs()), kind(make_inputs()).run()
    rows = result.requests
    journeys = reference.journeys
    for name, values in {
        "request_id": [j.request.id for j in journeys],
        "status": [_status(j) for j in journeys],
        "arrival_ns": [j.arrival for j in journeys],
        "admitted_ns": [j.admitted for j in journeys],
        "first_token_ns": [j.first_token for j in journeys],
        "finish_ns": [j.finish for j in journeys],
        "output_tokens": [j.generated for j in journeys],
        "preemptions": [j.preemptions for j in journeys],
    }.items():
        np.testing.assert_array_equal(getattr(rows, name), values, name)
    done = rows.finish_ns >= 0
    for name, attribute in (("queue_ns", "queue"), ("compute_ns", "compute"), ("network_ns", "network")):
        values = np.array([getattr(j, attribute) for j in journeys])
        np.testing.assert_array_equal(getattr(rows, name)[done], values[done], name)
    for number, journey in enumerate(journeys):
        if journey.hops is not None:
            hops = tuple((hop.start, hop.end) for hop in journey.hops)
            route = result.routes[rows.route[number]].hops
            assert tuple((layers.start, layers.end) for _, layers in route) == hops
            assert [node for node, _ in route] == [reference.machines[hop.node].id for hop in journey.hops]
    for name in ("batches", "prompt_tokens", "decode_tokens", "preemptions"):
        assert list(getattr(result.nodes, name)) == [getattr(machine, name) for machine in reference.machines], name
    assert list(result.nodes.kv_peak_blocks) == [-(-m.peak // m.range.layers) for m in reference.machines]
    gaps = Counter(gap // GAP_RESOLUTION_NS * GAP_RESOLUTION_NS for gap in reference.gaps)
    assert dict(zip(result.gaps.value_ns.tolist(), result.gaps.count.tolist(), strict=True)) == gaps
    assert result.gaps.sum_ns == sum(reference.gaps)
    assert result.gaps.sum_squares_ns2 == sum(gap * gap for gap in reference.gaps)
    wires = {ends: wire for ends, wire in sorted(reference.wires.items()) if wire.messages}
    links = result.links
    used = [number for number, messages in enumerate(links.messages) if messages]
    for name in fields(links):
        values = [getattr(links, name.name)[number] for number in used]
        expected = {"queue_ns": "waited"}.get(name.name, name.name)
        now = reference.kernel.now_ns
        totals = [wire.totals(now).get(name.name, getattr(wire, expected, None)) for wire in wires.values()]
        assert values == totals, name.name
    return result


def _status(journey):
    return RequestStatus.RUNNING if journey.hops is not None and journey.finish < 0 else journey.status


@pytest.mark.parametrize("routing", routing_registry.names())
@pytest.mark.parametrize("is_one_by_one", [False, True])
@given(
    case=clusters(),
    seed=st.integers(0, 10_000),
    batching=st.sampled_from(batching_registry.names()),
    engine=engines,
    rate_rps=st.sampled_from([5.0, 60.0]),
    expected=st.sampled_from([1.0, 12.0, 40.0]),
)
@settings(max_examples=6, deadline=None)
def test_requests_that_come_at_a_rate(routing, is_one_by_one, case, seed, batching, engine, rate_rps, expected):
    load = random_load(seed, 40, rate_rps=rate_rps, prompt=60, output=20)
    how = {"routing": routing, "batching": batching, "seed": seed, "engine": engine, "is_one_by_one": is_one_by_one}
    how |= {"expected_output_tokens": expected, "high_water": 1.0}
    assert_equal(lambda: inputs_of(case, load, **how))


@pytest.mark.slow
@given(
    case=clusters(),
    seed=st.integers(0, 10**6),
    routing=st.sampled_from(routing_registry.names()),
    batching=st.sampled_from(batching_registry.names()),
    engine=engines,
    is_one_by_one=st.booleans(),
    rate_rps=st.sampled_from([5.0, 60.0]),
    expected=st.sampled_from([1.0, 12.0, 40.0]),
)
@settings(max_examples=100, deadline=None)
def test_all_of_it_together(case, seed, routing, batching, engine, is_one_by_one, rate_rps, expected):
    load = random_load(seed, 40, rate_rps=rate_rps, prompt=60, output=20)
    how = {"routing": routing, "batching": batching, "seed": seed, "engine": engine, "is_one_by_one": is_one_by_one}
    how |= {"expected_output_tokens": expected, "high_water": 1.0}
    assert_equal(lambda: inputs_of(case, load, **how))


@given(
    case=clusters(),
    seed=st.integers(0, 10_000),
    mode=st.sampled_from([FeedMode.CLOSED_LOOP, FeedMode.SATURATE]),
    is_one_by_one=st.booleans(),
    feed_below=st.sampled_from([None, 0.31, 0.83]),
    engine=engines,
)
@settings(max_examples=20, deadline=None)
def test_requests_that_come_as_others_leave(case, seed, mode, is_one_by_one, feed_below, engine):
    load = random_load(seed, 5000, rate_rps=1.0, prompt=60, output=20)
    how = {"mode": mode, "concurrency": 9, "prompts_in_flight": 3, "window": Window(SECOND // 4, SECOND, False)}
    how |= {"feed_below": feed_below, "seed": seed, "is_one_by_one": is_one_by_one, "expected_output_tokens": 5.0}
    how |= {"engine": engine}
    assert_equal(lambda: inputs_of(case, load, **how))


def test_the_comparison_reaches_preemption_and_waiting():
    """What the random cases are there for does happen, so that they cannot agree on easy runs only."""
    kind = builders.profile("n", 2, kv_blocks=(40, 20), max_decode_seqs=2)
    fleet = builders.fleet([kind, kind, kind], num_layers=4)
    case = fleet, builders.capacity_of(fleet, {"n": (200.0, 100.0)}), builders.placement_of(
        fleet, {"n-0": (0, 2), "n-1": (2, 4), "n-2": (2, 4)}
    )  # fmt: skip
    load = random_load(1, 60, rate_rps=60.0, prompt=60, output=30)
    for is_one_by_one in (False, True):
        result = assert_equal(
            lambda one=is_one_by_one: inputs_of(
                case, load, is_one_by_one=one, expected_output_tokens=1.0, high_water=1.0
            )
        )
        assert result.counters["preemptions"] > 10
        assert result.requests.queue_ns.max() > SECOND


@st.composite
def failures(draw, nodes):
    """Failures and repairs at any time, also of nodes that are down or up already; in the end all are back."""
    faults = []
    for _ in range(draw(st.integers(1, 4))):
        chosen = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True))
        at, length = draw(st.integers(0, 2500)), draw(st.sampled_from([1, 40, 700]))
        faults += [(at, "down", chosen), (at + length, "up", chosen)]
    faults.sort(key=lambda fault: fault[0])
    detection_ns = draw(st.sampled_from([0, 30, 900])) * MS
    return plan_of(*faults, (faults[-1][0], "up", nodes), detection_ns=detection_ns)


@st.composite
def runs_with_failures(draw):
    """What makes the inputs of a run in which nodes fail."""
    case, seed, is_loop = draw(clusters()), draw(st.integers(0, 10**6)), draw(st.booleans())
    load = random_load(seed, 40, rate_rps=draw(st.sampled_from([5.0, 60.0])), prompt=60, output=20)
    faults = draw(failures([node.id for node in case[0].cluster.nodes]))
    engine = replace(draw(engines), chunks_prompts=False)
    how = {
        "routing": draw(st.sampled_from(routing_registry.names())),
        "batching": draw(st.sampled_from(batching_registry.names())),
        "is_one_by_one": draw(st.booleans()),
        "expected_output_tokens": draw(st.sampled_from([1.0, 12.0, 40.0])),
        **({"mode": FeedMode.CLOSED_LOOP, "concurrency": 5} if is_loop else {}),
    }
    return lambda: inputs_of(case, load, seed=seed, engine=engine, high_water=1.0, faults=faults, **how)


@given(make=runs_with_failures())
@settings(max_examples=5, deadline=None)
def test_nodes_that_fail(make):
    assert_equal(make, FaultyReference)


@pytest.mark.slow
@given(make=runs_with_failures())
@settings(max_examples=300, deadline=None)
def test_many_failures(make):
    assert_equal(make, FaultyReference)
