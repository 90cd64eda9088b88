"""Time of a layer from datasheet figures and the constants of kernels, for any GPU and model that nobody has timed.

The laws are those of ``kernels``; here they are sampled into curves over the size of a batch. In a model of several
kinds of layers, a curve is the mean over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from helixsim.domain.hardware import ComputeProfile, Curve, GpuSpec
from helixsim.domain.layers import Layer
from helixsim.domain.model import ModelSpec
from helixsim.hardware.compute_file import FittedKind
from helixsim.hardware.kernels import Node
from helixsim.hardware.measured import activation_copy_ns_per_token
from helixsim.units import NS_PER_S

CHECK_CONTEXT_TOKENS = 870
"""Context of a sequence in the published decode timings, which do not state it: the paper's mean prompt (750 tokens)
plus half its mean output (240)."""

_MOST_TOKENS = 2**20
"""Largest batch that curves know; beyond, they go on with their last slope."""

_KNOTS_PER_DOUBLING = 3
"""Linear interpolation between knots is then off by less than 1 %."""


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

    Formats that the GPU multiplies in have their own rates; others are read at their own size and multiplied in 16
    bits. In a mixture of experts the active ones are multiplied and those that a batch touches are read.
    """
    node, hidden = Node(gpu, gpus), model.hidden_size
    constants = gpu.kernels.attention
    attending = [layer.attention for layer in model.layers if layer.attention is not None]
    share = len(attending) / model.num_layers
    states = _mean(model, lambda layer: node.state_s(layer.attention, 1) if layer.attention else 0.0)
    context_s = _mean(
        model, lambda layer: node.kv_read_s(layer.attention, model.kv_bits, 1) if layer.attention else 0.0
    )
    padding_s = constants.kv_padding_tokens * context_s

    def work_s(tokens: float) -> float:
        return _mean(model, lambda layer: node.token_work_s(layer, hidden, tokens))

    work = _sampled(work_s)
    pair_s = _mean(model, lambda layer: _pair_s(node, layer))
    prompt_padding_ns = constants.padding_tokens * pair_s * NS_PER_S
    sequence_ns = (padding_s + states) * NS_PER_S
    return ComputeProfile(
        kind=gpu.name if gpus == 1 else f"{gpu.name}x{gpus}",
        model=model.name,
        source="roofline",
        prefill=_raised(work, share * constants.launch_s * NS_PER_S, prompt_padding_ns),
        decode=_raised(work, share * constants.kv_launch_s * NS_PER_S, sequence_ns),
        decode_context_ns_per_token=context_s * NS_PER_S,
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        prefill_ns_per_pair=pair_s * NS_PER_S,
        token_work=work,
        head=_sampled(lambda sequences: node.head_s(hidden, model.vocab_size, sequences)) if model.vocab_size else None,
        provenance=(
            f"kernels: {gpu.kernels.fp16.compute_efficiency:.0%} of {gpu.fp16_flops / 1e12:g} TFLOP/s, "
            f"{gpu.kernels.fp16.bandwidth_efficiency:.0%} of {gpu.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, "
            f"other constants of {gpu.kernels.name} kernels"
        ),
    )


def _pair_s(node: Node, layer: Layer) -> float:
    attention = layer.attention
    return node.prefill_attention_s(attention, 1) if attention and attention.kind != "linear" else 0.0


def _mean(model: ModelSpec, law: Callable[[Layer], float]) -> float:
    return sum(count * law(layer) for layer, count in Counter(model.layers).items()) / model.num_layers


def _sampled(law_s: Callable[[float], float]) -> Curve:
    """Return a law of time [s] as a curve [ns] with knots at equal ratios."""
    knots = [1.0]
    while knots[-1] < _MOST_TOKENS:
        knots.append(round(2 ** (len(knots) / _KNOTS_PER_DOUBLING), 3))
    return Curve(tuple(knots), tuple(law_s(x) * NS_PER_S for x in knots))


def _raised(curve: Curve, constant_ns: float, each_ns: float = 0.0) -> Curve:
    return Curve(curve.x, tuple(y + constant_ns + each_ns * x for x, y in zip(curve.x, curve.y_ns, strict=True)))


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


def _middle(values: list[float]) -> float:
    return values[len(values) // 2]
