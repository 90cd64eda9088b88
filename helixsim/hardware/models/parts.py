"""Matrices of one layer as serving engines load them, in the formats of the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from helixsim.domain.layers import FP16, Attention, Experts, Layer, Matrix, NumberFormat

FormatOf = Callable[[str], NumberFormat]
"""Format of the weights of a module, ``layers.3.self_attn.q_proj``."""

_LARGE_TENSOR_BYTES = 2**20
_LARGE_STEP_BYTES = 2 * 2**20
"""PyTorch's allocator takes GPU memory for tensors above 1 MiB in steps of 2 MiB; with it the published KV tables
follow to a few MB (LLaMA-1 30B: 1 073 741 824 B a layer, where the bare numbers weigh 1 070 071 808 B)."""
_SMALL_STEP_BYTES = 512
"""Steps for smaller tensors, which share blocks (PyTorch documentation, "CUDA semantics", memory management)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One layer to be made.

    Parameters
    ----------
    index
        Number of the layer, from 0.
    hidden
        Width of what enters and leaves it.
    format_of
        Formats of the checkpoint.
    """

    index: int
    hidden: int
    format_of: FormatOf

    def matrix(
        self,
        name: str,
        inputs: int,
        outputs: int,
        modules: Sequence[str],
        *,
        split: Literal["outputs", "inputs", "none"] = "outputs",
        copies: int = 1,
        kv_outputs: int = 0,
        kv_heads: int = 1,
    ) -> Matrix:
        """Return a matrix of the ``modules`` that engines multiply at once, in the widest of their formats.

        Parameters
        ----------
        modules
            Their names in the layer, as in the checkpoint; none: engines keep it in 16 bits whatever the rest is.
        copies
            Matrices in one tensor: all experts of a layer.
        """
        formats = [self.format_of(f"layers.{self.index}.{module}") for module in modules]
        stored = max(formats, key=lambda one: one.bits, default=FP16)
        size = allocated_bytes(copies * inputs * outputs * stored.bits / 8)
        return Matrix(name, inputs, outputs, size // copies, stored, split, kv_outputs, kv_heads)


@dataclass(frozen=True, slots=True)
class Mixer:
    """What lets the tokens of a sequence see each other: the attention of a layer with its matrices."""

    attention: Attention | None = None
    matrices: tuple[Matrix, ...] = ()
    other_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed-forward part of a layer.

    Parameters
    ----------
    width
        Intermediate numbers of one token, all that serve it together.
    """

    matrices: tuple[Matrix, ...] = ()
    experts: Experts | None = None
    width: int = 0
    other_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a model, first to last, equal ones as one object, and the widest of their feed-forward parts."""

    layers: tuple[Layer, ...]
    width: int


def layers_of(parts: Sequence[tuple[Mixer, Feed]]) -> Layers:
    """Return the layers made of attention and feed-forward parts."""
    kinds: dict[Layer, Layer] = {}
    made = (
        Layer(
            mixer.attention,
            (*mixer.matrices, *feed.matrices),
            feed.experts,
            mixer.other_bytes + feed.other_bytes,
        )
        for mixer, feed in parts
    )
    return Layers(tuple(kinds.setdefault(layer, layer) for layer in made), max(feed.width for _, feed in parts))


def allocated_bytes(size: float) -> int:
    """Return the memory that the allocator takes for a tensor [B]."""
    step = _LARGE_STEP_BYTES if size > _LARGE_TENSOR_BYTES else _SMALL_STEP_BYTES
    return math.ceil(size / step) * step
