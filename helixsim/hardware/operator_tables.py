"""Times of layers from tables of measured kernels, in place of the laws of ``kernels``.

The operators of each layer of a ``ModelSpec`` are looked up for one engine on one GPU and sampled into a
``ComputeProfile`` as ``roofline`` returns. Nothing of the library behind the tables is needed afterwards: the profile
is plain numbers, which enter content keys and travel to other processes.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

from helixsim.domain.curves import AttentionTable, Curve
from helixsim.domain.hardware import ComputeProfile, GpuSpec, LayerTimes
from helixsim.domain.layers import FP16, Layer
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError
from helixsim.hardware.kernels import Node
from helixsim.hardware.measured import activation_copy_ns_per_token
from helixsim.hardware.operator_choice import sampled
from helixsim.hardware.operator_layers import LayerOperators, layer_operators
from helixsim.hardware.operator_library import BACKENDS, Tables, open_tables
from helixsim.units import NS_PER_S

_MOST_TOKENS, _MOST_SEQS = 2**17, 1024
"""Largest batch that curves know; beyond, they go on with their last slope."""

_SEQS, _CONTEXT, _PROMPT = 32, 1000, 2048
"""Batches whose sources are stated: decoding sequences with their context, and the tokens of a prompt."""


@lru_cache(maxsize=64)
def operator_profile(
    model: ModelSpec, gpu: GpuSpec, gpus: int, backend: str | None, ranks: int = 1, by_expert: bool = False
) -> ComputeProfile:
    """Return the profile of a node from the tables of an engine (``None``: one that has no tables).

    Raises
    ------
    ConfigError
        Without the library, or for an engine that it does not know.
    DataError
        If the tables lack the GPU, or something of the model.
    """
    if backend is None:
        raise ConfigError(
            f"timings: operators: there are tables of {', '.join(BACKENDS.values())} only, not of this engine"
        )
    return operator_times(Node(gpu, gpus, ranks, by_expert), model, open_tables(gpu.name, backend))


def operator_times(node: Node, model: ModelSpec, tables: Tables, *, in_service: bool = True) -> ComputeProfile:
    """Return the profile of a node from measured kernels; the sampler is that of ``roofline``.

    ``in_service``: norms, rotary embedding and activation, which the tables do not have, are those of ``roofline``,
    what an engine fuses with them is left out, and kernels are those that ``operator_choice`` takes. Otherwise all is
    as the library estimates it, for its own models.

    Raises
    ------
    DataError
        If the tables lack a number format, a shape of attention or experts, or a kind of layer.
    """
    counts, gpu = Counter(model.layers), node.gpu
    operators = {layer: layer_operators(layer, model, node, tables, in_service) for layer in counts}
    most_context = min(model.max_context_tokens, _MOST_TOKENS)
    times = {
        layer: replace(_layer_times(one, node.ranks, most_context), launches=layer.launches)
        for layer, one in operators.items()
    }
    attending = [(count, times[layer].attention) for layer, count in counts.items()]
    tabled = [(count, table) for count, table in attending if table is not None]

    def mean(of: Callable[[AttentionTable], float]) -> float:
        return sum(count * of(table) for count, table in tabled) / model.num_layers

    xs = times[model.layers[0]].prefill.x

    def meansampled(of: Callable[[LayerTimes], Curve]) -> Curve:
        return Curve(xs, tuple(sum(n * of(times[one])(x) for one, n in counts.items()) / model.num_layers for x in xs))

    work, decode = meansampled(lambda one: one.prefill), meansampled(lambda one: one.decode)
    attended = [mean(partial(_of_context, seqs=x)) for x in xs]
    pair_ns = mean(lambda table: max(table.prompts_ns(2 * _PROMPT, 0, 1) - table.prompts_ns(_PROMPT, 0, 1), 0.0)) / (
        1.5 * _PROMPT**2
    )
    start_ns = max(mean(lambda table: table.prompts_ns(_PROMPT, 0, 1)) - pair_ns * _PROMPT**2 / 2, 0.0)
    context_ns = mean(lambda table: _slope(table.decode_curve(_SEQS), _CONTEXT)) / _SEQS
    return ComputeProfile(
        kind=gpu.name if node.gpus == 1 else f"{gpu.name}x{node.gpus}",
        model=model.name,
        source="operators",
        prefill=Curve(xs, tuple(y + start_ns for y in work.y_ns)),
        decode=Curve(xs, tuple(y + more for y, more in zip(decode.y_ns, attended, strict=True))),
        decode_context_ns_per_token=context_ns,
        reference_context_tokens=_CONTEXT,
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        prefill_ns_per_pair=pair_ns,
        token_work=decode,
        head=_head(model, node, tables) if model.vocab_size else None,
        layers=tuple(times[layer] for layer in model.layers),
        ranks=node.ranks,
        experts=_of_all_ranks(operators, model) if node.ranks > 1 else (),
        provenance=f"operator tables of {tables.source}: {_shares(operators, counts, node.ranks)}",
    )


def _layer_times(operators: LayerOperators, ranks: int, most_context: int) -> LayerTimes:
    knots = _token_knots()
    others, shared, routed = (
        operators.curve(knots, some) for some in (operators.others, operators.shared, operators.routed)
    )
    apart = sampled(knots, operators.apart_ns)
    work = decode = _joined(others, shared, routed, apart)
    if operators.shared:
        beside = operators.curve(knots, operators.of_ranks[:1], ranks) if operators.of_ranks else routed
        saved = tuple(map(min, shared.y_ns, beside.y_ns))
        decode = Curve(work.x, tuple(y - less for y, less in zip(work.y_ns, saved, strict=True)))
    return LayerTimes(work, decode, token_work=decode, attention=_attention(operators, most_context))


def _of_all_ranks(operators: Mapping[Layer, LayerOperators], model: ModelSpec) -> tuple[Curve | None, ...]:
    """Return the curve of the routed experts of each layer, equal ones as one object."""
    knots = _token_knots()
    known = {layer: one.curve(knots, one.of_ranks) if one.of_ranks else None for layer, one in operators.items()}
    return tuple(known[layer] for layer in model.layers)


def _attention(operators: LayerOperators, most: int) -> AttentionTable | None:
    prompt, decode = operators.prompt, operators.decode
    if not decode:
        return None
    contexts, lengths, pasts = _knots(most, 2), _knots(most, 3), [0, *_knots(most, 1)[7:]]

    def chunks(past: int, seqs: int) -> Curve:
        return sampled(lengths, lambda tokens: sum(one.ns(seqs, tokens, past, is_prompt=True) for one in prompt))

    def further(past: int, first: Curve) -> Curve:
        """Return what each of three more prompts adds."""
        four = chunks(past, 4)
        return Curve(first.x, tuple(max(y - one, 0.0) / 3 for y, one in zip(four.y_ns, first.y_ns, strict=True)))

    def steps(seqs: int) -> Curve:
        return sampled(contexts, lambda context: sum(one.ns(seqs, context) for one in decode))

    of_one = [(float(past), chunks(past, 1)) for past in pasts]
    of_more = [(past, further(int(past), first)) for past, first in of_one]
    of_decode = [(float(seqs), steps(seqs)) for seqs in _knots(_MOST_SEQS, 2)]
    numbers = [y for rows in (of_decode, of_one, of_more) for _, curve in rows for y in curve.y_ns]
    digest = hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()
    return AttentionTable(tuple(of_decode), tuple(of_one), tuple(of_more), digest)


def _head(model: ModelSpec, node: Node, tables: Tables) -> Curve:
    product = tables.build.text([tables.build.product(model.hidden_size, model.vocab_size // node.tensor, FP16)])
    kernels = node.gpu.kernels
    constant, each = kernels.sampler_s * NS_PER_S, kernels.sampler_s_per_sequence * NS_PER_S
    return sampled(_knots(_MOST_SEQS, 3), lambda seqs: tables.ns(product, seqs) + constant + each * seqs)


def _shares(operators: Mapping[Layer, LayerOperators], counts: Mapping[Layer, int], ranks: int) -> str:
    """Return how much of the time of a decode step and of a prompt on each rank is known how."""
    texts = []
    for name, seqs, tokens, is_prompt in (("decode steps", _SEQS, _CONTEXT, False), ("prompts", 1, _PROMPT, True)):
        times: dict[str, float] = defaultdict(float)
        for layer, one in operators.items():
            in_step = seqs * (tokens if is_prompt else 1)
            found = [part.by_source(in_step) for part in (*one.others, *one.shared, *one.routed)]
            found += [part.by_source(in_step * ranks) for part in one.of_ranks]
            attention = one.prompt if is_prompt else one.decode
            found += [part.by_source(seqs, tokens, is_prompt=is_prompt) for part in attention]
            if one.norms_s is not None:
                times["laws"] += counts[layer] * one.norms_s(in_step) * NS_PER_S
            for part in found:
                for source, ns in part.items():
                    times[source] += counts[layer] * ns
        whole = sum(times.values())
        known = sorted(((ns, source) for source, ns in times.items() if ns), reverse=True)
        texts.append(f"{name} {', '.join(f'{ns / whole:.0%} {source}' for ns, source in known)}")
    return "; ".join(texts)


def _of_context(table: AttentionTable, seqs: float) -> float:
    return table.decode_curve(seqs)(_CONTEXT)


def _slope(curve: Curve, x: float) -> float:
    """Return the mean slope between ``x`` and three times that."""
    return max(curve(3 * x) - curve(x), 0.0) / (2 * x)


def _knots(most: int, per_doubling: int) -> list[int]:
    """Return whole numbers from 1 at equal ratios, the last one not below ``most``."""
    knots = [1]
    step = 0
    while knots[-1] < most:
        step += 1
        value = round(2 ** (step / per_doubling))
        if value > knots[-1]:
            knots.append(value)
    return knots


def _token_knots() -> list[int]:
    """Return sizes of batches around each step of the tables, which jump behind multiples of a tile."""
    sizes = {1}
    octave = 1
    while octave < _MOST_TOKENS:
        step = max(octave // 8, 1)
        sizes.update(size + beyond for size in range(octave, 2 * octave + 1, step) for beyond in (0, 1))
        octave *= 2
    return sorted(sizes)


def _joined(*curves: Curve) -> Curve:
    """Return the sum of curves with the same knots."""
    return Curve(curves[0].x, tuple(map(sum, zip(*(one.y_ns for one in curves), strict=True))))
