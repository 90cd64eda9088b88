"""Terms of the operating point under engines of today, where each node of branching routes forms its own steps.

Two equal nodes lead to ``nodes - 1`` others in a row, so that the routes merge and no scheduler sees whole replicas.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import builders
import pytest

import helixsim
from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.flow.maxflow import max_flow
from helixsim.flow.operating import mean_step_time, operating_point
from helixsim.flow.station import OperatingLoad, Station
from helixsim.study.systems import PlacedSystem, capacity_table, operating_load, simulate_system
from helixsim.units import NS_PER_S

PROMPT, OUTPUT = 400.0, 80.0
LAYERS = 2
STEP_S, PROMPT_S = LAYERS * 1e-3, LAYERS * PROMPT * 20e-6
TODAY = EngineSpec(loops_inside=True, chunks_prompts=True)
LOAD = OperatingLoad(PROMPT, OUTPUT, kv_share=0.9, expected_output_tokens=OUTPUT, engine=TODAY)


def merging(
    nodes: int = 2,
    *,
    link: LinkSpec | None = None,
    blocks: int = 100_000,
    seqs: int = 64,
    budget: int = 100_000,
    budget_of_last: int | None = None,
) -> tuple[Deployment, Placement]:
    """A decode step takes 2 ms, a prompt 16 ms on every node."""

    def kind(name: str, tokens: int):
        made = builders.profile(
            name, LAYERS, kv_blocks=(blocks, blocks), decode_ns=1e6, prefill_ns_per_token=20_000.0,
            max_decode_seqs=seqs, typical_layers=LAYERS,
        )  # fmt: skip
        return replace(made, limits=tuple(replace(limit, max_prefill_tokens=tokens) for limit in made.limits))

    kinds = [kind("n", budget)] * nodes + [kind("m", budget_of_last or budget)]
    fleet = builders.fleet(kinds, num_layers=LAYERS * nodes, intra=link or LinkSpec(1e15, 0))
    ranges = {"n-0": (0, LAYERS), "n-1": (0, LAYERS)}
    ranges |= {f"n-{i}": (LAYERS * (i - 1), LAYERS * i) for i in range(2, nodes)}
    ranges["m-0"] = (LAYERS * (nodes - 1), LAYERS * nodes)
    return fleet, builders.placement_of(fleet, ranges)


def trip_s(case: tuple[Deployment, Placement], steps_per_s: float = 1e-6, load: OperatingLoad = LOAD) -> float:
    point = operating_point(*case, load, offered_output_per_s=steps_per_s)
    assert point.output_tokens_per_s > steps_per_s
    return point.offered_round_trip_s


def test_a_node_runs_no_more_sequences_than_a_step_can_hold() -> None:
    point = operating_point(*merging(seqs=20, link=LinkSpec(1e15, 50_000_000)), LOAD)
    assert point.requests == pytest.approx(20, rel=0.03)  # all pass the last node
    prototype = replace(LOAD, engine=EngineSpec())
    assert operating_point(*merging(seqs=20, link=LinkSpec(1e15, 50_000_000)), prototype).requests > 40


def test_a_node_runs_no_more_than_its_requests_at_once() -> None:
    fleet, placement = merging(link=LinkSpec(1e15, 50_000_000))
    nodes = tuple(replace(node, max_requests=6 if node.id == "m-0" else None) for node in fleet.cluster.nodes)
    limited = replace(fleet, cluster=replace(fleet.cluster, nodes=nodes))
    for load in (LOAD, replace(LOAD, engine=EngineSpec())):
        assert operating_point(limited, placement, load).requests == pytest.approx(6, rel=0.03)


def test_a_token_returns_from_the_last_node_to_the_first_and_only_prompts_come_from_the_coordinator() -> None:
    """Two of the three links of the prototype's round trip are left, and one of 80 round trips enters."""
    latency_s = 7e-3
    gained = trip_s(merging(link=LinkSpec(1e15, 7_000_000))) - trip_s(merging())
    assert gained == pytest.approx(2 * latency_s + latency_s / OUTPUT, rel=1e-6)
    prototype = replace(LOAD, engine=EngineSpec())
    outside = trip_s(merging(link=LinkSpec(1e15, 7_000_000)), load=prototype) - trip_s(merging(), load=prototype)
    assert outside == pytest.approx(3 * latency_s, rel=1e-6)


def prompts_beside(rate: float) -> float:
    """Prompts that a step meets on both nodes: half of one that is computed when it comes, those of its own step."""
    cycle_s = STEP_S + PROMPT_S / OUTPUT
    return sum(share * rate / OUTPUT * (PROMPT_S / 2 + cycle_s) for share in (0.5, 1.0))


@pytest.mark.parametrize("rate", [20.0, 100.0])
def test_a_step_waits_for_half_of_the_one_that_runs_and_goes_on_with_the_prompts_beside_it(rate: float) -> None:
    """Each node computes steps for rate x 2 ms of the time."""
    alone_s = 2 * (STEP_S + PROMPT_S / OUTPUT)
    running_s = sum(share * rate * STEP_S * STEP_S / 2 for share in (0.5, 1.0))
    expected = alone_s + running_s + PROMPT_S * prompts_beside(rate)
    assert trip_s(merging(), rate) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_of_a_prompt_in_the_way_one_chunk_is_waited_for(spread: float) -> None:
    """With a budget of 101 tokens and one decode, a chunk has 100 of the 400 tokens, however long prompts are."""
    rate, load = 100.0, replace(LOAD, prompt_spread=spread)
    cut, whole = trip_s(merging(budget=101), rate, load), trip_s(merging(), rate, load)
    passing_s = (1 - 1 / 4) * PROMPT_S / OUTPUT  # the chunks of a prompt pass both nodes one behind the other
    assert whole - cut == pytest.approx((spread - 1 / 4) * PROMPT_S * prompts_beside(rate) + passing_s, rel=1e-5)


def test_a_budget_that_is_never_used_up_means_whole_prompts() -> None:
    unchunked = replace(LOAD, engine=replace(TODAY, chunks_prompts=False))
    assert trip_s(merging(budget=10**9), 100.0) == pytest.approx(trip_s(merging(budget=101), 100.0, unchunked))


def test_chunks_fit_the_least_budget_of_their_route_and_the_threshold() -> None:
    for nodes in (2, 4):
        assert trip_s(merging(nodes, budget_of_last=101), 100.0) == pytest.approx(
            trip_s(merging(nodes, budget=101), 100.0)
        )
    by_threshold = replace(LOAD, engine=replace(TODAY, long_prefill_token_threshold=100))
    assert trip_s(merging(), 100.0, by_threshold) == pytest.approx(trip_s(merging(budget=101), 100.0))


def test_decodes_count_against_the_budget() -> None:
    """At most 16 sequences decode in a step, and their prompts come between: 16 in 2 ms + 16 / 80 prompts of 16 ms."""
    point = operating_point(*merging(budget=16), LOAD)
    assert point.output_tokens_per_s == pytest.approx(16 / (STEP_S + 16 / OUTPUT * PROMPT_S), rel=0.02)
    even = replace(LOAD, output_spread=1.0)  # without runs of cohorts
    assert operating_point(*merging(), even).output_tokens_per_s > 1.1 * point.output_tokens_per_s


def test_under_saturation_some_node_is_full_even_where_computing_is_the_limit() -> None:
    """A prompt takes the last node 16 ms for each 80 output tokens, so that it passes fewer than 5 000."""
    point = operating_point(*merging(seqs=512), LOAD)
    assert point.requests == pytest.approx(512, rel=0.03)
    assert 0.8 * OUTPUT / PROMPT_S < point.output_tokens_per_s < OUTPUT / PROMPT_S


EXPERIMENT = """\
schema: 1
name: branching
model: qwen2.5-32b
cluster:
  nodes: [{gpu: rtx-4090, count: 6}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 900, output_tokens: 150}
  arrivals: {process: saturate}
  warmup: 30 s
  duration: 60 s
engine: vllm-1
systems: [{name: one, placement: {strategy: helix, select: flow}, routing: flow_weighted}]
"""


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("engine.max_num_batched_tokens=512",),
        ("engine.max_num_seqs=32",),
        ("cluster.network.intra_region={bandwidth: 10 Gbit/s, latency: 15 ms}", "engine.max_num_seqs=64"),
    ],
)
def test_it_is_where_branching_routes_settle(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path, list(overrides))
    (system,) = experiment.systems
    quarter = experiment.fleet.model.num_layers // 4
    starts = zip(experiment.fleet.cluster.nodes, (0, 0, 1, 1, 2, 3), strict=True)
    ranges = {node.id: (quarter * start, quarter * (start + 1)) for node, start in starts}
    placement = builders.placement_of(experiment.fleet, ranges)
    plan = max_flow(experiment.fleet, placement, capacity_table(experiment, system))
    point = operating_point(experiment.fleet, placement, operating_load(experiment, system))
    window = Window(60 * NS_PER_S, 60 * NS_PER_S, drain=False)
    series = simulate_system(experiment, PlacedSystem(system, placement, plan), window=window).series
    inside = series.time_ns >= window.warmup_ns
    tokens, times = series.output_tokens[inside], series.time_ns[inside]
    served = (tokens[-1] - tokens[0]) / ((times[-1] - times[0]) / NS_PER_S)
    assert served == pytest.approx(point.output_tokens_per_s, rel=0.3)


def test_replicas_beside_branching_routes_settle_by_themselves() -> None:
    """What shares no node and no link adds up, in throughput and requests and, weighted, in round trips."""
    kind = builders.profile("r", 2 * LAYERS, decode_ns=1e6, prefill_ns_per_token=20_000.0)
    both, placement = merging(blocks=900)
    profiles = [*both.profiles, kind, kind]
    fleet = builders.fleet(profiles, num_layers=2 * LAYERS, intra=LinkSpec(1e15, 0))
    ranges = {node: (held.start, held.end) for node, held in placement.ranges.items()}
    replicas = {"r-0": (0, 2 * LAYERS), "r-1": (0, 2 * LAYERS)}
    beside = builders.placement_of(fleet, ranges | replicas)
    found = operating_point(fleet, beside, LOAD)
    parts = [operating_point(fleet, beside.part(names), LOAD) for names in (ranges, replicas)]
    assert found.output_tokens_per_s == pytest.approx(sum(part.output_tokens_per_s for part in parts))
    assert found.requests == pytest.approx(sum(part.requests for part in parts))
    half = operating_point(fleet, beside, LOAD, offered_output_per_s=found.output_tokens_per_s / 2)
    halves = [
        operating_point(
            fleet, beside.part(names), LOAD, offered_output_per_s=part.output_tokens_per_s / 2
        ).offered_round_trip_s * part.output_tokens_per_s
        for names, part in zip((ranges, replicas), parts, strict=True)
    ]  # fmt: skip
    assert half.offered_round_trip_s == pytest.approx(sum(halves) / found.output_tokens_per_s)
    assert half.offered_round_trip_s < found.round_trip_s


@pytest.mark.parametrize("requests", [3, 300])
def test_a_node_that_is_entered_in_the_middle_is_one_with_the_layers_that_it_computes(requests: int) -> None:
    """The second node holds layers 1 and 2; those that come from layers 0 and 1 compute and remember the last alone."""
    blocks = requests * 60
    kind = builders.profile(
        "n", 2, kv_blocks=(2 * blocks, blocks), prefill_ns_per_token=1e4, decode_ns=1e6, max_decode_seqs=512
    )
    fleet = builders.fleet([kind] * 2, num_layers=3, intra=LinkSpec(1e15, 0))
    apart = builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 3)})
    middle = replace(builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (1, 3)}), partial_inference=True)
    load = OperatingLoad(400.0, 80.0, 0.9, 80.0)
    points = [operating_point(fleet, one, load) for one in (apart, middle)]
    assert points[1].output_tokens_per_s == pytest.approx(points[0].output_tokens_per_s, rel=1e-3)
    assert points[1].requests == pytest.approx(points[0].requests, rel=1e-3)


def test_entries_in_equal_layers_are_a_step_of_their_batches_together() -> None:
    """Half of the requests compute two layers, half only the second: its batch is whole, that of the first is half."""
    growing = Curve((1.0, 101.0), (1e6, 2e6))
    kind = builders.profile("n", 2, kv_blocks=(2000, 1000), prefill_ns_per_token=1e4)
    kind = replace(kind, compute=replace(kind.compute, decode=growing))
    load = OperatingLoad(400.0, 80.0, 0.9, 80.0)
    station = Station(kind, 2, 16_000, load, mean_step_time(kind, 2, load.engine))
    mixed = station.entered({0: 0.5, 1: 0.5}, 2)
    assert mixed.step_s(40.0) == pytest.approx(1e-9 * (growing(20.0) + growing(40.0)))
    assert mixed.most_requests == pytest.approx(station.most_requests / 0.75)
    assert station.entered({0: 1.0}, 2).step_s(40.0) == pytest.approx(station.step_s(40.0))


@pytest.mark.parametrize("seqs", [4, 64])
def test_a_node_that_almost_all_its_requests_pass_alone_is_a_replica(seqs: int) -> None:
    """They come back when its step ends, and wait for none; a trickle from a slow node enters it in the middle."""
    fast = builders.profile("f", 4, kv_blocks=(10**5,) * 4, prefill_ns_per_token=2e4, max_decode_seqs=seqs)
    slow = builders.profile("s", 4, kv_blocks=(10**5,) * 4, prefill_ns_per_token=2e9, decode_ns=1e11)
    fleet = builders.fleet([fast, slow, slow], num_layers=4, intra=LinkSpec(1e15, 0))
    ranges = {"f-0": (0, 4), "s-0": (0, 2), "s-1": (2, 4)}
    joined = replace(builders.placement_of(fleet, ranges), partial_inference=True)
    alone = builders.placement_of(fleet, {"f-0": (0, 4)})
    found, replica = (operating_point(fleet, one, LOAD).output_tokens_per_s for one in (joined, alone))
    assert found == pytest.approx(replica, rel=0.08)
