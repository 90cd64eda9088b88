"""KV memory: admission, growth, preemption, rejection, and that nothing is ever lost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import builders
import numpy as np
import pytest
from simulating import requests, run

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.request import FeedMode, Request
from helixsim.domain.result import RequestStatus
from helixsim.errors import SimulationError


def one_node(blocks, **node):
    """One node with ``blocks`` KV blocks of 16 tokens; ``node`` replaces fields of the Node."""
    kind = builders.profile("n", 1, kv_blocks=(blocks,))
    fleet = builders.fleet([kind], num_layers=1, intra=LinkSpec(1e12, 0))
    nodes = tuple(replace(one, **node) for one in fleet.cluster.nodes)
    fleet = replace(fleet, cluster=replace(fleet.cluster, nodes=nodes))
    return fleet, builders.capacity_of(fleet, {"n": (1000.0,)}), builders.placement_of(fleet, {"n-0": (0, 1)})


def test_a_request_that_does_not_fit_waits_and_is_served_first_come_first_served():
    # 20 blocks of 16 tokens; each request expects 160 + 10 tokens = 11 blocks, 90 % of 20 are 18.
    result = run(one_node(20), requests((0, 160, 5), (0, 160, 5), (0, 160, 5)))
    rows = result.requests
    assert list(rows.status) == [RequestStatus.FINISHED] * 3
    assert rows.admitted_ns[0] < rows.admitted_ns[1] < rows.admitted_ns[2]
    assert rows.admitted_ns[1] >= rows.finish_ns[0]
    assert result.counters["preemptions"] == 0


def test_memory_that_runs_out_preempts_the_youngest_and_loses_nothing():
    # Both are admitted on an expected 10 output tokens and then write 200 each: 2 x 17 blocks do not fit into 24.
    result = run(one_node(24), requests((0, 64, 200), (0, 64, 200)), high_water=1.0)
    rows = result.requests
    assert list(rows.status) == [RequestStatus.FINISHED] * 2
    assert list(rows.output_tokens) == [200, 200]
    assert rows.preemptions[0] == 0
    assert rows.preemptions[1] >= 1
    assert result.counters["preemptions"] == rows.preemptions.sum() == result.nodes.preemptions.sum()
    assert result.nodes.kv_peak_blocks[0] <= 24


def test_preempted_work_is_computed_anew():
    result = run(one_node(24), requests((0, 64, 200), (0, 64, 200)), high_water=1.0)
    recomputed = result.nodes.prompt_tokens[0] - 2 * 64
    assert recomputed >= 64 * result.counters["preemptions"]
    # Each restart feeds in one token that had not been computed before: the last one generated.
    assert result.counters["recomputed_tokens"] == recomputed - result.counters["preemptions"]


def test_a_prompt_larger_than_any_route_is_rejected_and_the_rest_served():
    result = run(one_node(20), requests((0, 320, 5), (1, 100, 5)))
    assert list(result.requests.status) == [RequestStatus.REJECTED, RequestStatus.FINISHED]
    assert result.counters["rejected"] == 1


def test_a_layer_without_memory_is_full_to_a_feeder_too():
    endless = (Request(number, 0, 100, 20) for number in range(10**6))
    with pytest.raises(SimulationError, match="fit no route"):
        run(one_node(0), endless, mode=FeedMode.SATURATE, prompts_in_flight=3, feed_below=0.5)


def test_a_prompt_longer_than_the_context_is_rejected():
    result = run(one_node(10_000), requests((0, 4096, 5), (0, 4090, 50)))
    assert list(result.requests.status) == [RequestStatus.REJECTED, RequestStatus.FINISHED]
    assert list(result.requests.output_tokens) == [0, 6]  # the model's context ends at 4096
    assert result.counters["truncated_outputs"] == 1


def test_a_request_that_outgrows_the_cluster_is_rejected_with_what_it_has():
    result = run(one_node(20), requests((0, 300, 200)))
    assert list(result.requests.status) == [RequestStatus.REJECTED]
    assert 0 < result.requests.output_tokens[0] < 200


def test_cap_on_resident_requests_is_kept():
    result = run(one_node(1000, max_requests=2), requests(*((0, 16, 20) for _ in range(8))))
    assert all(result.requests.status == RequestStatus.FINISHED)
    assert result.nodes.decode_tokens[0] == 8 * 19
    rows = result.requests
    for start in rows.admitted_ns:
        assert np.count_nonzero((rows.admitted_ns <= start) & (rows.finish_ns > start)) <= 2


def test_pinned_kv_blocks_replace_those_of_the_profile():
    assert run(one_node(1000, kv_blocks=7), requests((0, 16, 2))).nodes.kv_blocks[0] == 7


def test_an_overestimated_request_still_enters_an_empty_node():
    result = run(one_node(20), requests((0, 100, 3)), expected_output_tokens=10_000.0)
    assert list(result.requests.status) == [RequestStatus.FINISHED]


class Broken:
    """A routing policy that forgets the second half of the model."""

    summary = "broken"

    def __init__(self, graph, options, rng):
        self.graph = graph

    @dataclass(frozen=True)
    class Options: ...

    def route(self, prompt_tokens, expected_tokens, view):
        return (self.graph.first[0],)


def test_a_route_with_a_gap_is_refused_and_names_the_policy():
    with pytest.raises(SimulationError, match="Broken returned a route that ends at layer 2"):
        run(builders.two_node_pipeline(), requests((0, 10, 1)), routing=f"{__name__}:Broken")
