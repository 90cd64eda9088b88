"""The roofline: its two roofs, tensor parallelism, experts, and its distance from measured nodes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.hardware import catalog, compute_file
from helixsim.hardware.roofline import roofline, timing_error
from helixsim.hardware.tensor_parallel import ALL_REDUCE_LATENCY_S

L4 = catalog.load_gpu("l4")
LLAMA = catalog.load_model("llama-2-70b")
MIXTRAL = catalog.load_model("mixtral-8x7b")


def test_the_two_roofs_in_closed_form():
    profile = roofline(LLAMA, L4)
    floor_ns = LLAMA.weight_bytes_per_layer / (300e9 * 0.83) * 1e9
    token_ns = LLAMA.flops_per_token_per_layer / (121e12 * 0.39) * 1e9
    ridge = floor_ns / token_ns
    for seqs in (1, 2, 17, int(ridge)):
        assert profile.decode(seqs) == pytest.approx(floor_ns)
    for seqs in (int(ridge) + 1, 500, 5000):
        assert profile.decode(seqs) == pytest.approx(seqs * token_ns)
    # attention adds 4 x heads x head_dim x 512 FLOP to a prompt token
    attention = 4 * 64 * 128 * 512 / LLAMA.flops_per_token_per_layer
    assert profile.prefill(4000) == pytest.approx(4000 * token_ns * (1 + attention))
    assert profile.decode_context_ns_per_token == pytest.approx(4096 / (300e9 * 0.83) * 1e9)
    assert profile.source == "roofline"


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
    active_bytes = model.weight_bytes_per_layer
    if experts := model.layers[0].experts:
        active_bytes -= (experts.count - experts.per_token) * experts.bytes_each
    assert profile.decode(1) > active_bytes / (gpu.memory_bandwidth_bytes_per_s * gpus) * 1e9


def test_tensor_parallelism_halves_the_work_and_adds_two_all_reduces():
    one, two = roofline(LLAMA, L4, 1), roofline(LLAMA, L4, 2)
    for tokens in (1, 100, 3000):
        sent = tokens * LLAMA.activation_bytes_per_token  # a ring of two sends all of it once
        network_ns = 2 * (ALL_REDUCE_LATENCY_S + sent / L4.interconnect_bytes_per_s) * 1e9
        assert two.decode(tokens) == pytest.approx(one.decode(tokens) / 2 + network_ns)
    assert two.decode_context_ns_per_token == one.decode_context_ns_per_token / 2
    assert two.kind == "l4x2"


def test_kv_heads_are_not_split_further_than_one_a_gpu():
    sixteen, eight = roofline(LLAMA, L4, 16), roofline(LLAMA, L4, 8)
    assert sixteen.decode_context_ns_per_token == eight.decode_context_ns_per_token


def test_small_batches_of_a_mixture_read_few_experts():
    profile = roofline(MIXTRAL, L4)
    rate = 300e9 * 0.83
    experts = MIXTRAL.layers[0].experts
    assert experts is not None
    each = experts.bytes_each
    shared = MIXTRAL.weight_bytes_per_layer - experts.bytes
    assert profile.decode(1) == pytest.approx((shared + 2 * each) / rate * 1e9)
    assert profile.decode(2) == pytest.approx((shared + (2 + 2 * 6 / 8) * each) / rate * 1e9)
    assert profile.decode(64) == pytest.approx(MIXTRAL.weight_bytes_per_layer / rate * 1e9, rel=0.001)
    assert profile.decode(5000) == pytest.approx(5000 * MIXTRAL.flops_per_token_per_layer / (121e12 * 0.39) * 1e9)


def test_a_gpu_without_a_memory_wall_still_gets_a_curve():
    slow = replace(L4, fp16_flops=1e9)  # compute-bound from the first token
    profile = roofline(LLAMA, slow)
    assert profile.decode(3) == pytest.approx(3 * profile.decode(1))


@pytest.mark.parametrize("name", compute_file.fitted_names())
def test_it_stays_within_a_factor_of_measured_nodes(name):
    model_name, _, kind = name.partition("/")
    (fitted,) = [entry for entry in compute_file.committed(model_name) if entry.kind == kind]
    gpu, gpus = catalog.split_kind(kind)
    error = timing_error(roofline(catalog.load_model(model_name), catalog.load_gpu(gpu), gpus), fitted)
    assert error.prefill_median < 0.11
    assert error.decode_median < 0.21
    assert max(error.prefill_worst, error.decode_worst) < 0.5
