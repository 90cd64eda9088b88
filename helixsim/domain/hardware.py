"""GPUs, and what one kind of node can do with one model."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One GPU as its datasheet and its users know it.

    Parameters
    ----------
    memory_bytes
        Memory the driver reports [B].
    usable_memory_bytes
        What a serving engine finds free on an idle card [B].
    fp16_flops
        Peak dense FP16/BF16 tensor throughput [FLOP/s].
    memory_bandwidth_bytes_per_s
        Peak memory bandwidth [B/s].
    compute_efficiency, bandwidth_efficiency
        Share of either peak that real layers reach (roofline), 0..1.
    interconnect_bytes_per_s
        Bandwidth between GPUs of one node, for tensor parallelism [B/s].
    tdp_w, cost_usd_per_hour
        Board power [W] and typical cloud price [$/h] of one GPU.
    sources
        (figure, where it comes from) pairs.
    compute_capability
        NVIDIA's, as a number (7.5); None: not one of theirs, or not stated.
    """

    name: str
    memory_bytes: int
    usable_memory_bytes: int
    fp16_flops: float
    memory_bandwidth_bytes_per_s: float
    compute_efficiency: float
    bandwidth_efficiency: float
    interconnect_bytes_per_s: float
    tdp_w: float
    cost_usd_per_hour: float
    sources: tuple[tuple[str, str], ...] = ()
    compute_capability: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Time of one layer [ns] against batch size, piecewise linear.

    Between knots it interpolates, below the first knot it keeps the first value (a batch never costs less than
    reading the weights once), beyond the last it continues the last slope, never downwards. Zero work costs zero.
    A table that contains the point (0, 0) is taken at its word.
    """

    x: tuple[float, ...]
    y_ns: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y_ns) or not self.x:
            raise ValueError(
                f"a curve needs as many x as y values and at least one, got {len(self.x)} and {len(self.y_ns)}"
            )
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("the x values of a curve must increase")

    def __call__(self, x: float) -> float:
        """Return the time of one layer [ns] for a batch of ``x``."""
        if x <= 0:
            return 0.0
        xs, ys = self.x, self.y_ns
        right = bisect_right(xs, x)
        if right == 0:
            return ys[0]
        if right == len(xs):
            if right == 1:
                return ys[0]
            slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
            return ys[-1] + max(slope, 0.0) * (x - xs[-1])
        x0, y0 = xs[right - 1], ys[right - 1]
        return y0 + (ys[right] - y0) * (x - x0) / (xs[right] - x0)


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """How long a batch takes on one kind of node, per layer.

    A batch costs ``prefill(prompt tokens) + decode(sequences) + context term`` for each layer and, once per batch
    and node, the copy of its activations from the network to the GPU (helix-spec 2.2, paper artifact).

    Parameters
    ----------
    kind
        ``l4`` or, for four GPUs as one tensor-parallel node, ``l4x4``.
    source
        ``measured``, ``fitted``, ``scaled`` (from one GPU to several) or ``roofline``.
    prefill, decode
        Time of one layer [ns] against prompt tokens in the batch, and against sequences that decode.
    decode_context_ns_per_token
        Extra time of one layer per token of context read by the decoding sequences [ns].
    reference_context_tokens
        Context of each sequence that ``decode`` already contains; what a batch has more or less is added or taken off.
    activation_copy_ns_per_token
        Copy of one token's activations into the batch tensor, once per node [ns].
    provenance
        Where the figures come from, with residuals if fitted.
    """

    kind: str
    model: str
    source: str
    prefill: Curve
    decode: Curve
    decode_context_ns_per_token: float = 0.0
    activation_copy_ns_per_token: float = 0.0
    provenance: str = ""
    reference_context_tokens: int = 0

    def prefill_ns(self, layers: int, tokens: int) -> float:
        """Return the time of ``layers`` layers for ``tokens`` prompt tokens [ns]."""
        return layers * self.prefill(tokens)

    def decode_ns(self, layers: int, seqs: int, context_tokens: int | None = None) -> float:
        """Return the time of ``layers`` layers for one step of ``seqs`` sequences [ns].

        ``context_tokens`` is the sum over the sequences, None: the context that ``decode`` contains.
        """
        extra_ns = 0.0 if context_tokens is None else self.context_ns(seqs, context_tokens)
        return layers * max(self.decode(seqs) + extra_ns, min(self.decode(1), self.decode(seqs)))

    def context_ns(self, seqs: int, context_tokens: int) -> float:
        """Return what the context adds to one layer for ``seqs`` sequences [ns]; below zero if it is a short one."""
        return self.decode_context_ns_per_token * (context_tokens - self.reference_context_tokens * seqs)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch on a node may contain."""

    max_prefill_requests: int
    max_prefill_tokens: int
    max_decode_seqs: int


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """What one kind of node can do with the model of the experiment.

    Parameters
    ----------
    kv_blocks
        ``kv_blocks[k - 1]`` = KV blocks of a node that holds ``k`` layers; a block keeps ``block_tokens`` tokens in
        all of the node's layers. Its length is the most layers the node can hold with any KV memory left.
    limits
        ``limits[k - 1]`` = batch limits with ``k`` layers; same length.
    max_layers
        The most layers a planner gives the node, so that enough memory stays for KV (helix-spec 1.3: weights at
        most half of the memory). ``fixed`` and ``separate`` placements may exceed it up to ``len(kv_blocks)``.
    typical_layers, typical_layers_full
        Layers the paper's capacity estimate assumes on such a node, in a roomy and in a tight fleet (helix-spec 2.3).
    """

    kind: str
    compute: ComputeProfile
    block_tokens: int
    kv_blocks: tuple[int, ...]
    limits: tuple[BatchLimits, ...]
    max_layers: int
    typical_layers: int
    typical_layers_full: int
    initial_layer_tokens_per_s: float = 0.0

    def kv_tokens(self, layers: int) -> int:
        """Return how many tokens fit into the KV cache of a node with ``layers`` layers."""
        return self.block_tokens * self.kv_blocks[layers - 1]
