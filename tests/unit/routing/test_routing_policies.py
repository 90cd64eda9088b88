"""What routing policies choose."""

from __future__ import annotations

from collections import Counter

import builders
import numpy as np
import pytest
from routing_view import View

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import IDEAL
from helixsim.errors import ConfigError
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import registry
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes


def unequal_pair():
    """Two parallel nodes of 300 and 100 tokens/s in front of one of 400."""
    fast, slow, last = builders.profile("fast", 2), builders.profile("slow", 2), builders.profile("last", 2)
    fleet = builders.fleet([fast, slow, last], num_layers=4, intra=LinkSpec(1e12, 0))
    capacity = builders.capacity_of(fleet, {"fast": (0.0, 300.0), "slow": (0.0, 100.0), "last": (0.0, 400.0)})
    placement = builders.placement_of(fleet, {"fast-0": (0, 2), "slow-0": (0, 2), "last-0": (2, 4)})
    return routing_graph(
        placement,
        max_flow(fleet, placement, capacity),
        RoutingTimes(fleet, placement, IDEAL, expected_output_tokens=10.0),
    )


def make(name, graph, **options):
    policy_class = registry.get(name)
    return policy_class(graph, policy_class.Options(**options), stream(0, "routing"))


@pytest.mark.parametrize("name", registry.names())
def test_routes_cover_all_layers_or_are_refused(name):
    graph = unequal_pair()
    policy = make(name, graph)
    hops = policy.route(10, 20, View())
    assert [(hop.start, hop.end) for hop in hops] == [(0, 2), (2, 4)]
    assert policy.route(10, 20, View(full={2})) is None
    assert [hop.node for hop in policy.route(10, 20, View(full={0}))] == [1, 2]


def test_flow_weighted_shares_tokens_in_proportion_to_flow():
    policy = make("flow_weighted", unequal_pair())
    rng = np.random.default_rng(1)
    tokens = Counter()
    for expected in rng.integers(10, 2000, 4000):
        tokens[policy.route(5, int(expected), View())[0].node] += int(expected)
    assert tokens[0] / tokens[1] == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(("decay", "burst"), [(True, False), (False, True)])
def test_a_node_that_was_full_gets_no_burst_unless_the_paper_is_asked_for(decay, burst):
    policy = make("flow_weighted", unequal_pair(), decay=decay)
    for _ in range(300):
        policy.route(10, 100, View(full={1}))
    first_of_40 = [policy.route(10, 100, View())[0].node for _ in range(40)]
    assert (first_of_40.count(1) == 40) is burst
    assert burst or first_of_40.count(1) <= 14


def test_swarm_prefers_the_neighbour_that_answers_faster():
    graph = unequal_pair()
    policy = make("swarm", graph)
    counts = Counter()
    for _ in range(300):
        hop = policy.route(10, 100, View())[0]
        counts[hop.node] += 1
        policy.observe(hop.edge, 10_000_000 if hop.node == 0 else 40_000_000, 1)
    assert counts[0] / counts[1] == pytest.approx(4.0, rel=0.1)


def test_shortest_queue_and_least_loaded_look_at_their_own_measure():
    graph = unequal_pair()
    assert make("shortest_queue", graph).route(1, 2, View(queues={0: 5, 1: 4}))[0].node == 1
    # 900 tokens on 300 tokens/s are 3 s of work, 400 on 100 are 4 s.
    assert make("least_loaded", graph).route(1, 2, View(tokens={0: 900, 1: 400}))[0].node == 0


def test_round_robin_takes_nodes_in_turn_and_passes_over_full_ones():
    policy = make("round_robin", unequal_pair())
    nodes = [policy.route(1, 2, View(tokens={0: 900}))[0].node for _ in range(6)]
    assert nodes == [0, 1, 0, 1, 0, 1]
    assert [policy.route(1, 2, View(full={0}))[0].node for _ in range(2)] == [1, 1]
    assert policy.route(1, 2, View())[0].node == 0


def test_prefix_aware_weighs_what_is_cached_against_queue_and_memory():
    graph = unequal_pair()

    def chosen(**state):
        options = state.pop("options", {})
        return make("prefix_aware", graph, **options).route(100, 120, View(**state))[0].node

    assert chosen(cached={1: 16}) == 1
    assert chosen(cached={0: 32, 1: 48}) == 1
    # 3 x 0.16 for the prefix is less than 2 for the only empty queue, and 3 x 0.8 is more.
    assert chosen(cached={1: 16}, queues={1: 1}) == 0
    assert chosen(cached={1: 80}, queues={1: 1}) == 1
    assert chosen(cached={1: 80}, queues={1: 1}, options={"queue_weight": 2.5}) == 0
    # 3 x 0.48 against 2 x 0.8 of the memory
    assert chosen(cached={1: 48}, usage={1: 0.8}) == 0
    assert chosen(cached={1: 48}, usage={1: 0.7}) == 1
    assert chosen(cached={1: 48}, usage={1: 0.8}, options={"prefix_weight": 6.0}) == 1


def test_prefix_aware_without_any_cached_token_is_least_loaded():
    graph = unequal_pair()
    both = [make(name, graph) for name in ("prefix_aware", "least_loaded")]
    rng = np.random.default_rng(2)
    for _ in range(200):
        tokens = {node: int(rng.integers(0, 3)) * (3, 1, 1)[node] for node in range(2)}
        view = View(tokens=tokens, queues={0: int(rng.integers(3))}, usage={1: float(rng.random())})
        first, second = (policy.route(10, 20, view) for policy in both)
        assert first == second


def test_random_is_uniform():
    policy = make("random", unequal_pair())
    picks = Counter(policy.route(1, 2, View())[0].node for _ in range(2000))
    assert abs(picks[0] - 1000) < 4 * np.sqrt(500)


def test_a_full_node_further_on_makes_the_walk_turn_back():
    """Node a leads only to x, which is full; node b leads to y. The walk must not stop at a."""
    kinds = {name: builders.profile(name, 4) for name in "abxy"}
    fleet = builders.fleet([kinds[name] for name in "abxy"], num_layers=4, intra=LinkSpec(1e12, 0))
    capacity = builders.capacity_of(fleet, dict.fromkeys("abxy", (100.0,) * 4))
    placement = builders.placement_of(fleet, {"a-0": (0, 1), "b-0": (0, 2), "x-0": (1, 4), "y-0": (2, 4)})
    times = RoutingTimes(fleet, placement, IDEAL, expected_output_tokens=10.0)
    graph = routing_graph(placement, max_flow(fleet, placement, capacity), times)
    for name in registry.names():
        for _ in range(5):
            hops = make(name, graph).route(1, 2, View(full={2}))
            assert [graph.node_ids[hop.node] for hop in hops] == ["b-0", "y-0"]


def test_shares_replace_the_flow_where_they_are_given():
    graph = unequal_pair()
    policy = make("flow_weighted", graph, shares={"coordinator": {"fast-0": 1.0, "slow-0": 4.0}})
    taken = Counter(policy.route(10, 20, View())[0].node for _ in range(100))
    assert taken == {0: 20, 1: 80}
    only_slow = make("flow_weighted", graph, shares={"coordinator": {"slow-0": 7.0}})
    assert {only_slow.route(10, 20, View())[0].node for _ in range(10)} == {1}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"coordinater": {"fast-0": 1.0}}, "did you mean 'coordinator'"),
        ({"coordinator": {"fast-1": 1.0}}, "unknown next node 'fast-1'"),
        ({"fast-0": {"last-0": -1.0}}, "negative"),
        ({"fast-0": {"last-0": 0.0}}, "all weights are 0"),
    ],
)
def test_shares_that_no_route_can_follow_are_refused(shares, message):
    with pytest.raises(ConfigError, match=message):
        make("flow_weighted", unequal_pair(), shares=shares)
