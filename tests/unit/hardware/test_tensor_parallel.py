"""Nodes of several GPUs from the timings of one: divided work, all-reduces, and the distance from measured nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.hardware import catalog, compute_file
from helixsim.hardware.profiles import ProfileOptions, node_profile
from helixsim.hardware.roofline import roofline, timing_error
from helixsim.hardware.tensor_parallel import ALL_REDUCE_LATENCY_S, all_reduces_s, from_one_gpu

L4 = catalog.load_gpu("l4")
LLAMA = catalog.load_model("llama-2-70b")
MULTI = [name for name in compute_file.fitted_names() if catalog.split_kind(name.rpartition("/")[2])[1] > 1]


def test_one_gpu_has_nothing_to_reduce():
    assert all_reduces_s(LLAMA, L4, 1)(1000) == 0


@given(st.integers(2, 64), st.floats(1, 1e5))
def test_a_ring_sends_less_than_twice_the_data_and_more_the_more_gpus(gpus, tokens):
    seconds = all_reduces_s(LLAMA, L4, gpus)(tokens)
    data_s = tokens * LLAMA.activation_bytes_per_token / L4.interconnect_bytes_per_s
    assert 2 * (ALL_REDUCE_LATENCY_S + data_s) <= seconds * (1 + 1e-9)
    assert seconds < 2 * (ALL_REDUCE_LATENCY_S + 2 * data_s)
    assert seconds < all_reduces_s(LLAMA, L4, gpus + 1)(tokens)


@given(st.sampled_from([2, 4, 8]), st.floats(1, 5000))
def test_the_roofline_of_several_gpus_is_that_of_one_divided_plus_the_all_reduces(gpus, tokens):
    derived, computed = from_one_gpu(roofline(LLAMA, L4), LLAMA, L4, gpus), roofline(LLAMA, L4, gpus)
    assert derived.prefill(tokens) == pytest.approx(computed.prefill(tokens))
    assert derived.decode(tokens) == pytest.approx(computed.decode(tokens))
    assert derived.decode_context_ns_per_token == pytest.approx(computed.decode_context_ns_per_token)


def test_a_node_nobody_has_measured_comes_from_one_gpu_of_its_kind():
    profile, notes = node_profile(LLAMA, L4, 4, ProfileOptions())
    single, _ = node_profile(LLAMA, L4, 1, ProfileOptions())
    expected = single.compute.decode(16) / 4 + all_reduces_s(LLAMA, L4, 4)(16) * 1e9
    assert profile.compute.decode(16) == pytest.approx(expected)
    assert profile.kind == profile.compute.kind == "l4x4"
    assert any("1/4 of one l4" in note for note in notes)


@pytest.mark.parametrize("name", MULTI)
def test_it_stays_close_to_measured_nodes(name):
    model_name, _, kind = name.partition("/")
    (fitted,) = [entry for entry in compute_file.committed(model_name) if entry.kind == kind]
    gpu_name, gpus = catalog.split_kind(kind)
    gpu, model = catalog.load_gpu(gpu_name), catalog.load_model(model_name)
    single, _ = node_profile(model, gpu, 1, ProfileOptions())
    error = timing_error(from_one_gpu(single.compute, model, gpu, gpus), fitted)
    assert error.prefill_median < 0.25
    assert error.decode_median < 0.25
