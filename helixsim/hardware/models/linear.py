"""Layers that keep a state of fixed size for each sequence: state-space models and linear attention.

Engines keep the recurrent state and the last inputs of the short convolution. The recurrence itself costs no matrix of
weights; its time is that of reading and writing the state.
"""

from __future__ import annotations

from helixsim.domain.layers import Attention
from helixsim.hardware.models.config import Config
from helixsim.hardware.models.parts import Mixer, Part

_HALF = 2  # bytes of a 16-bit number
_SINGLE = 4
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def _state_width(config: Config, key: str) -> int:
    """Return the bytes of one number of the recurrent state."""
    dtype = str(config.value(key))
    if dtype not in _DTYPE_BYTES:
        raise config.fault((key,), f"expected one of {', '.join(_DTYPE_BYTES)}, got {dtype!r}")
    return _DTYPE_BYTES[dtype]


def _short_convolution(channels: int, kernel: int) -> tuple[int, int]:
    """Return bytes of the weights, and of the inputs kept for each sequence [B]."""
    return channels * kernel * _HALF, channels * (kernel - 1) * _HALF


def mamba2(config: Config, part: Part, *, hybrid: str = "nemotron") -> Mixer:
    """Mamba-2 (Dao and Gu, 2024) as in Nemotron-H and, with other names of keys, Granite 4."""
    if hybrid == "nemotron":
        heads, width = config.whole("mamba_num_heads"), config.whole("mamba_head_dim")
        groups, state = config.whole("n_groups"), config.whole("ssm_state_size")
        kernel, block = config.whole("conv_kernel"), "mixer"
    else:
        heads = config.whole("mamba_n_heads")
        inner = config.whole("mamba_expand") * part.hidden
        width = inner // heads
        groups, state = config.whole("mamba_n_groups"), config.whole("mamba_d_state")
        kernel, block = config.whole("mamba_d_conv"), "mamba"
    inner = heads * width
    channels = inner + 2 * groups * state
    weights, kept = _short_convolution(channels, kernel)
    kept += heads * width * state * _state_width(config, "mamba_ssm_cache_dtype")
    return Mixer(
        Attention("linear", heads, groups, state, width, 0, state_bytes=kept),
        (
            part.matrix("state_input", part.hidden, inner + channels + heads, (f"{block}.in_proj",)),
            part.matrix("state_output", inner, part.hidden, (f"{block}.out_proj",), split="inputs"),
        ),
        weights,
    )


def gated_delta(config: Config, part: Part) -> Mixer:
    """Gated delta net (Yang et al., 2024) as in Qwen3-Next and Qwen3.5."""
    key_heads, value_heads = config.whole("linear_num_key_heads"), config.whole("linear_num_value_heads")
    key_width, value_width = config.whole("linear_key_head_dim"), config.whole("linear_value_head_dim")
    keys, values = key_heads * key_width, value_heads * value_width
    channels = 2 * keys + values
    weights, kept = _short_convolution(channels, config.whole("linear_conv_kernel_dim"))
    kept += value_heads * key_width * value_width * _state_width(config, "mamba_ssm_dtype")
    projections = ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z")
    return Mixer(
        Attention("linear", value_heads, key_heads, key_width, value_width, 0, state_bytes=kept),
        (
            part.matrix("state_input", part.hidden, channels + values, projections),
            part.matrix(
                "state_gates", part.hidden, 2 * value_heads, ("linear_attn.in_proj_b", "linear_attn.in_proj_a")
            ),
            part.matrix("state_output", values, part.hidden, ("linear_attn.out_proj",), split="inputs"),
        ),
        weights,
    )


def kimi_delta(config: Config, part: Part, linear: Config) -> Mixer:
    """Kimi delta attention (Kimi Linear, 2025): a gate for each channel, low-rank or full."""
    heads, width = linear.whole("num_heads"), linear.whole("head_dim")
    inner = heads * width
    weights, kept = _short_convolution(3 * inner, linear.whole("short_conv_kernel_size"))
    kept += heads * width * width * _SINGLE
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate = (
        (part.matrix("state_gate", part.hidden, inner, ("self_attn.g_proj",)),)
        if linear.flag("use_full_rank_gate")
        else (
            part.matrix("state_gate_a", part.hidden, width, ("self_attn.g_a_proj",), split="none"),
            part.matrix("state_gate_b", width, inner, ("self_attn.g_b_proj",)),
        )
    )
    return Mixer(
        Attention("linear", heads, heads, width, width, 0, state_bytes=kept),
        (
            part.matrix("state_input", part.hidden, 3 * inner, qkv),
            part.matrix("state_beta", part.hidden, heads, ("self_attn.b_proj",)),
            part.matrix("state_forget_a", part.hidden, width, ("self_attn.f_a_proj",), split="none"),
            part.matrix("state_forget_b", width, inner, ("self_attn.f_b_proj",)),
            *gate,
            part.matrix("state_output", inner, part.hidden, ("self_attn.o_proj",), split="inputs"),
        ),
        weights,
    )


def lightning(config: Config, part: Part, heads: int, width: int) -> Mixer:
    """Lightning attention (MiniMax-01): linear attention with a decay for each head and an output gate."""
    inner = heads * width
    return Mixer(
        Attention("linear", heads, heads, width, width, 0, state_bytes=heads * width * width * _SINGLE),
        (
            part.matrix("state_input", part.hidden, 3 * inner, ("self_attn.qkv_proj",)),
            part.matrix("state_gate", part.hidden, inner, ("self_attn.output_gate",)),
            part.matrix("state_output", inner, part.hidden, ("self_attn.out_proj",), split="inputs"),
        ),
    )
