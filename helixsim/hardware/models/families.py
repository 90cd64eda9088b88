"""What each ``model_type`` is made of, and what its class takes for keys that a ``config.json`` leaves out.

Defaults are those of ``configuration_<model_type>.py`` in transformers 5.23 unless a line says otherwise. A type that
is not in the table is refused: a near name may have other layers.
"""

from __future__ import annotations

from collections.abc import Mapping

from helixsim.errors import unknown_name
from helixsim.hardware.models import attention, feed_forward, hybrid
from helixsim.hardware.models.family import Family
from helixsim.hardware.models.feed_forward import Routed

_MIXTURE = ("num_local_experts", "num_experts_per_tok")


_FULL = attention.grouped()
_WINDOW = attention.grouped(attention.sliding_if_window)
_QWEN = attention.grouped(attention.qwen_windows)
_QWEN3 = attention.grouped(attention.qwen_windows, head_norms=True)
_DEEPSEEK = Routed(
    feed_forward.after_first,
    ("n_routed_experts", "num_experts", "num_local_experts"),
    shared_count=("n_shared_experts",),
)
_BLOCK_SPARSE = Routed(inner=("intermediate_size",), block="block_sparse_moe", expert=("w1", "w3", "w2"))
_QWEN_SHARED = Routed(
    feed_forward.qwen_sparse,
    ("num_experts",),
    shared_inner=("shared_expert_intermediate_size",),
    shared="shared_expert",
    shared_gate=True,
)
_LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_ROUTED = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
_LINEAR = "a linear-attention or state-space layer is counted as its matrices and a state of fixed size per sequence"
_CHUNKED = "attention in chunks is counted as a sliding window of the chunk's length, the most it can see"
_GPT_OSS = Routed(inner=("intermediate_size",), expert=("gate_up_proj", "gate_up_proj", "down_proj"))

_QWEN_NEXT = {
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "mamba_ssm_dtype": "float32",  # vLLM keeps the state so where a model says nothing else
}
_NEMOTRON_H = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "conv_kernel": 4,
    "mamba_ssm_cache_dtype": "float32",
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 7688,
}
_GEMMA3 = {  # Gemma3TextConfig; released files leave out what equals it
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131072,
}
_MINIMAX_M3 = Family(
    attention.minimax_m3,
    Routed(
        feed_forward.after_first,
        inner=("moe_intermediate_size", "intermediate_size"),
        dense_inner=("dense_intermediate_size",),
        block="block_sparse_moe",
        expert=("w1", "w3", "w2"),
        shared_inner=("shared_intermediate_size",),
        shared_count=("n_shared_experts",),
    ),
    ("num_local_experts", "num_experts_per_tok", "dense_intermediate_size"),
    {"num_key_value_heads": 4, "head_dim": 128},
    notes=("the index of sparse attention is kept in 16 bits",),
)
_DEEPSEEK_V3 = Family(
    attention.latent,
    _DEEPSEEK,
    (*_LATENT, *_ROUTED, "intermediate_size"),
    {"first_k_dense_replace": 3, "n_shared_experts": 1},
)
_DEEPSEEK_V4 = Family(
    attention.compressed,
    Routed(
        count=("n_routed_experts",),
        block="ffn",
        expert=("w1", "w3", "w2"),
        shared_count=("n_shared_experts",),
    ),
    (*_ROUTED, "compress_ratios"),
    {
        "head_dim": 512,
        "q_lora_rank": 1024,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "sliding_window": 128,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
        "hc_mult": 4,
        "n_shared_experts": 1,
    },
    notes=(
        "compressed attention is counted as entries that are shared by the tokens they stand for, its window of single "
        "tokens as a state of fixed size per sequence",
        "hyper-connections are counted in bytes alone",
    ),
)
_LLAMA4 = Family(
    attention.grouped(attention.full_every(4, "no_rope_layer_interval", "chunked")),
    Routed(
        feed_forward.llama4_sparse,
        ("num_local_experts",),
        inner=("intermediate_size",),
        dense_inner=("intermediate_size_mlp",),
        block="feed_forward",
        shared_inner=("intermediate_size",),
        shared="shared_expert",
    ),
    ("intermediate_size", "intermediate_size_mlp", "num_local_experts"),
    {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "vocab_size": 202048,
        "max_position_embeddings": 131072,
    },
    notes=(_CHUNKED,),
)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(_FULL, feed_forward.gated),
    "mistral": Family(_WINDOW, feed_forward.gated, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "ministral": Family(_WINDOW, feed_forward.gated, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "ministral3": Family(_WINDOW, feed_forward.gated, defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "mixtral": Family(_WINDOW, _BLOCK_SPARSE, ("intermediate_size", *_MIXTURE), {"num_key_value_heads": 8}),
    "qwen2": Family(_QWEN, feed_forward.gated, defaults={"sliding_window": 4096}),
    "qwen2_moe": Family(
        _QWEN,
        Routed(
            feed_forward.qwen_sparse,
            ("num_experts",),
            shared_inner=("shared_expert_intermediate_size",),
            shared="shared_expert",
            shared_gate=True,
        ),
        ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "intermediate_size"),
        {"shared_expert_intermediate_size": 5632, "sliding_window": 4096},
    ),
    "qwen3": Family(_QWEN3, feed_forward.gated, defaults={"head_dim": 128, "sliding_window": 4096}),
    "qwen3_moe": Family(
        _QWEN3,
        Routed(feed_forward.qwen_sparse, ("num_experts", "num_local_experts")),
        ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "intermediate_size"),
        {"num_key_value_heads": 4, "sliding_window": 4096},
    ),
    "qwen3_next": Family(
        hybrid.qwen_next,
        _QWEN_SHARED,
        ("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        {**_QWEN_NEXT, "shared_expert_intermediate_size": 512},
        notes=(_LINEAR,),
    ),
    "qwen3_5_text": Family(
        hybrid.qwen_next, feed_forward.gated, defaults={**_QWEN_NEXT, "num_key_value_heads": 4}, notes=(_LINEAR,)
    ),
    "qwen3_5_moe_text": Family(
        hybrid.qwen_next,
        _QWEN_SHARED,
        ("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        {**_QWEN_NEXT, "shared_expert_intermediate_size": 512},
        notes=(_LINEAR,),
    ),
    "gemma": Family(_FULL, feed_forward.gated, defaults={"head_dim": 256}, is_tied=True),
    "gemma2": Family(
        attention.grouped(attention.full_every(2)),
        feed_forward.gated,
        defaults={"head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096},
        is_tied=True,
    ),
    "gemma3_text": Family(
        attention.grouped(attention.full_every(6, "sliding_window_pattern"), head_norms=True),
        feed_forward.gated,
        defaults=_GEMMA3,
        is_tied=True,
    ),
    "gemma4_text": Family(
        attention.gemma4,
        feed_forward.gemma4,
        defaults={
            "vocab_size": 262144,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "global_head_dim": 512,
            "sliding_window": 512,
            "max_position_embeddings": 131072,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144,
        },
        is_tied=True,
    ),
    "phi3": Family(_WINDOW, feed_forward.gated),
    "phimoe": Family(_WINDOW, _BLOCK_SPARSE, ("intermediate_size", *_MIXTURE), {"num_key_value_heads": 8}),
    "olmo": Family(_FULL, feed_forward.gated),
    "olmo2": Family(attention.grouped(head_norms=True), feed_forward.gated),
    "olmo3": Family(
        attention.grouped(attention.full_every(4), head_norms=True),
        feed_forward.gated,
        defaults={"sliding_window": 4096},
    ),
    "olmoe": Family(
        attention.grouped(head_norms=True),
        Routed(count=("num_experts",), inner=("intermediate_size",)),
        ("num_experts", "num_experts_per_tok", "intermediate_size"),
    ),
    "granite": Family(_FULL, feed_forward.gated),
    "granitemoe": Family(_FULL, _BLOCK_SPARSE, ("intermediate_size", *_MIXTURE)),
    "granitemoehybrid": Family(
        hybrid.granite_mixer,
        hybrid.granite_feed,
        ("shared_intermediate_size", "num_local_experts"),
        {
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_ssm_cache_dtype": "bfloat16",  # no such key; vLLM keeps the state in the format of the model
        },
        notes=(_LINEAR,),
    ),
    "falcon": Family(attention.falcon, feed_forward.falcon, (), {"max_position_embeddings": 2048}, is_tied=True),
    "glm": Family(_FULL, feed_forward.gated, defaults={"num_key_value_heads": 2, "head_dim": 128}),
    "glm4": Family(_FULL, feed_forward.gated, defaults={"num_key_value_heads": 2, "head_dim": 128}),
    "glm4_moe": Family(
        _FULL,
        _DEEPSEEK,
        (*_ROUTED, "intermediate_size"),
        {"num_key_value_heads": 8, "first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
    "glm_moe_dsa": Family(
        attention.latent,
        _DEEPSEEK,
        (*_LATENT, *_ROUTED, "intermediate_size", "q_lora_rank"),
        {
            "first_k_dense_replace": 3,
            "n_shared_experts": 1,
            "index_topk": 2048,
            "index_n_heads": 32,
            "index_head_dim": 128,
        },
    ),
    "deepseek_v2": Family(
        attention.latent,
        _DEEPSEEK,
        (*_LATENT, *_ROUTED, "intermediate_size"),
        {"first_k_dense_replace": 0, "n_shared_experts": 2},
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,  # its architecture is DeepseekV3ForCausalLM
    "deepseek_v32": Family(
        attention.latent,
        _DEEPSEEK,
        (*_LATENT, *_ROUTED, "intermediate_size", "q_lora_rank"),
        {
            "first_k_dense_replace": 3,
            "n_shared_experts": 1,
            "index_topk": 2048,
            "index_n_heads": 64,
            "index_head_dim": 128,
        },
    ),
    "deepseek_v4": _DEEPSEEK_V4,
    "deepseek_ref": _DEEPSEEK_V4,  # what SGLang's FP8 files of DeepSeek-V4 say; architecture DeepseekV4ForCausalLM
    "kimi_linear": Family(
        hybrid.kimi_linear,
        feed_forward.kimi_linear,
        (*_LATENT, "moe_intermediate_size", "intermediate_size", "linear_attn_config"),
        {"n_shared_experts": 1, "first_k_dense_replace": 1, "max_position_embeddings": 1048576},
        notes=(_LINEAR,),
    ),
    "gpt_oss": Family(
        attention.grouped(lambda _, index: "full" if index % 2 else "sliding"),
        _GPT_OSS,
        ("intermediate_size", *_MIXTURE),
        {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128},
    ),
    "llama4_text": _LLAMA4,
    "minimax": Family(
        hybrid.minimax_linear,
        _BLOCK_SPARSE,
        ("intermediate_size", *_MIXTURE),
        {"num_key_value_heads": 8},
        notes=(_LINEAR,),
    ),
    "minimax_m2": Family(
        attention.grouped(head_norms=True),
        _BLOCK_SPARSE,
        ("intermediate_size", *_MIXTURE),
        {"num_key_value_heads": 8, "head_dim": 128},
    ),
    "minimax_m3": _MINIMAX_M3,
    "mimo": Family(_QWEN, feed_forward.gated),  # XiaomiMiMo/MiMo-7B: a Qwen2 with draft layers
    "mimo_v2_flash": Family(
        attention.mimo_v2,
        Routed(feed_forward.after_first, ("n_routed_experts",), shared_count=("n_shared_experts",)),
        (*_ROUTED, "intermediate_size"),
        {"num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "sliding_window": 128},
    ),
    "step3p7": Family(
        attention.step3,
        Routed(
            feed_forward.after_first,
            ("num_experts", "n_routed_experts", "moe_num_experts"),
            ("num_experts_per_tok", "moe_top_k"),
            shared_inner=("share_expert_dim", "share_expert_dims"),
            shared="share_expert",
        ),
        ("intermediate_size", "moe_intermediate_size", "layer_types"),
        {"head_dim": 128, "first_k_dense_replace": 3},
    ),
    "nemotron": Family(_FULL, feed_forward.ungated),
    "nemotron_h": Family(
        hybrid.nemotron_mixer,
        hybrid.nemotron_feed,
        (),
        _NEMOTRON_H,
        notes=(_LINEAR,),
        count=lambda config: len(hybrid.nemotron_blocks(config)),
    ),
    "nemotron-nas": Family(hybrid.pruned_mixer, hybrid.pruned_feed, ("block_configs",)),
}
"""By ``model_type``."""

_ALIASES = {
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "step3p5": "step3p7",
    "minimax_m3_vl_text": "minimax_m3",
}
"""Types whose layers are those of another one (the class of their text model is derived from it in transformers)."""

NESTED: Mapping[str, str] = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_linear",
    "llama4": "llama4_text",
    "minimax_m3_vl": "minimax_m3",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
}
"""Types whose text model is in ``text_config``, and its type where it does not say so itself."""

MODEL_TYPES: tuple[str, ...] = tuple(sorted({*FAMILIES, *_ALIASES}))
"""Values of ``model_type`` of text models that are understood."""


def family_of(model_type: str) -> Family | None:
    """Return the family of a text model, None if the type is not understood."""
    return FAMILIES.get(_ALIASES.get(model_type, model_type))


def strange_type(model_type: str) -> str:
    """Return why a ``model_type`` is not understood; empty if it is."""
    if family_of(model_type) or model_type in NESTED:
        return ""
    return unknown_name("model_type", model_type, sorted({*MODEL_TYPES, *NESTED}))
