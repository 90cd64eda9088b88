"""Layers of ten models against hand counts, written out from the keys of their ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helixsim.domain.layers import Layer
from helixsim.domain.model import ModelSpec
from helixsim.hardware import catalog


@pytest.fixture
def load(tmp_path: Path):
    def loaded(config: dict[str, Any], beside: dict[str, Any] | None = None, **formats: str) -> ModelSpec:
        (tmp_path / "config.json").write_text(json.dumps(config))
        if beside is not None:
            (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
        return catalog.load_model(tmp_path, **formats)

    return loaded


def _bytes(layer: Layer, expected: float) -> None:
    """Compare with bare bytes; the allocator's steps add at most 2 MiB for each of a few tensors."""
    assert expected <= layer.weight_bytes <= expected + 10 * 2 * 2**20


def _kv_per_token(model: ModelSpec) -> float:
    return sum(layer.kv_bytes(model.kv_bits) for layer in model.layers)


FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}

DEEPSEEK_R1: dict[str, Any] = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432,
    "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "moe_layer_freq": 1, "first_k_dense_replace": 3,
    "vocab_size": 129280, "max_position_embeddings": 163840, "tie_word_embeddings": False,
    "num_nextn_predict_layers": 1, "quantization_config": FP8_BLOCKS,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
}  # fmt: skip


def test_deepseek_r1(load) -> None:
    model = load(DEEPSEEK_R1)
    attention = (
        7168 * 1536 + 1536 * 128 * (128 + 64)  # queries
        + 7168 * (512 + 64) + 512 * 128 * (128 + 128)  # keys and values
        + 128 * 128 * 7168  # output
    )  # fmt: skip
    dense, expert, router = 3 * 7168 * 18432, 3 * 7168 * 2048, 7168 * 256
    first, last = model.layers[0], model.layers[-1]
    assert [layer.experts is not None for layer in model.layers] == [False] * 3 + [True] * 58
    assert first.parameters == first.active_parameters == attention + dense
    assert last.parameters == attention + router + (256 + 1) * expert
    assert last.active_parameters == attention + router + (8 + 1) * expert
    _bytes(first, attention + dense)  # FP8
    _bytes(last, attention + (256 + 1) * expert + 2 * router)  # the router stays in 16 bits
    assert _kv_per_token(model) == 61 * (512 + 64) * 2
    assert model.parameters == pytest.approx(671e9, rel=0.001)  # model card
    assert model.active_parameters == pytest.approx(37e9, rel=0.02)
    assert model.max_context_tokens == 40 * 4096
    assert any("draft" in note for note in model.notes)


def test_kimi_k2(load) -> None:
    changes = {"model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1}
    model = load({**DEEPSEEK_R1, **changes, "vocab_size": 163840, "rope_scaling": None})
    attention = 7168 * 1536 + 1536 * 64 * 192 + 7168 * 576 + 512 * 64 * 256 + 64 * 128 * 7168
    expert = 3 * 7168 * 2048
    assert sum(layer.experts is not None for layer in model.layers) == 60
    assert model.layers[1].active_parameters == attention + 7168 * 384 + 9 * expert
    _bytes(model.layers[1], attention + 2 * 7168 * 384 + 385 * expert)
    assert _kv_per_token(model) == 61 * 576 * 2
    assert model.parameters == pytest.approx(1.026e12, rel=0.001)
    assert model.active_parameters == pytest.approx(32e9, rel=0.02)  # model card


GLM_5: dict[str, Any] = {
    **DEEPSEEK_R1, "model_type": "glm_moe_dsa", "num_hidden_layers": 78, "hidden_size": 6144,
    "intermediate_size": 12288, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 2048,
    "qk_nope_head_dim": 192, "v_head_dim": 256, "index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128,
    "vocab_size": 154880, "max_position_embeddings": 202752, "quantization_config": None, "rope_scaling": None,
}  # fmt: skip


def test_glm_5(load) -> None:
    model = load(GLM_5)
    attention = 6144 * 2048 + 2048 * 64 * (192 + 64) + 6144 * 576 + 512 * 64 * (192 + 256) + 64 * 256 * 6144
    index = 2048 * 32 * 128 + 6144 * 128 + 6144 * 32
    expert = 3 * 6144 * 2048
    last = model.layers[-1]
    assert last.parameters == attention + index + 6144 * 256 + 257 * expert
    assert last.active_parameters == attention + index + 6144 * 256 + 9 * expert
    _bytes(last, 2 * last.parameters)
    assert last.attention is not None
    assert last.attention.attended_tokens == 2048
    assert _kv_per_token(model) == 78 * (576 * 2 + 128 + 4)  # keys of the index: FP8 with a 32-bit scale
    assert _kv_per_token(load(GLM_5, kv_precision="fp8")) == 78 * (576 + 128 + 4)
    assert model.parameters == pytest.approx(744e9, rel=0.001)  # model card: 744B-A40B
    assert model.active_parameters == pytest.approx(40e9, rel=0.03)


def test_glm_5_2_shares_the_index_among_layers(load) -> None:
    kinds = ["full"] * 3 + ["shared"] * 3 + ["full"] + ["shared"] * 71
    model = load({**GLM_5, "indexer_types": kinds})
    kept = [layer.attention.index_bytes for layer in model.layers if layer.attention]
    assert [bool(size) for size in kept] == [kind == "full" for kind in kinds]
    assert {layer.attention.attended_tokens for layer in model.layers if layer.attention} == {2048}
    by_period = load({**GLM_5, "index_topk_freq": 4, "index_skip_topk_offset": 3})
    full = [index for index, layer in enumerate(by_period.layers) if layer.attention and layer.attention.index_bytes]
    assert full[:5] == [0, 1, 2, 6, 10]


def test_gpt_oss_120b(load) -> None:
    model = load(
        {
            "model_type": "gpt_oss", "num_hidden_layers": 36, "hidden_size": 2880, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "vocab_size": 201088,
            "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * 18, "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
            },
        }
    )  # fmt: skip
    attention = 2880 * (64 + 2 * 8) * 64 + 64 * 64 * 2880
    expert, router = 3 * 2880 * 2880, 2880 * 128
    layer = model.layers[0]
    assert layer.parameters == attention + router + 128 * expert
    assert layer.active_parameters == attention + router + 4 * expert
    _bytes(layer, 2 * (attention + router) + 128 * expert * 4.25 / 8)  # MXFP4: 4 bits and 8 for each 32
    windows = [layer.attention.window_tokens for layer in model.layers if layer.attention]
    assert windows == [128, None] * 18
    assert _kv_per_token(model) == 36 * 2 * 8 * 64 * 2
    assert (model.precision, model.max_context_tokens) == ("mxfp4", 131072)
    assert model.parameters == pytest.approx(116.8e9, rel=0.001)  # model card
    assert model.active_parameters == pytest.approx(5.13e9, rel=0.001)


def test_qwen3_30b_a3b(load) -> None:
    model = load(
        {
            "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
            "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
            "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": False,
            "use_sliding_window": False, "sliding_window": None,
        }
    )  # fmt: skip
    attention = 2048 * (32 + 2 * 4) * 128 + 32 * 128 * 2048
    expert = 3 * 2048 * 768
    assert len(set(model.layers)) == 1
    assert model.layers[0].parameters == attention + 2048 * 128 + 128 * expert
    assert model.layers[0].active_parameters == attention + 2048 * 128 + 8 * expert
    _bytes(model.layers[0], 2 * model.layers[0].parameters)
    assert _kv_per_token(model) == 48 * 2 * 4 * 128 * 2
    assert model.parameters == pytest.approx(30.5e9, rel=0.002)  # model card: 30.5B
    assert model.active_parameters == pytest.approx(3.3e9, rel=0.1)


def test_llama_4_maverick(load) -> None:
    text = {
        "model_type": "llama4_text", "num_hidden_layers": 48, "hidden_size": 5120, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
        "attention_chunk_size": 8192, "vocab_size": 202048, "max_position_embeddings": 1048576,
    }  # fmt: skip
    model = load({"model_type": "llama4", "text_config": text, "vision_config": {"hidden_size": 1408}})
    attention = 5120 * (40 + 2 * 8) * 128 + 40 * 128 * 5120
    expert = 3 * 5120 * 8192
    plain, routed = model.layers[0], model.layers[1]
    assert [layer.experts is not None for layer in model.layers] == [False, True] * 24
    assert plain.parameters == attention + 3 * 5120 * 16384
    assert routed.parameters == attention + 5120 * 128 + (128 + 1) * expert
    assert routed.active_parameters == attention + 5120 * 128 + (1 + 1) * expert
    _bytes(routed, 2 * routed.parameters)
    windows = [layer.attention.window_tokens for layer in model.layers if layer.attention]
    assert windows == [8192, 8192, 8192, None] * 12
    assert _kv_per_token(model) == 48 * 2 * 8 * 128 * 2
    assert model.parameters == pytest.approx(400e9, rel=0.005)  # model card: 400B, 17B active
    assert model.active_parameters == pytest.approx(17e9, rel=0.06)
    assert any("vision towers are left out" in note for note in model.notes)
    assert any("chunks" in note for note in model.notes)


def test_gemma_3_27b_with_what_its_file_leaves_out(load) -> None:
    text = {
        "model_type": "gemma3_text", "num_hidden_layers": 62, "hidden_size": 5376, "intermediate_size": 21504,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }  # fmt: skip
    model = load({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    layer = model.layers[0]
    assert layer.parameters == 5376 * (32 + 2 * 16) * 128 + 32 * 128 * 5376 + 3 * 5376 * 21504
    _bytes(layer, 2 * layer.parameters)
    windows = [layer.attention.window_tokens for layer in model.layers if layer.attention]
    assert windows == ([1024] * 5 + [None]) * 10 + [1024] * 2
    assert _kv_per_token(model) == 62 * 2 * 16 * 128 * 2
    assert model.is_tied
    assert model.vocab_size == 262208
    assert model.max_context_tokens == 131072  # the class's figure is the scaled one
    assert model.parameters == pytest.approx(27.0e9, rel=0.002)  # 27.4B with 0.4B of the vision tower


def test_gemma_4_26b_a4b(load) -> None:
    text = {
        "model_type": "gemma4_text", "num_hidden_layers": 30, "hidden_size": 2816, "intermediate_size": 2112,
        "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2, "head_dim": 256,
        "global_head_dim": 512, "attention_k_eq_v": True, "enable_moe_block": True, "num_experts": 128,
        "top_k_experts": 8, "moe_intermediate_size": 704, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
        "sliding_window": 1024, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "vocab_size": 262144, "max_position_embeddings": 262144, "tie_word_embeddings": True,
    }  # fmt: skip
    model = load({"model_type": "gemma4", "text_config": text})
    feed = 3 * 2816 * 2112 + 2816 * 128
    expert = 3 * 2816 * 704
    sliding, full = model.layers[0], model.layers[5]
    assert sliding.parameters == 2816 * (16 + 2 * 8) * 256 + 16 * 256 * 2816 + feed + 128 * expert
    assert full.parameters == 2816 * (16 + 2) * 512 + 16 * 512 * 2816 + feed + 128 * expert  # values are the keys
    assert full.active_parameters == 2816 * (16 + 2) * 512 + 16 * 512 * 2816 + feed + 8 * expert
    _bytes(full, 2 * full.parameters)
    assert _kv_per_token(model) == (25 * 2 * 8 * 256 + 5 * 2 * 2 * 512) * 2
    assert model.active_parameters == pytest.approx(3.8e9, rel=0.01)  # model card: 25.2B, 3.8B active
    assert model.parameters == pytest.approx(25.2e9, rel=0.005)


def test_minimax_m2_5(load) -> None:
    config = {
        "model_type": "minimax_m2", "num_hidden_layers": 62, "hidden_size": 3072, "num_attention_heads": 48,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 1536, "num_local_experts": 256,
        "num_experts_per_tok": 8, "shared_intermediate_size": 0, "vocab_size": 200064,
        "max_position_embeddings": 196608, "tie_word_embeddings": False,
    }  # fmt: skip
    stated = {**FP8_BLOCKS, "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}
    model = load({**config, "quantization_config": stated})
    attention = 3072 * (48 + 2 * 8) * 128 + 48 * 128 * 3072
    expert, router = 3 * 3072 * 1536, 3072 * 256
    assert model.layers[0].parameters == attention + router + 256 * expert
    _bytes(model.layers[0], attention + 2 * router + 256 * expert)
    assert _kv_per_token(model) == 62 * 2 * 8 * 128 * 2
    assert model.parameters == pytest.approx(229e9, rel=0.002)  # model card: 230B, 10B active
    assert model.active_parameters == pytest.approx(10e9, rel=0.05)
    ignored = [
        f"model.layers.{index}.{part}" for index in range(62) for part in ("self_attn*", "block_sparse_moe.gate")
    ]
    quantized = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", *ignored]}
    four_bits = load(config, {"quantization": quantized})
    _bytes(four_bits.layers[0], 2 * (attention + router) + 256 * expert * 4.5 / 8)
    assert _kv_per_token(four_bits) == 62 * 2 * 8 * 128
    assert (four_bits.precision, four_bits.kv_precision) == ("nvfp4", "fp8")


def test_nemotron_h(load) -> None:
    model = load(
        {
            "model_type": "nemotron_h", "hidden_size": 2688, "num_attention_heads": 32, "num_key_value_heads": 2,
            "head_dim": 128, "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            "num_hidden_layers": 52, "intermediate_size": 1856, "mamba_num_heads": 64, "mamba_head_dim": 64,
            "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "n_routed_experts": 128, "n_shared_experts": 1,
            "num_experts_per_tok": 6, "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
            "mamba_ssm_cache_dtype": "float32", "vocab_size": 131072, "max_position_embeddings": 262144,
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    mamba, experts, attention = model.layers[0], model.layers[1], model.layers[5]
    inner, channels = 64 * 64, 64 * 64 + 2 * 8 * 128
    assert mamba.parameters == 2688 * (inner + channels + 64) + inner * 2688
    _bytes(mamba, 2 * mamba.parameters + 2 * 4 * channels)
    assert mamba.attention is not None
    assert mamba.attention.state_bytes == 64 * 64 * 128 * 4 + 3 * channels * 2
    assert experts.attention is None
    assert experts.parameters == 2688 * 128 + 128 * 2 * 2688 * 1856 + 2 * 2688 * 3712
    assert experts.active_parameters == 2688 * 128 + 6 * 2 * 2688 * 1856 + 2 * 2688 * 3712
    assert attention.parameters == 2688 * (32 + 2 * 2) * 128 + 32 * 128 * 2688
    assert _kv_per_token(model) == 6 * 2 * 2 * 128 * 2  # six layers with attention
    assert model.parameters == pytest.approx(31.6e9, rel=0.002)  # model card: 31.6B, 3.6B with the embedding active
    assert model.active_parameters == pytest.approx(3.2e9, rel=0.02)
    assert any("state of fixed size" in note for note in model.notes)


def test_nemotron_h_with_experts_on_a_narrower_state(load) -> None:
    pattern = ["mamba", "moe", "attention"]
    model = load(
        {
            "model_type": "nemotron_h", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 2,
            "layers_block_type": pattern, "n_routed_experts": 512, "num_experts_per_tok": 22, "moe_latent_size": 1024,
            "moe_intermediate_size": 2688, "moe_shared_expert_intermediate_size": 5376, "vocab_size": 131072,
            "max_position_embeddings": 262144,
        }
    )  # fmt: skip
    assert model.num_layers == 3
    shared, latent = 2 * 4096 * 5376, 2 * 4096 * 1024
    assert model.layers[1].parameters == 4096 * 512 + latent + shared + 512 * 2 * 1024 * 2688


@pytest.mark.parametrize(("window", "kept"), [(None, None), (4096, 4096)])
def test_mixtral_8x7b(load, window: int | None, kept: int | None) -> None:
    model = load(
        {
            "model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
            "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": window,
        }
    )  # fmt: skip
    attention = 4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096
    expert = 3 * 4096 * 14336
    layer = model.layers[0]
    assert layer.parameters == attention + 4096 * 8 + 8 * expert
    assert layer.active_parameters == attention + 4096 * 8 + 2 * expert
    _bytes(layer, 2 * layer.parameters)
    assert layer.attention is not None
    assert layer.attention.window_tokens == kept
    assert _kv_per_token(model) == 32 * 2 * 8 * 128 * 2
    assert model.parameters == pytest.approx(46.7e9, rel=0.001)
    assert model.active_parameters == pytest.approx(12.9e9, rel=0.02)
