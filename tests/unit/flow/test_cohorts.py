"""Runs of cohorts: routes by flow, and round trips with known bounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import builders
import numpy as np
import pytest

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.flow.cohorts import Cohorts, drawn_routes
from helixsim.flow.maxflow import balanced_flows
from helixsim.flow.network import build_network
from helixsim.flow.operating import operating_point, stations_of
from helixsim.flow.station import OperatingLoad, capacities

STEP_S = 2e-3
LOAD = OperatingLoad(400.0, 80.0, 1.0, 1.0, EngineSpec(loops_inside=True, chunks_prompts=True), prompt_spread=1.8)


def cohorts(load: OperatingLoad, requests: float, latency_ns: int = 0) -> Cohorts:
    """Two nodes with the first layer, one with the last: each step of decodes takes 2 ms, a prompt 8 ms."""
    kind = builders.profile("n", 1, kv_blocks=(10**8,), decode_ns=2e6, prefill_ns_per_token=2e4, max_decode_seqs=256)
    fleet = builders.fleet([kind] * 3, num_layers=2, intra=LinkSpec(1e15, latency_ns))
    placement = builders.placement_of(fleet, {"n-0": (0, 1), "n-1": (0, 1), "n-2": (1, 2)})
    stations = stations_of(fleet, placement, load)
    network = build_network(fleet, placement, capacities(placement, dict.fromkeys(stations, 1e4)))
    by_class = {number: stations[network.classes[number].nodes[0]] for number in network.node_classes}
    return Cohorts(fleet, network, by_class, load, balanced_flows(network), requests, {})


def test_routes_are_drawn_in_proportion_to_flow() -> None:
    """One of the first nodes passes three times as much as the other two, which are equal."""
    kind = builders.profile("n", 1, kv_blocks=(10**8,))
    fleet = builders.fleet([kind] * 4, num_layers=2, intra=LinkSpec(1e15, 0))
    placement = builders.placement_of(fleet, {"n-0": (0, 1), "n-1": (0, 1), "n-2": (0, 1), "n-3": (1, 2)})
    network = build_network(
        fleet,
        placement,
        capacities(placement, {"n-0": 300.0, "n-1": 100.0, "n-2": 100.0, "n-3": 1e4}),
        kinds={"n-0": 0, "n-1": 1, "n-2": 1, "n-3": 2},
    )
    routes = drawn_routes(network, balanced_flows(network), 60)
    assert all(len(route) == 2 for route in routes)
    assert sorted(Counter(route[0] for route in routes).values()) == pytest.approx([12, 12, 36], abs=1)


@pytest.mark.parametrize("latency_ns", [0, 5_000_000])
def test_without_prompts_a_round_is_two_steps_and_at_most_as_long_a_wait_for_each(latency_ns: int) -> None:
    """A step takes all that waits, so at most the step that runs is waited for."""
    found, _, mean_s = cohorts(replace(LOAD, mean_output_tokens=1e5), 60.0, latency_ns).played(2 * STEP_S)
    least_s = 2 * STEP_S + 2e-9 * latency_ns
    assert least_s * (1 - 1e-2) <= mean_s <= (least_s + 2 * STEP_S) * (1 + 1e-2)
    assert min(found.values()) <= mean_s <= max(found.values())


def test_prompts_are_computed_on_both_nodes_for_each_output() -> None:
    """The last node computes 1 / 80 prompts of 8 ms for each step of a request, so it passes 10 000 steps/s at most."""
    run = cohorts(LOAD, 200.0)
    mean_s = run.played(0.05).mean_s
    most_per_s = LOAD.mean_output_tokens / (LOAD.mean_prompt_tokens * 2e-5)
    assert 0.5 * most_per_s < 200.0 / mean_s < 1.1 * most_per_s


def test_routes_of_long_round_trips_have_more_requests_so_that_all_pass_equally_many() -> None:
    """Without a common node nothing but the number of requests couples the two routes; a round takes 2 and 12 ms."""
    kinds = [
        builders.profile(name, 2, kv_blocks=(10**8,) * 2, decode_ns=ns / 2, max_decode_seqs=256)
        for name, ns in (("f", 2e6), ("s", 12e6))
    ]
    fleet = builders.fleet(kinds, num_layers=2, intra=LinkSpec(1e15, 0))
    placement = builders.placement_of(fleet, {"f-0": (0, 2), "s-0": (0, 2)})
    load = replace(LOAD, mean_output_tokens=1e6)
    stations = stations_of(fleet, placement, load)
    table = capacities(placement, dict.fromkeys(stations, 1e4))
    network = build_network(fleet, placement, table, kinds={"f-0": 0, "s-0": 1})
    by_class = {number: stations[network.classes[number].nodes[0]] for number in network.node_classes}
    flows = balanced_flows(network)
    trips = Cohorts(fleet, network, by_class, load, flows, 70.0, {}).played(7e-3)
    # A node takes all that waits, and what comes back when its step ends is in the next one.
    assert sorted(trips.on_routes_s.values()) == pytest.approx([2e-3, 12e-3], rel=0.02)
    run = Cohorts(fleet, network, by_class, load, flows, 70.0, trips.on_routes_s)
    of_routes = Counter[str]()
    for (node,), requests in zip(run.routes, run.requests, strict=True):
        of_routes[network.order[node]] += requests
    assert of_routes == pytest.approx({"f-0": 10, "s-0": 60}, abs=1)
    assert run.played(7e-3).mean_s == pytest.approx((2e-3 + 12e-3) / 2, rel=0.05)


def test_full_memory_computes_prompts_again() -> None:
    """Nodes whose memory is full pass fewer requests than with memory to spare, at equally many."""
    kind = builders.profile("n", 1, kv_blocks=(800,), decode_ns=2e6, prefill_ns_per_token=2e4, max_decode_seqs=256)
    fleet = builders.fleet([kind] * 3, num_layers=2, intra=LinkSpec(1e15, 0))
    placement = builders.placement_of(fleet, {"n-0": (0, 1), "n-1": (0, 1), "n-2": (1, 2)})
    admitted, reserved = (
        operating_point(fleet, placement, replace(LOAD, expected_output_tokens=tokens)) for tokens in (1.0, 1.001)
    )
    assert np.isclose(admitted.requests, reserved.requests, rtol=0.1)
    assert admitted.output_tokens_per_s < 0.97 * reserved.output_tokens_per_s
