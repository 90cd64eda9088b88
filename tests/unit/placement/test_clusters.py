"""Regions as the search draws them, and the bound that follows from the links between them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import builders
import pytest

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.flow.capacity import CapacityTable, upper_bound_share
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.bounds import configuration_bound
from helixsim.placement.clusters import crossing_total_tokens_per_s, crossings_tokens_per_s, regions_of
from helixsim.placement.helix import Helix, HelixOptions
from helixsim.placement.milp import solve_exact
from helixsim.placement.regions import _Finder
from helixsim.placement.stages import groups_of

BIG = builders.profile("big", 4)
TABLE = (400.0, 200.0, 150.0, 100.0)


def link(tokens_per_s: float) -> LinkSpec:
    return LinkSpec(8 * 1002 * tokens_per_s, 1_000_000)


def two_sites(
    east: int, west: int, slow: float, *, named: bool, num_layers: int = 8
) -> tuple[Deployment, CapacityTable]:
    """Nodes at two sites with links of ``slow`` tokens/s between; if not named, only the links tell them apart."""
    ids = [f"big-{number}" for number in range(east + west)]
    sites = ["east"] * east + ["west"] * west
    pairs = {
        (src, dst): link(slow)
        for src, here in zip(ids, sites, strict=True)
        for dst, there in zip(ids, sites, strict=True)
        if here != there
    }
    fleet = builders.fleet(
        [BIG] * (east + west), num_layers=num_layers, intra=link(1000.0), inter=link(slow),
        regions=sites if named else None, pairs=None if named else pairs,
    )  # fmt: skip
    return fleet, builders.capacity_of(fleet, {"big": TABLE})


def partition(regions: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(node for node in regions if regions[node] == name) for name in regions.values()}


def test_sites_without_names_are_told_by_their_links() -> None:
    named, unnamed = (regions_of(*two_sites(3, 3, 30.0, named=named)) for named in (True, False))
    assert set(named.values()) == {"east", "west"}
    assert set(unnamed.values()) == {"here/1", "here/2"}
    assert partition(named) == partition(unnamed)


def test_named_sites_with_ample_links_are_one_region() -> None:
    fleet, table = two_sites(3, 3, 500.0, named=True)
    assert set(regions_of(fleet, table).values()) == {"east+west"}


def test_links_that_are_merely_uneven_separate_nothing() -> None:
    fleet, table = two_sites(3, 3, 30.0, named=True)
    ids = [node.id for node in fleet.cluster.nodes]
    uneven = {(a, b): link(100.0 + 7 * n) for n, (a, b) in enumerate((a, b) for a in ids for b in ids if a != b)}
    network = replace(fleet.cluster.network, pairs=uneven)
    nodes = tuple(replace(node, region="here") for node in fleet.cluster.nodes)
    fleet = replace(fleet, cluster=replace(fleet.cluster, nodes=nodes, network=network))
    assert set(regions_of(fleet, table).values()) == {"here"}


def test_placements_do_not_depend_on_whether_sites_are_named() -> None:
    flows = []
    for named in (True, False):
        fleet, table = two_sites(2, 2, 30.0, named=named)
        placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
        flows.append((placement.objective_tokens_per_s, placement.upper_bound_tokens_per_s))
    assert flows[0] == pytest.approx(flows[1])


def test_speeds_between_regions_are_those_of_single_links() -> None:
    fleet, table = two_sites(2, 2, 30.0, named=True)
    network = replace(fleet.cluster.network, pairs={("big-0", "big-2"): link(50.0), ("big-3", "big-1"): link(10.0)})
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    regions = regions_of(fleet, table)
    speeds = crossings_tokens_per_s(fleet, regions)
    assert speeds["east", "west"] == pytest.approx((30.0, 50.0))
    assert speeds["west", "east"] == pytest.approx((10.0, 30.0))
    assert crossing_total_tokens_per_s(fleet, regions) == pytest.approx(50.0 + 3 * 30.0)


@pytest.mark.parametrize("slow", [0.01, 1.0, 5.0])
def test_bound_is_what_regions_carry_alone_and_their_links_together(slow: float) -> None:
    """East holds the model and carries 100, west cannot; the three nodes together would carry 150 but for two links."""
    fleet, table = two_sites(2, 1, slow, named=True)
    bound = configuration_bound(fleet, table)
    assert bound == pytest.approx(100.0 + 2 * slow, rel=1e-4)
    exact = solve_exact(PlacementProblem(fleet, table), upper_bound_share(fleet, table))
    assert exact.is_optimal
    assert 100.0 <= exact.objective_tokens_per_s * (1 + 1e-6) <= bound * (1 + 2e-6)


@pytest.mark.parametrize("slow", [0.01, 2.0, 20.0, 60.0])
@pytest.mark.parametrize("num_layers", [5, 6])
def test_bound_over_slow_links_is_no_lower_than_the_exact_optimum(slow: float, num_layers: int) -> None:
    """Neither site of one node holds the model: all flow crosses."""
    fleet, table = two_sites(1, 1, slow, named=True, num_layers=num_layers)
    bound = configuration_bound(fleet, table)
    exact = solve_exact(PlacementProblem(fleet, table), upper_bound_share(fleet, table))
    assert exact.is_optimal
    assert exact.objective_tokens_per_s <= bound * (1 + 1e-6)
    assert exact.objective_tokens_per_s == pytest.approx(min(slow, 200.0 if num_layers == 5 else 150.0), rel=1e-4)
    assert bound == pytest.approx(min(slow, upper_bound_share(fleet, table)), rel=1e-4)


def test_crumbs_are_no_sites() -> None:
    """Two of four nodes stand alone behind slow links: one region, whose links are a matter for swaps."""
    fleet = builders.fleet([BIG] * 4, intra=link(1000.0))
    slow = {(a, b): link(10.0) for a in ("big-0", "big-1", "big-2", "big-3") for b in ("big-2", "big-3") if a != b}
    pairs = slow | {(b, a): speed for (a, b), speed in slow.items()}
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=replace(fleet.cluster.network, pairs=pairs)))
    assert set(regions_of(fleet, builders.capacity_of(fleet, {"big": TABLE})).values()) == {"here"}


def test_the_right_nodes_meet_at_the_fast_link() -> None:
    """All three nodes in a row carry 100; only one of the two in the west has a link to the east that does."""
    fleet, table = two_sites(1, 2, 30.0, named=True, num_layers=12)
    fast = {("big-0", "big-2"): link(100.0), ("big-2", "big-0"): link(100.0)}
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=replace(fleet.cluster.network, pairs=fast)))
    placement = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    assert placement.objective_tokens_per_s == pytest.approx(100.0)
    assert placement.status == "optimal"


def test_chains_within_regions_cost_no_flow_where_links_are_slow_and_are_joined_where_nothing_else_will_do() -> None:
    apart = HelixOptions(across_regions=False)
    fleet, table = two_sites(3, 4, 1.0, named=True)
    within = Helix().solve(PlacementProblem(fleet, table), apart)
    anywhere = Helix().solve(PlacementProblem(fleet, table), HelixOptions())
    assert within.objective_tokens_per_s <= anywhere.objective_tokens_per_s <= within.objective_tokens_per_s + 3.0
    fleet, table = two_sites(1, 1, 30.0, named=True)  # each holds half of the model
    assert Helix().solve(PlacementProblem(fleet, table), apart).objective_tokens_per_s > 0


def test_one_order_of_many_regions_from_each_follows_the_fast_links() -> None:
    """Ten sites, of which all orders would be millions; fast links form one line through them."""
    line = [3, 7, 0, 9, 4, 1, 8, 2, 6, 5]
    pairs = {
        (f"big-{src}", f"big-{dst}"): link(90.0)
        for one, two in itertools.pairwise(line)
        for src, dst in ((one, two), (two, one))
    }
    sites = [f"site-{number}" for number in range(10)]
    fleet = builders.fleet([BIG] * 10, num_layers=40, regions=sites, inter=link(20.0), pairs=pairs)
    problem = PlacementProblem(fleet, builders.capacity_of(fleet, {"big": TABLE}))
    orders = _Finder(problem, groups_of(problem), None, lambda: 60.0, tuning.JOIN_PRECISION)._orders(sites)
    assert len(orders) == 10
    assert all(sorted(order) == sorted(sites) for order in orders)
    assert tuple(f"site-{number}" for number in line) in orders
