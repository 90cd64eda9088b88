"""Models whose layers differ in what they are: state-space, attention and feed-forward layers in a pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helixsim import jsonio
from helixsim.hardware.models import attention, feed_forward, linear
from helixsim.hardware.models.config import Config
from helixsim.hardware.models.parts import Feed, Mixer, Part

_LETTERS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
_BLOCKS = {name: name for name in ("mamba", "attention", "moe", "mlp")}


def nemotron_blocks(config: Config) -> tuple[str, ...]:
    """Return what each layer of a Nemotron-H is: ``mamba``, ``attention``, ``moe`` or ``mlp``."""
    pattern = config.value("hybrid_override_pattern")
    if pattern is None:
        named = config.value("layers_block_type")
        count = len(named) if isinstance(named, list) else 1
        blocks = config.per_layer("layers_block_type", count, _BLOCKS)
        if not blocks:
            config.require(["layers_block_type"], "a nemotron_h model")
        found = blocks or ()
    elif isinstance(pattern, str) and pattern and set(pattern) <= set(_LETTERS):
        found = tuple(_LETTERS[letter] for letter in pattern)
    else:
        known = ", ".join(f"{letter} ({name})" for letter, name in _LETTERS.items())
        raise config.fault(
            ("hybrid_override_pattern",), f"expected letters out of {known}, got {jsonio.shown(pattern)}"
        )
    stated = config.whole("num_hidden_layers", default=len(found))
    if stated != len(found):
        raise config.fault(("num_hidden_layers",), f"{stated}, but the pattern has {len(found)} layers")
    return found


def nemotron_mixer(config: Config, part: Part) -> Mixer:
    """Nemotron-H: a Mamba-2 or attention layer; nothing in a feed-forward layer."""
    block = nemotron_blocks(config)[part.index]
    if block == "mamba":
        return linear.mamba2(config, part)
    if block != "attention":
        return Mixer()
    heads = config.whole("num_attention_heads")
    width = attention.head_width(config, heads)
    names = ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj")
    kv_heads = config.whole("num_key_value_heads")
    return attention.grouped_mixer(config, part, heads, kv_heads, width, width, modules=names, output="mixer.o_proj")


def nemotron_feed(config: Config, part: Part) -> Feed:
    """Nemotron-H: a feed-forward layer of two matrices, or of experts that may work on a narrower state."""
    block = nemotron_blocks(config)[part.index]
    if block == "mlp":
        return feed_forward.dense_feed(part, config.whole("intermediate_size"), "mixer", is_gated=False)
    if block != "moe":
        return Feed()
    count, per_token = feed_forward.experts_of(config, ("n_routed_experts",), ("num_experts_per_tok",))
    width = config.whole("moe_latent_size", default=part.hidden)
    inner = config.whole("moe_intermediate_size")
    feed = feed_forward.routed_feed(part, count, per_token, inner, "mixer", width=width, is_gated=False)
    shared = config.whole("n_shared_experts", least=0) * config.whole("moe_shared_expert_intermediate_size", least=0)
    names = ("mixer.fc1_latent_proj", "mixer.fc2_latent_proj")
    matrices = (*feed.matrices, *feed_forward.narrowing(part, width, names))
    if shared:
        beside = feed_forward.dense_feed(part, shared, "mixer.shared_experts", is_gated=False, label="shared_")
        matrices += beside.matrices
    return Feed(matrices, feed.experts, feed.width + shared)


def qwen_next(config: Config, part: Part) -> Mixer:
    """Qwen3-Next and Qwen3.5: gated delta nets, and each fourth layer attention with an output gate."""
    period = config.whole("full_attention_interval", default=4)
    kind = attention.layer_kind(attention.full_every(period, slides="linear"))(config, part.index)
    if kind == "linear":
        return linear.gated_delta(config, part)
    has_gate = config.flag("attn_output_gate", default=True)
    return attention.grouped(lambda *_: kind, output_gate=has_gate)(config, part)


def kimi_linear(config: Config, part: Part) -> Mixer:
    """Kimi Linear and K3: delta attention, and latent attention in some layers (numbered from 1 in the checkpoint)."""
    section = config.section("linear_attn_config")
    if section is None:
        raise config.fault(("linear_attn_config",), "missing; a kimi_linear model needs it")
    full, linear_layers = section.wholes("full_attn_layers") or (), section.wholes("kda_layers") or ()
    count = config.whole("num_hidden_layers")
    if sorted((*full, *linear_layers)) != list(range(1, count + 1)):
        raise section.fault(("full_attn_layers",), f"with kda_layers it must name each layer from 1 to {count} once")
    if part.index + 1 in full:
        return attention.latent(config, part)
    return linear.kimi_delta(config, part, section)


def minimax_linear(config: Config, part: Part) -> Mixer:
    """MiniMax-01: lightning attention and full attention in turn."""
    count = config.whole("num_hidden_layers")
    types = config.per_layer("attn_type_list", count, {0: "linear", 1: "full"})
    kind = types[part.index] if types else attention.layer_kind(_lightning_first)(config, part.index)
    heads = config.whole("num_attention_heads")
    width = attention.head_width(config, heads)
    if kind == "linear":
        return linear.lightning(config, part, heads, width)
    return attention.grouped_mixer(config, part, heads, config.whole("num_key_value_heads"), width, width)


def _lightning_first(config: Config, index: int) -> str:
    return "full" if index % 2 else "linear"  # default of MiniMaxConfig


def granite_mixer(config: Config, part: Part) -> Mixer:
    """Granite 4 (granitemoehybrid): Mamba-2 or attention."""
    kind = attention.layer_kind(attention.always_full)(config, part.index)
    if kind == "linear":
        return linear.mamba2(config, part, hybrid="granite")
    return attention.grouped(lambda *_: kind)(config, part)


def granite_feed(config: Config, part: Part) -> Feed:
    """Granite 4: a dense part, and experts beside it in some models."""
    shared = config.whole("shared_intermediate_size")
    feed = feed_forward.dense_feed(part, shared, "shared_mlp", label="shared_")
    if config.whole("num_local_experts", least=0) == 0:
        return feed
    count, per_token = feed_forward.experts_of(config, ("num_local_experts",), ("num_experts_per_tok",))
    inner = config.whole("intermediate_size")
    routed = feed_forward.routed_feed(part, count, per_token, inner, "block_sparse_moe")
    return Feed((*routed.matrices, *feed.matrices), routed.experts, routed.width + shared)


def pruned_mixer(config: Config, part: Part) -> Mixer:
    """Puzzle-pruned Nemotron (nemotron-nas): attention, none, or one matrix in its place."""
    block = _pruned_block(config, part.index, "attention")
    if block.get("no_op"):
        return Mixer()
    if block.get("replace_with_linear"):
        return Mixer(None, (part.matrix("linear", part.hidden, part.hidden, ("self_attn.linear_attn",)),))
    heads = config.whole("num_attention_heads")
    width = attention.head_width(config, heads)
    group = _figure(config, block, "n_heads_in_group")
    if not isinstance(group, int) or heads % group:
        raise config.fault(("block_configs",), f"n_heads_in_group {group} does not divide {heads} heads")
    window = block.get("window_length")
    if window is not None and (not isinstance(window, int) or window < 1):
        raise config.fault(("block_configs",), f"window_length: expected tokens, got {jsonio.shown(window)}")
    return attention.grouped_mixer(config, part, heads, heads // group, width, width, window=window)


def pruned_feed(config: Config, part: Part) -> Feed:
    """Puzzle-pruned Nemotron: a gated part as wide as its factor says, none, or one matrix in its place."""
    block = _pruned_block(config, part.index, "ffn")
    if block.get("no_op"):
        return Feed()
    if block.get("replace_with_linear"):
        return Feed((part.matrix("linear", part.hidden, part.hidden, ("mlp.linear_mlp",)),))
    inner = int(2 * _figure(config, block, "ffn_mult") * part.hidden / 3)
    return feed_forward.dense_feed(part, -(-inner // 256) * 256)  # a multiple of 256, as DeciLM's code rounds it


def _pruned_block(config: Config, index: int, what: str) -> Mapping[str, Any]:
    blocks = config.value("block_configs")
    count = config.whole("num_hidden_layers")
    if not isinstance(blocks, list) or len(blocks) != count:
        raise config.fault(("block_configs",), f"expected a list with an entry for each of {count} layers")
    block = blocks[index].get(what) if isinstance(blocks[index], Mapping) else None
    if not isinstance(block, Mapping):
        raise config.fault(("block_configs",), f"entry {index}: expected a mapping with {what}")
    return block


def _figure(config: Config, block: Mapping[str, Any], key: str) -> float:
    value = block.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1000:
        raise config.fault(("block_configs",), f"{key}: expected a number above 0, got {jsonio.shown(value)}")
    return value
