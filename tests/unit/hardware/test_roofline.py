"""The roofline: its two roofs, tensor parallelism, experts, and its distance from measured nodes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.placement import LayerRange
from helixsim.hardware import catalog, compute_file
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
        compute_ns = tokens * model.flops_per_token_per_layer / (gpu.fp16_flops * gpus) * 1e9
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
    for tokens, touched in ((1, 2), (2, 2 + 2 * 6 / 8), (64, 8)):
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
