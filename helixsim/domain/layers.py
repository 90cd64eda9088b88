"""Layers of a transformer, reduced to what memory and step times depend on: matrices, attention and experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Multiply = Literal["fp16", "fp8", "fp4", "int8"]
"""Formats of matrix products."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How weights are stored and multiplied.

    Parameters
    ----------
    name
        ``fp16``, ``fp8``, ``int4`` ...
    bits
        Memory of one weight with its share of the scales [bit].
    multiply
        Format of the matrix products, and so the peak rate that applies: ``fp16``, ``fp8``, ``fp4`` or ``int8``.
        Formats for storage alone (``int4``) multiply in ``fp16``.
    is_blocked
        FP8 with a scale for each block of weights instead of one for a matrix: other kernels, slower for few tokens.
    """

    name: str
    bits: float
    multiply: Multiply = "fp16"
    is_blocked: bool = False


FP16 = NumberFormat("fp16", 16.0)

_OF_ATTENTION = {"full": 3, "sliding": 3, "latent": 16, "linear": 16}
"""Operations of attention besides its matrices. Full: rotary embedding, writing the cache, attention. Latent: norms of
both compressed vectors, splitting, joining and copying them, two products with halves of ``kv_b`` ... Linear:
convolution, gates, norms, and the chunks of the recurrence."""

_OF_INDEX, _OF_EXPERTS, _OF_PART = 6, 14, 2
"""Operations of an index of sparse attention; of routed experts (scores, choice, sorting, quantising, two products,
activation, sum); and of each half of a layer (norm with residual, all-reduce)."""

_OF_DENSE_LAYER = 12
"""Operations of a layer with full attention and a dense feed-forward part."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, or several that engines multiply at once (queries, keys and values; gate and up).

    Parameters
    ----------
    inputs, outputs
        Its dimensions.
    bytes
        Memory as allocated, on all GPUs together if each weight is kept once [B].
    split
        Dimension that tensor parallelism divides; ``none``: every GPU keeps a copy.
    kv_outputs, kv_heads
        How many of the outputs belong to keys and values, and to how many heads: beyond one head a GPU, heads are
        copied instead of split.
    """

    name: str
    inputs: int
    outputs: int
    bytes: int
    format: NumberFormat = FP16
    split: Literal["outputs", "inputs", "none"] = "outputs"
    kv_outputs: int = 0
    kv_heads: int = 1

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs

    def shard(self, gpus: int) -> tuple[float, float]:
        """Return the inputs and outputs that one of ``gpus`` GPUs keeps."""
        if self.split == "none":
            return self.inputs, self.outputs
        if self.split == "inputs":
            return self.inputs / gpus, self.outputs
        plain = (self.outputs - self.kv_outputs) / gpus
        return self.inputs, plain + self.kv_outputs / min(gpus, self.kv_heads)

    def shard_bytes(self, gpus: int) -> float:
        """Return the memory on each of ``gpus`` GPUs [B]."""
        inputs, outputs = self.shard(gpus)
        return self.bytes * (inputs * outputs) / self.parameters


@dataclass(frozen=True, slots=True)
class Attention:
    """How the tokens of a sequence see each other in one layer, and what the cache keeps of them.

    Parameters
    ----------
    kind
        ``full``: to the whole context (grouped or not); ``sliding``: to the last ``window_tokens``; ``latent``:
        compressed keys and values (MLA); ``linear``: a state of fixed size for each sequence.
    num_heads, num_kv_heads
        Heads of queries, and of keys and values (1 for ``latent``).
    key_dim, value_dim
        Width of one head of queries and keys, and of values.
    kv_numbers
        Numbers the cache keeps of one token, all heads together: ``num_kv_heads * (key_dim + value_dim)``; ``latent``:
        rank and rotary part; ``linear``: 0.
    window_tokens
        Most tokens kept and attended to; None: all.
    attended_tokens
        Most tokens that a query attends to although all are kept (sparse attention with an indexer); None: all.
    state_bytes
        Memory of one sequence that does not grow with its context [B].
    index_bytes
        Memory of a token beside keys and values, whatever their format: its key in the index of sparse attention [B].
    index_numbers
        Width of all heads of the index together, multiplied for each pair of tokens; 0: no index of its own.
    head_norms
        Queries and keys are normalised before they meet (Qwen3, Gemma 3): another kernel for prompts.
    """

    kind: Literal["full", "sliding", "latent", "linear"]
    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    kv_numbers: int
    window_tokens: int | None = None
    attended_tokens: int | None = None
    state_bytes: int = 0
    index_bytes: int = 0
    index_numbers: int = 0
    head_norms: bool = False

    @property
    def most_attended(self) -> int | None:
        """Most tokens that a query attends to; None: all."""
        caps = [cap for cap in (self.window_tokens, self.attended_tokens) if cap is not None]
        return min(caps, default=None)


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of a layer; shared experts are plain matrices of the layer.

    Parameters
    ----------
    count, per_token
        Experts of the layer, and how many of them serve one token.
    matrices
        Those of one expert.
    """

    count: int
    per_token: int
    matrices: tuple[Matrix, ...]

    @property
    def bytes(self) -> int:
        """Memory of all experts [B]."""
        return self.count * self.bytes_each

    @property
    def bytes_each(self) -> int:
        """Memory of one expert [B]."""
        return sum(matrix.bytes for matrix in self.matrices)

    @property
    def parameters_each(self) -> int:
        """Number of weights of one expert."""
        return sum(matrix.parameters for matrix in self.matrices)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is attended to, what is multiplied for every token, and the experts.

    Parameters
    ----------
    attention
        None: the layer has none (a feed-forward layer of a hybrid model).
    matrices
        Matrices that every token passes.
    experts
        None: a dense layer.
    other_bytes
        Further weights [B].
    """

    attention: Attention | None
    matrices: tuple[Matrix, ...]
    experts: Experts | None = None
    other_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights [B]."""
        experts = self.experts.bytes if self.experts else 0
        return sum(matrix.bytes for matrix in self.matrices) + experts + self.other_bytes

    @property
    def launches(self) -> float:
        """Operations that the host launches one by one outside CUDA graphs, over those of a dense layer.

        They are counted roughly, from what engines compute eagerly; fused kernels and compilation are the engine's.
        """
        attention, names = self.attention, [matrix.name for matrix in self.matrices]
        count = len(names)
        if attention is not None:
            count += _OF_PART + _OF_ATTENTION[attention.kind] + (_OF_INDEX if attention.index_numbers else 0)
        has_dense = any("down" in name for name in names)  # a dense part, or shared experts
        if has_dense or self.experts is not None:
            count += _OF_PART + (1 if has_dense else 0) + (_OF_EXPERTS if self.experts is not None else 0)
        return count / _OF_DENSE_LAYER

    @property
    def parameters(self) -> int:
        """Number of weights."""
        experts = self.experts.count * self.experts.parameters_each if self.experts else 0
        return sum(matrix.parameters for matrix in self.matrices) + experts

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token is multiplied with."""
        experts = self.experts.per_token * self.experts.parameters_each if self.experts else 0
        return sum(matrix.parameters for matrix in self.matrices) + experts

    @property
    def kv_numbers(self) -> int:
        """Numbers the cache keeps of one token."""
        return self.attention.kv_numbers if self.attention else 0

    def kv_bytes(self, kv_bits: float) -> float:
        """Return what the cache keeps of one token [B] with ``kv_bits`` for each number of keys and values."""
        return self.kv_numbers * kv_bits / 8 + (self.attention.index_bytes if self.attention else 0)
