"""Decode time and context: what the tables contain is not paid twice, and more context costs its bytes."""

from __future__ import annotations

import pytest

from helixsim.hardware import catalog
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import TABLE_CONTEXT_TOKENS, node_profile
from helixsim.hardware.roofline import roofline


@pytest.mark.parametrize("name", ["llama-1-30b", "llama-2-70b"])
@pytest.mark.parametrize("gpu", ["a100-40g", "l4", "t4"])
def test_context_costs_its_bytes_beyond_what_the_table_contains(name, gpu):
    model, spec = catalog.load_model(name), catalog.load_gpu(gpu)
    compute = node_profile(model, spec, 1, ProfileOptions(memory_fraction=0.8))[0].compute
    seqs = 16
    table = compute.decode_ns(1, seqs)
    assert compute.decode_ns(1, seqs, seqs * TABLE_CONTEXT_TOKENS) == table == compute.decode(seqs)
    longer = compute.decode_ns(1, seqs, seqs * (TABLE_CONTEXT_TOKENS + 3000))
    bytes_read = seqs * 3000 * model.kv_bytes_per_token_per_layer
    seconds = bytes_read / (spec.memory_bandwidth_bytes_per_s * spec.kernels.fp16.bandwidth_efficiency)
    assert longer - table == pytest.approx(seconds * 1e9)


def test_short_contexts_never_beat_the_weights():
    model = catalog.load_model("llama-1-30b")
    compute = node_profile(model, catalog.load_gpu("l4"), 1, ProfileOptions(memory_fraction=0.8))[0].compute
    assert compute.decode(1) <= compute.decode_ns(1, 20, 20) < compute.decode_ns(1, 20)


def test_the_roofline_contains_no_context():
    computed = roofline(catalog.load_model("llama-2-70b"), catalog.load_gpu("l4"))
    assert computed.reference_context_tokens == 0
    assert computed.decode_ns(1, 4) == computed.decode_ns(1, 4, 0) < computed.decode_ns(1, 4, 4000)
