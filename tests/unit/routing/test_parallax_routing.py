"""The policy ``parallax``: the path of least latency, by the load of the nodes."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_view import View

from helixsim.domain.engine import IDEAL
from helixsim.errors import ConfigError
from helixsim.flow.maxflow import max_flow
from helixsim.routing import registry
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes

RNG = np.random.default_rng(0)


def policy_for(speeds_ms, ranges):
    """The policy on nodes n0, n1, ... that decode a layer in so many ms, and the graph."""
    kinds = [builders.profile(f"n{at}", 8, decode_ns=speed * 1e6) for at, speed in enumerate(speeds_ms)]
    fleet = builders.fleet(kinds, num_layers=8)
    placement = builders.placement_of(fleet, {f"n{at}-0": held for at, held in enumerate(ranges)})
    capacity = builders.capacity_of(fleet, {kind.kind: [100.0] * 8 for kind in kinds})
    graph = routing_graph(placement, max_flow(fleet, placement, capacity), RoutingTimes(fleet, placement, IDEAL, 10.0))
    return registry.get("parallax")(graph, registry.get("parallax").Options(), RNG), graph


def names(graph, route):
    return [graph.node_ids[hop.node] for hop in route]


def test_it_takes_the_fastest_node_of_each_stage_and_changes_pipelines() -> None:
    policy, graph = policy_for([1, 9, 9, 1], [(0, 4), (4, 8), (0, 4), (4, 8)])
    assert names(graph, policy.route(10, 20, View())) == ["n0-0", "n3-0"]


def test_one_slow_node_is_better_than_two_links() -> None:
    """Two nodes take 8 ms and three links of 2 ms there and back, one takes 10 ms and a link."""
    policy, graph = policy_for([1, 1, 1.2], [(0, 4), (4, 8), (0, 8)])
    assert names(graph, policy.route(10, 20, View())) == ["n2-0"]


def test_full_nodes_are_no_option() -> None:
    policy, graph = policy_for([1, 5], [(0, 8), (0, 8)])
    assert names(graph, policy.route(10, 20, View())) == ["n0-0"]
    fast = graph.node_ids.index("n0-0")
    assert names(graph, policy.route(10, 20, View(full={fast}))) == ["n1-0"]
    assert policy.route(10, 20, View(full={0, 1})) is None


@settings(max_examples=40, deadline=None)
@given(
    speeds=st.lists(st.floats(0.5, 20), min_size=6, max_size=6),
    full=st.sets(st.integers(0, 5), max_size=3),
)
def test_no_path_takes_less(speeds, full) -> None:
    policy, graph = policy_for(speeds, [(0, 4), (4, 8), (0, 4), (4, 8), (0, 8), (0, 4)])

    def cost(route) -> float:
        sources = [None, *(hop.node for hop in route)]
        links = sum(2 * graph.times.latency_ns(source, hop.node) for source, hop in zip(sources, route, strict=False))
        return links + sum(policy._node_ns(hop, 10, View()) for hop in route)

    paths = [
        (hop,) if hop.end == 8 else (hop, after) for hop in graph.first for after in graph.successors[hop.node] or [hop]
    ]
    open_paths = [path for path in paths if not any(hop.node in full for hop in path)]
    found = policy.route(10, 20, View(full=full))
    if not open_paths:
        assert found is None
    else:
        assert cost(found) == pytest.approx(min(map(cost, open_paths)))


def test_it_needs_step_times() -> None:
    _, graph = policy_for([1, 1], [(0, 4), (4, 8)])
    bare = replace(graph, times=None)
    with pytest.raises(ConfigError, match="step times"):
        registry.get("parallax")(bare, registry.get("parallax").Options(), RNG)
