"""Strategies of other systems: hand-computed cases, optimality on tiny ones, and laws of all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulating import inputs_of, requests

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.placement import LayerRange
from helixsim.engine.simulate import simulate
from helixsim.errors import InfeasibleError
from helixsim.placement import cost_milp, parallax, registry
from helixsim.placement.base import PlacementProblem
from helixsim.placement.chains import LayerLimits, chain_flow
from helixsim.placement.check import check
from helixsim.placement.cost_milp import configurations
from helixsim.placement.hexgen2 import partitioned
from helixsim.placement.replicas import equal_nodes

RIVALS = ("parallax", "exo", "hexgen2", "cost_milp")


def fleet_of(sizes, *, num_layers: int = 8, kinds=None, **how) -> Deployment:
    """A fleet of nodes that hold so many layers, of a model whose contexts fit everywhere."""
    kinds = {size: builders.profile(f"k{size}", size) for size in sizes} if kinds is None else kinds
    made = builders.fleet([kinds[size] for size in sizes], num_layers=num_layers, **how)
    return replace(made, model=replace(made.model, max_context_tokens=16))


def problem(fleet: Deployment, tables=None) -> PlacementProblem:
    tables = tables or {
        profile.kind: [100.0 / k for k in range(1, 1 + profile.max_layers)] for profile in fleet.profiles
    }
    return PlacementProblem(fleet, builders.capacity_of(fleet, tables))


def solved(name: str, given: PlacementProblem, **options):
    strategy = registry.get(name)()
    return strategy.solve(given, strategy.Options(**options))


def ranges_of(placement) -> dict[str, tuple[int, int]]:
    return {node: (held.start, held.end) for node, held in placement.ranges.items()}


@pytest.mark.parametrize("name", RIVALS)
@settings(max_examples=40, deadline=None)
@given(nodes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from("ab")), min_size=1, max_size=9))
def test_placements_are_valid_and_keep_memory_for_a_context(name: str, nodes) -> None:
    fleet = fleet_of([size for size, _ in nodes], regions=[region for _, region in nodes])
    posed = problem(fleet)
    if sum(min(size, 8) for size, _ in nodes) < 8:
        with pytest.raises(InfeasibleError, match=f"{name}: .*8 layers of tiny"):
            solved(name, posed)
        return
    placement = solved(name, posed)
    check(fleet, placement)
    assert placement.objective_tokens_per_s > 0
    limits = LayerLimits(fleet)
    for node, held in placement.ranges.items():
        assert held.layers <= limits.of(fleet.cluster.node(node))
    again = solved(name, posed)
    assert (again.ranges, again.pipelines) == (placement.ranges, placement.pipelines)
    idle = placement.notes.get("idle", {})
    assert set(idle) <= set(fleet.cluster.index) - set(placement.ranges)


# --- Parallax


def test_parallax_interleaves_pipelines_where_a_greedy_one_wastes_nodes() -> None:
    """Its own example: 40, 40, 20, 20, 10, 10 layers and a model of 70 give two pipelines of three stages."""
    fleet = fleet_of([40, 40, 20, 20, 10, 10], num_layers=70)
    placement = solved("parallax", problem(fleet), weight_share=1.0)
    assert placement.notes["pipelines"] == 2
    assert placement.notes["stages"] == 6
    assert placement.notes["search"] == ["dynamic programming"]
    starts = [held.start for held in placement.ranges.values()]
    assert starts.count(0) == 2
    greedy = parallax._greedy(sorted(fleet.cluster.nodes, key=lambda n: -int(n.gpu[1:])), LayerLimits(fleet))
    assert len(greedy) == 1


def test_parallax_weighs_pipelines_against_stages() -> None:
    """One node of 8 layers and 4 of 2: k = 1 gives 1 / 1, k = 2 gives 4 / 5 by the default and 8 / 5 by alpha 3."""
    fleet = fleet_of([8, 2, 2, 2, 2])
    assert solved("parallax", problem(fleet), weight_share=1.0).notes["pipelines"] == 1
    assert solved("parallax", problem(fleet), weight_share=1.0, alpha=3.0).notes["pipelines"] == 2


def fewest_by_trying(sizes: list[int], num_layers: int, count: int) -> int | None:
    """The fewest nodes of so many pipelines, over all ways to put each node into one of them or none."""
    best = None
    for places in product(range(count + 1), repeat=len(sizes)):
        held = [sum(size for size, at in zip(sizes, places, strict=True) if at == pipe) for pipe in range(count)]
        if all(total >= num_layers for total in held):
            used = sum(at < count for at in places)
            best = used if best is None else min(best, used)
    return best


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), count=st.integers(1, 3))
def test_the_dynamic_program_finds_the_fewest_stages(sizes: list[int], count: int) -> None:
    fleet = fleet_of(sorted(sizes, reverse=True))
    found = parallax.fewest_stages(fleet.cluster.nodes, LayerLimits(fleet), count)
    expected = fewest_by_trying(sizes, 8, count)
    assert (found is None) == (expected is None)
    if found is not None:
        assert sum(map(len, found)) == expected
        assert len(found) == count
        names = [node.id for nodes in found for node in nodes]
        assert len(names) == len(set(names))
        for nodes in found:
            assert sum(LayerLimits(fleet).of_chain(nodes)) >= 8


def test_parallax_fills_by_power_within_capacity() -> None:
    """The node that computes three times as fast gets 6 of 8 layers, or the 4 that it holds."""
    fast = builders.profile("fast", 7, prefill_ns_per_token=1000.0)
    slow = builders.profile("slow", 7, prefill_ns_per_token=3000.0)
    fleet = fleet_of([0, 1], kinds=[fast, slow])
    placement = solved("parallax", problem(fleet), weight_share=1.0)
    assert ranges_of(placement) == {"fast-0": (0, 6), "slow-0": (6, 8)}
    fleet = fleet_of([0, 1], kinds=[builders.profile("fast", 4), slow])
    placement = solved("parallax", problem(fleet), weight_share=1.0)
    assert {held.layers for held in placement.ranges.values()} == {4}


def test_parallax_gives_left_over_nodes_the_layers_with_least_kv_memory() -> None:
    """4 and 4 layers form the pipeline. The third node, of 3, has most to add at the first of equal layers."""
    fleet = fleet_of([4, 4, 3])
    placement = solved("parallax", problem(fleet), weight_share=1.0)
    assert ranges_of(placement)["k3-0"] == (0, 3)
    assert placement.notes["leftover"] == ["k3-0"]
    assert "k3-0" not in solved("parallax", problem(fleet), weight_share=1.0, leftover=False).ranges


def test_parallax_keeps_pipelines_inside_a_region_that_holds_the_model() -> None:
    fleet = fleet_of([4, 4, 4, 4], regions=["a", "b", "a", "b"])
    placement = solved("parallax", problem(fleet), weight_share=1.0)
    for first, second in (("k4-0", "k4-2"), ("k4-1", "k4-3")):
        assert {placement.ranges[first], placement.ranges[second]} == {LayerRange(0, 4), LayerRange(4, 8)}
    pooled = fleet_of([4, 4], regions=["a", "b"])
    assert len(solved("parallax", problem(pooled), weight_share=1.0).ranges) == 2


def test_parallax_places_equal_regions_alike_and_searches_once(monkeypatch) -> None:
    searched = []
    search = parallax._pipelines
    monkeypatch.setattr(parallax, "_pipelines", lambda *given: searched.append(given) or search(*given))
    sizes = [4, 3, 5, 2, 4]
    alone = solved("parallax", problem(fleet_of(sizes, regions=["a"] * 5)), leftover=False)
    fleet = fleet_of([*sizes, *sizes, 6, *sizes], regions=["a"] * 5 + ["b"] * 5 + ["c"] * 6)
    together = solved("parallax", problem(fleet), leftover=False)
    assert len(searched) == 3  # the first fleet, the equal regions, the one with another node
    for start in (0, 5):
        part = [together.ranges.get(node.id) for node in fleet.cluster.nodes[start : start + 5]]
        assert [held for held in part if held] == list(alone.ranges.values())


def test_parallax_builds_greedily_beyond_its_states(monkeypatch) -> None:
    monkeypatch.setattr(parallax, "MAX_STATES", 2)
    placement = solved("parallax", problem(fleet_of([4, 4, 3, 3, 2])), weight_share=1.0)
    assert placement.notes["search"] == ["greedy"]
    assert placement.notes["pipelines"] == 2


# --- exo


def test_exo_shares_layers_by_memory() -> None:
    """Memory is one layer's weights and the KV beside it: 8 + 24 : 8 + 8 : 8 + 8 units give 4, 2 and 2 layers."""
    fleet = fleet_of([0, 1, 2], kinds=[builders.profile(f"m{at}", 8) for at in range(3)])
    unit = fleet.model.weight_bytes_per_layer / 8
    per_token = fleet.model.kv_bytes_per_token_per_layer
    blocks = [round(share * unit / per_token / 16) for share in (24, 8, 8)]
    kinds = [
        builders.profile(f"m{at}", 8, kv_blocks=[count] + [max(2, count // 50)] * 7) for at, count in enumerate(blocks)
    ]
    fleet = fleet_of([1, 0, 2], kinds=kinds)
    assert ranges_of(solved("exo", problem(fleet))) == {"m1-0": (4, 6), "m0-0": (0, 4), "m2-0": (6, 8)}


def test_exo_takes_all_nodes_or_the_fewest() -> None:
    fleet = fleet_of([8, 8, 4, 4])
    assert len(solved("exo", problem(fleet)).ranges) == 4
    assert set(solved("exo", problem(fleet), ring="smallest").ranges) == {"k8-0"}
    fleet = fleet_of([5, 4, 4])
    assert len(solved("exo", problem(fleet), ring="smallest").ranges) == 2


def test_exo_by_bandwidth_gives_the_faster_decoder_more() -> None:
    fast, slow = builders.profile("fast", 8, decode_ns=1e6), builders.profile("slow", 8, decode_ns=3e6)
    fleet = fleet_of([0, 1], kinds=[fast, slow])
    assert ranges_of(solved("exo", problem(fleet))) == {"fast-0": (0, 4), "slow-0": (4, 8)}
    assert ranges_of(solved("exo", problem(fleet), weights="bandwidth")) == {"fast-0": (0, 6), "slow-0": (6, 8)}


def test_exo_leaves_out_nodes_beyond_the_layers_of_the_model() -> None:
    placement = solved("exo", problem(fleet_of([2] * 10)))
    assert len(placement.ranges) == 8
    assert placement.notes["idle"] == {"k2-8": "not in the ring", "k2-9": "not in the ring"}


# --- HexGen-2


def test_hexgen2_cuts_the_slow_links() -> None:
    fleet = fleet_of([4] * 6, regions=["a", "b", "a", "b", "b", "a"], inter=LinkSpec(1e6, 0))
    groups = partitioned(fleet, fleet.cluster.nodes, 2)
    assert [sorted({node.region for node in group}) for group in groups] in ([["a"], ["b"]], [["b"], ["a"]])


@settings(max_examples=30, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(1, 6), st.sampled_from("ab")), min_size=2, max_size=8), count=st.integers(1, 4)
)
def test_partitions_hold_every_node_once(nodes, count: int) -> None:
    fleet = fleet_of([size for size, _ in nodes], regions=[region for _, region in nodes])
    groups = partitioned(fleet, fleet.cluster.nodes, min(count, len(nodes)))
    assert sorted(node.id for group in groups for node in group) == sorted(fleet.cluster.index)
    assert all(groups)


def test_hexgen2_exchanges_nodes_until_both_groups_serve() -> None:
    """5, 5, 3 and 3 layers: halves by memory may be 5 + 5 and 3 + 3, of which the second holds no model of 8."""
    fleet = fleet_of([5, 5, 3, 3])
    placement = solved("hexgen2", problem(fleet), groups=2)
    assert placement.notes["serving"] == 2
    assert placement.notes["refined_tokens_per_s"] >= placement.notes["partition_tokens_per_s"]
    stuck = solved("hexgen2", problem(fleet), groups=2, max_exchanges=0)
    assert stuck.notes["refined_tokens_per_s"] == stuck.notes["partition_tokens_per_s"]
    assert stuck.notes["serving"] < 2


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=7))
def test_refinement_never_loses_flow(sizes: list[int]) -> None:
    if sum(sizes) < 8:
        return
    notes = solved("hexgen2", problem(fleet_of(sizes))).notes
    assert notes["refined_tokens_per_s"] >= notes["partition_tokens_per_s"]


# --- cost MILP


def flows_of(placement, posed: PlacementProblem) -> float:
    """Sum over replicas of their slowest node [tokens/s]."""
    slowest: dict[int, float] = {}
    for node, number in placement.pipelines.items():
        flow = posed.capacity.tokens_per_s(node, placement.ranges[node].layers)
        slowest[number] = min(flow, slowest.get(number, flow))
    return sum(slowest.values())


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.sampled_from([3, 4, 5, 8]), min_size=1, max_size=5), budget=st.none() | st.integers(1, 5))
def test_the_composition_has_the_largest_throughput_within_the_budget(sizes: list[int], budget: int | None) -> None:
    fleet = fleet_of(sizes)
    posed = problem(fleet)
    classes = equal_nodes(fleet)
    found = configurations(posed, classes, 32)
    best = 0.0
    for numbers in product(*(range(3 if sum(one.counts) > 1 else 6) for one in found)) if len(found) < 7 else ():
        used = [sum(n * one.counts[at] for n, one in zip(numbers, found, strict=True)) for at in range(len(classes))]
        price = sum(n * one.usd_per_hour for n, one in zip(numbers, found, strict=True))
        if all(n <= len(nodes) for n, nodes in zip(used, classes, strict=True)) and (budget is None or price <= budget):
            best = max(best, sum(n * one.tokens_per_s for n, one in zip(numbers, found, strict=True)))
    if len(found) >= 7:
        return
    if not best:
        with pytest.raises(InfeasibleError, match="cost_milp"):
            solved("cost_milp", posed, budget_usd_per_hour=budget)
        return
    placement = solved("cost_milp", posed, budget_usd_per_hour=budget)
    assert flows_of(placement, posed) == pytest.approx(best, rel=1e-3)
    assert budget is None or placement.notes["usd_per_hour"] <= budget


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.sampled_from([2, 3, 5, 8]), min_size=3, max_size=8))
def test_each_set_of_nodes_that_holds_the_model_has_a_configuration_as_good_with_no_more_nodes(sizes) -> None:
    posed = problem(fleet_of(sizes))
    classes = equal_nodes(posed.fleet)
    found = configurations(posed, classes, 32)
    for one, other in product(found, repeat=2):
        assert one is other or one.tokens_per_s < other.tokens_per_s or np.any(np.array(one.counts) > other.counts)
    chains = cost_milp._Chains(posed.fleet)
    fewest = [len(nodes) for nodes in classes]
    for counts in product(*(range(number + 1) for number in fewest)):
        members = [node for nodes, count in zip(classes, counts, strict=True) for node in nodes[:count]]
        if members and len(members) <= 4 and chains.holds(members):
            flow = chain_flow(posed.fleet, *chains.shared(members), posed.capacity)
            assert any(one.tokens_per_s >= flow and np.all(np.array(one.counts) <= counts) for one in found)


def test_the_composition_of_few_configurations_is_that_of_all(monkeypatch) -> None:
    """The relaxed program prices the classes of nodes; the configurations that it leaves out are dear."""
    posed = problem(fleet_of([2, 2, 3, 3, 3, 5, 5, 7, 7, 8]))
    whole = flows_of(solved("cost_milp", posed), posed)
    number = len(configurations(posed, equal_nodes(posed.fleet), 32))
    monkeypatch.setattr(cost_milp, "MOST_COLUMNS", number // 3)
    assert flows_of(solved("cost_milp", posed), posed) == pytest.approx(whole, rel=2e-3)
    assert number >= 9


def test_cost_milp_stays_on_a_site_unless_none_holds_the_model() -> None:
    fleet = fleet_of([4, 4, 4, 4], regions=["a", "b", "a", "b"])
    placement = solved("cost_milp", problem(fleet))
    assert placement.pipelines["k4-0"] == placement.pipelines["k4-2"] != placement.pipelines["k4-1"]
    across = solved("cost_milp", problem(fleet_of([4, 4], regions=["a", "b"])))
    assert len(across.ranges) == 2


def test_cost_milp_says_which_budget_would_do() -> None:
    with pytest.raises(InfeasibleError, match=r"budget_usd_per_hour is 0.5, the cheapest replica costs 1 \$/h"):
        solved("cost_milp", problem(fleet_of([8, 4, 4])), budget_usd_per_hour=0.5)


def test_cost_milp_mixes_types_where_a_budget_buys_more_so() -> None:
    """The paper's claim in sign: 3 $/h buy the large node and two small ones, 350 tokens/s.

    Of one type alone, one large node gives 200 and four small ones, over the budget, 2 x 150.
    """
    tables = {"k8": [200.0] * 8, "k4": [150.0] * 4}
    posed = problem(fleet_of([8, 4, 4, 4, 4]), tables)
    assert flows_of(solved("cost_milp", posed, budget_usd_per_hour=3.0), posed) == 350.0
    small = problem(fleet_of([4, 4, 4, 4]), tables)
    large = problem(fleet_of([8]), tables)
    alone = [flows_of(solved("cost_milp", one, budget_usd_per_hour=3.0), one) for one in (small, large)]
    assert max(alone) == 200.0


def test_hexgen2_serves_more_of_a_mixed_fleet_than_its_types_by_themselves() -> None:
    """The paper's claim in sign: nodes of 5 and 3 layers serve in two pairs; of one type alone, one pair does."""
    fleet = fleet_of([5, 5, 3, 3])
    together = solved("hexgen2", problem(fleet)).notes["refined_tokens_per_s"]
    alone = solved("separate", problem(fleet)).objective_tokens_per_s
    assert together > alone
    assert np.isfinite(together)


def test_a_longer_ring_of_exo_decodes_one_request_slower_and_several_faster() -> None:
    """The claim of exo's benchmark (blog.exolabs.net/day-1) in sign, for nodes that compute one sequence at once."""
    alone, together = [], []
    for size in (1, 2, 3):
        kind = builders.profile("mac", 8, max_decode_seqs=1, decode_ns=1e7)
        fleet = fleet_of([0] * size, kinds=[kind])
        fleet = replace(fleet, model=replace(fleet.model, max_context_tokens=100))
        posed = problem(fleet)
        case = (fleet, posed.capacity, solved("exo", posed))
        for count, rates in ((1, alone), (3, together)):
            run = simulate(inputs_of(case, requests(*[(0, 16, 64)] * count)))
            rates.append(64 * count / float(run.requests.finish_ns.max()))
    assert alone[0] > alone[1] > alone[2]
    assert together[0] < together[1] < together[2]
