"""The roofline: its two roofs, tensor parallelism, experts, and its distance from measured nodes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.hardware import catalog, compute_file, engines
from helixsim.hardware.kernels import Node
from helixsim.hardware.roofline import roofline, timing_error

L4 = catalog.load_gpu("l4")
LLAMA = catalog.load_model("llama-2-70b")
MIXTRAL = catalog.load_model("mixtral-8x7b")


def test_a_layer_is_the_sum_of_its_kernels():
    node, layer = Node(L4), LLAMA.layers[0]
    profile = roofline(LLAMA, L4)
    law = L4.kernels.attention
    for knot in (0, 3, 9, 21):
        tokens = profile.decode.x[knot]
        work_s = sum(node.gemm_s(matrix, tokens) for matrix in layer.matrices)
        work_s += node.elementwise_s(LLAMA.hidden_size, tokens)
        read_s = tokens * law.kv_padding_tokens * node.kv_read_s(layer.attention, 16, 1)
        assert profile.decode(tokens) == pytest.approx((work_s + law.kv_launch_s + read_s) * 1e9)
        padded_s = node.prefill_attention_s(layer.attention, tokens * law.padding_tokens)
        assert profile.prefill(tokens) == pytest.approx((work_s + law.launch_s + padded_s) * 1e9)
    assert profile.decode_context_ns_per_token == pytest.approx(4096 / (300e9 * law.kv_bandwidth_efficiency) * 1e9)
    assert profile.source == "roofline"


@pytest.mark.parametrize("budget", [2048, 8192])
def test_a_prompt_of_300_000_tokens_takes_minutes(budget):
    """About three minutes for an 8B on one A100 (microsoft/MInference issue 84), 115 s at the whole multiply rate."""
    model = catalog.load_model("llama-3.1-8b")
    compute, engine = roofline(model, catalog.load_gpu("a100-80g")), engines.load_engine("vllm-1").spec
    step_time = StepTime(compute, engine, LayerRange(0, model.num_layers), model.num_layers)
    chunks = [(past, min(budget, 300_000 - past)) for past in range(0, 300_000, budget)]
    total_ns = sum(step_time.ns(BatchShape(size, prefill_pairs(size, past), 1)) for past, size in chunks)
    assert 100 < total_ns / 1e9 < 190


def test_long_prompts_cost_their_square():
    profile = roofline(LLAMA, L4)
    extra_ns = profile.prefill_ns(1, 32_000) - profile.prefill(32_000)
    flops = 4 * 64 * 128 * 32_000**2 / 2
    assert extra_ns == pytest.approx(flops / (121e12 * L4.kernels.attention.compute_efficiency) * 1e9)


def test_mixed_batches_read_the_weights_once():
    (profile,) = roofline(LLAMA, L4).layer_times(LayerRange(0, 1))
    alone = profile.prefill(1) + profile.decode(1)
    assert profile.mixed_ns(1, 1) < 0.6 * alone
    assert profile.mixed_ns(5000, 0) == profile.prefill(5000)
    assert profile.mixed_ns(5000, 8) < profile.prefill(5000) + profile.decode(8)
    assert profile.mixed_ns(5000, 8) > profile.prefill(5000)


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(catalog.gpu_names()),
    st.sampled_from(catalog.model_names()),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(1, 20_000),
    st.floats(1, 4),
)
def test_it_never_falls_and_never_beats_either_roof(gpu_name, model_name, gpus, tokens, factor):
    gpu, model = catalog.load_gpu(gpu_name), catalog.load_model(model_name)
    profile = roofline(model, gpu, gpus)
    for curve in (profile.prefill, profile.decode):
        assert 0 < curve(tokens) <= curve(tokens * factor) * (1 + 1e-12)
        fastest = max(rate for _, rate in gpu.flops)  # of the formats that it multiplies in
        compute_ns = tokens * model.flops_per_token_per_layer / (fastest * gpus) * 1e9
        assert curve(tokens) > compute_ns
    mixtures = [layer.experts for layer in model.layers if layer.experts]
    untouched = sum((experts.count - experts.per_token) * experts.bytes_each for experts in mixtures)
    active_bytes = model.weight_bytes_per_layer - untouched / model.num_layers
    assert profile.decode(1) > active_bytes / (gpu.memory_bandwidth_bytes_per_s * gpus) * 1e9


def test_kv_heads_are_not_split_further_than_one_a_gpu():
    sixteen, eight = roofline(LLAMA, L4, 16), roofline(LLAMA, L4, 8)
    assert sixteen.decode_context_ns_per_token == eight.decode_context_ns_per_token


def test_small_batches_of_a_mixture_read_few_experts():
    experts = MIXTRAL.layers[0].experts
    assert experts is not None
    node, law = Node(L4), L4.kernels.experts
    rate = 300e9 * law.bandwidth_efficiency
    for tokens, touched in ((1, 2), (2, 8 * 2 / 5), (64, 8 * 64 / 67)):
        read_s = touched * experts.parameters_each * 2 / rate
        assert node.experts_s(experts, tokens) >= read_s * 0.999
        assert node.experts_s(experts, tokens) < read_s * 1.3


@pytest.mark.parametrize("name", compute_file.fitted_names())
def test_it_stays_within_a_factor_of_measured_nodes(name):
    model_name, _, kind = name.partition("/")
    (fitted,) = [entry for entry in compute_file.committed(model_name) if entry.kind == kind]
    gpu, gpus = catalog.split_kind(kind)
    error = timing_error(roofline(catalog.load_model(model_name), catalog.load_gpu(gpu), gpus), fitted)
    assert error.prefill_median < 0.11
    assert error.decode_median < 0.21
    assert max(error.prefill_worst, error.decode_worst) < 0.55


def decode_ns(model, held, seqs, context, gpus=8):
    compute = roofline(model, catalog.load_gpu("h200"), gpus)
    step_time = StepTime(compute, EngineSpec(copies_activations=False), held, model.num_layers)
    return step_time.decode_ns(seqs, seqs * context)


@pytest.mark.parametrize(
    "name", ["deepseek-r1", "gemma-3-27b", "gpt-oss-120b", "llama-4-maverick", "qwen3-next-80b-a3b"]
)
def test_ranges_of_unlike_layers_add_up_to_the_model(name):
    model = catalog.load_model(name)
    cut = model.num_layers // 3
    parts = [LayerRange(0, cut), LayerRange(cut, model.num_layers)]
    whole = decode_ns(model, LayerRange(0, model.num_layers), 16, 20_000)
    assert sum(decode_ns(model, part, 16, 20_000) for part in parts) == pytest.approx(whole)


def test_a_node_without_the_dense_layers_of_a_mixture_is_slower():
    model = catalog.load_model("deepseek-r1")
    assert decode_ns(model, LayerRange(3, 13), 64, 1000) > 1.15 * decode_ns(model, LayerRange(0, 10), 64, 1000)


def test_windows_read_no_more_than_they_hold():
    """Of six layers of Gemma 3, five see 1024 tokens: a context of 32 k is read by the sixth alone."""
    model = catalog.load_model("gemma-3-27b")
    short, long = (decode_ns(model, LayerRange(0, 6), 8, context, 1) for context in (1024, 32 * 1024))
    read_ns = roofline(model, catalog.load_gpu("h200")).layers[5].decode_context_ns_per_token * 8 * 31 * 1024
    assert long - short == pytest.approx(read_ns)


def test_a_picked_context_is_found_by_reading_the_index():
    """DeepSeek-V3.2 attends to 2048 tokens, and reads 132 B of index for every token to pick them."""
    model = catalog.load_model("deepseek-v3")
    sparse = replace(model.layers[-1].attention, attended_tokens=2048, index_bytes=132, index_numbers=64 * 128)
    layer = replace(model.layers[-1], attention=sparse)
    model = replace(model, layers=(model.layers[-1], layer))
    dense, picking = LayerRange(0, 1), LayerRange(1, 2)
    assert decode_ns(model, dense, 8, 2048) < decode_ns(model, picking, 8, 2048)
    assert decode_ns(model, dense, 8, 100_000) > decode_ns(model, picking, 8, 100_000)
    gpu = catalog.load_gpu("h200")
    read_ns = 132 * 8 * 1e5 / gpu.memory_bandwidth_bytes_per_s / gpu.kernels.attention.kv_bandwidth_efficiency * 1e9
    grown = decode_ns(model, picking, 8, 200_000) - decode_ns(model, picking, 8, 100_000)
    assert grown == pytest.approx(read_ns, rel=1e-6)
