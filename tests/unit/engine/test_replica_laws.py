"""Laws of replicas: what a scheduler beside the first stage owes its requests, by whole runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from replica_cases import chains, kind_of
from simulating import MS, SECOND, random_load, requests, run

import helixsim
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.data_parallel import step_time
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import Curve
from helixsim.domain.placement import LayerRange
from helixsim.domain.request import FeedMode, Request, Window
from helixsim.domain.result import RequestStatus
from helixsim.domain.speculation import Speculation
from helixsim.domain.step_time import BatchShape, prefill_pairs
from helixsim.engine.recorder import GAP_RESOLUTION_NS
from helixsim.study.systems import simulate_system

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
NEAR = LinkSpec(1e12, 0)


def served(stages, load, engine=INSIDE, intra=NEAR, **how):
    return run(chains([stages], intra=intra), load, engine=engine, **how)


def rate_of(result):
    """Output tokens per second up to the last one."""
    return result.requests.output_tokens.sum() / (result.requests.finish_ns.max() / SECOND)


# Chunks ---------------------------------------------------------------------------------------------------------------


EXPERIMENT = """\
schema: 1
name: long-prompt
model: llama-3.1-8b
cluster:
  nodes: [{gpu: h100}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  trace: {format: csv, path: load.csv}
  arrivals: {process: trace}
  limits: {max_prompt_tokens: 40000, max_output_tokens: 4000}
engine: vllm-1
systems: [{name: one, placement: separate}]
"""


def long_prompt_among_decodes(tmp_path: Path, *overrides: str):
    rows = [f"{number / 1000},128,1200" for number in range(64)] + ["4,32000,1"]
    (tmp_path / "load.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path, list(overrides))
    return simulate_system(experiment, helixsim.place(experiment, "one"), check=True)


def test_a_long_prompt_holds_up_decodes_for_one_chunk_at_a_time(tmp_path):
    """32 000 tokens among 64 decoding requests, on vllm-1 as it starts (8192 tokens a step on an H100)."""
    result = long_prompt_among_decodes(tmp_path)
    rows, gaps = result.requests, result.gaps
    prefill_ns = rows.compute_ns[-1]
    assert gaps.value_ns[gaps.count > 0].max() < 1.5 * prefill_ns * 8192 / 32000
    few = long_prompt_among_decodes(tmp_path, "engine={name: vllm-1, max_num_batched_tokens: 2048}")
    assert few.gaps.value_ns.max() < 0.4 * gaps.value_ns.max()
    assert few.requests.compute_ns[-1] > prefill_ns
    whole = long_prompt_among_decodes(
        tmp_path, "engine={name: vllm-1, enable_chunked_prefill: false, max_num_batched_tokens: 40000}"
    )
    assert whole.gaps.value_ns.max() > 3 * gaps.value_ns.max()
    assert whole.requests.compute_ns[-1] <= 1.02 * prefill_ns


@pytest.mark.parametrize("budget", [512, 4096, 16384])
def test_the_largest_gap_is_one_step_of_a_chunk(budget, tmp_path):
    """70B on a DGX H100: the law of step times says how long 64 chats stand still for a document of 32 000 tokens."""
    override = f"engine={{name: vllm-1, max_num_batched_tokens: {budget}}}"
    machine = ["model=llama-3.1-70b", "cluster.nodes=[{gpu: h100, gpus: 8}]"]
    result = long_prompt_among_decodes(tmp_path, override, *machine)
    experiment = helixsim.load_experiment(tmp_path / "exp.yaml", [override, *machine])
    (node,), layers = experiment.fleet.profiles, experiment.fleet.model.num_layers
    law = step_time(node.compute, experiment.engine, LayerRange(0, layers), layers, node.limits[-1].graph_sizes)

    def step_ns(before: int, context: int) -> float:
        tokens = min(budget - 64, 32000 - before)
        shape = BatchShape(tokens, prefill_pairs(tokens, before), 1, 64, 64 * context, 64 + (before + tokens == 32000))
        return law.ns(shape)

    chunks = range(0, 32000, budget - 64)
    least, most = (max(step_ns(before, context) for before in chunks) for context in (128, 128 + 1200))
    assert least <= result.gaps.value_ns.max() + GAP_RESOLUTION_NS
    assert result.gaps.value_ns.max() <= most


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("budget", [7, 64, 500])
def test_no_step_has_more_tokens_than_the_budget(stages, budget):
    load = random_load(5, 40, rate_rps=50.0, prompt=300, output=20)
    nodes = served([kind_of("n", blocks=2000, budget=budget, seqs=64)] * stages, load).nodes
    assert (nodes.prompt_tokens + nodes.decode_tokens <= budget * nodes.batches).all()
    assert len(set(nodes.batches)) == 1, "later stages compute the steps of the first one"


def test_a_budget_beyond_all_prompts_is_the_same_as_whole_prompts():
    load = random_load(6, 40, rate_rps=50.0, prompt=300, output=20)
    kind = kind_of("n", blocks=2000, budget=10**6)
    ends = [
        served([kind] * 2, load, replace(INSIDE, chunks_prompts=chunks)).requests.finish_ns for chunks in (False, True)
    ]
    assert list(ends[0]) == list(ends[1])


def test_chunks_cost_at_least_as_much_as_the_whole_prompt():
    engine = replace(INSIDE, batch_overhead_ns=MS // 10, has_output_head=True)
    times = []
    for budget in (10**6, 400, 100, 30):
        kind = kind_of("n", blocks=2000, budget=budget, pair_ns=2.0, head=Curve((1.0,), (2e5,)))
        times.append(served([kind], requests((0, 900, 1)), engine).requests.compute_ns[0])
    assert times == sorted(times)
    assert times[1] - times[0] == pytest.approx(2 * MS // 10, abs=3), "two steps more; the head only in the last"


# Decodes and pipelines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_more_in_flight_make_more_tokens_and_two_almost_twice_as_many(stages):
    rates, gaps = [], []
    for count in (1, 2, 3, 6, 12):
        load = requests(*[(0, 16, 100)] * (4 * count))
        kind = kind_of("n", blocks=2000, budget=4000, context_ns=10.0)
        result = served([kind] * stages, load, mode=FeedMode.CLOSED_LOOP, concurrency=count)
        rates.append(rate_of(result))
        gaps.append(result.gaps.sum_ns / result.gaps.count.sum())
    assert rates[1] >= 1.9 * rates[0]
    assert rates == sorted(rates)
    assert all(later >= 0.999 * earlier for earlier, later in pairwise(gaps))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_throughput_is_continuous_in_the_latency_of_links(stages):
    """A token goes round all links once, so that a little more latency takes a little more time, never a step more."""
    load = requests(*[(0, 16, 60)] * 12)
    kind = kind_of("n", blocks=2000, budget=4000)
    ends = [
        served([kind] * stages, load, intra=LinkSpec(1e12, latency)).requests.finish_ns.max()
        for latency in (0, 1, 1000, 100_000)
    ]
    for latency, end in zip((1, 1000, 100_000), ends[1:], strict=True):
        assert 0 <= end - ends[0] <= 2 * 60 * (stages + 1) * latency


def test_latency_to_the_client_costs_no_throughput():
    load = requests(*[(0, 16, 60)] * 12)
    kind = kind_of("n", blocks=2000, budget=4000)
    near, far = (served([kind], load, intra=LinkSpec(1e12, latency)) for latency in (0, 50 * MS))
    assert set(far.requests.finish_ns - near.requests.finish_ns) == {100 * MS}, "there and back, once"
    assert far.gaps.sum_ns == near.gaps.sum_ns


# Memory ---------------------------------------------------------------------------------------------------------------


def test_with_ample_memory_nothing_is_computed_twice_and_with_little_it_is_counted():
    load = random_load(7, 40, rate_rps=100.0, prompt=60, output=60)
    ample, short = (served([kind_of("n", blocks=blocks, budget=64)], load) for blocks in (4000, 24))
    prompts = sum(request.prompt_tokens for request in load)
    assert ample.counters["preemptions"] == ample.counters["recomputed_tokens"] == 0
    assert ample.nodes.prompt_tokens[0] == prompts
    assert short.counters["preemptions"] > 0
    assert short.nodes.prompt_tokens[0] > prompts
    done = short.requests.status == RequestStatus.FINISHED
    assert list(short.requests.output_tokens[done]) == list(ample.requests.output_tokens[done])


@pytest.mark.parametrize("batching", ["continuous", "prefill_first"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_oldest_goes_on_however_short_memory_is(stages, batching):
    """Where sequences in flight cannot be preempted, they preempted each other in turn, for ever."""
    for seed in range(4):
        load = random_load(seed, 30, rate_rps=100.0, prompt=60, output=60)
        engine = replace(INSIDE, long_prefill_token_threshold=7)
        result = served([kind_of("n", blocks=14, budget=64)] * stages, load, engine, batching=batching)
        assert result.counters["preemptions"] < 40 * len(load)
        assert (result.requests.status != RequestStatus.WAITING).all()


def test_a_sequence_that_outgrows_the_replica_ends_and_others_go_on():
    for engine in (INSIDE, replace(INSIDE, speculation=Speculation.of_rate(3, 0.8))):
        for batching in ("continuous", "prefill_first"):
            load = requests((0, 64, 300), (1, 64, 300), (2, 64, 30))
            rows = served([kind_of("n", blocks=10, budget=64)], load, engine, batching=batching).requests
            assert sorted(rows.status) == [RequestStatus.FINISHED, RequestStatus.REJECTED, RequestStatus.REJECTED]
            assert (rows.output_tokens[:2] > 80).all()


# Feeds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [INSIDE, replace(INSIDE, admission="output"), replace(INSIDE, min_free_share=0.3)])
def test_an_empty_replica_takes_whatever_fits_it_under_saturation(engine):
    """Neither expected output nor a free share keep a request out for ever."""
    load = (Request(number, 0, 150, 3) for number in range(10**6))  # all of its 10 blocks but a few tokens
    window = Window(0, SECOND, drain=False)
    result = served(
        [kind_of("n", blocks=10, budget=64)], load, engine, mode=FeedMode.SATURATE, prompts_in_flight=3, window=window
    )
    assert (result.requests.status == RequestStatus.FINISHED).sum() > 5


def test_as_many_prompts_are_in_flight_as_allowed_also_where_some_are_computed_twice():
    load = random_load(9, 3000, rate_rps=1.0, prompt=60, output=60)
    window = Window(0, 2 * SECOND, drain=False)
    how = {"mode": FeedMode.SATURATE, "prompts_in_flight": 1, "window": window}
    result = served([kind_of("n", blocks=24, budget=64)], load, **how)
    rows = result.requests
    assert result.counters["preemptions"] > 5
    started = np.where(rows.first_token_ns >= 0, rows.first_token_ns, 2 * SECOND)
    assert (rows.arrival_ns[1:] >= started[:-1]).all()


def test_bins_of_the_gap_histogram_hold_gaps():
    load = random_load(10, 40, rate_rps=60.0, prompt=60, output=20)
    engine = replace(INSIDE, long_prefill_token_threshold=7)
    result = served([kind_of("n", blocks=30, budget=40)] * 2, load, engine, batching="prefill_first")
    assert (result.gaps.count > 0).all()


def test_a_first_token_on_its_way_at_the_end_is_none():
    load = requests((0, 64, 20))
    far = LinkSpec(1e12, 100 * MS)
    result = served([kind_of("n")], load, intra=far, window=Window(0, 150 * MS, drain=False))
    assert result.requests.status[0] == RequestStatus.RUNNING
    assert result.requests.first_token_ns[0] == -1
