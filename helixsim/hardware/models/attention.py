"""Attention over a cache of keys and values: grouped, sliding, and latent (MLA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from helixsim import jsonio
from helixsim.domain.layers import Attention, Matrix
from helixsim.hardware.models.config import Config
from helixsim.hardware.models.parts import Mixer, Part

Kind = Literal["full", "sliding", "linear"]
KindOf = Callable[[Config, int], str]
"""Kind of attention of a layer, ``full``, ``sliding``, ``chunked`` or ``linear``."""

LAYER_TYPES: Mapping[str, str] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
}
"""Entries of ``layer_types``."""

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_SCALE_BYTES = 4
"""Keys of an index are kept in FP8 with one 32-bit scale each (vLLM, ``DeepseekV32IndexerCache``: 132 B)."""


def layer_kind(otherwise: KindOf) -> KindOf:
    """Return the kind by ``layer_types`` where a model has it, else by the rule of its class."""

    def kind(config: Config, index: int) -> str:
        stated = config.per_layer("layer_types", config.whole("num_hidden_layers"), LAYER_TYPES)
        return stated[index] if stated else otherwise(config, index)

    return kind


def always_full(config: Config, index: int) -> str:
    """Every layer sees the whole context."""
    return "full"


def sliding_if_window(config: Config, index: int) -> str:
    """Every layer slides if the model has a window."""
    return "sliding" if config.value("sliding_window") is not None else "full"


def full_every(period: int, key: str = "", slides: str = "sliding") -> KindOf:
    """Return the rule that the last of each ``period`` layers sees the whole context; ``key`` may state the period."""

    def kind(config: Config, index: int) -> str:
        each = config.whole(key, default=period) if key else period
        return "full" if (index + 1) % each == 0 else slides

    return kind


def qwen_windows(config: Config, index: int) -> str:
    """Layers from ``max_window_layers`` on slide, if ``use_sliding_window`` says so."""
    from_layer = config.whole("max_window_layers", default=28, least=0)
    config.value("sliding_window")
    return "sliding" if config.flag("use_sliding_window") and index >= from_layer else "full"


def grouped(
    kind_of: KindOf = always_full, *, output_gate: bool = False, head_norms: bool = False
) -> Callable[[Config, Part], Mixer]:
    """Return attention of queries in groups that share keys and values.

    Parameters
    ----------
    kind_of
        Which layers see the whole context.
    output_gate
        Queries come with a gate of their own width (Qwen3-Next).
    head_norms
        Whether queries and keys are normalised, unless ``use_qk_norm`` says otherwise.
    """
    kinds = layer_kind(kind_of)

    def attend(config: Config, part: Part) -> Mixer:
        heads = config.whole("num_attention_heads")
        kv_heads = config.whole("num_key_value_heads", default=heads)
        width = head_width(config, heads)
        kind = kinds(config, part.index)
        return grouped_mixer(
            config,
            part,
            heads,
            kv_heads,
            width,
            width,
            window=window_of(config, kind),
            gate=heads * width * output_gate,
            head_norms=config.flag("use_qk_norm", default=head_norms),
        )

    return attend


def head_width(config: Config, heads: int) -> int:
    """Return the width of one head: ``head_dim``, else that of even shares of the hidden state."""
    hidden = config.whole("hidden_size")
    if config.value("head_dim", "attention_head_dim") is None and hidden < heads:
        raise config.fault(("hidden_size",), f"{hidden} is below the number of attention heads")
    return config.whole("head_dim", "attention_head_dim", default=hidden // heads)


def window_of(config: Config, kind: str) -> int | None:
    """Return the window of a layer of this kind [tokens]; None: the whole context."""
    if kind == "sliding":
        return config.whole("sliding_window")
    return config.whole("attention_chunk_size") if kind == "chunked" else None


def grouped_mixer(
    config: Config,
    part: Part,
    heads: int,
    kv_heads: int,
    width: int,
    value_width: int,
    *,
    window: int | None = None,
    gate: int = 0,
    modules: tuple[str, ...] = _QKV,
    output: str = "self_attn.o_proj",
    has_value: bool = True,
    has_kv: bool = True,
    head_norms: bool = False,
) -> Mixer:
    """Return grouped attention.

    Parameters
    ----------
    window
        Most tokens attended to and kept; None: all.
    gate
        Further outputs beside the queries.
    modules, output
        Names in the checkpoint.
    has_value
        False: values are computed as keys are, by the same weights; both are kept.
    has_kv
        False: keys and values are those of an earlier layer.
    head_norms
        Queries and keys are normalised.
    """
    if heads % kv_heads:
        raise config.fault(("num_attention_heads",), f"{heads} is no multiple of num_key_value_heads {kv_heads}")
    kept = kv_heads * (width + value_width) if has_kv else 0
    computed = kv_heads * (width + value_width * has_value) if has_kv else 0
    return Mixer(
        Attention(
            "sliding" if window else "full", heads, kv_heads, width, value_width, kept, window, head_norms=head_norms
        ),
        (
            part.matrix(
                "qkv", part.hidden, heads * width + gate + computed, modules, kv_outputs=computed, kv_heads=kv_heads
            ),
            part.matrix("attention_output", heads * value_width, part.hidden, (output,), split="inputs"),
        ),
    )


def falcon(config: Config, part: Part) -> Mixer:
    """Falcon: one head of keys and values unless the new architecture says how many."""
    heads = config.whole("num_attention_heads")
    is_new = config.flag("new_decoder_architecture")
    is_single = config.flag("multi_query", default=True) and not is_new
    stated = config.whole("num_kv_heads", "num_key_value_heads", default=heads)
    kv_heads = 1 if is_single else stated if is_new else heads
    width = head_width(config, heads)
    names = ("self_attention.query_key_value",)
    return grouped_mixer(config, part, heads, kv_heads, width, width, modules=names, output="self_attention.dense")


def gemma4(config: Config, part: Part) -> Mixer:
    """Gemma 4: wider and fewer heads where the whole context is seen, whose values may be their keys."""
    kind = layer_kind(full_every(6))(config, part.index)
    heads = config.whole("num_attention_heads")
    kv_heads = config.whole("num_key_value_heads")
    is_full, is_same = kind == "full", config.flag("attention_k_eq_v")
    global_heads = config.whole("num_global_key_value_heads", default=kv_heads)
    width, global_width = config.whole("head_dim"), config.whole("global_head_dim")
    count = config.whole("num_hidden_layers")
    reused = config.whole("num_kv_shared_layers", least=0)
    if is_full:
        width, kv_heads = global_width, global_heads if is_same else kv_heads
    return grouped_mixer(
        config,
        part,
        heads,
        kv_heads,
        width,
        width,
        window=window_of(config, kind),
        has_value=not (is_full and is_same),
        has_kv=part.index < count - reused,
    )


def mimo_v2(config: Config, part: Part) -> Mixer:
    """MiMo-V2: sliding layers have heads of their own."""
    pattern = config.per_layer("hybrid_layer_pattern", config.whole("num_hidden_layers"), {0: "full", 1: "sliding"})
    kind = pattern[part.index] if pattern else layer_kind(full_every(6))(config, part.index)
    own = {key: config.value(f"swa_{key}") for key in ("num_attention_heads", "num_key_value_heads", "head_dim")}
    prefix = "swa_" if kind == "sliding" and all(own.values()) else ""
    heads = config.whole(f"{prefix}num_attention_heads")
    kv_heads = config.whole(f"{prefix}num_key_value_heads")
    width = config.whole(f"{prefix}head_dim")
    value = config.whole(f"{prefix}v_head_dim", "v_head_dim")
    return grouped_mixer(config, part, heads, kv_heads, width, value, window=window_of(config, kind))


def step3(config: Config, part: Part) -> Mixer:
    """Step 3.7: sliding layers may have more heads, and every head has a gate."""
    kind = layer_kind(full_every(4))(config, part.index)
    heads = config.whole("num_attention_heads")
    other = config.section("attention_other_setting")
    sliding_heads = config.whole("num_sliding_attention_heads", default=heads)
    if other is not None:
        sliding_heads = other.whole("num_attention_heads", default=heads)
    heads = sliding_heads if kind == "sliding" else heads
    width = head_width(config, heads)
    kv_heads = config.whole("num_key_value_heads", "num_attention_groups")
    mixer = grouped_mixer(config, part, heads, kv_heads, width, width, window=window_of(config, kind))
    return replace(mixer, matrices=(*mixer.matrices, part.matrix("gate", part.hidden, heads, ("self_attn.g_proj",))))


def minimax_m3(config: Config, part: Part) -> Mixer:
    """MiniMax-M3: grouped attention whose queries pick blocks of keys by an index."""
    count = config.whole("num_hidden_layers")
    heads = config.whole("num_attention_heads")
    width = head_width(config, heads)
    mixer = grouped_mixer(config, part, heads, config.whole("num_key_value_heads"), width, width)
    sparse = config.section("sparse_attention_config")
    picked = sparse.per_layer("sparse_attention_freq", count, {0: "full", 1: "sparse"}) if sparse else None
    if sparse is None or picked is None or picked[part.index] == "full" or mixer.attention is None:
        return mixer
    index_heads, index_width = sparse.whole("sparse_num_index_heads"), sparse.whole("sparse_index_dim")
    attended = sparse.whole("sparse_topk_blocks") * sparse.whole("sparse_block_size")
    names = ("self_attn.index_q_proj", "self_attn.index_k_proj")
    return Mixer(
        replace(
            mixer.attention,
            attended_tokens=attended,
            index_bytes=2 * index_width,
            index_numbers=index_heads * index_width,
        ),
        (*mixer.matrices, part.matrix("index", part.hidden, (index_heads + 1) * index_width, names, split="none")),
    )


def latent(config: Config, part: Part) -> Mixer:
    """Multi-head latent attention (DeepSeek-V2): one compressed vector and one rotary key a token are kept.

    With ``index_topk`` (DeepSeek-V3.2, GLM-5) an index picks the tokens that a query attends to.
    """
    heads = config.whole("num_attention_heads")
    config.value("num_key_value_heads", "head_dim")  # often stated, but every head has keys and values of its own
    rank, rotary = config.whole("kv_lora_rank"), config.whole("qk_rope_head_dim")
    plain, value = config.whole("qk_nope_head_dim"), config.whole("v_head_dim")
    if "q_lora_rank" not in config.data:
        raise config.fault(("q_lora_rank",), "missing (null: queries are not compressed)")
    query_rank = config.value("q_lora_rank")
    matrices = (*_latent_queries(config, part, heads * (plain + rotary), rank + rotary),)
    matrices += (
        part.matrix("kv_b", rank, heads * (plain + value), ("self_attn.kv_b_proj",)),
        part.matrix("attention_output", heads * value, part.hidden, ("self_attn.o_proj",), split="inputs"),
    )
    if config.flag("mla_use_output_gate"):
        matrices += (part.matrix("gate", part.hidden, heads * value, ("self_attn.g_proj",)),)
    attention = Attention("latent", heads, 1, plain + rotary, value, rank + rotary)
    if config.value("index_topk") is None:
        return Mixer(attention, matrices)
    attention = replace(attention, attended_tokens=config.whole("index_topk"))
    index_heads, index_width = config.whole("index_n_heads"), config.whole("index_head_dim")
    if _reuses_index(config, part.index):
        return Mixer(attention, matrices)
    if query_rank is None:
        raise config.fault(("q_lora_rank",), "a model with index_topk needs it")
    index = (
        part.matrix(
            "index_q",
            config.whole("q_lora_rank"),
            index_heads * index_width,
            ("self_attn.indexer.wq_b",),
            split="none",
        ),
        part.matrix("index_k", part.hidden, index_width, ("self_attn.indexer.wk",), split="none"),
        part.matrix("index_weights", part.hidden, index_heads, (), split="none"),
    )
    return Mixer(
        replace(attention, index_bytes=index_width + _SCALE_BYTES, index_numbers=index_heads * index_width),
        (*matrices, *index),
    )


def _latent_queries(config: Config, part: Part, queries: int, compressed: int) -> tuple[Matrix, ...]:
    """Return the matrices of queries and of what is kept; both low-rank ones are multiplied at once, on every GPU."""
    if config.value("q_lora_rank") is None:
        return (
            part.matrix("q", part.hidden, queries, ("self_attn.q_proj",)),
            part.matrix("kv_a", part.hidden, compressed, ("self_attn.kv_a_proj_with_mqa",), split="none"),
        )
    rank = config.whole("q_lora_rank")
    names = ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa")
    return (
        part.matrix("qkv_a", part.hidden, rank + compressed, names, split="none"),
        part.matrix("q_b", rank, queries, ("self_attn.q_b_proj",)),
    )


def _reuses_index(config: Config, index: int) -> bool:
    """Whether a layer takes the tokens that an earlier one picked (GLM-5.2; rule of ``GlmMoeDsaConfig``)."""
    count = config.whole("num_hidden_layers")
    types = config.per_layer("indexer_types", count, {"full": "full", "shared": "shared"})
    pattern = config.value("index_topk_pattern")
    if isinstance(pattern, str):
        types = Config(config.where, {"index_topk_pattern": list(pattern)}).per_layer(
            "index_topk_pattern", count, {"F": "full", "S": "shared"}
        )
    if types:
        return types[index] == "shared"
    period = config.whole("index_topk_freq", default=1)
    return max(index - config.whole("index_skip_topk_offset", default=2, least=0) + 1, 0) % period != 0


def compressed(config: Config, part: Part) -> Mixer:
    """DeepSeek-V4: a short window of single tokens, and one entry for each ``ratio`` tokens before it.

    An entry is as wide as a head; it stands for ``ratio`` tokens, so its width is shared among them: bytes and work per
    token of context come out right. The window is a state of fixed size.
    """
    count = config.whole("num_hidden_layers")
    ratios = config.wholes("compress_ratios")
    if ratios is None or len(ratios) < count or any(ratio not in (0, 4, 128) for ratio in ratios[:count]):
        got = jsonio.shown(config.value("compress_ratios"))
        raise config.fault(
            ("compress_ratios",),
            f"expected one of 0, 4, 128 for each of {count} layers, got {got}",
        )
    ratio = ratios[part.index]
    heads, width = config.whole("num_attention_heads"), config.whole("head_dim")
    rank, groups, output_rank = config.whole("q_lora_rank"), config.whole("o_groups"), config.whole("o_lora_rank")
    window = config.whole("sliding_window")
    index_heads, index_width = config.whole("index_n_heads"), config.whole("index_head_dim")
    streams = config.whole("hc_mult")
    matrices = [
        part.matrix("qkv_a", part.hidden, rank + width, ("attn.wq_a", "attn.wkv"), split="none"),
        part.matrix("q_b", rank, heads * width, ("attn.wq_b",)),
        part.matrix("output_a", heads * width // groups, groups * output_rank, ("attn.wo_a",)),
        part.matrix("attention_output", groups * output_rank, part.hidden, ("attn.wo_b",), split="inputs"),
    ]
    if ratio:
        doubled = 2 if ratio == 4 else 1  # overlapping windows have two sets of weights
        size = 2 * doubled * width  # keys (also values), and their gates
        matrices.append(part.matrix("compressor", part.hidden, size, (), split="none"))
    attention = Attention("sliding", heads, 1, width, width, width, window)
    if ratio:
        shared = math.ceil(width / ratio)
        attention = Attention("latent", heads, 1, shared, shared, shared, state_bytes=2 * window * width)
    if ratio == 4:
        matrices += [
            part.matrix("index_q", rank, index_heads * index_width, ("attn.indexer.wq_b",), split="none"),
            part.matrix("index_k", part.hidden, 4 * index_width, (), split="none"),
            part.matrix("index_weights", part.hidden, index_heads, (), split="none"),
        ]
        index_bytes = math.ceil((index_width + _SCALE_BYTES) / ratio)
        attended = config.whole("index_topk") * ratio
        numbers = math.ceil(index_heads * index_width / ratio)  # one key of the index stands for ``ratio`` tokens
        attention = replace(attention, attended_tokens=attended, index_bytes=index_bytes, index_numbers=numbers)
    mixing = 2 * (2 + streams) * streams * streams * part.hidden * 4  # two hyper-connections a layer, 32 bits
    return Mixer(attention, tuple(matrices), mixing)
