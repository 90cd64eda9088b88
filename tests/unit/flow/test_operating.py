"""The operating point of placements: Little's law, bounds, and simulations beside it."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
import simulating
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import FeedMode, Window
from helixsim.flow.maxflow import max_flow_value
from helixsim.flow.operating import operating_capacity, operating_point
from helixsim.flow.station import OperatingLoad

LOAD = OperatingLoad(mean_prompt_tokens=10.0, mean_output_tokens=90.0, kv_share=0.9, expected_output_tokens=90.0)


def chain(
    nodes: int, *, latency_ns: int = 0, blocks: int = 400, decode_ns: float = 1e6
) -> tuple[Deployment, Placement]:
    """``nodes`` equal nodes with one layer each, in a row; a decode step takes 1 ms whatever the batch."""
    kind = builders.profile("n", 1, kv_blocks=(blocks,), decode_ns=decode_ns, prefill_ns_per_token=0.01)
    fleet = builders.fleet([kind] * nodes, num_layers=nodes, intra=LinkSpec(1e15, latency_ns))
    return fleet, builders.placement_of(fleet, {f"n-{i}": (i, i + 1) for i in range(nodes)})


@pytest.mark.parametrize(("nodes", "latency_ns"), [(1, 10_000_000), (4, 0), (4, 5_000_000), (8, 20_000_000)])
def test_a_chain_settles_at_memory_over_round_trip(nodes: int, latency_ns: int) -> None:
    """Prompts and transmission cost nothing here: R = nodes x 1 ms + (nodes + 1) x latency, N = memory / request."""
    fleet, placement = chain(nodes, latency_ns=latency_ns)
    point = operating_point(fleet, placement, LOAD)
    requests = 0.9 * 400 * 16 / LOAD.resident_tokens(16)
    round_trip_s = nodes * 1e-3 + (nodes + 1) * latency_ns * 1e-9
    assert point.round_trip_s == pytest.approx(round_trip_s, rel=0.01)
    assert point.requests == pytest.approx(requests, rel=0.02)
    assert point.output_tokens_per_s == pytest.approx(requests / round_trip_s, rel=0.02)


def test_reservations_outlive_the_expected_output() -> None:
    """A resident whose output is exponential has had max(expected, age) reserved: e + m exp(-e / m) on average."""
    assert LOAD.resident_tokens(16) == pytest.approx(10 + 90 * (1 + 2.718281828**-1) + 8)
    generous = replace(LOAD, expected_output_tokens=9000.0)
    assert generous.resident_tokens(16) == pytest.approx(9018, rel=1e-6)


def test_prompts_in_the_way_cost_deep_chains_more() -> None:
    """Where no prompt can be overtaken, the delay grows faster than the number of nodes."""

    def trip_s(nodes: int) -> float:
        kind = builders.profile("n", 1, kv_blocks=(400,), prefill_ns_per_token=100_000.0)
        fleet = builders.fleet([kind] * nodes, num_layers=nodes, intra=LinkSpec(1e15, 0))
        placement = builders.placement_of(fleet, {f"n-{i}": (i, i + 1) for i in range(nodes)})
        load = replace(LOAD, mean_prompt_tokens=400.0)
        return operating_point(fleet, placement, load, offered_output_per_s=50.0).offered_round_trip_s

    shallow, deep = trip_s(2) - 0.002, trip_s(8) - 0.008
    assert deep > 5 * shallow


@settings(max_examples=25, deadline=None)
@given(
    nodes=st.integers(1, 5),
    latency_ms=st.integers(0, 30),
    blocks=st.integers(20, 600),
    share=st.floats(0.2, 0.9),
)
def test_slower_links_and_less_memory_never_help(nodes: int, latency_ms: int, blocks: int, share: float) -> None:
    fleet, placement = chain(nodes, latency_ns=latency_ms * 1_000_000, blocks=blocks)
    point = operating_point(fleet, placement, LOAD)
    slower, _ = chain(nodes, latency_ns=(latency_ms + 5) * 1_000_000, blocks=blocks)
    for other, load in ((slower, LOAD), (fleet, replace(LOAD, kv_share=share * LOAD.kv_share))):
        worse = operating_point(other, placement, load)
        assert worse.output_tokens_per_s <= point.output_tokens_per_s * (1 + 1e-6)
    assert point.requests == pytest.approx(point.output_tokens_per_s * point.round_trip_s)


def test_its_throughput_is_a_flow_that_its_capacities_carry() -> None:
    fleet, _, placement = builders.tiny_fleet()
    point = operating_point(fleet, placement, LOAD)
    assert 0 < point.tokens_per_s <= max_flow_value(fleet, placement, point.capacity) * 1.01
    assert point.tokens_per_s == pytest.approx(point.output_tokens_per_s * LOAD.tokens_per_step)


def test_a_placement_without_a_route_passes_nothing() -> None:
    fleet, placement = chain(2)
    broken = replace(placement, ranges={"n-1": placement.ranges["n-1"]})
    assert operating_point(fleet, broken, LOAD).output_tokens_per_s == 0.0


def test_the_table_of_a_fleet_has_no_more_layers_than_its_nodes_and_falls_with_them() -> None:
    fleet, _, _ = builders.tiny_fleet()
    table = operating_capacity(fleet, LOAD)
    assert {kind: len(values) for kind, values in table.tables.items()} == {"big": 4, "small": 2}
    for values in table.tables.values():
        assert list(values) == sorted(values, reverse=True)
        assert values[-1] > 0


@pytest.mark.parametrize("latency_ms", [1, 20])
def test_a_saturated_simulation_comes_close(latency_ms: int) -> None:
    fleet, _, placement = builders.tiny_fleet()
    network = replace(fleet.cluster.network, intra_region=LinkSpec(1e9, latency_ms * 1_000_000))
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    load = OperatingLoad(50.0, 100.0, 0.9, 100.0)
    point = operating_point(fleet, placement, load)
    run = simulating.run(
        (fleet, point.capacity, placement), simulating.random_load(1, 20_000, rate_rps=1e6, prompt=50, output=100),
        mode=FeedMode.SATURATE, window=Window(10 * simulating.SECOND, 20 * simulating.SECOND, drain=False),
        prompts_in_flight=50, expected_output_tokens=100.0, check=False,
    )  # fmt: skip
    inside = int((run.series.time_ns < run.window_start_ns).sum())
    tokens, times = run.series.output_tokens[inside:], run.series.time_ns[inside:]
    served = float(tokens[-1] - tokens[0]) * 1e9 / float(times[-1] - times[0])
    assert point.output_tokens_per_s == pytest.approx(served, rel=0.25)
