"""Runs whose every nanosecond can be worked out by hand, and queues with known formulas."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest
from simulating import MS, SECOND, requests, run

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, LinkSpec
from helixsim.domain.hardware import BatchLimits
from helixsim.domain.request import FeedMode, Request, Window
from helixsim.domain.result import RequestStatus

US = 1_000


def test_one_request_through_two_nodes_takes_the_sum_of_its_parts():
    """100 prompt tokens: 200 us on each node, a step 2 ms on each; links 1 Gbit/s = 8 ns a byte, 1 ms latency."""
    result = run(builders.two_node_pipeline(), requests((5, 100, 3)))
    row = result.requests
    to_first = 100 * TOKEN_ID_BYTES * 8 + MS
    between = 100 * (1000 + TOKEN_ID_BYTES) * 8 + MS
    home = TOKEN_ID_BYTES * 8 + MS
    first_token = 5 * MS + to_first + 200 * US + between + 200 * US + home
    step = (TOKEN_ID_BYTES * 8 + MS) + 2 * MS + ((1000 + TOKEN_ID_BYTES) * 8 + MS) + 2 * MS + home
    assert row.first_token_ns[0] == first_token
    assert row.finish_ns[0] == first_token + 2 * step
    assert row.compute_ns[0] == 2 * 200 * US + 2 * 4 * MS
    assert row.network_ns[0] == to_first + between + home + 2 * (step - 4 * MS)
    assert row.queue_ns[0] == 0
    assert result.gaps.sum_ns == 2 * step
    assert list(result.gaps.count) == [2]


def quick_entry(bandwidth_bps=1e9):
    """The two-node pipeline with a coordinator whose messages take no time."""
    kind = builders.profile("n", 2, kv_blocks=(1200, 600))
    entry = {(COORDINATOR, node): LinkSpec(1e17, 0) for node in ("n-0", "n-1")}
    fleet = builders.fleet([kind, kind], num_layers=4, intra=LinkSpec(bandwidth_bps, 0), pairs=entry)
    return (
        fleet,
        builders.capacity_of(fleet, {"n": (200.0, 100.0)}),
        builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4)}),
    )


def test_requests_of_one_instant_share_a_batch():
    """Both prompts arrive at one instant: one batch of 200 tokens, then one decode step of both."""
    result = run(quick_entry(1e17), requests((0, 100, 2), (0, 100, 2)))
    assert list(result.nodes.batches) == [2, 2]
    assert list(result.nodes.prompt_tokens) == [200, 200]
    assert list(result.nodes.decode_tokens) == [2, 2]


def test_a_slow_link_queues_messages_in_order():
    """Three prompts of 1000 tokens leave node 0 in one batch; each needs 1000 x 1002 B x 8 ns of the link."""
    result = run(quick_entry(), requests(*((0, 1000, 1) for _ in range(3))))
    number = list(zip(result.links.src, result.links.dst, strict=True)).index(("n-0", "n-1"))
    assert result.links.bytes[number] == 3 * 1000 * 1002
    assert result.links.busy_ns[number] == 3 * 8_016_000
    assert result.links.queue_ns[number] == (0 + 1 + 2) * 8_016_000


def test_partial_inference_charges_each_layer_for_the_work_active_in_it():
    """Node b holds [0, 4); a request from node a, layers [0, 2), enters it at layer 2, another at layer 0."""
    kind_a = builders.profile("a", 2, kv_blocks=(1000, 1000))
    kind_b = builders.profile("b", 4, kv_blocks=(1000,) * 4)
    fleet = builders.fleet([kind_a, kind_b], num_layers=4, intra=LinkSpec(1e15, 0))
    capacity = builders.capacity_of(fleet, {"a": (100.0, 100.0), "b": (150.0,) * 4})
    placement = builders.placement_of(fleet, {"a-0": (0, 2), "b-0": (0, 4)}, partial_inference=True)
    result = run((fleet, capacity, placement), requests((0, 100, 1), (0, 100, 1)), routing="shortest_queue", seed=3)
    routes = {tuple(node for node, _ in route.hops) for route in result.routes}
    layers = {tuple((r.start, r.end) for _, r in route.hops) for route in result.routes}
    assert routes <= {("b-0",), ("a-0", "b-0")}
    assert layers <= {((0, 4),), ((0, 2), (2, 4))}
    # 1 us per token and layer: 400 us of layer work for each request, however it is split.
    assert sum(result.requests.compute_ns) >= 800 * US - 2


def test_md1_queue_agrees_with_pollaczek_khinchine():
    """One node, prompts of one size, one token out, one prompt per batch: an M/D/1 queue at 70 % load.

    Mean wait = rho / (2 (1 - rho)) x service. The interval is four standard errors over independent batches.
    """
    kind = replace(
        builders.profile("n", 1, kv_blocks=(10**7,), prefill_ns_per_token=10_000.0),
        limits=(BatchLimits(max_prefill_requests=1, max_prefill_tokens=10**6, max_decode_seqs=64),),
    )
    fleet = builders.fleet([kind], num_layers=1, intra=LinkSpec(1e15, 0))
    service_s, load = 1000 * 10_000 / SECOND, 0.7
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(service_s / load, 40_000))
    stream = [Request(i, round(t * SECOND), 1000, 1) for i, t in enumerate(arrivals)]
    case = (fleet, builders.capacity_of(fleet, {"n": (1e6,)}), builders.placement_of(fleet, {"n-0": (0, 1)}))
    result = run(case, stream, check=False)
    waits = result.requests.queue_ns[2000:] / SECOND
    batches = waits[: len(waits) // 40 * 40].reshape(40, -1).mean(axis=1)
    expected = load / (2 * (1 - load)) * service_s
    assert abs(batches.mean() - expected) < 4 * batches.std(ddof=1) / np.sqrt(40)


def test_closed_loop_throughput_is_concurrency_over_round_trip():
    """Little's law: N requests that never wait produce N tokens per step time."""
    endless = (Request(i, 0, 10, 1000) for i in range(10**6))
    result = run(
        builders.two_node_pipeline(),
        endless,
        mode=FeedMode.CLOSED_LOOP,
        concurrency=4,
        window=Window(SECOND, 10 * SECOND, False),
    )
    step = result.gaps.sum_ns / result.gaps.count.sum()
    series = result.series
    inside = (series.time_ns >= result.window_start_ns) & (series.time_ns <= result.window_end_ns)
    tokens = series.output_tokens[inside]
    assert (tokens[-1] - tokens[0]) / 10 == pytest.approx(4 / (step / SECOND), rel=0.02)


def test_saturated_bottleneck_is_never_idle():
    """Under saturation the slower node of a pipeline works all the time and sets the rate."""
    fast, slow = builders.profile("f", 2), builders.profile("s", 2, decode_ns=4e6, prefill_ns_per_token=4000.0)
    fleet = builders.fleet([fast, slow], num_layers=4)
    case = (
        fleet,
        builders.capacity_of(fleet, {"f": (200.0, 100.0), "s": (50.0, 25.0)}),
        builders.placement_of(fleet, {"f-0": (0, 2), "s-0": (2, 4)}),
    )
    endless = (Request(i, 0, 50, 20) for i in range(10**6))
    result = run(
        case, endless, mode=FeedMode.SATURATE, prompts_in_flight=8, window=Window(2 * SECOND, 10 * SECOND, False)
    )
    series = result.series
    start, end = np.searchsorted(series.time_ns, [result.window_start_ns, result.window_end_ns])
    busy = (series.busy_ns[end] - series.busy_ns[start]) / (10 * SECOND)
    assert busy[1] > 0.98
    assert busy[0] < busy[1]


@pytest.mark.parametrize(("feed_below", "most"), [(0.1, 2), (0.5, 7), (1.0, 12)])
def test_a_feeder_with_a_limit_stops_one_request_beyond_it(feed_below, most):
    """Each request is expected to fill 8 of 100 blocks: the last is launched while the use is at most the limit."""
    kinds = [builders.profile(name, 2, kv_blocks=(200, 100)) for name in ("f", "s")]
    fleet = builders.fleet(kinds, num_layers=4)
    case = (
        fleet,
        builders.capacity_of(fleet, {"f": (200.0, 100.0), "s": (50.0, 25.0)}),
        builders.placement_of(fleet, {"f-0": (0, 2), "s-0": (2, 4)}),
    )
    result = run(
        case,
        (Request(i, 0, 100, 20) for i in range(10**6)),
        mode=FeedMode.SATURATE,
        prompts_in_flight=3,
        feed_below=feed_below,
        high_water=1.0,
        expected_output_tokens=20,
        window=Window(2 * SECOND, 10 * SECOND, False),
    )
    assert max(result.series.running) == most


def test_network_card_shared_by_two_links_halves_their_rate():
    """Node 0 sends 2 x 1 MB over two 1 Gbit/s links; a 1 Gbit/s card lets one through at a time."""
    kinds = [builders.profile("n", 2, kv_blocks=(10_000, 10_000), prefill_ns_per_token=0.001) for _ in range(3)]

    def last_token(nic_bps):
        fleet = builders.fleet(kinds, num_layers=4, intra=LinkSpec(1e9, 0), nic_bps=nic_bps)
        case = (
            fleet,
            builders.capacity_of(fleet, {"n": (200.0, 100.0)}),
            builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4), "n-2": (2, 4)}),
        )
        result = run(case, requests((0, 1000, 1), (0, 1000, 1)), routing="least_loaded")
        assert {route.hops[1][0] for route in result.routes} == {"n-1", "n-2"}
        assert all(result.requests.status == RequestStatus.FINISHED)
        return int(result.requests.finish_ns.max())

    transmission = 1000 * 1002 * 8
    assert last_token(1e9) - last_token(None) == pytest.approx(transmission, rel=0.01)


def test_two_slow_cards_take_the_time_of_one():
    """1 MB over a link of 10 Gbit/s between cards of 1 Gbit/s: the second receives while the first sends."""
    kinds = [builders.profile("n", 2, kv_blocks=(10_000, 10_000), prefill_ns_per_token=0.001) for _ in range(2)]

    def last_token(nic_bps):
        fleet = builders.fleet(kinds, num_layers=4, intra=LinkSpec(1e10, 0), nic_bps=nic_bps)
        case = (
            fleet,
            builders.capacity_of(fleet, {"n": (200.0, 100.0)}),
            builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4)}),
        )
        return int(run(case, requests((0, 1000, 1))).requests.finish_ns.max())

    assert last_token(1e9) - last_token(None) == pytest.approx(1000 * 1002 * (8 - 0.8), rel=0.01)


def test_requests_that_travel_one_by_one_start_batches_without_the_rest():
    """Two decode steps leave the coordinator together: as one message they share a batch, one by one they do not."""
    load = requests((0, 100, 2), (0, 100, 2))
    together, apart = (run(quick_entry(1e17), load, is_one_by_one=one_by_one) for one_by_one in (False, True))
    assert list(together.nodes.batches) == [2, 2]
    assert list(apart.nodes.batches) == [3, 3]
    assert list(apart.nodes.decode_tokens) == list(together.nodes.decode_tokens)
    assert apart.requests.finish_ns.max() > together.requests.finish_ns.max()
