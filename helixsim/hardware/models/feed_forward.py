"""Feed-forward parts: dense, routed experts, shared experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from helixsim.domain.layers import Experts, Matrix
from helixsim.hardware.models.config import Config
from helixsim.hardware.models.parts import Feed, Part

Feeder = Callable[[Config, Part], Feed]
IsSparse = Callable[[Config, int], bool]
"""Whether a layer has experts."""


def dense_feed(part: Part, inner: int, name: str = "mlp", *, is_gated: bool = True, label: str = "") -> Feed:
    """Return a feed-forward part of ``inner`` numbers: gate, up and down, or without a gate up and down."""
    up = (f"{name}.gate_proj", f"{name}.up_proj") if is_gated else (f"{name}.up_proj",)
    first = f"{label}gate_up" if is_gated else f"{label}up"
    return Feed(
        (
            part.matrix(first, part.hidden, inner * (1 + is_gated), up),
            part.matrix(f"{label}down", inner, part.hidden, (f"{name}.down_proj",), split="inputs"),
        ),
        width=inner,
    )


def gated(config: Config, part: Part) -> Feed:
    """Return a gated feed-forward part (SwiGLU, GeGLU)."""
    return dense_feed(part, config.whole("intermediate_size"))


def ungated(config: Config, part: Part) -> Feed:
    """Return a feed-forward part of two matrices (squared ReLU)."""
    return dense_feed(part, config.whole("intermediate_size"), is_gated=False)


def falcon(config: Config, part: Part) -> Feed:
    """Falcon: two matrices, four times as wide as the hidden state unless said otherwise."""
    inner = config.whole("ffn_hidden_size", default=4 * part.hidden)
    return Feed(
        (
            part.matrix("up", part.hidden, inner, ("mlp.dense_h_to_4h",)),
            part.matrix("down", inner, part.hidden, ("mlp.dense_4h_to_h",), split="inputs"),
        ),
        width=inner,
    )


def everywhere(config: Config, index: int) -> bool:
    """Every layer has experts."""
    return True


def qwen_sparse(config: Config, index: int) -> bool:
    """Each ``decoder_sparse_step``-th layer but ``mlp_only_layers`` (transformers, ``Qwen3MoeDecoderLayer``)."""
    plain = config.wholes("mlp_only_layers") or ()
    step = config.whole("decoder_sparse_step", default=1)
    return index not in plain and (index + 1) % step == 0


def after_first(config: Config, index: int) -> bool:
    """Layers behind the first ``first_k_dense_replace``, or those that a list names (DeepSeek, GLM, MiMo, MiniMax)."""
    count = config.whole("num_hidden_layers")
    config.value("first_k_dense_replace", "moe_layer_freq")
    types = config.per_layer("mlp_layer_types", count, {"dense": "dense", "sparse": "sparse"})
    if types is None and isinstance(config.value("moe_layer_freq"), list):
        types = config.per_layer("moe_layer_freq", count, {0: "dense", 1: "sparse"})
    if types:
        return types[index] == "sparse"
    period = config.whole("moe_layer_freq", default=1)
    return index >= config.whole("first_k_dense_replace", default=0, least=0) and index % period == 0


def llama4_sparse(config: Config, index: int) -> bool:
    """``moe_layers``, else each ``interleave_moe_layer_step``-th layer."""
    named = config.wholes("moe_layers")
    return index in named if named else (index + 1) % config.whole("interleave_moe_layer_step") == 0


@dataclass(frozen=True, slots=True)
class Routed:
    """Feed-forward parts with routed experts in some layers.

    Parameters
    ----------
    is_sparse
        Which layers have experts.
    count, per_token, inner, dense_inner
        Keys of the number of experts, of how many serve a token, and of intermediate sizes.
    block
        Name of the part in the checkpoint.
    expert
        Names of gate, up and down of an expert.
    shared_inner, shared_count
        Keys of the size of shared experts and of their number; the size of a routed one if there is only a number.
    shared
        Name of the shared experts in the checkpoint.
    shared_gate
        The shared expert is weighted by a gate of one output (Qwen).
    """

    is_sparse: IsSparse = everywhere
    count: tuple[str, ...] = ("num_local_experts", "num_experts", "n_routed_experts")
    per_token: tuple[str, ...] = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token")
    inner: tuple[str, ...] = ("moe_intermediate_size",)
    dense_inner: tuple[str, ...] = ("intermediate_size",)
    block: str = "mlp"
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    shared_inner: tuple[str, ...] = ()
    shared_count: tuple[str, ...] = ()
    shared: str = "shared_experts"
    shared_gate: bool = False

    def __call__(self, config: Config, part: Part) -> Feed:
        """Return the feed-forward part of a layer."""
        config.value(*self.dense_inner)
        if not self.is_sparse(config, part.index):
            return dense_feed(part, config.whole(*self.dense_inner))
        count, per_token = experts_of(config, self.count, self.per_token)
        inner = config.whole(*self.inner)
        feed = routed_feed(part, count, per_token, inner, self.block, self.expert)
        shared = self._shared(config, inner)
        if not shared:
            return feed
        beside = dense_feed(part, shared, f"{self.block}.{self.shared}", label="shared_")
        gate = (part.matrix("shared_gate", part.hidden, 1, (), split="none"),) if self.shared_gate else ()
        return replace(feed, matrices=(*feed.matrices, *beside.matrices, *gate), width=feed.width + beside.width)

    def _shared(self, config: Config, inner: int) -> int:
        """Return the width of the shared experts together; 0: there are none."""
        number = config.whole(*self.shared_count, default=0, least=0) if self.shared_count else 1
        if not self.shared_inner:
            return number * inner if self.shared_count else 0
        return number * config.whole(*self.shared_inner, default=inner if self.shared_count else 0, least=0)


def experts_of(config: Config, count: tuple[str, ...], per_token: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of experts, and of those that serve a token."""
    experts, serving = config.whole(*count), config.whole(*per_token)
    if serving > experts:
        raise config.fault(per_token, f"{serving} exceeds {count[0]} {experts}")
    return experts, serving


def routed_feed(
    part: Part,
    count: int,
    per_token: int,
    inner: int,
    block: str,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    *,
    width: int | None = None,
    is_gated: bool = True,
) -> Feed:
    """Return experts with their router.

    Parameters
    ----------
    width
        Numbers that enter and leave an expert; None: the hidden state.
    """
    outer = part.hidden if width is None else width
    one = f"{block}.experts.0" if block else "experts.0"
    up = tuple(f"{one}.{name}" for name in (names[:2] if is_gated else names[1:2]))
    matrices = (
        part.matrix("gate_up" if is_gated else "up", outer, inner * (1 + is_gated), up, copies=count),
        part.matrix("down", inner, outer, (f"{one}.{names[2]}",), copies=count, split="inputs"),
    )
    router = part.matrix("router", part.hidden, count, (), split="none")
    return Feed((router,), Experts(count, per_token, matrices), per_token * inner)


def gemma4(config: Config, part: Part) -> Feed:
    """Gemma 4: a dense part, experts beside it in some models, and in small ones an embedding for each layer."""
    config.value("num_experts", "top_k_experts", "moe_intermediate_size")
    inner = config.whole("intermediate_size")
    reused = config.whole("num_kv_shared_layers", least=0)
    if config.flag("use_double_wide_mlp") and part.index >= config.whole("num_hidden_layers") - reused:
        inner *= 2
    feed = dense_feed(part, inner)
    if config.flag("enable_moe_block"):
        count, per_token = experts_of(config, ("num_experts",), ("top_k_experts",))
        routed = routed_feed(part, count, per_token, config.whole("moe_intermediate_size"), "")
        feed = Feed((*feed.matrices, *routed.matrices), routed.experts, feed.width + routed.width)
    own = config.whole("hidden_size_per_layer_input", least=0)
    words = config.whole("vocab_size_per_layer_input")
    if not own:
        return feed
    beside = (
        part.matrix("layer_input_gate", part.hidden, own, (), split="none"),
        part.matrix("layer_input_output", own, part.hidden, (), split="none"),
        part.matrix("layer_input_projection", part.hidden, own, (), split="none"),
    )
    return replace(feed, matrices=(*feed.matrices, *beside), other_bytes=2 * words * own)


def kimi_linear(config: Config, part: Part) -> Feed:
    """Kimi Linear and K3: routed experts, in K3 behind a projection to a narrower state."""
    if not after_first(config, part.index):
        return dense_feed(part, config.whole("intermediate_size"))
    count, per_token = experts_of(
        config, ("num_experts", "num_local_experts"), ("num_experts_per_token", "num_experts_per_tok")
    )
    inner = config.whole("moe_intermediate_size")
    width = config.whole("routed_expert_hidden_size", default=part.hidden)
    feed = routed_feed(part, count, per_token, inner, "mlp", width=width)
    shared = config.whole("num_shared_experts", "n_shared_experts") * inner
    beside = dense_feed(part, shared, "mlp.shared_experts", label="shared_")
    return Feed(
        (*feed.matrices, *narrowing(part, width, ("", "")), *beside.matrices),
        feed.experts,
        feed.width + shared,
    )


def narrowing(part: Part, width: int, names: tuple[str, str]) -> tuple[Matrix, ...]:
    """Return the projections to a narrower state for routed experts, and back; none if it is the hidden one."""
    if width == part.hidden:
        return ()
    enter, leave = ((name,) if name else () for name in names)
    return (
        part.matrix("latent_in", part.hidden, width, enter, split="none"),
        part.matrix("latent_out", width, part.hidden, leave, split="none"),
    )
