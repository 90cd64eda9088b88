"""Owned hardware, what to buy next, and the bound by the objectives against simulation of every fleet."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from builders import profile

from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.config.plan_file import Offer, load_plan
from helixsim.domain.cluster import Cluster, LinkSpec, Network, Node
from helixsim.planning.fleet import _Search
from helixsim.planning.fleet_bound import BestCase, LatencyLimit
from helixsim.planning.fleet_limits import round_trips_s
from helixsim.planning.fleet_program import Market, Supply
from helixsim.runtime.pool import Serial

EXPERIMENT = """\
schema: 1
name: base
model: llama-2-13b
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: l4, count: 2, region: a}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 10 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 300, output_tokens: 30}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 2 s
  duration: 10 s
systems:
  - {name: petals, placement: petals, routing: auto}
slo: {ttft: 2 s, tpot: 400 ms}
"""

OFFERS = [
    {"gpu": "l4", "region": "a", "available": 2},
    {"gpu": "t4", "region": "a", "available": 3},
    {"gpu": "a100-40g", "region": "a", "available": 2},
]


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "base.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def write(offers=OFFERS, **changes):
        path = tmp_path / "plan.yaml"
        document = {"schema": 1, "name": "tiny", "experiment": "base.yaml", "offers": offers, **changes}
        path.write_text(yamlio.dump(document), encoding="utf-8")
        return path

    return write


def search(path):
    return _Search(load_plan(path), path.parent / "out", Serial(), False, lambda *_: None)


def found(path, capsys, *arguments):
    command = ["fleet", str(path), "--out", str(path.parent / "out"), "-q", "--executor", "serial", "--json"]
    assert main([*command, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def market_of(search, counts):
    """The market in which just these nodes are on offer, all known of failures forgotten."""
    offers = [
        dataclasses.replace(offer, available=count) for offer, count in zip(search.plan.offers, counts, strict=True)
    ]
    return Market(offers, search.market.supply, search.market.num_layers, search.market.rate_rps)


@pytest.mark.parametrize(
    "tpot", [pytest.param("130 ms", marks=pytest.mark.slow), "80 ms", pytest.param("40 ms", marks=pytest.mark.slow)]
)
def test_no_fleet_that_serves_is_ruled_out_by_the_objectives(plan, tpot):
    """All 35 fleets are simulated: each that meets the SLO is possible by the bound, and so none cheaper is proven."""
    tried = search(plan(set={"slo.tpot": tpot, "workload.arrivals.rate": 1}))
    fleets = [counts for counts in itertools.product(range(3), range(4), range(3)) if any(counts)]
    tried.plan = dataclasses.replace(tried.plan, simulations=1000)
    tried._try(fleets)
    passing = [counts for counts, trial in tried.tried.items() if trial.is_met]
    for counts in passing:
        assert market_of(tried, counts).cheapest_possible() is not None, counts
    market = market_of(tried, (2, 3, 2))
    bound = market.price(market.cheapest_possible())
    assert all(bound <= market.price(counts) + 1e-6 for counts in passing)
    loose = Market(market.offers, dataclasses.replace(market.supply, limits=()), market.num_layers, market.rate_rps)
    assert bound >= loose.price(loose.cheapest_possible())


def test_the_objectives_raise_the_bound(plan):
    """An L4 takes more than 80 ms to read the weights once, so an A100 has to pass part of the layers."""
    bounds = []
    for tpot in ("1 s", "70 ms"):
        market = search(plan(set={"slo.tpot": tpot, "workload.arrivals.rate": 1})).market
        counts = market.cheapest_possible()
        bounds.append(market.price(counts))
    assert counts[2] >= 1
    assert bounds[0] < bounds[1]


def test_a_mixture_needs_as_much_of_the_fast_nodes_as_worked_out_by_hand():
    """Ten layers, 100 ms: a slow node takes 15 ms a layer, a fast one 5 ms. At most half of the layers are slow.

    A fast node holds three layers, so that two are needed.
    """
    offers = [Offer("slow", 1, "a", 1.0, 9), Offer("fast", 1, "a", 5.0, 9)]
    supply = Supply((100.0, 100.0), (100.0, 100.0), (10, 3), limits=(LatencyLimit(1.0, 0.1, (0.015, 0.005)),))
    market = Market(offers, supply, 10, 1.0)
    assert market.cheapest_possible() == (1, 2)
    assert Market(offers, dataclasses.replace(supply, limits=()), 10, 1.0).cheapest_possible() == (1, 0)


def test_a_decode_step_of_one_sequence_is_the_least():
    node = dataclasses.replace(profile("n", 4, decode_ns=2e6), block_tokens=10, kv_blocks=(100,) * 4)
    best = BestCase([node], 90.0, 20.0, 4)
    assert best.decode_layer_s(0) == pytest.approx(2e-3)
    assert best.prompt_layer_s(0, 90.0) >= best.prompt_layer_s(0, None) > 0


def test_round_trips_go_the_shortest_way():
    """To the far node 50 ms, over the near one 1 ms + 5 ms; back directly 3 ms."""
    near, far = (Node(name, "l4", 1, "a", None, 1.0, 70.0) for name in ("near", "far"))
    ms = {("coordinator", "far"): 50, ("near", "far"): 5, ("far", "near"): 50, ("far", "coordinator"): 3}
    pairs = {pair: LinkSpec(1e9, value * 1_000_000) for pair, value in ms.items()}
    cluster = Cluster((near, far), Network(LinkSpec(1e9, 1_000_000), LinkSpec(1e9, 1), pairs=pairs), "a")
    assert round_trips_s(cluster, ["near", "far"]) == [pytest.approx(2e-3), pytest.approx(9e-3)]


def test_owned_nodes_cost_nothing_are_in_every_fleet_and_tell_what_to_buy(plan, capsys):
    owned = {"gpu": "l4", "region": "a", "available": 2, "owned": True}
    document = found(plan([owned, {**OFFERS[0], "available": 3}, OFFERS[2]], set={"workload.arrivals.rate": 6}), capsys)
    assert all(one["counts"][0] == 2 for one in document["tried"])
    best = document["ranked"][0]
    bought = best["counts"][1:]
    assert any(bought)
    assert document["owned"] == "2 owned l4 in a"
    assert document["purchases_added_to"]["fleet"] == document["owned"]
    value = [one["adds_requests_per_s_per_usd_per_hour"] for one in document["purchases"]]
    assert value == sorted(value, reverse=True)
    assert all(one["is_simulated"] for one in document["purchases"])
    base = document["purchases_added_to"]["capacity_requests_per_s"]
    capacity = {tuple(one["counts"]): one["capacity_requests_per_s"] for one in document["tried"]}
    assert base == capacity[2, 0, 0]
    adds = {one["offer"]: one["adds_requests_per_s"] for one in document["purchases"]}
    assert adds["l4 in a"] == pytest.approx(capacity[2, 1, 0] - base)
    assert 0 <= document["gap"] < 1
    run_nodes = next(text for text in best["settings"] if text.startswith("cluster.nodes="))
    assert "0 $/h" in run_nodes


def test_owned_nodes_that_suffice_leave_nothing_to_buy_and_the_idle_ones_are_listed(plan, capsys):
    owned = [{"gpu": "a100-40g", "region": "a", "available": 1, "owned": True}]
    path = plan([*owned, OFFERS[2]])
    assert main(["fleet", str(path), "--out", str(path.parent / "out"), "-q", "--executor", "serial"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "nothing needs to be bought" in text
    assert "The best next purchase is one more a100-40g in a" in text
    document = found(path, capsys)
    assert document["ranked"][0]["usd_per_hour"] == 0
    assert document["is_proven"]
    idle = {"gpu": "t4", "region": "a", "available": 1, "owned": True}
    document = found(plan([*owned, idle], set={"systems.0.placement": "replicas"}), capsys)
    assert document["ranked"][0]["idle"] == [{"offer": "owned t4 in a", "nodes": 1}]
    assert document["purchases"] == []


def test_a_budget_is_for_what_is_bought(plan, capsys):
    owned = {"gpu": "t4", "region": "a", "available": 2, "owned": True}
    document = found(plan([owned, *OFFERS], simulations=6), capsys, "--budget", "1 $/h")
    assert all(one["usd_per_hour"] <= 1 for one in document["ranked"])
    assert all(one["counts"][0] == 2 for one in document["tried"])


def test_owned_nodes_with_a_price_are_a_fault(plan, capsys):
    offers = [{"gpu": "l4", "available": 1, "owned": True, "price": "1 $/h"}]
    assert main(["fleet", str(plan(offers)), "-q"]) == 2
    assert "owned nodes have no price" in capsys.readouterr().err
