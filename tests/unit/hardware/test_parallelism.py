"""Data-parallel attention and expert parallelism: laws of times and memory, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helixsim as hx
from helixsim.domain.data_parallel import RankedStepTime, step_time
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.errors import ConfigError
from helixsim.hardware import catalog
from helixsim.hardware.kernels import Node
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.roofline import roofline

GPU, MODEL = catalog.load_gpu("h200"), catalog.load_model("deepseek-v3")
ENGINE = EngineSpec(loops_inside=True, copies_activations=False, has_output_head=True, shares_weight_reads=True)
HELD = LayerRange(0, MODEL.num_layers)
TENSOR = step_time(roofline(MODEL, GPU, 8), ENGINE, HELD, MODEL.num_layers)
RANKED = step_time(roofline(MODEL, GPU, 8, ranks=8, by_expert=True), ENGINE, HELD, MODEL.num_layers)
STILL = replace(
    GPU,
    kernels=replace(GPU.kernels, experts_by_format=(("fp8", replace(GPU.kernels.experts_of("fp8"), passes=0.0)),)),
)
"""A GPU on which moving tokens to experts takes no time."""
EXPERTS = next(layer.experts for layer in MODEL.layers if layer.experts)

shapes = st.builds(
    BatchShape,
    prefill_tokens=st.integers(1, 8192),
    prefill_pairs=st.integers(1, 10**6),
    prefill_seqs=st.integers(1, 20),
    decode_seqs=st.integers(1, 300),
    decode_context=st.integers(1, 10**6),
    sampled=st.integers(1, 300),
)


def profile(**options):
    return node_profile(MODEL, GPU, 8, replace(ProfileOptions(holds_ends=True), **options))[0]


def test_one_rank_is_tensor_parallelism():
    assert type(TENSOR) is StepTime
    assert isinstance(RANKED, RankedStepTime)
    assert roofline(MODEL, GPU, 8, ranks=1) == roofline(MODEL, GPU, 8)
    assert profile(data_parallel_size=1) == profile()


@given(shapes, st.integers(1, 5))
def test_more_work_takes_longer_and_a_sequence_more_on_each_rank_as_much_as_on_one(shape, more):
    seqs = shape.decode_seqs + 8 * more
    grown = shape._replace(decode_seqs=seqs, decode_context=shape.decode_context * seqs / shape.decode_seqs)
    assert RANKED.ns(grown) >= RANKED.ns(shape)
    full = BatchShape(decode_seqs=8 * more, decode_context=8000 * more, sampled=8 * more)
    fullest = BatchShape(decode_seqs=8 * more - 7, decode_context=1000 * (8 * more - 7), sampled=8 * more - 7)
    experts = [RANKED._experts_ns(one.decode_seqs, None) for one in (full, fullest)]
    assert RANKED.ns(full) - experts[0] == pytest.approx(RANKED.ns(fullest) - experts[1])


@given(st.integers(1, 200), st.integers(1, 10**5), st.integers(1, 40))
def test_a_series_of_steps_is_each_step_and_entries_at_the_first_layer_are_the_step(seqs, context, steps):
    series = RANKED.decode_ns_series(seqs, context, steps)
    assert np.array_equal(series, [RANKED.decode_ns(seqs, context + seqs * step) for step in range(steps)])
    shape = BatchShape(decode_seqs=seqs, decode_context=context, sampled=seqs)
    assert RANKED.decode_ns(seqs, context) == pytest.approx(RANKED.ns(shape))
    assert RANKED.ns_of_entries([(0, shape)]) == pytest.approx(RANKED.ns(shape))


def test_the_host_works_beside_the_experts_of_all_ranks_too():
    """What the host does is a bound of the whole step, not of the part that each rank computes for itself."""
    shape = BatchShape(decode_seqs=64, decode_context=64000, sampled=64)
    whole_ns = RANKED.decode_ns(64, 64000)
    for host_ns in (round(0.9 * whole_ns), round(1.5 * whole_ns)):
        engine = replace(ENGINE, host_ns=host_ns)
        bound = step_time(roofline(MODEL, GPU, 8, ranks=8, by_expert=True), engine, HELD, MODEL.num_layers)
        expected = pytest.approx(max(whole_ns, host_ns))
        assert bound.decode_ns(64, 64000) == expected
        assert bound.ns(shape) == expected
        assert bound.ns_of_entries([(0, shape)]) == expected
        assert bound.decode_ns_series(64, 64000, 1)[0] == expected


def test_ranks_read_less_of_compressed_keys_and_values_and_hold_more():
    long = BatchShape(decode_seqs=256, decode_context=256 * 16_000, sampled=256)
    assert RANKED.ns(long) < TENSOR.ns(long)
    whole = HELD
    assert profile(data_parallel_size=8).blocks(whole, 61) > 3 * profile().blocks(whole, 61)


def test_weights_of_experts_are_kept_once_and_the_others_on_every_rank():
    fewer, more = profile(data_parallel_size=2), profile(data_parallel_size=8)
    experts = sum(layer.experts.bytes for layer in MODEL.layers if layer.experts)
    for found, ranks in ((fewer, 2), (more, 8)):
        others = sum(
            sum(matrix.shard_bytes(8 // ranks) for matrix in layer.matrices) * 8 + 8 * layer.other_bytes
            for layer in MODEL.layers
        )
        assert sum(found.memory.weight_bytes) == pytest.approx(experts + others)
    assert more.limits[0].max_decode_seqs == 4 * fewer.limits[0].max_decode_seqs
    assert more.limits[0].graph_sizes == fewer.limits[0].graph_sizes


@given(st.floats(1, 1e5), st.sampled_from([2, 4, 8]))
def test_the_fullest_gpu_of_whole_experts_has_more_than_the_mean_and_no_more_than_all(tokens, gpus):
    mean, whole = Node(STILL, gpus), Node(STILL, gpus, by_expert=True)
    assert mean.experts_s(EXPERTS, tokens) <= whole.experts_s(EXPERTS, tokens) * (1 + 1e-9)
    assert whole.experts_s(EXPERTS, tokens) <= Node(STILL, 1).experts_s(EXPERTS, tokens) * (1 + 1e-9)


@pytest.mark.parametrize("gpus", [2, 8])
def test_experts_that_are_drawn_more_often_keep_a_gpu_busy_in_large_batches(gpus):
    """The load of a GPU with ``n`` experts varies by ``sqrt((1 - 1 / gpus) / n)``, that of an expert by its mean."""
    mean, whole = Node(STILL, gpus), Node(STILL, gpus, by_expert=True)
    quantile = NormalDist().inv_cdf((gpus - 0.375) / (gpus + 0.25))
    more = 1 + quantile * math.sqrt((1 - 1 / gpus) / (EXPERTS.count / gpus))
    assert whole.experts_s(EXPERTS, 1e7) == pytest.approx(more * mean.experts_s(EXPERTS, 1e7), rel=0.01)


def test_a_gpu_with_whole_experts_moves_its_own_tokens_alone():
    sliced, whole = Node(GPU, 8), Node(GPU, 8, by_expert=True)
    still = Node(STILL, 8), Node(STILL, 8, by_expert=True)
    moved = [
        one.experts_s(EXPERTS, 1e5) - other.experts_s(EXPERTS, 1e5)
        for one, other in zip((sliced, whole), still, strict=True)
    ]
    assert moved[1] < 0.3 * moved[0]


def experiment(**engine):
    return hx.Experiment.from_data(
        {
            "schema": 1,
            "model": engine.pop("model", "qwen3-30b-a3b"),
            "cluster": {
                "nodes": [{"gpu": "h100", "gpus": 4}],
                "network": {"intra_region": {"bandwidth": "100 Gbit/s", "latency": "0.05 ms"}},
            },
            "workload": {
                "lengths": {"distribution": "fixed", "prompt_tokens": 500, "output_tokens": 50},
                "arrivals": {"process": "closed_loop", "concurrency": 16, "num_requests": 64},
            },
            "engine": {"name": "vllm-1", **engine},
            "systems": [{"name": "one", "placement": "separate"}],
        }
    )


def test_a_node_of_ranks_serves_every_request():
    for engine in ({"data_parallel_size": 4}, {"data_parallel_size": 2, "enable_expert_parallel": True}):
        resolved = experiment(**engine).resolve()
        run = hx.simulate(resolved, hx.place(resolved, "one", by_flow=True))
        assert (run.requests.status == 2).all()


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"data_parallel_size": 3}, "3 attention ranks do not divide the 4 GPUs of h100x4"),
        ({"enable_expert_parallel": True, "model": "llama-3.1-8b"}, "llama-3.1-8b has no experts"),
        ({"data_parallel_size": 2, "name": "helix-vllm-0.4"}, "needs an engine with return: engine"),
        ({"attention_dp_config": {"enable_balance": True}}, "needs several attention ranks: data_parallel_size"),
    ],
)
def test_what_cannot_be_is_refused(engine, said):
    with pytest.raises(ConfigError, match=said):
        experiment(**engine).resolve()


def test_timings_of_a_file_are_refused(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="no file of timings knows such nodes"):
        experiment(data_parallel_size=2, timings=str(file)).resolve()


def test_a_prompt_gets_no_more_of_a_step_than_the_budget_of_a_rank():
    """A prompt of 4000 tokens alone: with two ranks of 512 tokens each it takes as many steps as with one of 512."""
    found = {}
    for ranks, budget in ((1, 512), (2, 512), (1, 1024)):
        one = experiment(data_parallel_size=ranks, max_num_batched_tokens=budget, max_num_seqs=16)
        lengths = {"distribution": "fixed", "prompt_tokens": 4000, "output_tokens": 2}
        arrivals = {"process": "closed_loop", "concurrency": 1, "num_requests": 1}
        alone = one.with_(workload={"lengths": lengths, "arrivals": arrivals})
        run = hx.simulate(alone, hx.place(alone, "one"))
        found[ranks, budget] = int(run.nodes.batches.sum())
    assert found[2, 512] == found[1, 512] > found[1, 1024]


@pytest.mark.parametrize(("engine", "share"), [("sglang", 1 / 4), ("vllm-1", 1)])
def test_a_default_budget_is_that_of_a_rank_or_of_all_as_the_engine_has_it(engine, share):
    def budget(**more):
        (profile,) = experiment(name=engine, **more).resolve().fleet.profiles
        return profile.limits[-1].max_prefill_tokens / more.get("data_parallel_size", 1)

    assert budget(data_parallel_size=4) == budget() * share
    assert budget(data_parallel_size=4, max_num_batched_tokens=3000) == 3000


RACK = catalog.load_gpu("gb200")


def wide(gpus, gpu=RACK):
    return Node(gpu, gpus, gpus, by_expert=True)


def test_tokens_are_gathered_up_to_as_many_gpus_as_a_token_has_experts():
    few, many = wide(EXPERTS.per_token), wide(2 * EXPERTS.per_token)
    for node, tokens in ((few, 64), (many, 64)):
        moved = node.shared_experts_s(EXPERTS, MODEL.hidden_size, tokens) - node.experts_s(EXPERTS, tokens)
        gathered = node.all_reduce_s(MODEL.hidden_size, tokens, gpus=node.gpus)
        sent = node.all_to_all_s(EXPERTS, MODEL.hidden_size, tokens)
        assert moved == pytest.approx(gathered if node is few else sent)
    split = replace(many, by_expert=False)
    moved = split.shared_experts_s(EXPERTS, MODEL.hidden_size, 64) - split.experts_s(EXPERTS, 64)
    assert moved == pytest.approx(split.all_reduce_s(MODEL.hidden_size, 64, gpus=16))


@given(st.integers(1, 20000))
def test_tokens_sent_to_experts_take_as_long_on_any_number_of_gpus_of_a_rack(tokens):
    sixteen, more = (wide(gpus).all_to_all_s(EXPERTS, MODEL.hidden_size, tokens * gpus) for gpus in (16, 64))
    assert more == pytest.approx(sixteen)
    constant = wide(16).all_to_all_s(EXPERTS, MODEL.hidden_size, 0)
    twice = wide(16).all_to_all_s(EXPERTS, MODEL.hidden_size, 2 * tokens * 16)
    assert twice - constant == pytest.approx(2 * (sixteen - constant))


@pytest.mark.parametrize(
    ("gpus", "tokens", "measured_us"), [(16, 64, 58.3), (32, 16, 48.3), (32, 256, 127.0), (64, 1, 53.7)]
)
def test_tokens_sent_over_nvlink_take_what_was_measured(gpus, tokens, measured_us):
    # TensorRT-LLM 1.2.0rc6 on GB200, NVLinkTwoSided, FP8 (aiconfigurator-core 0.12, Apache-2.0)
    found = wide(gpus).all_to_all_s(EXPERTS, MODEL.hidden_size, tokens * gpus)
    assert found * 1e6 == pytest.approx(measured_us, rel=0.2)


def test_more_gpus_than_the_interconnect_joins_reach_each_other_over_their_cards():
    h100 = catalog.load_gpu("h100")
    eight, sixteen, many = (Node(h100, gpus).all_reduce_s(MODEL.hidden_size, 64) for gpus in (8, 16, 32))
    assert eight < sixteen < many
    assert sixteen == pytest.approx(26e-6, rel=0.3)  # NCCL's own model of two machines, NVIDIA/nccl issue 1453
    fast = replace(h100, network_bytes_per_s=math.inf)
    assert Node(fast, 16).all_reduce_s(MODEL.hidden_size, 1) == pytest.approx(26e-6, rel=1e-3)
    near, far = wide(16, RACK), wide(16, replace(RACK, interconnect_gpus=8))
    assert near.all_to_all_s(EXPERTS, MODEL.hidden_size, 10**4) < far.all_to_all_s(EXPERTS, MODEL.hidden_size, 10**4)
    none = replace(h100, interconnect_gpus=0)  # all over the cards, as DeepEP's low-latency kernels
    found = wide(32, none).all_to_all_s(EXPERTS, MODEL.hidden_size, 128 * 32)
    assert found * 1e6 == pytest.approx(532, rel=0.1)  # H800, 128 tokens of DeepSeek V3, README of deepseek-ai/DeepEP
