"""What links have carried by the end of a run, and who waits outside a saturated system."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulating import MS, SECOND, random_load, requests, run

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RequestStatus


def pipeline(bandwidth_bps: float, *, is_shared: bool = False, nic_bps: float | None = None):
    """The two-node pipeline of ``builders`` with other links; 1002 bytes travel per token between the nodes."""
    fleet, capacity, placement = builders.two_node_pipeline()
    network = replace(fleet.cluster.network, intra_region=LinkSpec(bandwidth_bps, MS), is_shared=is_shared)
    nodes = tuple(replace(node, nic_bps=nic_bps) for node in fleet.cluster.nodes)
    return replace(fleet, cluster=replace(fleet.cluster, network=network, nodes=nodes)), capacity, placement


def between(result, name):
    """A figure of the link between the nodes."""
    return int(
        getattr(result.links, name)[list(zip(result.links.src, result.links.dst, strict=True)).index(("n-0", "n-1"))]
    )


@pytest.mark.parametrize("end_ms", [200, 500, 900])
def test_a_link_cut_short_has_worked_until_the_end(end_ms: int) -> None:
    """A prompt of 1000 tokens takes 1.002 s on a link of 8 Mbit/s and starts at about 3 ms."""
    result = run(pipeline(8e6), requests((0, 1000, 2)), window=Window(0, end_ms * MS, drain=False))
    started_ns = 3 * MS + 2_000 + 1000 * 1000 * 2  # two bytes per token to the node, then 2 layers x 1 us each
    busy_ns = between(result, "busy_ns")
    assert busy_ns == pytest.approx(result.end_ns - started_ns, abs=5 * MS)
    assert between(result, "bytes") == pytest.approx(busy_ns / 1000, abs=1)
    whole = run(pipeline(8e6), requests((0, 1000, 1)))
    assert between(whole, "busy_ns") == between(whole, "bytes") * 1000 == 1_002_000_000


@given(
    seed=st.integers(0, 100),
    end_ms=st.integers(1, 3000),
    is_shared=st.booleans(),
    nic_bps=st.sampled_from([None, 5e6, 5e7]),
)
@settings(max_examples=25, deadline=None)
def test_no_link_is_busier_than_the_clock_or_faster_than_it_is(seed, end_ms, is_shared, nic_bps) -> None:
    case = pipeline(2e7, is_shared=is_shared, nic_bps=nic_bps)
    result = run(case, random_load(seed, 60, rate_rps=30), window=Window(0, end_ms * MS, drain=False))
    links = result.links
    assert (links.busy_ns >= 0).all()
    assert (links.busy_ns <= result.end_ns).all()
    assert (links.bytes * 8 <= 2e7 * result.end_ns / SECOND + 1).all()
    assert (links.bytes >= 0).all()


@given(seed=st.integers(0, 100), feed_below=st.sampled_from([None, 0.5]))
@settings(max_examples=6, deadline=None)
def test_the_series_of_a_saturated_system_is_that_of_its_requests(seed, feed_below) -> None:
    """The request that stands ready outside has not arrived: it is in no row and in no sample."""
    load = random_load(seed, 10_000, rate_rps=1.0, prompt=20)
    result = run(
        builders.two_node_pipeline(), load, mode=FeedMode.SATURATE, prompts_in_flight=3, feed_below=feed_below,
        window=Window(SECOND, 4 * SECOND, drain=False), expected_output_tokens=2.0,
    )  # fmt: skip
    rows, series = result.requests, result.series
    left = np.where(rows.finish_ns >= 0, rows.finish_ns, result.end_ns + 1)
    served = rows.status != RequestStatus.REJECTED
    inside = [((rows.arrival_ns <= at) & (left > at) & served).sum() for at in series.time_ns]
    assert list(series.waiting + series.running) == inside
    assert list(series.arrived) == [(rows.arrival_ns <= at).sum() for at in series.time_ns]
    assert (rows.admitted_ns[served] == rows.arrival_ns[served]).all()
    assert set(rows.status) <= {RequestStatus.RUNNING, RequestStatus.FINISHED}
    assert (series.waiting == 0).all() or result.counters["preemptions"]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_link_that_carries_one_message_at_a_time_is_busy_for_its_bytes(is_shared) -> None:
    """One request at a time: shared evenly or not, the link works for bytes over bandwidth and idles between."""
    load = requests((0, 500, 5), (5000, 300, 3))
    result = run(pipeline(8e6, is_shared=is_shared), load)
    assert between(result, "bytes") == 1002 * (500 + 4 + 300 + 2)
    assert between(result, "busy_ns") == pytest.approx(1000 * between(result, "bytes"), abs=10)
