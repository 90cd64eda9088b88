"""Time of a layer from datasheet figures and the constants of kernels, for any GPU and model that nobody has timed.

The laws are those of ``kernels``; here they are sampled into curves over the size of a batch, for each kind of layer of
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import ComputeProfile, GpuSpec, LayerTimes
from helixsim.domain.layers import Experts, Layer
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


def roofline(
    model: ModelSpec, gpu: GpuSpec, gpus: int = 1, *, ranks: int = 1, by_expert: bool = False
) -> ComputeProfile:
    """Return the computed profile of ``gpus`` GPUs as one node.

    Formats that the GPU multiplies in have their own rates; others are read at their own size and multiplied in 16
    bits. In a mixture of experts the active ones are multiplied and those that a batch touches are read. ``ranks`` and
    ``by_expert``: data-parallel attention and expert parallelism, as in ``Node``.
    """
    node = Node(gpu, gpus, ranks, by_expert)
    different = dict.fromkeys(model.layers)
    edges = sorted({edge for layer in different for edge in node.tile_edges(layer)})
    kinds = {layer: _layer_times(node, model, layer, edges) for layer in different}
    layers = tuple(kinds[layer] for layer in model.layers)
    mean = layers[0] if len(kinds) == 1 else _mean(layers)
    return ComputeProfile(
        kind=gpu.name if gpus == 1 else f"{gpu.name}x{gpus}",
        model=model.name,
        source="roofline",
        prefill=mean.prefill,
        decode=mean.decode,
        decode_context_ns_per_token=mean.decode_context_ns_per_token,
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        prefill_ns_per_pair=mean.prefill_ns_per_pair,
        token_work=mean.token_work,
        head=_sampled(lambda sequences: node.head_s(model.hidden_size, model.vocab_size, sequences))
        if model.vocab_size
        else None,
        provenance=(
            f"kernels: {gpu.kernels.fp16.compute_efficiency:.0%} of {gpu.fp16_flops / 1e12:g} TFLOP/s, "
            f"{gpu.kernels.fp16.bandwidth_efficiency:.0%} of {gpu.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, "
            f"other constants of {gpu.kernels.name} kernels"
        ),
        layers=() if len(kinds) == 1 else layers,
        ranks=ranks,
        experts=_shared_experts(node, model) if ranks > 1 else (),
        launches=mean.launches,
        wide_seqs=mean.wide_seqs,
        context_multiply_ns_per_token=mean.context_multiply_ns_per_token,
    )


def _shared_experts(node: Node, model: ModelSpec) -> tuple[Curve | None, ...]:
    """Return the curve of the routed experts of each layer, equal ones as one object."""
    known: dict[Experts | None, Curve | None] = {None: None}
    for layer in model.layers:
        experts = layer.experts
        if experts is not None and experts not in known:
            known[experts] = _sampled(partial(node.shared_experts_s, experts, model.hidden_size))
    return tuple(known[layer.experts] for layer in model.layers)


def _layer_times(node: Node, model: ModelSpec, layer: Layer, edges: Sequence[int]) -> LayerTimes:
    """Return the times of one kind of layer; a window caps what its attention reads and multiplies.

    ``edges``: batches with knots beside those at equal ratios, the same for all kinds.
    """
    attention, constants = layer.attention, node.gpu.kernels.attention
    work = _sampled(lambda tokens: node.token_work_s(layer, model.hidden_size, tokens), edges)
    if attention is None:
        return LayerTimes(work, work, token_work=work, launches=layer.launches)
    context_ns = node.kv_read_s(attention, model.kv_bits, 1) * NS_PER_S
    pair_ns = node.prefill_attention_s(attention, 1) * NS_PER_S
    sequence_ns = constants.kv_padding_tokens * context_ns + node.state_s(attention, 1) * NS_PER_S
    return LayerTimes(
        prefill=_raised(work, constants.launch_s * NS_PER_S, constants.padding_tokens * pair_ns),
        decode=_raised(work, constants.kv_launch_s * NS_PER_S, sequence_ns),
        decode_context_ns_per_token=context_ns,
        context_multiply_ns_per_token=node.kv_multiply_s(attention, 1) * NS_PER_S,
        prefill_ns_per_pair=pair_ns,
        token_work=work,
        window_tokens=attention.most_attended,
        index_ns_per_token=node.index_read_s(attention, 1) * NS_PER_S,
        index_ns_per_pair=node.index_pairs_s(attention, 1) * NS_PER_S,
        launches=layer.launches,
        wide_seqs=node.wide_seqs(attention),
    )


def _mean(layers: Sequence[LayerTimes]) -> LayerTimes:
    """Return the mean of all layers, each of which attends to the whole context."""
    count = len(layers)

    def mean(value: Callable[[LayerTimes], float]) -> float:
        return sum(value(layer) for layer in layers) / count

    def curve(of: Callable[[LayerTimes], Curve]) -> Curve:
        curves = [of(layer) for layer in layers]
        return Curve(curves[0].x, tuple(sum(ys) / count for ys in zip(*(one.y_ns for one in curves), strict=True)))

    return LayerTimes(
        prefill=curve(lambda layer: layer.prefill),
        decode=curve(lambda layer: layer.decode),
        decode_context_ns_per_token=mean(lambda layer: layer.decode_context_ns_per_token),
        prefill_ns_per_pair=mean(lambda layer: layer.prefill_ns_per_pair),
        token_work=curve(lambda layer: layer.token_work or layer.prefill),
        launches=mean(lambda layer: layer.launches),
        wide_seqs=mean(lambda layer: layer.wide_seqs),
        context_multiply_ns_per_token=mean(lambda layer: layer.context_multiply_ns_per_token),
    )


def _sampled(law_s: Callable[[float], float], edges: Sequence[int] = ()) -> Curve:
    """Return a law of time [s] as a curve [ns] with knots at equal ratios, and at the ``edges`` where it jumps."""
    ratios = [1.0]
    while ratios[-1] < _MOST_TOKENS:
        ratios.append(round(2 ** (len(ratios) / _KNOTS_PER_DOUBLING), 3))
    knots = sorted({*ratios, *map(float, edges)})
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
