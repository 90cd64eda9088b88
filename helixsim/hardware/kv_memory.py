"""KV blocks left beside the weights, and the two figures of a node that published KV tables reveal.

A node with ``k`` layers keeps ``floor((usable x fraction - workspace - k x (weights + overhead)) / (block x k))`` KV
blocks, where ``block = block_tokens x KV bytes per token and layer``. The tables published with the paper's artifact
follow this law, most of them to a few MB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.layers import Layer
from helixsim.domain.memory import LayerMemory
from helixsim.domain.model import ModelSpec
from helixsim.hardware.tensor_parallel import kv_shares

_TABLE_BLOCK_TOKENS = 16
"""Tokens of a block in measured KV tables: vLLM's default."""


SAMPLING_BYTES = 30
"""Bytes of one logit while it is sampled: in 16 and in 32 bits, sorted with 64-bit indices, as probability and sum."""

OUTSIDE_BYTES, OUTSIDE_BYTES_PARALLEL = 350 * 10**6, 420 * 10**6
"""Memory of a GPU outside PyTorch and for CUDA graphs, and what communication adds (llm-d-planner: 0.13 GiB without and
0.55 GiB with tensor parallelism, graphs aside)."""


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """Memory of one kind of node for one model.

    Parameters
    ----------
    total_bytes, usable_bytes
        Of all GPUs together [B].
    workspace_bytes
        What the engine needs beside weights and KV [B]. Below zero where a measured table shows more room than the
        usable memory and the fraction account for; the KV budget never exceeds ``total_bytes``.
    overhead_bytes_per_layer
        Memory of a layer beyond its weights [B].
    gpus
        Each keeps its share of a layer, and copies of what cannot be split.
    ranks
        Attention ranks, each with its copy of all weights but the routed experts, and its own sequences.
    """

    total_bytes: int
    usable_bytes: int
    workspace_bytes: int
    overhead_bytes_per_layer: int = 0
    gpus: int = 1
    ranks: int = 1

    def budget_bytes(self, memory_fraction: float) -> float:
        """Return what weights and KV may take together [B]."""
        return min(self.usable_bytes * memory_fraction - self.workspace_bytes, self.total_bytes)


def node_memory(
    gpu: GpuSpec, gpus: int, workspace_bytes: int, overhead_bytes_per_layer: int = 0, ranks: int = 1
) -> NodeMemory:
    """Return the memory of ``gpus`` GPUs as one node."""
    return NodeMemory(
        gpu.memory_bytes * gpus, gpu.usable_memory_bytes * gpus, workspace_bytes, overhead_bytes_per_layer, gpus, ranks
    )


def activation_peak_bytes(model: ModelSpec, max_batched_tokens: int, gpus: int = 1) -> int:
    """Return an estimate of the activations on each GPU [B] where none were measured.

    The largest batch at its widest point: residual, normed input, attention input and output (four hidden states),
    gate, up and their product (three intermediate states, for each expert of a token), 16 bits each. Tensor parallelism
    divides the intermediate states.
    """
    experts_per_token = max((layer.experts.per_token for layer in model.layers if layer.experts), default=1)
    states = 4 * model.hidden_size + 3 * model.intermediate_size * experts_per_token / gpus
    return round(2 * max_batched_tokens * states)


def engine_workspace_bytes(
    model: ModelSpec,
    gpus: int,
    max_batched_tokens: int,
    max_seqs: int,
    reserved_bytes: int | None = None,
    ranks: int = 1,
) -> int:
    """Return what an engine that computes the output head takes beside weights and KV on all GPUs together [B].

    The larger of the activations of the largest batch (``activation_peak_bytes``) and of the logits of ``max_seqs``
    sequences while they are sampled, on each GPU; and memory outside PyTorch, with CUDA graphs (``reserved_bytes`` of
    each GPU, None: ``OUTSIDE_BYTES`` and what communication adds). With vLLM's settings,
    this meets the KV tokens that it logged for 8B on RTX 3090, RTX 4090 and H100 and for 70B in FP8 on two H100 within
    5 % (vLLM issue 10517, LLMServingSim, llm-d-planner).
    """
    logits = SAMPLING_BYTES * max_seqs * model.vocab_size
    outside = reserved_bytes
    if outside is None:
        outside = OUTSIDE_BYTES + (OUTSIDE_BYTES_PARALLEL if gpus > 1 else 0)
    return gpus * (max(activation_peak_bytes(model, max_batched_tokens, gpus // ranks), logits) + outside)


def layer_weight_bytes(model: ModelSpec, gpus: int, ranks: int = 1) -> int:
    """Return the weights of one layer on all GPUs of a node together [B], the mean, copies included."""
    total = sum(count * _weight_bytes(layer, gpus, ranks) for layer, count in Counter(model.layers).items())
    return round(total / model.num_layers)


def _weight_bytes(layer: Layer, gpus: int, ranks: int) -> float:
    shared = sum(matrix.shard_bytes(gpus // ranks) for matrix in layer.matrices) * gpus
    return shared + (layer.experts.bytes if layer.experts else 0) + layer.other_bytes * gpus


def kv_token_bytes(model: ModelSpec, gpus: int) -> float:
    """Return the keys and values of one token in one layer on all GPUs of a node together [B], copies included."""
    return model.kv_bytes_per_token_per_layer * gpus / kv_shares(model, gpus)


def layer_memory(
    model: ModelSpec,
    memory: NodeMemory,
    memory_fraction: float,
    block_tokens: int,
    sequence_tokens: int,
    *,
    has_mtp: bool = False,
) -> LayerMemory | None:
    """Return the memory of a node layer by layer; None if all layers are alike and keep all tokens.

    Layers with a window keep its tokens and those of one block of each sequence, as vLLM's hybrid allocator does
    (without the padding of its groups); states are kept once a sequence.

    Parameters
    ----------
    sequence_tokens
        Tokens of a usual sequence.
    has_mtp
        Beside the last layer there is a module like it that drafts tokens (multi-token prediction).
    """
    if model.is_uniform and not model.keeps_parts and not has_mtp:
        return None
    gpus, ranks, overhead = memory.gpus, memory.ranks, memory.overhead_bytes_per_layer
    weights = {layer: _weight_bytes(layer, gpus, ranks) + overhead for layer in set(model.layers)}
    tensor = gpus // ranks  # a sequence is on one rank
    kv = {layer: _kept_bytes(layer, model.kv_bits, tensor, block_tokens, sequence_tokens) for layer in weights}
    copies = (*[1] * (model.num_layers - 1), 2 if has_mtp else 1)
    return LayerMemory(
        budget_bytes=memory.budget_bytes(memory_fraction),
        weight_bytes=tuple(weights[layer] * count for layer, count in zip(model.layers, copies, strict=True)),
        kv_bytes=tuple(kv[layer] * count for layer, count in zip(model.layers, copies, strict=True)),
        block_tokens=block_tokens,
    )


def _kept_bytes(layer: Layer, kv_bits: float, gpus: int, block_tokens: int, sequence_tokens: int) -> float:
    """Return what a layer keeps of a sequence of usual length, for each of its tokens [B], copies included."""
    attention = layer.attention
    if attention is None:
        return 0.0
    token_bytes = attention.kv_numbers * kv_bits / 8 * gpus / min(gpus, attention.num_kv_heads)
    token_bytes += attention.index_bytes * gpus
    window = attention.window_tokens
    kept = sequence_tokens if window is None else min(sequence_tokens, window + block_tokens)
    return (token_bytes * kept + attention.state_bytes) / sequence_tokens


def kv_blocks(model: ModelSpec, memory: NodeMemory, memory_fraction: float, block_tokens: int) -> tuple[int, ...]:
    """Return the KV blocks of a node with 1, 2, ... layers, up to the most it can hold with any block left.

    Parameters
    ----------
    memory_fraction
        Share of the usable memory the engine may take (vLLM: ``gpu_memory_utilization``).
    block_tokens
        Tokens of one block; a block keeps them in all of the node's layers.
    """
    budget = memory.budget_bytes(memory_fraction)
    layer_bytes = layer_weight_bytes(model, memory.gpus, memory.ranks) + memory.overhead_bytes_per_layer
    block_bytes = block_tokens * kv_token_bytes(model, memory.gpus // memory.ranks)
    counts: list[int] = []
    for layers in range(1, model.num_layers + 1):
        blocks = int((budget - layers * layer_bytes) // (block_bytes * layers))
        if blocks < 1:
            break
        counts.append(blocks)
    return tuple(counts)


def fit_memory(
    model: ModelSpec, gpu: GpuSpec, gpus: int, memory_fraction: float, kv_tokens: Sequence[int]
) -> tuple[NodeMemory, float]:
    """Return the memory that explains a table of KV tokens, and the worst relative error of the law against it.

    The slope is the median of all pairwise slopes and the budget the median of what follows (Theil-Sen), because
    published tables hold single rows that are off. A slope below the weights counts as no overhead.

    Parameters
    ----------
    memory_fraction
        Share of the usable memory the engine took when the table was measured.
    kv_tokens
        Tokens that fit with 1, 2, ... layers, at least two entries.

    Raises
    ------
    ValueError
        For fewer than two entries.
    """
    if len(kv_tokens) < 2:
        raise ValueError(f"a memory fit needs at least two layer counts, got {len(kv_tokens)}")
    token_bytes = model.kv_bytes_per_token_per_layer
    half = _TABLE_BLOCK_TOKENS / 2  # tables round down to whole blocks
    kv_bytes = [(tokens + half) * token_bytes * layers for layers, tokens in enumerate(kv_tokens, start=1)]
    slopes = [(kv_bytes[i] - kv_bytes[j]) / (j - i) for j in range(len(kv_bytes)) for i in range(j)]
    layer_bytes = max(median(slopes), model.weight_bytes_per_layer)
    budget = median(size + layers * layer_bytes for layers, size in enumerate(kv_bytes, start=1))
    workspace = round(gpu.usable_memory_bytes * gpus * memory_fraction - budget)
    memory = node_memory(gpu, gpus, workspace, round(layer_bytes) - model.weight_bytes_per_layer)
    law = kv_blocks(model, memory, memory_fraction, block_tokens=1)
    if len(law) < len(kv_tokens):
        return memory, 1.0
    return memory, max(abs(ours / theirs - 1.0) for ours, theirs in zip(law, kv_tokens, strict=False))
