"""The policy ``earliest_finish``: what it expects agrees with the simulation, and what it chooses follows from that."""

from __future__ import annotations

import math
from dataclasses import replace

import builders
import numpy as np
import pytest
from replica_cases import NUM_LAYERS, chains, kind_of
from routing_view import View
from simulating import MS, SECOND, inputs_of, random_load, requests, run

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import Prefix, Request, Slo
from helixsim.engine.simulate import simulate
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import earliest_finish
from helixsim.routing.earliest_finish import EarliestFinish
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes

INSIDE = EngineSpec(loops_inside=True, chunks_prompts=True, admission="prompt")
HOW = {"engine": INSIDE, "routing": "earliest_finish"}
NEAR = LinkSpec(1e12, 0)
STEP_MS = NUM_LAYERS  # a decode step of 1 ms a layer


def fast(**how):
    return kind_of("fast", **{"budget": 4000, "blocks": 10_000, "seqs": 64, **how})


def slow(factor: float = 3.0, **how):
    return kind_of("slow", **{"budget": 4000, "blocks": 10_000, "decode_ns": factor * 1e6, **how})


def node_of(result, request: int) -> str:
    return result.routes[result.requests.route[request]].hops[0][0]


class Noted(EarliestFinish):
    """The policy with what it expected of each request: misses and finish [ns]."""

    def __init__(self, *how):
        super().__init__(*how)
        self.expected: list[tuple[float, float]] = []

    def route(self, prompt_tokens, expected_tokens, view):
        hops = super().route(prompt_tokens, expected_tokens, view)
        mean = self._prompt_tokens / self._prompts
        (replica,) = [one for one in self._replicas if one.hops == hops]
        self.expected.append(replica.cost(prompt_tokens, mean, replica.load(prompt_tokens, view)))
        return hops


def noted(case, load, **how):
    inputs = inputs_of(case, load, **{**HOW, **how})
    policy = Noted(inputs.graph, None, None)
    result = simulate(replace(inputs, policy=policy))
    return result, policy.expected


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize(("prompt", "budget"), [(100, 4000), (1000, 256)])
@pytest.mark.parametrize("link", [NEAR, LinkSpec(2e7, 3 * MS)])
def test_alone_a_request_finishes_when_it_is_expected_to(stages, prompt, budget, link) -> None:
    output = 50
    case = chains([[fast(budget=budget, prefill_ns=50_000.0, context_ns=20.0, pair_ns=0.5)] * stages], intra=link)
    result, ((_, finish_ns),) = noted(case, requests((0, prompt, output)), mean_output=output)
    assert finish_ns == pytest.approx(result.requests.finish_ns[0], rel=0.03)


def test_behind_prompts_and_beside_decodes_a_request_finishes_about_when_it_is_expected_to() -> None:
    output = 200
    case = chains([[fast(budget=500, prefill_ns=20_000.0)]], intra=NEAR)
    load = requests(*((40 * number, 300, output) for number in range(40)))
    result, expected = noted(case, load, mean_output=output)
    took_ns = result.requests.finish_ns - result.requests.arrival_ns
    ratio = took_ns[10:] / np.array([finish for _, finish in expected])[10:]
    assert np.median(ratio) == pytest.approx(1, abs=0.2)


def test_behind_a_burst_of_prompts_it_expects_to_wait_for_all_of_them() -> None:
    case = chains([[fast(budget=500, prefill_ns=20_000.0)]], intra=NEAR)
    result, expected = noted(case, requests(*((0, 300, 2) for _ in range(20))), mean_output=2)
    assert expected[-1][1] > result.requests.finish_ns[-1] > 20 * 300 * STEP_MS * 20_000  # and of more that come


def test_a_long_prompt_that_waits_counts_once_however_often_it_asks() -> None:
    """The mean prompt, from which times of steps follow, is that of the requests, whether they waited or not."""
    inputs = inputs_of(chains([[fast(prefill_ns=20_000.0)]], intra=NEAR), requests((0, 1, 1)), **HOW)
    beside = View(tokens={0: 400})
    beside.in_flight = lambda node: 4
    expected = []
    for refusals in (0, 9):
        policy = Noted(inputs.graph, None, None)
        assert [EarliestFinish.route(policy, 4000, 4100, View(full=[0])) for _ in range(refusals)] == [None] * refusals
        policy.route(4000, 4100, View())
        policy.route(10, 110, beside)
        expected.append(policy.expected)
    assert expected[0] == expected[1]


def test_with_full_memory_it_expects_about_the_wait_that_there_is() -> None:
    output = 100
    case = chains([[fast(blocks=200)]], intra=NEAR)
    load = random_load(3, 150, rate_rps=14, prompt=400, output=output)
    result, expected = noted(case, load, mean_output=output)
    took_ns = (result.requests.finish_ns - result.requests.arrival_ns).astype(float)
    finish_ns = np.array([finish for _, finish in expected])
    assert took_ns[50:].mean() > 2 * output * STEP_MS * MS  # they do wait
    assert finish_ns[50:].mean() == pytest.approx(took_ns[50:].mean(), rel=0.3)


def test_it_takes_the_fast_replica_and_spills_only_when_that_pays() -> None:
    """Requests of 100 tokens take 1.2 s on the fast replica, one after the other, and 3 s on the slow one, together."""
    case = chains([[slow(2.5)], [fast(seqs=1)]], intra=NEAR)
    result = run(case, requests(*((number, 10, 100) for number in range(4))), mean_output=100.0, **HOW)
    assert [node_of(result, number) for number in range(4)] == ["fast-0", "fast-0", "slow-0", "slow-0"]


def test_a_far_replica_is_worth_its_latency_or_not() -> None:
    """Tokens stay inside, so that the latency is paid on the way in and out only."""
    fleet = builders.fleet([fast(seqs=1), fast(seqs=1)], num_layers=NUM_LAYERS, regions=["here", "far"],
                           intra=NEAR, inter=LinkSpec(1e12, 500 * MS))  # fmt: skip
    placement = builders.placement_of(fleet, {"fast-0": (0, NUM_LAYERS), "fast-1": (0, NUM_LAYERS)})
    placement = replace(placement, pipelines={"fast-0": 0, "fast-1": 1})
    case = fleet, builders.capacity_of(fleet, {"fast": (100.0,) * NUM_LAYERS}), placement
    busy = run(case, requests((0, 10, 100), (1, 10, 100)), mean_output=100.0, **HOW)
    assert [node_of(busy, number) for number in (0, 1)] == ["fast-0", "fast-1"]  # a wait of 1.2 s against 1 s
    short = run(case, requests((0, 10, 50), (1, 10, 50)), mean_output=50.0, **HOW)
    assert [node_of(short, number) for number in (0, 1)] == ["fast-0", "fast-0"]  # 0.6 s against 1 s


def test_an_objective_comes_before_the_finish() -> None:
    """The second request would finish first behind the first one, but get its first token too late there."""
    case = chains([[slow(5)], [fast(seqs=1)]], intra=NEAR)
    load = requests((0, 10, 100), (1, 10, 100))
    assert node_of(run(case, load, mean_output=100.0, **HOW), 1) == "fast-0"
    assert node_of(run(case, load, mean_output=100.0, slo=Slo(ttft_s=0.5), **HOW), 1) == "slow-0"


@pytest.mark.parametrize("factor", [4.5, 6])
def test_no_request_lifts_the_others_above_the_objective(factor) -> None:
    """A step takes 1 ms a layer and 1 ms more for each sequence: with three 48 ms a token, with four 60 ms.

    The fourth goes to a replica that takes 54 or 72 ms, though it misses its own objective of 55 ms there, too.
    """

    def growing(name):
        kind = kind_of(name, budget=4000, blocks=10_000)
        return replace(kind, compute=replace(kind.compute, decode=Curve((1.0, 101.0), (2e6, 102e6))))

    case = chains([[growing("fast")], [slow(factor)]], intra=NEAR)
    load = requests(*((number, 1, 1000) for number in range(4)))
    kept = run(case, load, mean_output=1000.0, slo=Slo(tpot_s=0.055), **HOW)
    assert [node_of(kept, number) for number in range(4)] == ["fast-0"] * 3 + ["slow-0"]


def test_cached_prefixes_count_as_computed() -> None:
    """Both replicas are idle again when the second turn comes, and one of them has its prompt."""
    case = chains([[fast(prefill_ns=50_000.0)], [fast(prefill_ns=50_000.0)]], intra=NEAR)
    prefix = Prefix(tuple(range(60)), range(16, 976, 16), 960)
    load = [
        Request(0, 0, 1000, 5),
        Request(1, MS, 1000, 5, prefix=prefix),
        Request(2, 5 * SECOND, 1000, 5, prefix=prefix),
    ]
    engine = replace(INSIDE, caches_prefixes=True)
    result = run(case, load, mean_output=5.0, routing="earliest_finish", engine=engine)
    assert [node_of(result, number) for number in range(3)] == ["fast-0", "fast-1", "fast-1"]


def test_branches_take_the_faster_way_and_skip_full_nodes() -> None:
    """One node leads to a fast and a slow one."""
    kinds = [builders.profile("n", 2), builders.profile("f", 2), builders.profile("s", 2, decode_ns=3e6)]
    fleet = builders.fleet(kinds, num_layers=4, intra=NEAR)
    placement = builders.placement_of(fleet, {"n-0": (0, 2), "f-0": (2, 4), "s-0": (2, 4)})
    plan = max_flow(fleet, placement, builders.capacity_of(fleet, dict.fromkeys("nfs", (100.0, 100.0))))
    for engine in (EngineSpec(), INSIDE):
        graph = routing_graph(placement, plan, RoutingTimes(fleet, placement, engine, 50.0))
        policy = EarliestFinish(graph, EarliestFinish.Options(), stream(0, "routing"))

        def way(view, policy=policy, graph=graph):
            hops = policy.route(100, 150, view)
            return None if hops is None else [graph.node_ids[hop.node] for hop in hops]

        assert way(View()) == ["n-0", "f-0"]
        assert way(View(full=[1])) == ["n-0", "s-0"]
        assert way(View(full=[0])) is None
        assert way(View(full=[1, 2])) is None
        assert way(View(backlog={1: 500_000})) == ["n-0", "s-0"]


class Loaded(View):
    """Requests on nodes as well."""

    def __init__(self, requests, **how):
        super().__init__(**how)
        self.requests = requests

    def in_flight(self, node):
        return self.requests[node]


def test_what_is_left_out_of_equal_nodes_is_not_faster() -> None:
    """Three entries lead to three exits, under loads drawn at random: no other way has an earlier finish."""
    growing = replace(builders.profile("n", 2).compute, decode=Curve((1.0, 101.0), (1e6, 5e6)))
    kinds = [replace(builders.profile(name, 2), compute=growing) for name in "nf" for _ in range(3)]
    fleet = builders.fleet(kinds, num_layers=4, intra=NEAR)
    ranges = {f"n-{i}": (0, 2) for i in range(3)} | {f"f-{i}": (2, 4) for i in range(3)}
    placement = builders.placement_of(fleet, ranges)
    plan = max_flow(fleet, placement, builders.capacity_of(fleet, dict.fromkeys("nf", (100.0, 100.0))))
    graph = routing_graph(placement, plan, RoutingTimes(fleet, placement, INSIDE, 50.0))
    rng = np.random.default_rng(0)
    left_out = 0
    for _ in range(60):
        requests = rng.integers(0, 40, 6)
        view = Loaded(
            requests.tolist(),
            tokens=dict(enumerate((requests * rng.integers(100, 900, 6)).tolist())),
            backlog=dict(enumerate((rng.integers(0, 3, 6) * 400).tolist())),
            full=[int(rng.integers(12))],
        )
        policy = EarliestFinish(graph, EarliestFinish.Options(), stream(0, "routing"))
        branches = policy._branches
        hops = policy.route(200, 250, view)
        times = {
            hop.node: branches._node_ns(hop, 200, 200.0, earliest_finish._load(hop.node, view))
            for row in (graph.first, graph.successors[graph.first[0].node]) for hop in row if view.fits(hop)
        }  # fmt: skip
        left_out += len(times) - len(branches._loads(view))
        best = [min(times[node] for node in part if node in times) for part in ((0, 1, 2), (3, 4, 5))]
        assert [times[hop.node] for hop in hops] == pytest.approx(best, rel=1e-9)
    assert left_out > 60


def test_what_is_left_out_of_equal_replicas_is_not_faster() -> None:
    """Six replicas of two kinds, under loads drawn at random: no other one has fewer misses or an earlier finish."""
    growing = replace(builders.profile("n", 2).compute, decode=Curve((1.0, 101.0), (1e6, 5e6)))
    kinds = [replace(builders.profile(name, 2), compute=growing) for name in "nf" for _ in range(3)]
    fleet = builders.fleet(kinds, num_layers=2, intra=NEAR)
    placement = builders.placement_of(fleet, dict.fromkeys(fleet.cluster.index, (0, 2)))
    plan = max_flow(fleet, placement, builders.capacity_of(fleet, dict.fromkeys("nf", (100.0, 100.0))))
    times = RoutingTimes(fleet, placement, INSIDE, 50.0, Slo(ttft_s=1.0, tpot_s=0.0025))
    graph = routing_graph(placement, plan, times)
    rng = np.random.default_rng(0)
    left_out = late = 0
    for _ in range(60):
        requests = rng.integers(0, 40, 6)
        view = Loaded(
            requests.tolist(),
            tokens=dict(enumerate((requests * rng.integers(100, 900, 6)).tolist())),
            backlog=dict(enumerate((rng.integers(0, 3, 6) * 400).tolist())),
        )
        policy = EarliestFinish(graph, EarliestFinish.Options(), stream(0, "routing"))
        (hop,) = policy.route(200, 250, view)
        loads = {number: one.load(200, view) for number, one in enumerate(policy._replicas)}
        costs = {one.hops[0].node: one.cost(200, 200.0, loads[number]) for number, one in enumerate(policy._replicas)}
        assert costs[hop.node] == min(costs.values())
        left_out += 6 - len(earliest_finish._least_loaded((load, number) for number, load in loads.items()))
        late += min(costs.values())[0] > 0
    assert left_out > 60
    assert 0 < late < 60


@pytest.mark.parametrize("mean", [3.0, 12.0, 80.0])
@pytest.mark.parametrize("deviations", [-2, -1, 0, 1, 2])
def test_the_chance_of_few_ends_is_poisson(mean: float, deviations: int) -> None:
    count = max(0, round(mean + deviations * math.sqrt(mean)))
    exact = sum(math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in range(count))
    assert earliest_finish._fewer(count, mean) == pytest.approx(exact, abs=0.04)
    assert earliest_finish._fewer(1, 0.0) == 1.0


def test_the_backlog_is_what_is_left_of_the_prompts() -> None:
    """Recounted at each arrival on replicas with little memory, where sequences are preempted."""
    case = chains([[fast(blocks=60, budget=50, prefill_ns=50_000.0, seqs=8)], [slow(blocks=40, budget=30, seqs=5)]])
    engine = EngineSpec(loops_inside=True, chunks_prompts=True, admission="prompt", caches_prefixes=True)
    inputs = inputs_of(case, random_load(5, 150, rate_rps=20, prompt=200, output=100), engine=engine,
                       routing="least_loaded", mean_output=100.0)  # fmt: skip
    seen: list[int] = []
    inner = inputs.policy.route

    def route(prompt, expected, view):
        for hop in inputs.graph.first:
            replica = view._of[hop.node]
            scheduler = replica.scheduler
            left = sum(one.target for one in scheduler.waiting)
            left += sum(one.target - one.computed for one in scheduler.prompts)
            left += sum(one.prompt_tokens for one in view.coming[replica.number])
            assert view.prompt_backlog(hop.node) == left
            seen.append(left)
        return inner(prompt, expected, view)

    inputs.policy.route = route
    result = simulate(inputs)
    assert max(seen) > 500
    assert result.requests.preemptions.sum() > 0


def test_it_beats_least_loaded_on_unequal_replicas() -> None:
    case = chains([[fast(seqs=8)], [slow(6, seqs=8)], [slow(6, seqs=8)]], intra=NEAR)
    load = random_load(1, 300, rate_rps=2.0, prompt=200, output=100)

    def mean_s(routing: str) -> float:
        result = run(case, load, mean_output=100.0, engine=INSIDE, routing=routing)
        return float((result.requests.finish_ns - result.requests.arrival_ns).mean()) / SECOND

    assert mean_s("earliest_finish") < 0.7 * mean_s("least_loaded")


def shares_in_time(rate_rps: float, slo: Slo, count: int = 1_000) -> list[float]:
    """Return the shares within a TTFT of the earliest finish and of ``in_time``, on equal replicas."""
    case = chains([[fast(seqs=8)] for _ in range(4)], intra=NEAR)
    load = random_load(3, count, rate_rps=rate_rps, prompt=200, output=100)
    found = []
    for routing in ("earliest_finish", "in_time"):
        times = run(case, load, mean_output=100.0, engine=INSIDE, routing=routing, slo=slo).requests
        found.append(float(((times.first_token_ns - times.arrival_ns) / SECOND <= slo.ttft_s).mean()))
    return found


@pytest.mark.parametrize(("rate_rps", "least_gain"), [(30.0, 0.1), (50.0, 0.15)])
def test_under_more_load_than_all_can_serve_in_time_some_replicas_keep_to_the_objective(rate_rps, least_gain) -> None:
    by_finish, in_time = shares_in_time(rate_rps, Slo(ttft_s=2.0))
    assert in_time > by_finish + least_gain


@pytest.mark.parametrize(("rate_rps", "slo"), [(20.0, Slo(ttft_s=2.0)), (50.0, Slo(ttft_s=0.001))])
def test_without_late_requests_or_with_an_objective_that_none_can_meet_it_is_the_earliest_finish(rate_rps, slo) -> None:
    by_finish, in_time = shares_in_time(rate_rps, slo)
    assert in_time == by_finish
