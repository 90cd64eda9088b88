"""GPUs, and what one kind of node can do with one model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from helixsim.domain.curves import AttentionTable, Curve
from helixsim.domain.kernels import AllReduce, Kernels
from helixsim.domain.memory import LayerMemory
from helixsim.domain.placement import LayerRange


class EngineKernels(NamedTuple):
    """What differs on a GPU under one serving engine, which has kernels of its own."""

    engine: str
    kernels: Kernels
    all_reduce: tuple[AllReduce, ...]


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One GPU as its datasheet and its users know it.

    Parameters
    ----------
    memory_bytes
        Memory the driver reports [B].
    usable_memory_bytes
        What a serving engine finds free on an idle card [B].
    flops
        (format, peak dense rate [FLOP/s]) pairs: ``fp16`` and those of ``fp8 fp4 int8`` the GPU multiplies in.
    memory_bandwidth_bytes_per_s
        Peak memory bandwidth [B/s].
    kernels
        Shares of the peaks that kernels reach, and their constant parts.
    all_reduce
        Law for each number of GPUs of a node that is known, by that number.
    tdp_w, cost_usd_per_hour
        Board power [W] and typical cloud price [$/h] of one GPU.
    sources
        (figure, where it comes from) pairs.
    cores
        Streaming multiprocessors, where they are other than those of the GPU whose kernels are taken.
    compute_capability
        NVIDIA's, as a number (7.5); None: not one of theirs, or not stated.
    interconnect, interconnect_bytes_per_s, interconnect_gpus
        Links among the GPUs of a node, their peak rate from one GPU, each way [B/s], and the GPUs that they join.
    network_bytes_per_s
        Peak rate of a GPU's network card, over which more GPUs than that reach each other, each way [B/s].
    refuses
        Number formats of weights that engines do not run on a GPU without compute capability; None: not stated.
    reserved_bytes
        What engines take of the memory outside weights, activations and KV cache [B]; None: not measured.
    engines
        Engines whose kernels differ from ``kernels`` and ``all_reduce``, which are those of vLLM.
    """

    name: str
    memory_bytes: int
    usable_memory_bytes: int
    flops: tuple[tuple[str, float], ...]
    memory_bandwidth_bytes_per_s: float
    kernels: Kernels
    all_reduce: tuple[AllReduce, ...]
    tdp_w: float
    cost_usd_per_hour: float
    sources: tuple[tuple[str, str], ...] = ()
    compute_capability: float | None = None
    cores: int | None = None
    interconnect: str = ""
    interconnect_bytes_per_s: float = 0.0
    interconnect_gpus: int = 8
    network_bytes_per_s: float = 50e9
    reserved_bytes: int | None = None
    refuses: tuple[str, ...] | None = None
    engines: tuple[EngineKernels, ...] = ()

    def under(self, engine: str | None) -> GpuSpec:
        """Return the GPU with the kernels of an engine (``vllm``, ``sglang``, ``trtllm``; None: those of vLLM)."""
        for own in self.engines:
            if own.engine == engine:
                return replace(self, kernels=own.kernels, all_reduce=own.all_reduce)
        return self

    @property
    def fp16_flops(self) -> float:
        """Peak dense FP16/BF16 tensor throughput [FLOP/s]."""
        return dict(self.flops)["fp16"]


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Time of one kind of layer on one kind of node [ns]; ``StepTime`` puts the terms together.

    Parameters
    ----------
    prefill, decode
        Against prompt tokens in the batch, and against sequences that decode.
    decode_context_ns_per_token
        Extra time per token of context read by the decoding sequences.
    reference_context_tokens
        Context of each sequence that ``decode`` already contains; what a batch has more or less is added or taken off.
    wide_seqs
        Sequences from which contexts are read at the whole bandwidth: those of fewer take as long as if they were as
        much longer.
    prefill_ns_per_pair
        Extra time for each pair of a prompt token and a token it attends to: a prompt of ``n`` tokens has ``n^2 / 2``
        pairs. Zero where ``prefill`` contains the attention of usual prompts.
    token_work
        What ``prefill`` and ``decode`` have in common: against all tokens of a batch, without attention. None: not
        known apart, so that only the reading of weights can be shared.
    window_tokens
        Most tokens that a token attends to; None: all.
    index_ns_per_token, index_ns_per_pair
        As for the context and for pairs, but whatever the window: looking for the tokens to attend to.
    attention
        Attention as a table of measured kernels, in place of the terms of contexts and pairs; None: it follows those.
    launches
        Operations that the host launches for it outside CUDA graphs, over those of a dense layer.
    context_multiply_ns_per_token
        What the products of one token that a sequence decodes with one token of its context take of it: with draft
        tokens there are several of these, which read the context once. Zero where reading takes longer in any case.
    """

    prefill: Curve
    decode: Curve
    decode_context_ns_per_token: float = 0.0
    reference_context_tokens: int = 0
    prefill_ns_per_pair: float = 0.0
    token_work: Curve | None = None
    window_tokens: int | None = None
    index_ns_per_token: float = 0.0
    index_ns_per_pair: float = 0.0
    attention: AttentionTable | None = None
    launches: float = 1.0
    wide_seqs: float = 0.0
    context_multiply_ns_per_token: float = 0.0

    def mixed_ns(self, prompt_tokens: float, seqs: float, drafts: float = 0) -> float:
        """Return the time for prompts and decode steps that pass the layer together [ns].

        Weights are read once for both. Without context terms. ``drafts`` are the tokens that the sequences verify in
        all: they add work, and read the same keys and values.
        """
        prefill, decode = self.prefill(prompt_tokens), self.decode(seqs)
        work = self.token_work
        if drafts:
            if work is None:
                shared = min(self.prefill(1), decode) if prompt_tokens else 0.0
                return prefill + self.decode(seqs + drafts) - shared
            return prefill - work(prompt_tokens) + decode - work(seqs) + work(prompt_tokens + seqs + drafts)
        if not prompt_tokens or not seqs:
            return prefill + decode
        if work is None:
            return prefill + decode - min(self.prefill(1), decode)
        return prefill - work(prompt_tokens) + decode - work(seqs) + work(prompt_tokens + seqs)


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """How long a batch takes on one kind of node, per layer.

    A batch costs ``prefill(prompt tokens) + decode(sequences)`` and the context terms for each layer, and the output
    head once on the node with the last layer.

    Parameters
    ----------
    kind
        ``l4`` or, for four GPUs as one tensor-parallel node, ``l4x4``.
    source
        ``measured``, ``fitted``, ``scaled`` (from one GPU to several) or ``roofline``.
    prefill, decode
        Time of one layer [ns] against prompt tokens in the batch, and against sequences that decode.
    prefill_ns_per_pair
        Extra time of one layer for each pair of a prompt token and a token it attends to [ns]: a prompt of ``n``
        tokens has ``n^2 / 2`` pairs. Zero where ``prefill`` contains the attention of usual prompts.
    decode_context_ns_per_token
        Extra time of one layer per token of context read by the decoding sequences [ns].
    reference_context_tokens
        Context of each sequence that ``decode`` already contains; what a batch has more or less is added or taken off.
    token_work
        What ``prefill`` and ``decode`` have in common: time of one layer [ns] against all tokens of a batch, without
        attention. None: not known apart, so that only the reading of weights can be shared.
    head
        Time of the output head and the sampler [ns] against the sequences that get a token; None: not modelled.
    activation_copy_ns_per_token
        Copy of one token's activations into the batch tensor, once per node [ns] (engines that join batches on the
        host).
    provenance
        Where the figures come from, with residuals if fitted.
    layers
        Times of each layer of the model, where they differ; the figures above are then their means. Empty: all layers
        are alike.
    ranks
        Attention ranks of the node (data-parallel attention): all figures are then those of one rank and its tokens,
        without the routed experts.
    experts
        With several ranks: time of the routed experts of each layer [ns] against the tokens of all ranks together,
        with what it takes to bring these together; None: a layer without experts.
    launches, wide_seqs, context_multiply_ns_per_token
        As in ``LayerTimes``, of all layers on average.
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
    prefill_ns_per_pair: float = 0.0
    token_work: Curve | None = None
    head: Curve | None = None
    layers: tuple[LayerTimes, ...] = field(default=(), repr=False)  # many, few of them different
    ranks: int = 1
    experts: tuple[Curve | None, ...] = field(default=(), repr=False)
    launches: float = 1.0
    wide_seqs: float = 0.0
    context_multiply_ns_per_token: float = 0.0

    def prefill_ns(self, layers: int, tokens: int) -> float:
        """Return the time of ``layers`` layers for one prompt of ``tokens`` tokens [ns]."""
        return layers * (self.prefill(tokens) + self.prefill_ns_per_pair * tokens**2 / 2)

    def decode_ns(self, layers: int, seqs: int, context_tokens: int | None = None) -> float:
        """Return the time of ``layers`` layers for one step of ``seqs`` sequences [ns].

        ``context_tokens`` is the sum over the sequences, None: the context that ``decode`` contains.
        """
        extra_ns = 0.0 if context_tokens is None else self.context_ns(seqs, context_tokens)
        return layers * max(self.decode(seqs) + extra_ns, min(self.decode(1), self.decode(seqs)))

    def context_ns(self, seqs: int, context_tokens: int) -> float:
        """Return what the context adds to one layer for ``seqs`` sequences [ns]; below zero if it is a short one."""
        context_ns = self.decode_context_ns_per_token * (context_tokens - self.reference_context_tokens * seqs)
        return context_ns * max(1.0, self.wide_seqs / seqs) if seqs else context_ns

    def layer_times(self, held: LayerRange) -> tuple[LayerTimes, ...]:
        """Return the times of these layers, equal ones as one object."""
        if self.layers:
            return self.layers[held.start : held.end]
        mean = LayerTimes(
            self.prefill,
            self.decode,
            self.decode_context_ns_per_token,
            self.reference_context_tokens,
            self.prefill_ns_per_pair,
            self.token_work,
            launches=self.launches,
            wide_seqs=self.wide_seqs,
            context_multiply_ns_per_token=self.context_multiply_ns_per_token,
        )
        return (mean,) * held.layers


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch on a node may contain.

    Parameters
    ----------
    max_prefill_requests
        Prompts.
    max_prefill_tokens
        Prompt tokens; of an engine with a token budget (``max_num_batched_tokens``), all tokens.
    max_decode_seqs
        Sequences that decode; of an engine with a token budget, all sequences (``max_num_seqs``).
    graph_sizes
        Numbers of tokens that CUDA graphs exist for, in order: a step is padded to the next one, and one beyond the
        last is not padded. Empty: steps are not padded.
    """

    max_prefill_requests: int
    max_prefill_tokens: int
    max_decode_seqs: int
    graph_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ends:
    """Memory of the matrices before the first and behind the last layer [B].

    ``both``: on a node that holds all layers, where tied matrices are kept once.
    """

    first: int = 0
    last: int = 0
    both: int = 0

    def of(self, has_first: bool, has_last: bool) -> int:
        """Return what a node keeps [B]."""
        if has_first and has_last:
            return self.both
        return self.first if has_first else self.last if has_last else 0


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """What one kind of node can do with the model of the experiment.

    Parameters
    ----------
    kv_blocks
        ``kv_blocks[k - 1]`` = KV blocks of a node that holds ``k`` layers, the fewest with any range of so many; a
        block keeps ``block_tokens`` tokens in all of the node's layers. Its length is the most layers the node can hold
        with any KV memory left.
    limits
        ``limits[k - 1]`` = batch limits with ``k`` layers; same length.
    max_layers
        The most layers a planner gives the node, so that enough memory stays for KV (weights at
        most half of the memory). ``fixed`` and ``separate`` placements may exceed it up to ``len(kv_blocks)``.
    memory
        Memory of each layer; None: all layers are alike.
    limited_by
        What keeps a planner from giving it more, in words for messages; empty: it can hold all layers.
    typical_layers, typical_layers_full
        Layers the paper's capacity estimate assumes on such a node, in a roomy and in a tight fleet.
    ends_bytes
        Memory of embedding and output head on the nodes with the first and the last layer.
    block_bytes
        Memory of a KV block in one layer [B]; needed where ``ends_bytes`` are not zero.
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
    ends_bytes: Ends = Ends()
    block_bytes: float = 0.0
    limited_by: str = ""
    memory: LayerMemory | None = None

    def blocks(self, held: LayerRange, num_layers: int) -> int:
        """Return the KV blocks of a node that holds these layers of a model, its embedding and output head included.

        They are what ``kv_blocks`` says less those in whose place the ends lie, rounded up: at most one too few.
        """
        lost_bytes = self.ends_bytes.of(held.start == 0, held.end == num_layers)
        if self.memory is not None:
            return self.memory.blocks(held, lost_bytes)
        blocks = self.kv_blocks[held.layers - 1]
        return max(0, blocks - math.ceil(lost_bytes / (self.block_bytes * held.layers))) if lost_bytes else blocks

    def kv_tokens(self, layers: int, num_layers: int = 0) -> int:
        """Return how many tokens fit into the KV cache of a node with ``layers`` layers.

        Embedding and output head lie beside them if these are all ``num_layers`` of the model.
        """
        whole = layers == num_layers
        return self.block_tokens * (self.blocks(LayerRange(0, layers), layers) if whole else self.kv_blocks[layers - 1])

    def most_kv_tokens(self, layers: int) -> int:
        """Return the most tokens that fit into the KV cache beside any range of so many layers."""
        blocks = self.kv_blocks[layers - 1] if self.memory is None else self.memory.range_blocks(layers)[1]
        return self.block_tokens * blocks
