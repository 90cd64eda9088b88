"""Laws of KV memory: less with more layers, more with more memory, nothing lost beyond one block."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.placement import LayerRange
from helixsim.hardware import catalog, kv_memory
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile

MODEL = catalog.load_model("llama-2-70b")
GPU = catalog.load_gpu("a100-40g")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(catalog.model_names()),
    st.sampled_from(catalog.gpu_names()),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0.3, 1.0),
    st.sampled_from([1, 16, 32]),
    st.integers(0, 3 * 10**9),
    st.integers(0, 2 * 10**8),
)
def test_blocks_fill_the_memory_to_within_one_block(
    model_name, gpu_name, gpus, fraction, block_tokens, workspace, overhead
):
    model = catalog.load_model(model_name)
    memory = kv_memory.node_memory(catalog.load_gpu(gpu_name), gpus, workspace, overhead)
    blocks = kv_memory.kv_blocks(model, memory, fraction, block_tokens)
    assert len(blocks) <= model.num_layers
    budget = fraction * memory.usable_bytes - workspace
    weight_bytes = kv_memory.layer_weight_bytes(model, gpus)
    block_bytes = block_tokens * kv_memory.kv_token_bytes(model, gpus)
    for layers, count in enumerate(blocks, start=1):
        used = layers * (weight_bytes + overhead + count * block_bytes)
        assert used <= budget < used + layers * block_bytes
    assert list(blocks) == sorted(set(blocks), reverse=True)
    if len(blocks) < model.num_layers:
        layers = len(blocks) + 1
        assert layers * (weight_bytes + overhead + block_bytes) > budget


def test_more_memory_never_holds_less():
    smaller = kv_memory.kv_blocks(MODEL, kv_memory.node_memory(GPU, 1, 0), 0.7, 16)
    larger = kv_memory.kv_blocks(MODEL, kv_memory.node_memory(GPU, 1, 0), 0.9, 16)
    double = kv_memory.kv_blocks(MODEL, kv_memory.node_memory(GPU, 2, 0), 0.9, 16)
    assert len(smaller) < len(larger) < len(double)
    for few, more, most in zip(smaller, larger, double, strict=False):
        assert few < more < most


def test_the_budget_never_exceeds_the_cards():
    memory = kv_memory.node_memory(GPU, 1, -20 * 10**9)
    assert memory.budget_bytes(0.9) == GPU.memory_bytes


def test_activation_peak_counts_the_experts_of_a_token():
    dense, mixture = catalog.load_model("mistral-7b"), catalog.load_model("mixtral-8x7b")
    assert kv_memory.activation_peak_bytes(dense, 1000) == 2 * 1000 * (4 * 4096 + 3 * 14336)
    assert kv_memory.activation_peak_bytes(mixture, 1000) == 2 * 1000 * (4 * 4096 + 2 * 3 * 14336)


@settings(deadline=None, max_examples=30)
@given(st.integers(-(10**9), 2 * 10**9), st.integers(0, 2 * 10**8), st.integers(3, 12))
def test_a_table_made_by_the_law_gives_its_figures_back(workspace, overhead, most):
    memory = kv_memory.node_memory(GPU, 1, workspace, overhead)
    table = [16 * count for count in kv_memory.kv_blocks(MODEL, memory, 0.8, 16)[:most]]
    table[1] = round(table[1] * 1.01)  # one row that is off, as in the published ones
    found, error = kv_memory.fit_memory(MODEL, GPU, 1, 0.8, table)
    law = kv_memory.kv_blocks(MODEL, found, 0.8, 16)
    assert error < 0.02
    for layers, tokens in enumerate(table, start=1):
        assert 16 * law[layers - 1] == pytest.approx(tokens, rel=0.02)
    if len(table) >= 6:  # enough sound rows to outvote the odd one
        assert found.overhead_bytes_per_layer == pytest.approx(overhead, abs=3e6)
        assert found.workspace_bytes == pytest.approx(workspace, abs=2e7)


def test_a_memory_fit_needs_two_rows():
    with pytest.raises(ValueError, match="at least two"):
        kv_memory.fit_memory(MODEL, GPU, 1, 0.8, [100])


def test_a_table_the_law_cannot_hold_is_wholly_off():
    # a table that ends in less than one token where the law has nothing left
    _, error = kv_memory.fit_memory(MODEL, GPU, 1, 0.8, [1_000_000, 1_000, 0, 0, 0])
    assert error == 1.0


# (model, GPU, GPUs, share, max_num_batched_tokens, max_num_seqs, precision, tokens, tolerance): vLLM issue 10517 (two
# lengths; the largest batch was the model's length then), LLMServingSim's log, llm-d-planner's measurements converted
# from GiB; below, logs without all settings (vLLM PR 4454 and others): the defaults of that time, so the model's length
# for those of A6000
LOGGED = [
    ("llama-3-8b", "rtx-4090", 1, 0.9, 2048, 256, "bf16", 41_408, 0.05),
    ("llama-3-8b", "rtx-3090", 1, 0.9, 20_000, 256, "bf16", 31_232, 0.05),
    ("llama-3-8b", "rtx-3090", 1, 0.9, 29_000, 256, "bf16", 23_648, 0.05),
    ("llama-3-8b", "h100", 1, 0.9, 8192, 1024, "bf16", 420_905, 0.05),
    ("llama-3-70b", "h100", 2, 0.9, 8192, 1024, "fp8", 209_715, 0.05),
    ("qwen3-4b", "rtx-3090", 1, 0.9, 2048, 256, "bf16", 86_144, 0.08),
    ("llama-3-8b", "a100-80g", 4, 0.9, 8192, 256, "bf16", 2_115_600, 0.08),
    ("llama-3-8b", "rtx-a6000", 1, 0.9, 8192, 256, "bf16", 211_968, 0.08),
    ("llama-2-7b", "rtx-a6000", 1, 0.9, 4096, 256, "int4", 78_032, 0.08),
    ("mistral-7b", "rtx-a6000", 1, 0.9, 32_768, 256, "int4", 282_256, 0.08),
    ("mistral-7b", "rtx-a6000", 1, 0.9, 32_768, 256, "bf16", 203_760, 0.08),
]


@pytest.mark.parametrize(("name", "gpu", "gpus", "share", "batched", "seqs", "precision", "logged", "within"), LOGGED)
def test_engines_of_today_have_the_kv_tokens_they_log(name, gpu, gpus, share, batched, seqs, precision, logged, within):
    options = ProfileOptions(
        memory_fraction=share, max_prefill_tokens=batched, max_decode_seqs=seqs, holds_ends=True
    )  # fmt: skip
    model = catalog.load_model(name, precision)
    profile, _ = node_profile(model, catalog.load_gpu(gpu), gpus, options)
    whole = LayerRange(0, model.num_layers)
    assert 16 * profile.blocks(whole, model.num_layers) == pytest.approx(logged, rel=within)


def test_stages_at_the_ends_hold_less_by_the_embedding_and_the_head():
    model = catalog.load_model("llama-3-70b")
    profile, _ = node_profile(model, catalog.load_gpu("l40s"), 1, ProfileOptions(holds_ends=True))
    first, middle, last = (16 * profile.blocks(LayerRange(k, k + 10), 80) for k in (0, 35, 70))
    lost = 128_256 * 8192 * 2 / (10 * 4096)
    assert first == last
    assert middle - first == pytest.approx(lost, abs=16)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_more_gpus_than_kv_heads_keep_copies(gpus):
    model = catalog.load_model("qwen2.5-7b")  # four KV heads
    assert kv_memory.kv_token_bytes(model, gpus) == max(1, gpus / 4) * model.kv_bytes_per_token_per_layer
