"""Laws of KV memory: less with more layers, more with more memory, nothing lost beyond one block."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.hardware import catalog, kv_memory

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
    block_bytes = block_tokens * model.kv_bytes_per_token_per_layer
    for layers, count in enumerate(blocks, start=1):
        used = layers * (model.weight_bytes_per_layer + overhead + count * block_bytes)
        assert used <= budget < used + layers * block_bytes
    assert list(blocks) == sorted(set(blocks), reverse=True)
    if len(blocks) < model.num_layers:
        layers = len(blocks) + 1
        assert layers * (model.weight_bytes_per_layer + overhead + block_bytes) > budget


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
