"""Time of a layer from datasheet figures, for any GPU and model that nobody has timed.

A layer takes as long as the slower of reading its weights and doing its matrix work, each at the share of the peak that
real layers reach. Reading keys and values of the context comes on top (decode); tensor parallelism divides all of it
and adds two all-reduces. The pattern is the roofline model of Williams et al. (2009).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from helixsim.domain.hardware import ComputeProfile, Curve, GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.hardware.compute_file import FittedKind
from helixsim.hardware.measured import activation_copy_ns_per_token
from helixsim.hardware.tensor_parallel import all_reduces_s, kv_shares
from helixsim.units import NS_PER_S

PREFILL_CONTEXT_TOKENS = 1024
"""Prompt length behind the attention work of prefill; on average a token attends to half of it. A tenfold length adds
about a tenth to the work of a 70B layer."""

CHECK_CONTEXT_TOKENS = 870
"""Context of a sequence in the published decode timings, which do not state it: the paper's mean prompt (750 tokens)
plus half its mean output (240)."""


@dataclass(frozen=True, slots=True)
class TimingError:
    """Relative distance of computed times from fitted timings of one kind of node, absolute values."""

    model: str
    kind: str
    prefill_median: float
    prefill_worst: float
    decode_median: float
    decode_worst: float


def roofline(model: ModelSpec, gpu: GpuSpec, gpus: int = 1) -> ComputeProfile:
    """Return the computed profile of ``gpus`` GPUs as one node.

    Weights of 8 or 4 bits are read at their own size but multiplied at the FP16 rate. In a mixture of experts all
    weights are resident, the active ones are multiplied and those of the experts that a batch touches are read.
    """
    widths = [
        layer.attention.num_heads * (layer.attention.key_dim + layer.attention.value_dim)
        for layer in model.layers
        if layer.attention is not None and layer.attention.kind != "linear"
    ]
    attention_flops = sum(widths) / model.num_layers * PREFILL_CONTEXT_TOKENS
    return ComputeProfile(
        kind=gpu.name if gpus == 1 else f"{gpu.name}x{gpus}",
        model=model.name,
        source="roofline",
        prefill=_layer_curve(model, gpu, gpus, model.flops_per_token_per_layer + attention_flops),
        decode=_layer_curve(model, gpu, gpus, model.flops_per_token_per_layer),
        decode_context_ns_per_token=context_ns_per_token(model, gpu, gpus),
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        provenance=(
            f"roofline: {gpu.compute_efficiency:.0%} of {gpu.fp16_flops / 1e12:g} TFLOP/s, "
            f"{gpu.bandwidth_efficiency:.0%} of {gpu.memory_bandwidth_bytes_per_s / 1e9:g} GB/s"
        ),
    )


def context_ns_per_token(model: ModelSpec, gpu: GpuSpec, gpus: int) -> float:
    """Return the time to read the keys and values of one token of context in one layer [ns]."""
    bandwidth = gpu.memory_bandwidth_bytes_per_s * gpu.bandwidth_efficiency
    return model.kv_bytes_per_token_per_layer / (bandwidth * kv_shares(model, gpus)) * NS_PER_S


def timing_error(computed: ComputeProfile, fitted: FittedKind) -> TimingError:
    """Return how far computed times lie from ``fitted`` over batches of 1 to 128 sequences and 256 to 4096 tokens."""
    prefill = sorted(
        abs(computed.prefill_ns(1, tokens) / fitted.prefill.curve(tokens) - 1.0)
        for tokens in (2**power for power in range(8, 13))
    )
    decode = sorted(
        abs(computed.decode_ns(1, seqs, seqs * CHECK_CONTEXT_TOKENS) / fitted.decode.curve(seqs) - 1.0)
        for seqs in (2**power for power in range(8))
    )
    return TimingError(fitted.model, fitted.kind, _middle(prefill), prefill[-1], _middle(decode), decode[-1])


def _layer_curve(model: ModelSpec, gpu: GpuSpec, gpus: int, flops_per_token: float) -> Curve:
    """Return the time of one layer [ns] against tokens in the batch; its knots lie where the roofline bends."""
    compute_s = flops_per_token / (gpu.fp16_flops * gpu.compute_efficiency * gpus)
    read_rate = gpu.memory_bandwidth_bytes_per_s * gpu.bandwidth_efficiency * gpus
    touched = _weight_bytes_touched(model)
    communication_s = all_reduces_s(model, gpu, gpus)
    ridge = model.weight_bytes_per_layer / read_rate / compute_s
    knots = [1.0]
    if any(layer.experts for layer in model.layers):  # the share touched bends; doubling batches follow it to a few %
        while knots[-1] * 2 < ridge:
            knots.append(knots[-1] * 2)
    knots += [x for x in (ridge, 2 * ridge) if x > knots[-1]] or [2.0]
    times = [communication_s(x) + max(touched(x) / read_rate, x * compute_s) for x in knots]
    return Curve(tuple(knots), tuple(time * NS_PER_S for time in times))


def _weight_bytes_touched(model: ModelSpec) -> Callable[[float], float]:
    """Return the bytes of weights that a batch of tokens reads; experts are drawn evenly and independently."""
    kinds = Counter(model.layers)

    def touched(tokens: float) -> float:
        total = 0.0
        for layer, count in kinds.items():
            experts = layer.experts
            untouched = experts.bytes * (1.0 - experts.per_token / experts.count) ** tokens if experts else 0.0
            total += count * (layer.weight_bytes - untouched)
        return total / model.num_layers

    return touched


def _middle(values: list[float]) -> float:
    return values[len(values) // 2]
