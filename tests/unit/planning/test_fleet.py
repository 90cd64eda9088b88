"""The search for fleets: its programs against enumeration, its ceiling against simulation, and clear faults."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
from builders import profile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helixsim import solver, yamlio
from helixsim.cli.main import main
from helixsim.config.plan_file import Offer, Spot, load_plan
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import Curve, LayerTimes
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.errors import ConfigError
from helixsim.planning.fleet import _Search, find_fleet
from helixsim.planning.fleet_bound import LEVEL_STEP, BestCase
from helixsim.planning.fleet_program import Market, Supply
from helixsim.runtime.pool import Processes, Serial

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
  arrivals: {process: poisson, rate: 4 /s}
  warmup: 2 s
  duration: 10 s
systems:
  - {name: petals, placement: petals}
slo: {ttft: 2 s, tpot: 400 ms}
"""

PLAN = {
    "schema": 1,
    "name": "tiny-fleet",
    "experiment": "base.yaml",
    "offers": [
        {"gpu": "l4", "region": "a", "available": 3},
        {"gpu": "t4", "region": "a", "available": 4},
        {"gpu": "a10g", "region": "a", "available": 2},
    ],
}


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "base.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(yamlio.dump({**PLAN, **changes}), encoding="utf-8")
        return path

    return write


def silent(_share, _what, _table):
    pass


offers = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(0, 9), st.integers(0, 9), st.integers(0, 6),
              st.sampled_from(["a", "b"])),
    min_size=1, max_size=4,
)  # fmt: skip


def test_a_solver_that_gives_up_is_no_verdict_on_fleets(monkeypatch):
    market = Market([Offer("g", 1, "a", 1.0, 3)], Supply((2.0,), (2.0,), (8,)), 8, 0.5)
    given_up = solver.Solution(solver.SolveStatus.FAILED, math.inf, -math.inf, (), (), 0)
    monkeypatch.setattr(solver, "solve", lambda *_args, **_options: given_up)
    for ask in (lambda: market.cheapest(1.0), market.cheapest_possible, lambda: market.marginal_price(1.0)):
        with pytest.raises(solver.SolverError):
            ask()


@pytest.mark.parametrize("available", [1, 2])
def test_a_fleet_at_just_the_price_is_not_below_it(available):
    """The difference that counts is above the solver's tolerance: two nodes cost 5, which is not below 5."""
    offered = [Offer("g0", 1, "a", 2.5, 1), Offer("g1", 1, "a", 2.5, available)]
    market = Market(offered, Supply((0.5, 0.5), (0.0, 1.0), (0, 1)), 1, 0.5)
    assert market.cheapest_possible(5.0) == market.most_promising(5.0) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(offers, st.integers(1, 30), st.data())
def test_the_programs_find_what_enumeration_finds(drawn, layers, data):
    listed = [Offer(f"g{n}", 1, row[5], row[0] / 10, row[1]) for n, row in enumerate(drawn)]
    supply = Supply(*(tuple(float(row[i]) for row in drawn) for i in (2, 3)), tuple(row[4] for row in drawn))
    supply = Supply(tuple(max(value, 0.5) for value in supply.estimate), supply.ceiling, supply.layers)
    market = Market(listed, supply, layers, 0.5)
    fleets = list(itertools.product(*(range(offer.available + 1) for offer in listed)))
    market.failed = data.draw(st.lists(st.sampled_from(fleets), max_size=2))
    market.excluded = data.draw(st.lists(st.sampled_from(fleets), max_size=2))
    below = data.draw(st.sampled_from([float("inf"), 5.0, 2.0]))

    def gives(counts, gains):
        return sum(gain * count for gain, count in zip(gains, counts, strict=True))

    def is_allowed(counts):
        if gives(counts, supply.layers) < layers or market.price(counts) > below - 1e-7 or counts in market.excluded:
            return False
        return not any(all(c <= f for c, f in zip(counts, failed, strict=True)) for failed in market.failed)

    allowed = [counts for counts in fleets if is_allowed(counts) and gives(counts, supply.ceiling) >= 0.5 * layers]
    cheapest = market.cheapest_possible(below)
    promising = market.most_promising(below)
    assert (cheapest is None) == (promising is None) == (not allowed)
    if allowed:
        assert cheapest in allowed
        assert promising in allowed
        assert market.price(cheapest) == pytest.approx(min(map(market.price, allowed)), abs=1e-2)
        assert market.estimated_rps(promising) == pytest.approx(max(map(market.estimated_rps, allowed)), rel=2e-3)


def test_shadow_prices_of_a_market_solved_by_hand():
    """One dollar buys 2 at the first offer and 1 at the second; of the first only 3 can be had.

    8 layers x requests are needed: 3 nodes of the first (6) and 2 of the second. One more request/s, 4 layers, costs
    4 $ at the second offer, the dearest in use; one more node of the first replaces two of the second and saves 1 $.
    """
    listed = [Offer("fast", 1, "a", 1.0, 3), Offer("slow", 1, "a", 1.0, 9)]
    market = Market(listed, Supply((2.0, 1.0), (2.0, 1.0), (4, 4)), 4, 2.0)
    assert market.cheapest(1.0) == (3, 2)
    per_rps, scarce = market.marginal_price(1.0)
    assert per_rps == pytest.approx(4.0)
    assert [(offer.gpu, saved) for offer, saved in scarce] == [("fast", pytest.approx(1.0))]


def test_no_simulated_fleet_exceeds_its_best_case(plan, tmp_path):
    search = _Search(load_plan(plan(), budget="9 $/h"), tmp_path, Serial(), False, silent)
    stats, fleet = search.experiment.workload_stats, search.experiment.fleet
    best = BestCase(
        [fleet.profiles[number] for number in (0, 3, 7)], stats.mean_prompt_tokens, stats.mean_output_tokens,
        fleet.model.num_layers,
    )  # fmt: skip
    fleets = [(3, 0, 0), (1, 4, 0), (2, 1, 2), (2, 1, 0)]
    search._try(fleets, with_capacity=True)
    for counts in fleets:
        ceiling = sum(c * n for c, n in zip(search.market.supply.ceiling, counts, strict=True))
        served = search.tried[counts].capacity_rps
        assert served, counts
        assert served <= best.rps(counts) <= ceiling / search.market.num_layers


def test_the_best_case_of_one_node_worked_out_by_hand():
    """One layer, 1000 tokens of KV memory, prompts of 90 and outputs of 20 tokens: ten contexts of 100 at a time.

    A prompt takes 90 x 1 us, 19 decode steps of 1 ms serve ten sequences each: 90 us + 1.9 ms = 1.99 ms a request.
    Memory: a request holds 100 tokens on average for 19 steps of 1 ms, so 1000 tokens pass 526 a second.
    """
    node = dataclasses.replace(profile("n", 1, decode_ns=1e6), block_tokens=10, kv_blocks=(100,))
    best = BestCase([node], 90.0, 20.0, 1)
    assert best.context_tokens((1,)) == pytest.approx(1000)
    assert best.layers_per_s(0, 1000.0) == pytest.approx(1 / 1.99e-3)
    assert best.rps((1,)) == pytest.approx(1 / 1.99e-3)
    assert best.rps((0,)) == 0
    # Two layers on it leave 300 tokens in each: a weight of 400 layer-tokens a layer.
    pair = dataclasses.replace(profile("n", 2, decode_ns=1e6), block_tokens=10, kv_blocks=(100, 30))
    assert BestCase([pair], 90.0, 20.0, 2).context_tokens((1,)) == pytest.approx(300)


def curves(knots, values):
    return Curve(tuple(map(float, knots)), tuple(map(float, values)))


@st.composite
def step_times(draw):
    """A layer whose attention has no constant part or one, with its products known apart or not."""
    xs = (1, 4, 30, 200, 5000)
    rising = st.lists(st.floats(1.0, 1e4), min_size=5, max_size=5).map(sorted)
    work, per_token = draw(rising), draw(st.floats(0.1, 3.0))
    work = [y + per_token * x for x, y in zip(xs, work, strict=True)]
    launch, each = draw(st.floats(0.0, 100.0)), draw(st.floats(0.0, 2.0))
    prefill = curves(xs, [y + launch + each * x for x, y in zip(xs, work, strict=True)])
    decode = curves(xs, [y + launch / 2 + each * x for x, y in zip(xs, work, strict=True)])
    known = curves(xs, work) if draw(st.booleans()) else None
    window = draw(st.sampled_from([None, 50]))
    return LayerTimes(prefill, decode, draw(st.floats(0.0, 0.5)), 0, draw(st.floats(0.0, 0.01)), known, window)


FLAT = LayerTimes(*[curves((1, 5000), (1000, 1000))] * 2, token_work=curves((1, 5000), (1000, 1000)))


@example([FLAT], [(900, 4)] * 3, True)
@example([dataclasses.replace(FLAT, token_work=None)], [(900, 4)] * 3, True)
@settings(max_examples=150, deadline=None)
@given(
    st.lists(step_times(), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from([0, 0, 7, 90, 900]), st.integers(1, 40)), min_size=1, max_size=6),
    st.booleans(),
)
def test_no_steps_are_faster_than_the_best_case(kinds, steps, is_shared):
    """Prompts of one chunk beside decode steps, on a node that holds a layer of each kind."""
    engine = EngineSpec(shares_weight_reads=is_shared)
    node = profile("n", len(kinds), max_decode_seqs=64, kv_blocks=[10**6] * len(kinds))
    compute = dataclasses.replace(node.compute, layers=tuple(kinds))
    law = StepTime(compute, engine, LayerRange(0, len(kinds)), len(kinds))
    requests = sum(seqs for _, seqs in steps) / 99
    prompt = sum(tokens for tokens, _ in steps) / requests
    context = prompt + 50.0
    spent_ns = sum(
        law.ns(BatchShape(tokens, tokens * prompt / 2, bool(tokens), seqs, seqs * context)) for tokens, seqs in steps
    )
    best = BestCase([dataclasses.replace(node, compute=compute)], prompt, 100.0, len(kinds), engine)
    in_flight = max(seqs for _, seqs in steps) * context
    assert best.layers_per_s(0, in_flight) * spent_ns / 1e9 / len(kinds) >= requests * (1 - 1e-9)


def test_the_best_case_of_unlike_layers_worked_out_by_hand():
    """The first node takes 1 ms for one of the two layers and 2 ms for the other, the second node 2 ms for both.

    One of the first and two of the second pass 1000 requests/s, each on the layers that suit it.
    """
    nodes = []
    for first_ns, second_ns in ((1e6, 2e6), (2e6, 2e6)):
        node = profile("n", 2, kv_blocks=(10**6, 10**6), max_decode_seqs=1)
        layers = tuple(LayerTimes(node.compute.prefill, Curve((1.0,), (ns,))) for ns in (first_ns, second_ns))
        nodes.append(dataclasses.replace(node, compute=dataclasses.replace(node.compute, layers=layers)))
    best = BestCase(nodes, 0.0, 2.0, 2)
    assert best.rps((1, 2)) == pytest.approx(1000)
    assert best.rps((2, 1)) >= 1000  # three nodes, 3 ms of work a request


kinds = st.lists(
    st.tuples(st.integers(1, 4), st.floats(1e3, 1e5), st.floats(1e5, 1e7), st.integers(20, 900), st.integers(1, 30)),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(kinds, st.floats(0.5, 80.0))
def test_no_fleet_that_could_serve_at_best_is_ruled_out(drawn, rate_rps):
    nodes = [
        profile(f"g{n}", layers, prefill_ns_per_token=prefill, decode_ns=decode,
                kv_blocks=[blocks // k for k in range(1, layers + 1)])
        for n, (layers, prefill, decode, blocks, _) in enumerate(drawn)
    ]  # fmt: skip
    best = BestCase(nodes, 200.0, 30.0, 8)
    listed = [Offer(f"g{n}", 1, "a", row[4] / 10, 3) for n, row in enumerate(drawn)]
    layers = tuple(len(node.kv_blocks) for node in nodes)
    boundless = tuple(best.layers_per_s(number) for number in range(len(nodes)))
    available = (3,) * len(nodes)
    supply = Supply(boundless, boundless, layers, best.levels(rate_rps, available), best.memory)
    market = Market(listed, supply, 8, rate_rps)
    fleets = list(itertools.product(*(range(4) for _ in nodes)))
    held = {counts: sum(c * k for c, k in zip(counts, layers, strict=True)) for counts in fleets}
    able = [counts for counts in fleets if held[counts] >= 8 and best.rps(counts) >= rate_rps * (1 + 1e-6)]
    cheapest = market.cheapest_possible()
    if able:
        assert cheapest is not None
        assert market.price(cheapest) <= min(map(market.price, able)) + 1e-2
    if cheapest is not None and supply.levels and len(nodes) == 1:  # in a level nodes are thought faster by its width
        assert best.rps(cheapest) >= rate_rps / LEVEL_STEP * 0.999
    for counts in fleets:
        for number in range(len(counts)):
            more = tuple(count + (other == number) for other, count in enumerate(counts))
            assert best.rps(more) >= best.rps(counts) * (1 - 1e-9)


def test_the_cheapest_fleet_is_found_reported_and_found_again(plan, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["fleet", str(plan()), "--out", str(out), "-q", "--executor", "serial"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = found["ranked"][0]
    assert found["is_proven"]
    assert best["is_met"]
    assert best["headroom"] > -0.06  # at least the rate that was asked for, within the tolerance of the search
    assert best["cost_usd_per_mtok"] * best["output_throughput"] * 3600 / 1e6 == pytest.approx(best["usd_per_hour"])
    assert all(one["usd_per_hour"] >= best["usd_per_hour"] for one in found["tried"] if one["is_met"])
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "The cheapest fleet found is" in text
    assert "Shadow price of load" in text
    assert "The best next purchase is" in text
    # what it says of its best fleet is what a run of it gives
    sets = [word for setting in best["settings"] for word in ("--set", setting)]
    assert main(["run", str(tmp_path / "base.yaml"), *sets, "--out", str(out), "--jobs", "1", "--json", "-q"]) == 0
    (system,) = json.loads(capsys.readouterr().out)["systems"].values()
    assert system["p99_ttft_ms"] == best["p99_ttft_ms"]
    assert system["helixsim"]["cost_usd_per_hour"] == pytest.approx(best["usd_per_hour"])


@pytest.mark.slow
def test_a_budget_buys_the_most(plan, tmp_path, capsys):
    command = ["fleet", str(plan()), "--out", str(tmp_path), "-q", "--json", "--executor", "serial"]
    assert main([*command, "--budget", "2 $/h"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(one["usd_per_hour"] <= 2 for one in found["ranked"])
    capacities = [one["capacity_requests_per_s"] for one in found["ranked"]]
    assert capacities == sorted(capacities, reverse=True)
    assert main([*command, "--budget", "much"]) == 2
    assert "--budget: budget: not a price: 'much'" in capsys.readouterr().err
    assert main([*command, "--budget", "0.1 $/h"]) == 4
    assert "no fleet of at most 0.1 $/h holds llama-2-13b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"offers": [{"gpu": "l5", "available": 1}]}, 2, "unknown GPU 'l5'"),
        ({"offers": [{"gpu": "a30-1g.6gb", "gpus": 2, "available": 1}]}, 2, "offers.0.gpus: 2: MIG instances have no"),
        ({"offers": [{"gpu": "free.yaml", "available": 1}]}, 3, "price: required key is missing"),
        ({"offers": [{"gpu": "l4", "available": 1, "price": "0 $/h"}]}, 2, "l4 needs a price above zero"),
        ({"offers": [{"gpu": "l4", "available": 0}]}, 2, "greater than or equal to 1"),
        ({"offers": [{"gpu": "l4", "avaliable": 1}]}, 2, "did you mean 'available'"),
        ({"offers": [{"gpu": "l4", "available": 1}] * 2}, 2, "offered twice"),
        ({"experiment": "nowhere.yaml"}, 2, "no such file"),
        ({"set": {"workload.arivals.rate": 2}}, 2, "did you mean 'arrivals'"),
        ({"system": "petal"}, 2, "did you mean 'petals'"),
        ({"set": {"slo": {}}}, 2, "states no objective"),
        ({"set": {"slo.ttft": "1 us"}, "simulations": 6}, 4, "TTFT p99"),
        (
            {"set": {"workload.arrivals.rate": 900}},
            4,
            "all offers together cannot serve the load, even in the best case",
        ),
        ({"offers": [{"gpu": "t4", "available": 1}]}, 4, "does not fit"),
    ],
)
def test_what_cannot_be_planned_says_why(plan, tmp_path, capsys, changes, code, message):
    (tmp_path / "free.yaml").write_text(
        "name: free\nmemory: 24 GB\nusable_memory: 23 GB\nfp16: 100 TFLOP/s\nmemory_bandwidth: 300 GB/s\n"
        "compute_efficiency: 0.5\nbandwidth_efficiency: 0.8\ninterconnect: 10 GB/s\ntdp: 70 W\n"
        "sources: {memory: x, usable_memory: x, fp16: x, memory_bandwidth: x, compute_efficiency: x, "
        "bandwidth_efficiency: x, interconnect: x, tdp: x}\n",
        encoding="utf-8",
    )
    command = ["fleet", str(plan(**changes)), "--out", str(tmp_path / "out"), "-q", "--executor", "serial"]
    assert main(command) == code
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.out == ""


@pytest.mark.slow
def test_the_optimum_is_that_of_simulating_every_fleet(plan, tmp_path):
    """240 fleets, every one simulated: the search finds the cheapest that passes, with a fraction of the runs."""
    listed = [{**offer, "available": count} for offer, count in zip(PLAN["offers"], (5, 7, 4), strict=True)]
    loaded = load_plan(plan(offers=listed, simulations=1000, set={"workload.arrivals.rate": 6}))
    found = find_fleet(loaded, tmp_path, Processes(2))
    search = _Search(loaded, tmp_path, Processes(2), False, silent)
    fleets = [counts for counts in itertools.product(range(6), range(8), range(5)) if any(counts)]
    search._try(fleets)
    assert len(search.tried) == len(fleets)
    passing = [counts for counts, trial in search.tried.items() if trial.is_met]
    assert found.is_proven
    assert found.ranked[0].price_usd_per_hour == pytest.approx(min(map(search.market.price, passing)))
    assert len(found.tried) < len(fleets) / 5


def test_links_of_nodes_that_a_fleet_lacks_are_no_fault(plan, tmp_path):
    path = plan(offers=[{"gpu": "l4", "region": "a", "available": 3}])
    links = (
        "    links: [{from: t4-*, to: l4-*, bandwidth: 1 Gbit/s, latency: 2 ms}]\n"
        "    regions: [{from: a, to: b, bandwidth: 1 Gbit/s, latency: 9 ms}]\n"
    )
    text = (tmp_path / "base.yaml").read_text().replace("workload:\n", f"{links}workload:\n")
    text = text.replace("  network:", "    - {gpu: t4, count: 2, region: b}\n  network:")
    (tmp_path / "base.yaml").write_text(text, encoding="utf-8")
    assert find_fleet(load_plan(path), tmp_path / "out", Serial()).tried
    (tmp_path / "base.yaml").write_text(text.replace("t4-*", "t5-*"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'t5-\*' matches no node"):
        find_fleet(load_plan(path), tmp_path / "other", Serial())


@given(
    zones=st.integers(1, 6), available=st.floats(0.2, 0.99), level=st.floats(0.5, 0.999), count=st.integers(1, 30)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_spot_machines_last_for_the_share_of_the_time_asked_for_and_not_one_more(zones, available, level, count):
    """Against all states of the zones; nodes are put into them in turn, and those with most of them may be short."""
    spot = Spot.of(zones, available, 1 - available, level)
    sizes = [len(range(zone, count, zones)) for zone in range(zones)]
    there = {}
    for state in itertools.product([True, False], repeat=zones):
        share = math.prod(available if up else 1 - available for up in state)
        left = sum(size for size, up in zip(sizes, state, strict=True) if up)
        there[left] = there.get(left, 0.0) + share
    assert sum(share for left, share in there.items() if left >= spot.lasting(count)) >= level - 1e-9
    if spot.lost_zones:
        fewer = dataclasses.replace(spot, lost_zones=spot.lost_zones - 1)
        reached = sum(
            math.comb(zones, j) * (1 - available) ** j * available ** (zones - j) for j in range(fewer.lost_zones + 1)
        )
        assert reached < level
    assert 0 <= spot.lasting(count + 1) - spot.lasting(count) <= 1


def test_a_fleet_of_spot_machines_is_simulated_with_those_that_last_and_paid_on_average(plan, tmp_path):
    """The cheapest fleet holds with so many nodes less; the same number on demand passes as well."""
    spot = {"zones": 4, "available": "9 h", "short": "1 h"}
    offers = [{"gpu": "l4", "region": "a", "price": "0.4 $/h", "available": 8, "spot": spot}]
    found = find_fleet(load_plan(plan(offers=offers, simulations=10, availability=0.9)), tmp_path, Serial())
    (offer,) = load_plan(plan(offers=offers, availability=0.9)).offers
    best = found.ranked[0]
    (count,) = best.counts
    lasting = offer.lasting(count)
    assert 1 <= lasting < count
    assert best.fleet == f"{count} spot l4 in a ({lasting} last)"
    assert best.price_usd_per_hour == pytest.approx(count * 0.4 * 0.9)
    assert best.summary.cost.usd_per_hour == pytest.approx(best.price_usd_per_hour)
    assert found.lower_bound_usd_per_hour <= best.price_usd_per_hour + 1e-9
    on_demand = [{"gpu": "l4", "region": "a", "available": 8}]
    alone = find_fleet(load_plan(plan(offers=on_demand, simulations=10)), tmp_path, Serial())
    assert alone.ranked[0].counts[0] <= lasting


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"price": "1 $/h", "spot": {"zones": 1, "available": "6 h", "short": "1 h"}},
            "all 1 zones may be short at once",
        ),
        ({"spot": {"zones": 6, "available": "6 h", "short": "1 h"}}, "spot machines need their price"),
    ],
)
def test_what_is_wrong_with_spot_offers_is_said(plan, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_plan(plan(offers=[{"gpu": "l4", "region": "a", "available": 8, **changes}]))
