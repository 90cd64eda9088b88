"""Laws of the kernels of one layer; ``docs/step-time.md`` has their errors against tables of measured kernels.

A layer takes the sum of its matrix products, its attention, its element-wise work and its all-reduces. All times are
seconds on each of ``gpus`` GPUs that share the layer (tensor parallelism).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.kernels import ExpertsLaw, GemmLaw
from helixsim.domain.layers import Attention, Experts, Layer, Matrix
from helixsim.domain.model import ACTIVATION_BYTES

ALL_REDUCES_PER_LAYER = 2
"""Behind attention and behind the feed-forward part (Shoeybi et al., Megatron-LM, 2019)."""

MOST_CAPTURED_TOKENS = 512
"""Largest batch in CUDA graphs (vLLM: ``max_cudagraph_capture_size``)."""

_COPY_S, _COPY_EFFICIENCY = 5e-6, 0.9
"""Outside CUDA graphs, the input of an all-reduce is copied first: constant part [s], share of the peak bandwidth (on
A100, H100 and B200, eager calls take so much longer than captured ones at 2, 4 and 8 GPUs)."""

_CONVERTED_BITS = 8
"""Keys and values of so many bits or less may be converted before they are multiplied."""

_MOST_BESIDE_TOKENS = 256
"""Largest batch whose shared experts are computed beside the routed ones, on a stream of their own (vLLM:
``VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD``; SGLang and TensorRT-LLM do so in CUDA graphs)."""

_ALL_TO_ALL_S, _ALL_TO_ALL_EFFICIENCY = 44e-6, 0.59
"""Sending tokens to the GPUs of their experts and back: constant part of all kernels [s], share of the interconnect's
rate (TensorRT-LLM on 16, 32 and 64 GB200, ``alltoall_perf`` of aiconfigurator-core 0.12, Apache-2.0: 328 times of 1 to
20 480 tokens of a GPU, median error 6 %, 90 % within 20 %)."""

_NETWORK_S, _NETWORK_DOUBLING_S, _NETWORK_EFFICIENCY = 26e-6, 12e-6, 0.94
"""All-reduce between machines: constant part [s] with two, and for each further doubling (NCCL's own model of its tree:
NVIDIA/nccl issue 1453, two machines of eight H100), share of the cards' rate (46 to 48 of 50 GB/s, NVIDIA/nccl-tests
issue 290)."""

_DISPATCH_BITS = {"fp4": 4.5, "fp8": 8.0}
"""Bits of each number of a token on its way to experts that multiply in a format, scales included."""

_TIMED_WIDTH = 256
"""Numbers of the keys and values of a head of 128, of which the share of the peak was read off."""

_ELEMENTWISE_PASSES = 8
"""Hidden states that two norms with residual additions read and write."""


@dataclass(frozen=True, slots=True)
class Node:
    """GPUs of one kind that share every layer.

    Parameters
    ----------
    ranks
        Attention ranks (data-parallel attention): each has ``tensor`` of the GPUs. Tokens, sequences and contexts are
        those of one rank, but for the routed experts.
    by_expert
        Each GPU holds whole experts (expert parallelism) instead of a slice of every one.
    """

    gpu: GpuSpec
    gpus: int = 1
    ranks: int = 1
    by_expert: bool = False

    @property
    def tensor(self) -> int:
        """GPUs that share attention and dense matrices (tensor parallelism)."""
        return self.gpus // self.ranks

    def gemm_s(self, matrix: Matrix, tokens: float) -> float:
        """Return the time of ``tokens`` rows times a matrix."""
        inputs, outputs = matrix.shard(self.tensor)
        law, peak = self._law(matrix)
        rows = tokens if matrix.format.is_blocked else law.rows(tokens)
        multiplied = inputs * law.outputs(tokens, rows, outputs)
        product_s = self._product_s(law, inputs * outputs * matrix.format.bits / 8, 2.0 * multiplied / peak)
        return product_s + law.quantised_s(tokens, inputs)

    def tile_edges(self, layer: Layer) -> list[int]:
        """Return the batches at which a product of the layer starts another tile, and those of one token more."""
        laws = {self._law(matrix)[0] for matrix in layer.matrices}
        tiles = {law.tile_tokens: law.tiled_until for law in laws if law.tile_tokens}
        edges = {edge for tile, last in tiles.items() for edge in (tile // 4, tile // 2, *range(tile, last + 1, tile))}
        return sorted(edges | {edge + 1 for edge in edges})

    def experts_s(self, experts: Experts, tokens: float) -> float:
        """Return the time of the routed experts: those touched are read, ``per_token`` of them multiplied.

        Some experts are drawn more often than others: the share of tokens that one serves has a beta distribution with
        1 and ``count / per_token - 1``, so that ``count tokens / (tokens + count / per_token - 1)`` are touched. With
        whole experts on each GPU, the GPU with the most work decides (``_fullest``); it moves its own tokens, whereas
        with slices each GPU moves all.
        """
        law, peak = self._experts_law(experts.matrices[0])
        rest = experts.count / experts.per_token - 1.0
        share = tokens / (tokens + rest) if rest else 1.0
        touched, multiplied = experts.count * share / self.gpus, experts.per_token * tokens / self.gpus
        if self.by_expert and self.gpus > 1:
            held = experts.count / self.gpus
            touched = min(self._fullest(touched, touched * (1.0 - share)), held, experts.per_token * tokens)
            spread = multiplied + multiplied**2 / held  # drawn by chance, and of experts that are drawn more often
            multiplied = self._fullest(multiplied, spread * (1.0 - 1.0 / self.gpus))
            multiplied = min(multiplied, min(experts.per_token, held) * tokens)
        moved = multiplied if self.by_expert else multiplied * self.gpus
        moved_bytes = law.passes * moved * experts.matrices[0].inputs * ACTIVATION_BYTES
        read_bytes = touched * sum(matrix.parameters * matrix.format.bits for matrix in experts.matrices) / 8
        flops = 2.0 * law.rows_of(multiplied, touched) * experts.parameters_each
        moved_s = moved_bytes / self.gpu.memory_bandwidth_bytes_per_s
        return self._product_s(law, read_bytes, flops / peak) + moved_s

    def _experts_law(self, matrix: Matrix) -> tuple[ExpertsLaw, float]:
        """Return the law of routed experts of a format, and the peak rate that they multiply at [FLOP/s]."""
        law = self.gpu.kernels.experts_of(matrix.format.name)
        native = dict(self.gpu.flops).get(law.multiply) if law.multiply else None
        return law, self._law(matrix)[1] if native is None else native

    def _fullest(self, mean: float, variance: float) -> float:
        """Return the expected largest of normal variables, one for each GPU (Blom, 1958)."""
        quantile = NormalDist().inv_cdf((self.gpus - 0.375) / (self.gpus + 0.25))
        return mean + quantile * math.sqrt(max(variance, 0.0))

    def prefill_attention_s(self, attention: Attention, pairs: float) -> float:
        """Return the time of prompts whose tokens attend to ``pairs`` tokens in all, without the constant part.

        Compressed keys and values (MLA) are expanded to full heads, but where an index picks tokens: there every head
        multiplies them as they are, as in decode steps. Each pair also takes one exponential a head, however wide the
        head is: as long as ``softmax_columns`` more of its numbers. The share of the peak is that of heads of 128.
        """
        if attention.kind == "linear":
            return 0.0
        width = attention.key_dim + attention.value_dim
        if attention.kind == "latent" and attention.attended_tokens is not None:
            width = 2 * attention.kv_numbers
        law = self.gpu.kernels.attention
        whole = (width + law.softmax_columns) * _TIMED_WIDTH / (_TIMED_WIDTH + law.softmax_columns)
        widths = attention.num_heads / self.tensor * whole
        return 2.0 * widths * pairs / (law.compute_efficiency * self.gpu.fp16_flops)

    def kv_read_s(self, attention: Attention, kv_bits: float, tokens: float) -> float:
        """Return the time to read the keys and values of ``tokens`` tokens of context.

        Compressed keys and values (MLA) serve all heads: their products can take longer than the reading.
        """
        law = self.gpu.kernels.attention
        shares = min(self.tensor, attention.num_kv_heads)
        bandwidth = self.gpu.memory_bandwidth_bytes_per_s * law.kv_bandwidth_efficiency
        if kv_bits <= _CONVERTED_BITS:
            bandwidth = min(bandwidth, law.most_kv8_bytes_per_s)
        read_s = tokens * attention.kv_numbers * kv_bits / 8 / shares / bandwidth
        return max(read_s, self.kv_multiply_s(attention, tokens))

    def kv_multiply_s(self, attention: Attention, pairs: float) -> float:
        """Return the time of products with compressed keys and values, for pairs of a token and one of its context.

        Zero for other kinds of attention, of which reading takes longer.
        """
        if attention.kind != "latent":
            return 0.0
        flops = 2.0 * attention.num_heads / self.tensor * 2 * attention.kv_numbers * pairs
        return flops / (self.gpu.kernels.attention.compute_efficiency * self.gpu.fp16_flops)

    def wide_seqs(self, attention: Attention) -> float:
        """Return the sequences from which the keys and values of a step are read at the whole bandwidth.

        Fewer are read no faster by kernels that give each head of a sequence to one core: those of heads that are not
        grouped, on some GPUs.
        """
        law = self.gpu.kernels.attention
        if attention.kind in ("latent", "linear") or attention.num_kv_heads < attention.num_heads:
            return 0.0
        bandwidth = self.gpu.memory_bandwidth_bytes_per_s * law.kv_bandwidth_efficiency
        return bandwidth / (math.ceil(attention.num_heads / self.tensor) * law.kv_core_bytes_per_s)

    def index_read_s(self, attention: Attention, tokens: float) -> float:
        """Return the time to look for the tokens that sparse attention attends to, among ``tokens`` of context.

        Every GPU does all of it.
        """
        bandwidth = self.gpu.memory_bandwidth_bytes_per_s * self.gpu.kernels.attention.kv_bandwidth_efficiency
        read_s = attention.index_bytes * tokens / bandwidth if attention.index_numbers else 0.0
        return max(read_s, self.index_pairs_s(attention, tokens))

    def index_pairs_s(self, attention: Attention, pairs: float) -> float:
        """Return the time to multiply the index for ``pairs`` of a token and one before it, in FP8 where there is."""
        peaks = dict(self.gpu.flops)
        peak = peaks.get("fp8", peaks["fp16"]) * self.gpu.kernels.attention.compute_efficiency
        return 2.0 * attention.index_numbers * pairs / peak

    def state_s(self, attention: Attention, seqs: float) -> float:
        """Return the time to read and write the states of linear attention."""
        bandwidth = self.gpu.memory_bandwidth_bytes_per_s * self.gpu.kernels.attention.kv_bandwidth_efficiency
        return 2.0 * seqs * attention.state_bytes / self.tensor / bandwidth

    def elementwise_s(self, hidden_size: int, tokens: float) -> float:
        """Return the time of norms and residuals; their constant part is not divided by tensor parallelism."""
        moved = _ELEMENTWISE_PASSES * hidden_size * ACTIVATION_BYTES * tokens
        law = self.gpu.kernels
        rate = self.gpu.memory_bandwidth_bytes_per_s * law.fp16.bandwidth_efficiency
        return law.elementwise_s + moved / rate

    def all_reduce_s(
        self, hidden_size: int, tokens: float, *, is_captured: bool = True, gpus: int | None = None
    ) -> float:
        """Return the time of one all-reduce of the activations of ``tokens`` tokens, in a CUDA graph or outside.

        ``gpus``: among so many; None: those of tensor parallelism.
        """
        gpus = self.tensor if gpus is None else gpus
        if gpus == 1:
            return 0.0
        known = self.gpu.all_reduce
        law = next((law for law in known if law.gpus >= gpus), known[-1])
        size_bytes = tokens * hidden_size * ACTIVATION_BYTES
        captured_s = law.seconds(size_bytes)
        if gpus > self.gpu.interconnect_gpus:
            captured_s = max(captured_s, self._between_s(gpus, size_bytes))
        if is_captured:
            return captured_s
        copy_s = _COPY_S + 2 * size_bytes / (_COPY_EFFICIENCY * self.gpu.memory_bandwidth_bytes_per_s)
        return max(captured_s + copy_s, law.eager_s)

    def _between_s(self, gpus: int, size_bytes: float) -> float:
        """Return the time of an all-reduce of more GPUs than the interconnect joins, over the cards of all of them."""
        joined = self.gpu.interconnect_gpus
        rate = _NETWORK_EFFICIENCY * self.gpu.network_bytes_per_s * joined
        moved = 2 * (gpus - 1) / gpus * size_bytes
        return _NETWORK_S + _NETWORK_DOUBLING_S * max(0.0, math.log2(gpus / joined) - 1.0) + moved / rate

    def all_to_all_s(self, experts: Experts, hidden_size: int, tokens: float) -> float:
        """Return the time to send the ``tokens`` of all ranks to the GPUs of their experts, and the results back.

        A token goes to ``per_token`` of them, in the format that experts multiply in, and comes back in 16 bits. What
        leaves the GPUs that the interconnect joins goes over the network card of its GPU.
        """
        native = dict(self.gpu.flops)
        form = experts.matrices[0].format.multiply
        bits = _DISPATCH_BITS.get(form, 16.0) if form in native else 16.0
        moved = experts.per_token * tokens / self.gpus * hidden_size * (bits / 8 + ACTIVATION_BYTES)
        near = min(1.0, self.gpu.interconnect_gpus / self.gpus)
        near_s = near * moved / (_ALL_TO_ALL_EFFICIENCY * self.gpu.interconnect_bytes_per_s)
        return _ALL_TO_ALL_S + near_s + (1.0 - near) * moved / (_NETWORK_EFFICIENCY * self.gpu.network_bytes_per_s)

    def token_work_s(self, layer: Layer, hidden_size: int, tokens: float) -> float:
        """Return the time of everything in a layer but attention and, of several ranks, the routed experts."""
        products = sum(self.gemm_s(matrix, tokens) for matrix in layer.matrices) - self._beside_s(layer, tokens)
        is_apart = self.ranks > 1 and layer.experts is not None
        experts = self.experts_s(layer.experts, tokens) if layer.experts and not is_apart else 0.0
        is_captured = tokens <= MOST_CAPTURED_TOKENS
        reduces = 1 if is_apart else ALL_REDUCES_PER_LAYER
        reduces_s = reduces * self.all_reduce_s(hidden_size, tokens, is_captured=is_captured)
        extra_s = self.latent_s(layer.attention) if layer.attention is not None else 0.0
        return products + experts + self.norms_s(layer, hidden_size, tokens) + extra_s + reduces_s

    def norms_s(self, layer: Layer, hidden_size: int, tokens: float) -> float:
        """Return the time of norms, residuals, rotary embedding and activation of a layer."""
        has_head_norms = layer.attention is not None and layer.attention.head_norms
        return self.elementwise_s(hidden_size, tokens) + (self.gpu.kernels.head_norms_s if has_head_norms else 0.0)

    def latent_s(self, attention: Attention) -> float:
        """Return the constant of compressed keys and values (MLA), and of an index."""
        law = self.gpu.kernels.attention
        return (law.latent_s if attention.kind == "latent" else 0.0) + (
            law.indexed_s if attention.index_numbers else 0.0
        )

    def _beside_s(self, layer: Layer, tokens: float) -> float:
        """Return how much of the shared experts' time passes while the routed ones are computed, in small batches.

        It is the constant part of their products: both read weights at the same bandwidth.
        """
        if layer.experts is None or tokens > _MOST_BESIDE_TOKENS:
            return 0.0
        shared_s = sum(self._law(matrix)[0].launch_s for matrix in layer.matrices if matrix.name.startswith("shared"))
        return min(shared_s, self._experts_law(layer.experts.matrices[0])[0].launch_s)

    def shared_experts_s(self, experts: Experts, hidden_size: int, tokens: float) -> float:
        """Return the time of routed experts that serve the ``tokens`` of all ranks, with their transfers.

        Tokens are gathered from all ranks before, and the results reduced and scattered after (vLLM's
        ``allgather_reducescatter``): together they move what an all-reduce among all GPUs does. Where whole experts are
        spread over more GPUs than a token has experts, each token goes to those of its experts alone, as TensorRT-LLM
        chooses (``enable_alltoall`` of its fused experts).
        """
        if self.by_expert and self.gpus > experts.per_token:
            return self.experts_s(experts, tokens) + self.all_to_all_s(experts, hidden_size, tokens)
        is_captured = tokens <= MOST_CAPTURED_TOKENS * self.ranks
        moved_s = self.all_reduce_s(hidden_size, tokens, is_captured=is_captured, gpus=self.gpus)
        return self.experts_s(experts, tokens) + moved_s

    def head_s(self, hidden_size: int, vocab_size: int, sequences: float) -> float:
        """Return the time of output head and sampler for ``sequences`` sequences that get a token."""
        kernels = self.gpu.kernels
        weights = hidden_size * vocab_size / self.tensor
        product_s = self._product_s(
            kernels.fp16, weights * ACTIVATION_BYTES, 2.0 * weights * sequences / self.gpu.fp16_flops
        )
        return product_s + kernels.sampler_s + kernels.sampler_s_per_sequence * sequences

    def _product_s(self, law: GemmLaw, read_bytes: float, multiply_s_at_peak: float) -> float:
        bandwidth = law.bandwidth_efficiency * self.gpu.memory_bandwidth_bytes_per_s
        read_s = read_bytes / min(bandwidth, law.most_bytes_per_s)
        multiply_s = multiply_s_at_peak / law.compute_efficiency
        longer, shorter = max(read_s, multiply_s), min(read_s, multiply_s)
        if longer == 0.0:
            return law.launch_s
        return longer * float((1.0 + (shorter / longer) ** law.sharpness) ** (1.0 / law.sharpness)) + law.launch_s

    def _law(self, matrix: Matrix) -> tuple[GemmLaw, float]:
        """Return the law and the peak rate [FLOP/s] of a matrix's format; formats a GPU lacks multiply in 16 bits."""
        peaks = dict(self.gpu.flops)
        kernels = self.gpu.kernels
        native = peaks.get(matrix.format.multiply)
        if matrix.format.multiply == "fp16" or native is None:
            return kernels.fp16, peaks["fp16"]
        return kernels.fp4 if matrix.format.multiply == "fp4" else kernels.fp8, native
