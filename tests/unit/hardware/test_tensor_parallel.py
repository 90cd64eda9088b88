"""Nodes of several GPUs from the timings of one: divided work, all-reduces, and the distance from measured nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.hardware import catalog, compute_file
from helixsim.hardware.kernels import ALL_REDUCES_PER_LAYER, Node
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.roofline import timing_error
from helixsim.hardware.tensor_parallel import from_one_gpu, kv_shares

L4 = catalog.load_gpu("l4")
LLAMA = catalog.load_model("llama-2-70b")
MULTI = [name for name in compute_file.fitted_names() if catalog.split_kind(name.rpartition("/")[2])[1] > 1]


def reduces_ns(gpus, tokens):
    return ALL_REDUCES_PER_LAYER * Node(L4, gpus).all_reduce_s(LLAMA.hidden_size, tokens) * 1e9


@given(st.sampled_from([2, 4, 8]), st.sampled_from([1, 16, 100, 2000]))
def test_a_node_from_one_gpu_does_a_share_of_its_work_and_reduces(gpus, tokens):
    (single,) = [entry for entry in compute_file.committed("llama-2-70b") if entry.kind == "l4"]
    one, _ = node_profile(LLAMA, L4, 1, ProfileOptions())
    knots = [x for x in single.decode.curve.x if x <= tokens]
    at = knots[-1] if knots else single.decode.curve.x[0]
    derived = from_one_gpu(one.compute, LLAMA, L4, gpus)
    assert derived.decode(at) == pytest.approx(one.compute.decode(at) / gpus + reduces_ns(gpus, at))
    assert derived.decode_context_ns_per_token == one.compute.decode_context_ns_per_token / gpus


def test_a_node_that_was_not_measured_comes_from_one_gpu_of_its_kind():
    profile, notes = node_profile(LLAMA, L4, 4, ProfileOptions())
    single, _ = node_profile(LLAMA, L4, 1, ProfileOptions())
    expected = single.compute.decode(16) / 4 + reduces_ns(4, 16)
    assert profile.compute.decode(16) == pytest.approx(expected, rel=0.02)  # all-reduces between the knots of the curve
    assert profile.kind == profile.compute.kind == "l4x4"
    assert any("1/4 of one l4" in note for note in notes)


def test_copied_heads_are_not_spread():
    assert [kv_shares(LLAMA, gpus) for gpus in (1, 2, 8, 16)] == [1, 2, 8, 8]


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
