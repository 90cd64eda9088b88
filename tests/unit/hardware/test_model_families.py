"""Every known ``model_type`` gives the right kinds of layers; what is not understood is refused with its place."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helixsim.datafiles import data_path
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.models.families import FAMILIES, MODEL_TYPES, NESTED

COMMON: dict[str, Any] = {
    "num_hidden_layers": 12, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 256, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
QWEN = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
NO_OP = {"no_op": True}
MORE: dict[str, dict[str, Any]] = {
    "mixtral": LOCAL,
    "phimoe": LOCAL,
    "granitemoe": LOCAL,
    "minimax": LOCAL,
    "minimax_m2": LOCAL,
    "gpt_oss": {**LOCAL, "sliding_window": 128},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": QWEN,
    "qwen3_moe": QWEN,
    "qwen3_vl_moe_text": QWEN,
    "qwen3_next": QWEN,
    "qwen3_5_moe_text": QWEN,
    "granitemoehybrid": {
        **LOCAL,
        "shared_intermediate_size": 512,
        "mamba_n_heads": 32,
        "layer_types": ["mamba", "mamba", "attention"] * 4,
    },
    "glm4_moe": ROUTED,
    "deepseek_v2": {**ROUTED, **LATENT},
    "deepseek_v3": {**ROUTED, **LATENT},
    "kimi_k2": {**ROUTED, **LATENT},
    "deepseek_v32": {**ROUTED, **LATENT},
    "glm_moe_dsa": {**ROUTED, **LATENT},
    "deepseek_v4": {**ROUTED, "compress_ratios": [0, 0, 4, 128] * 3},
    "deepseek_ref": {**ROUTED, "compress_ratios": [0, 0, 4, 128] * 3},
    "kimi_linear": {
        **LATENT,
        "num_experts": 8,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 512,
        "linear_attn_config": {
            "full_attn_layers": [4, 8, 12],
            "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11],
            "num_heads": 16,
            "head_dim": 64,
            "short_conv_kernel_size": 4,
        },
    },
    "llama4_text": {**LOCAL, "intermediate_size_mlp": 8192},
    "minimax_m3": {**LOCAL, "dense_intermediate_size": 8192, "shared_intermediate_size": 512, "n_shared_experts": 1},
    "minimax_m3_vl_text": {**LOCAL, "dense_intermediate_size": 8192},
    "mimo_v2_flash": ROUTED,
    "step3p7": {**QWEN, "share_expert_dim": 512, "sliding_window": 512, "layer_types": ["full_attention"] * 12},
    "step3p5": {**QWEN, "share_expert_dim": 512, "sliding_window": 512, "layer_types": ["full_attention"] * 12},
    "nemotron_h": {"hybrid_override_pattern": "MEM*-M" * 2, **ROUTED},
    "nemotron-nas": {
        "block_configs": [{"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.5}}] * 11
        + [{"attention": NO_OP, "ffn": NO_OP}]
    },
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "mistral": {"sliding_window": None},
}
"""What each type needs beside the common keys."""


@pytest.fixture
def load(tmp_path: Path):
    def loaded(model_type: str, beside: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
        formats = {key: changes.pop(key) for key in ("precision", "kv_precision") if key in changes}
        config = {"model_type": model_type, **COMMON, **MORE.get(model_type, {}), **changes}
        config = {key: value for key, value in config.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside or {}))
        return catalog.load_model(tmp_path, **formats)

    return loaded


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_type_has_layers_attention_and_figures(load, model_type: str) -> None:
    model = load(model_type)
    assert model.num_layers == 12
    assert any(layer.attention for layer in model.layers)
    assert all(layer.weight_bytes >= 2 * layer.parameters for layer in model.layers)
    assert model.parameters >= model.active_parameters - model.vocab_size * model.hidden_size > 0
    has_experts = any(layer.experts for layer in model.layers)
    assert (model.active_parameters + model.vocab_size * model.hidden_size < model.parameters) == has_experts
    eight_bits = load(model_type, precision="fp8")
    assert 0.4 < eight_bits.weight_bytes_per_layer / model.weight_bytes_per_layer < 0.75


@pytest.mark.parametrize("outer", NESTED)
def test_a_text_model_inside_another_is_that_text_model(load, tmp_path: Path, outer: str) -> None:
    inner = NESTED[outer]
    plain = load(inner)
    text = {**COMMON, **MORE.get(inner, {})}
    if outer == "minimax_m3_vl":
        text["model_type"] = inner
    document = {"model_type": outer, "text_config": text, "vision_config": {"hidden_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    nested = catalog.load_model(tmp_path)
    assert nested.layers == plain.layers
    assert any("vision towers are left out" in note for note in nested.notes)
    (tmp_path / "config.json").write_text(json.dumps({**document, "text_config": {**text, "model_type": "llama5"}}))
    with pytest.raises(DataError, match="text_config: unknown model_type 'llama5'"):
        catalog.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**text, "model_type": outer}))
    with pytest.raises(DataError, match="text_config"):
        catalog.load_model(tmp_path)


@pytest.mark.parametrize("model_type", ["llama5", "qwen3_6", "deepseek_v33", "gemma3n_text", "mamba", "t5", "bert"])
def test_a_type_that_is_not_known_is_refused_with_those_that_are(load, model_type: str) -> None:
    with pytest.raises(DataError, match=f"unknown model_type '{model_type}'.*known: .*deepseek_v3, .*qwen3_moe"):
        load(model_type)


@pytest.mark.parametrize(
    ("model_type", "changes", "windows"),
    [
        ("llama", {"sliding_window": 512}, [None] * 12),
        ("mistral", {"sliding_window": ...}, [4096] * 12),  # the default of its class
        ("mistral", {"sliding_window": None}, [None] * 12),
        ("mistral", {"sliding_window": 2048}, [2048] * 12),
        ("phi3", {}, [None] * 12),
        ("phi3", {"sliding_window": 2047}, [2047] * 12),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, [None] * 12),
        (
            "qwen2",
            {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 8},
            [None] * 8 + [512] * 4,
        ),
        ("gemma2", {}, [4096, None] * 6),
        ("gemma3_text", {"sliding_window": 512}, ([512] * 5 + [None]) * 2),
        ("gemma3_text", {"sliding_window": 512, "sliding_window_pattern": 3}, [512, 512, None] * 4),
        ("olmo3", {}, [4096, 4096, 4096, None] * 3),
        ("gpt_oss", {}, [128, None] * 6),
        ("gemma4_text", {"sliding_window": 512}, ([512] * 5 + [None]) * 2),
        ("llama4_text", {}, [8192, 8192, 8192, None] * 3),
        ("mimo_v2_flash", {"hybrid_layer_pattern": [0, 1, 1] * 4}, [None, 128, 128] * 4),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"] * 6, "sliding_window": 64}, [None, 64] * 6),
        ("ministral3", {}, [None] * 12),
    ],
)
def test_windows(load, model_type: str, changes: dict[str, Any], windows: list[int | None]) -> None:
    layers = load(model_type, **changes).layers
    assert [layer.attention.window_tokens for layer in layers if layer.attention] == windows


@pytest.mark.parametrize(
    ("model_type", "changes", "sparse"),
    [
        ("mixtral", {}, [True] * 12),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [False] * 3 + [True] + [False, True] * 4),
        ("deepseek_v3", {"first_k_dense_replace": 1}, [False] + [True] * 11),
        ("deepseek_v3", {"first_k_dense_replace": ...}, [False] * 3 + [True] * 9),
        ("deepseek_v2", {"first_k_dense_replace": 0, "moe_layer_freq": 2}, [True, False] * 6),
        ("glm_moe_dsa", {"mlp_layer_types": ["dense", "sparse"] * 6}, [False, True] * 6),
        ("minimax_m3", {"moe_layer_freq": [0] * 3 + [1] * 9}, [False] * 3 + [True] * 9),
        ("llama4_text", {"interleave_moe_layer_step": 2}, [False, True] * 6),
        ("llama4_text", {"moe_layers": [0, 5]}, [index in (0, 5) for index in range(12)]),
        ("kimi_linear", {}, [False] + [True] * 11),
        ("nemotron_h", {}, [False, True, False, False, False, False] * 2),
    ],
)  # fmt: skip
def test_layers_with_experts(load, model_type: str, changes: dict[str, Any], sparse: list[bool]) -> None:
    assert [layer.experts is not None for layer in load(model_type, **changes).layers] == sparse


@pytest.mark.parametrize(
    ("model_type", "changes", "kinds"),
    [
        ("qwen3_next", {}, (["linear"] * 3 + ["full"]) * 3),
        ("qwen3_next", {"full_attention_interval": 2}, ["linear", "full"] * 6),
        ("granitemoehybrid", {}, ["linear", "linear", "full"] * 4),
        ("minimax", {}, ["linear", "full"] * 6),
        ("minimax", {"attn_type_list": [1] + [0] * 11}, ["full"] + ["linear"] * 11),
        ("kimi_linear", {}, (["linear"] * 3 + ["latent"]) * 3),
        ("nemotron_h", {}, ["linear", None, "linear", "full", None, "linear"] * 2),
        ("deepseek_v4", {}, ["sliding", "sliding", "latent", "latent"] * 3),
        ("nemotron-nas", {}, ["full"] * 11 + [None]),
    ],
)
def test_kinds_of_attention(load, model_type: str, changes: dict[str, Any], kinds: list[str | None]) -> None:
    layers = load(model_type, **changes).layers
    assert [layer.attention.kind if layer.attention else None for layer in layers] == kinds
    for layer in layers:
        if layer.attention and layer.attention.kind == "linear":
            assert layer.kv_bytes(16.0) == 0 < layer.attention.state_bytes


def test_gated_delta_nets_by_hand(load) -> None:
    changes = {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 64}
    layer = load("qwen3_next", **changes, linear_value_head_dim=32, linear_conv_kernel_dim=4).layers[0]
    keys, values = 4 * 64, 8 * 32
    names = {matrix.name: matrix.parameters for matrix in layer.matrices}
    assert names["state_input"] == 1024 * (2 * keys + 2 * values)
    assert names["state_output"] == values * 1024
    assert layer.attention is not None
    assert layer.attention.state_bytes == 8 * 64 * 32 * 4 + 3 * (2 * keys + values) * 2
    gated = load("qwen3_next").layers[3]
    assert gated.matrices[0].outputs == (2 * 16 + 2 * 4) * 64  # queries with a gate of their width


def test_compressed_attention_by_hand(load) -> None:
    sliding, _, sparse, heavy = load("deepseek_v4").layers[:4]
    assert sliding.kv_bytes(16.0) == 2 * 64
    assert sparse.kv_bytes(16.0) == 2 * 64 / 4 + 132 / 4  # one entry and one key of the index for four tokens
    assert heavy.kv_bytes(16.0) == 2 * 1  # 64 numbers for 128 tokens, rounded up
    assert sparse.attention is not None
    assert heavy.attention is not None
    assert (sparse.attention.attended_tokens, heavy.attention.attended_tokens) == (512 * 4, None)


def test_latent_attention_without_compressed_queries(load) -> None:
    plain = load("deepseek_v2", q_lora_rank=None).layers[0]
    assert plain.matrices[0].parameters == 1024 * 16 * (128 + 64)
    with pytest.raises(DataError, match="q_lora_rank: missing"):
        load("deepseek_v2", q_lora_rank=...)


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"multi_query": True}, 1),
        ({"multi_query": False}, 16),
        ({"new_decoder_architecture": True, "num_kv_heads": 8}, 8),
    ],
)
def test_falcon_heads(load, changes: dict[str, Any], heads: int) -> None:
    model = load("falcon", **changes, num_key_value_heads=..., intermediate_size=..., tie_word_embeddings=...)
    layer = model.layers[0]
    assert layer.attention is not None
    assert layer.attention.num_kv_heads == heads
    assert [matrix.parameters for matrix in layer.matrices[2:]] == [1024 * 4096] * 2  # four times as wide, no gate
    assert model.is_tied


def test_gemma_4_reuses_keys_and_keeps_an_embedding_for_each_layer(load) -> None:
    small = load("gemma4_text", num_kv_shared_layers=4, hidden_size_per_layer_input=256, use_double_wide_mlp=True)
    first, last = small.layers[0], small.layers[-2]
    assert first.kv_bytes(16.0) > 0 == last.kv_bytes(16.0)
    assert first.other_bytes == 2 * 262144 * 256
    widths = {matrix.name: matrix.inputs for matrix in last.matrices}
    assert widths["down"] == 2 * 4096


def test_pruned_layers_by_hand(load) -> None:
    blocks = [
        {"attention": {"n_heads_in_group": 8}, "ffn": {"ffn_mult": 1.3125}},
        {"attention": {"replace_with_linear": True}, "ffn": NO_OP},
        {"attention": NO_OP, "ffn": {"replace_with_linear": True}},
    ]
    first, second, third = load("nemotron-nas", num_hidden_layers=3, block_configs=blocks).layers
    inner = 1024  # 2 x 1.3125 x 1024 / 3 = 896, up to a multiple of 256
    assert first.parameters == 1024 * (16 + 2 * 2) * 64 + 16 * 64 * 1024 + 3 * 1024 * inner
    assert second.parameters == third.parameters == 1024 * 1024
    with pytest.raises(DataError, match="block_configs: expected a list with an entry for each of 4 layers"):
        load("nemotron-nas", num_hidden_layers=4, block_configs=blocks)


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024}, 8192),
        ({"type": "longrope", "short_factor": [1.0]}, 8192),
        ({"rope_type": "default", "rope_theta": 1e6}, 8192),
        ({"type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}, 16384),
        ({"type": "linear", "factor": 2.0}, 16384),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_the_context_under_scaled_positions(load, key: str, scaling: dict[str, Any] | None, tokens: int) -> None:
    assert load("llama", **{key: scaling}).max_context_tokens == tokens


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("qwen3", {"layer_types": ["full_attention"] * 11}, "layer_types: expected a list with an entry for each"),
        ("qwen3", {"layer_types": ["flash"] * 12}, "layer_types: expected entries out of full_attention, .*'flash'"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers: expected at most 10000 layers"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, got 'no'"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok: 9 exceeds"),
        ("deepseek_v3", {"kv_lora_rank": ...}, "missing kv_lora_rank"),
        ("deepseek_v3", {"kv_lora_rank": -1}, "kv_lora_rank: expected a whole number"),
        ("deepseek_v4", {"compress_ratios": [0, 4]}, "compress_ratios: expected one of 0, 4, 128"),
        ("nemotron_h", {"hybrid_override_pattern": "MXM"}, "hybrid_override_pattern: expected letters out of M"),
        ("nemotron_h", {"hybrid_override_pattern": "MEM"}, "num_hidden_layers: 12, but the pattern has 3"),
        ("kimi_linear", {"linear_attn_config": {"full_attn_layers": [1]}}, "must name each layer from 1 to 12 once"),
        ("qwen3_next", {"mamba_ssm_dtype": "float8"}, "mamba_ssm_dtype: expected one of float32"),
        ("llama", {"num_experts": 8}, "num_experts: a model with experts is no 'llama'"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": "4"}}, "rope_scaling: expected a factor"),
    ],
)  # fmt: skip
def test_faults_name_the_key(load, model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(model_type, **changes)


def test_a_profile_has_no_keys_that_its_type_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = data_path("profiles", "models", "qwen3-8b.yaml").read_text()
    path.write_text(text.replace("head_dim", "head_dimension"))
    with pytest.raises(DataError, match=r"mine\.yaml:\d+:1: head_dimension: unknown key.*did you mean 'head_dim'"):
        catalog.load_model(path)
    path.write_text(text.replace("hidden_size: 4096", "hidden_size: 4096.5"))
    with pytest.raises(DataError, match=r"mine\.yaml:\d+:1: hidden_size: expected a whole number"):
        catalog.load_model(path)
    path.write_text(text.replace("model_type: qwen3", "model_type: gemma3"))
    with pytest.raises(DataError, match="gemma3 has its text model in text_config"):
        catalog.load_model(path)


_WHEEL = importlib.util.find_spec("aiconfigurator_core")


@pytest.mark.skipif(_WHEEL is None, reason="aiconfigurator-core is not installed")
def test_every_model_that_aiconfigurator_ships_loads(tmp_path: Path) -> None:
    assert _WHEEL is not None
    assert _WHEEL.origin is not None or _WHEEL.submodule_search_locations
    root = Path(next(iter(_WHEEL.submodule_search_locations or ())))
    files = [path for path in sorted(root.glob("model_configs/*_config.json")) if "_hf_quant_" not in path.name]
    assert len(files) > 50
    refused = []
    for path in files:
        shutil.copy(path, tmp_path / "config.json")
        beside = path.with_name(path.name.replace("_config.json", "_hf_quant_config.json"))
        (tmp_path / "hf_quant_config.json").write_text(beside.read_text() if beside.exists() else "{}")
        try:
            model = catalog.load_model(tmp_path)
        except DataError as error:
            refused.append(f"{path.name}: {error}")
            continue
        assert model.parameters > 1e8
        assert any(layer.kv_bytes(model.kv_bits) for layer in model.layers)
    assert refused == []


def test_the_table_is_complete() -> None:
    assert set(FAMILIES) <= set(MODEL_TYPES)
    assert all(inner in MODEL_TYPES for inner in NESTED.values())
    assert set(MORE) <= set(MODEL_TYPES)
