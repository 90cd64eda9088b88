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
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from helixsim.domain.curves import AttentionTable, Curve
from helixsim.domain.hardware import ComputeProfile, GpuSpec, LayerTimes
from helixsim.domain.kernels import Kernels
from helixsim.domain.layers import FP16, Experts, Layer, Matrix, Multiply
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError, DataError
from helixsim.hardware.kernels import Node
from helixsim.hardware.measured import activation_copy_ns_per_token
from helixsim.hardware.operator_library import BACKENDS, Tables, open_tables
from helixsim.units import NS_PER_S

_MODULE_MATRICES = frozenset({"qkv_a", "q_a", "q", "kv_a", "q_b", "kv_b", "attention_output"})
"""Matrices that vLLM's tables measure as one module with the attention of compressed keys and values (MLA); those of
other engines have the attention alone, and in decode steps what replaces ``kv_b``."""

_WITH_MODULES = "vllm"

_LATENT = (192, 128, 576)
"""Widths of keys, values and compressed keys and values in the tables of MLA: those of DeepSeek V2, V3 and Kimi K2."""

_SMALL = 256
"""Rows and columns of a product that takes no longer than the launches of its kernels: in 8 or 4 bits longer than in 16
by the quantising of activations, which the tables time with the product."""

_MOST_TOKENS, _MOST_SEQS = 2**17, 1024
"""Largest batch that curves know; beyond, they go on with their last slope."""

_SEQS, _CONTEXT, _PROMPT = 32, 1000, 2048
"""Batches whose sources are stated: decoding sequences with their context, and the tokens of a prompt."""


@lru_cache(maxsize=64)
def operator_profile(model: ModelSpec, gpu: GpuSpec, gpus: int, backend: str | None) -> ComputeProfile:
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
    return operator_times(model, gpu, gpus, open_tables(gpu.name, backend))


def operator_times(
    model: ModelSpec, gpu: GpuSpec, gpus: int, tables: Tables, *, in_service: bool = True
) -> ComputeProfile:
    """Return the profile of ``gpus`` GPUs as one node from measured kernels; the sampler is that of ``roofline``.

    ``in_service``: norms, rotary embedding and activation, which the tables do not have, are those of ``roofline``, and
    what an engine fuses with them is left out. Otherwise they are as the library estimates them, for its own models.

    Raises
    ------
    DataError
        If the tables lack a number format, a shape of attention or experts, or a kind of layer.
    """
    counts = Counter(model.layers)
    operators = {layer: _operators(layer, model, gpu, gpus, tables, in_service) for layer in counts}
    most_context = min(model.max_context_tokens, _MOST_TOKENS)
    times = {
        layer: replace(_layer_times(one, tables, most_context), launches=layer.launches)
        for layer, one in operators.items()
    }
    attending = [(count, times[layer].attention) for layer, count in counts.items()]
    tabled = [(count, table) for count, table in attending if table is not None]

    def mean(of: Callable[[AttentionTable], float]) -> float:
        return sum(count * of(table) for count, table in tabled) / model.num_layers

    xs = times[model.layers[0]].prefill.x

    def mean_curve(of: Callable[[LayerTimes], Curve]) -> Curve:
        return Curve(xs, tuple(sum(n * of(times[one])(x) for one, n in counts.items()) / model.num_layers for x in xs))

    work, decode = mean_curve(lambda one: one.prefill), mean_curve(lambda one: one.decode)
    attended = [mean(partial(_of_context, seqs=x)) for x in xs]
    pair_ns = mean(lambda table: max(table.prompts_ns(2 * _PROMPT, 0, 1) - table.prompts_ns(_PROMPT, 0, 1), 0.0)) / (
        1.5 * _PROMPT**2
    )
    start_ns = max(mean(lambda table: table.prompts_ns(_PROMPT, 0, 1)) - pair_ns * _PROMPT**2 / 2, 0.0)
    context_ns = mean(lambda table: _slope(table.decode_curve(_SEQS), _CONTEXT)) / _SEQS
    return ComputeProfile(
        kind=gpu.name if gpus == 1 else f"{gpu.name}x{gpus}",
        model=model.name,
        source="operators",
        prefill=Curve(xs, tuple(y + start_ns for y in work.y_ns)),
        decode=Curve(xs, tuple(y + more for y, more in zip(decode.y_ns, attended, strict=True))),
        decode_context_ns_per_token=context_ns,
        reference_context_tokens=_CONTEXT,
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        prefill_ns_per_pair=pair_ns,
        token_work=decode,
        head=_head(model, gpu, gpus, tables) if model.vocab_size else None,
        layers=tuple(times[layer] for layer in model.layers),
        provenance=f"operator tables of {tables.source}: {_shares(operators, counts, tables)}",
    )


@dataclass(frozen=True, slots=True)
class _Operators:
    """Operators of one layer, as text.

    Parameters
    ----------
    tokens
        Of all tokens, whichever they are.
    shared, routed
        Shared experts, and the routed ones with their router, which are among ``tokens``: decode steps compute both at
        once (CUDA graphs).
    prompt, decode
        Attention of prompts, and of decode steps.
    norms_s
        Norms, rotary embedding and activation for so many tokens by the laws [s]; None: they are among ``tokens``.
    quantised, plain
        As many small products as the layer has whose activations an engine quantises in the kernels before, in their
        format and in 16 bits: what those take longer is in ``tokens``, and not in the engine.
    """

    tokens: str
    shared: str | None = None
    routed: str | None = None
    prompt: str | None = None
    decode: str | None = None
    norms_s: Callable[[float], float] | None = None
    quantised: str | None = None
    plain: str | None = None

    def tokens_ns(self, tables: Tables, tokens: int) -> float:
        """Return the time of ``tokens`` without what an engine does in other kernels [ns]."""
        whole_ns = tables.ns(self.tokens, tokens)
        if self.norms_s is not None:
            whole_ns += self.norms_s(tokens) * NS_PER_S
        if self.quantised is None or self.plain is None:
            return whole_ns
        return whole_ns - max(tables.ns(self.quantised, tokens) - tables.ns(self.plain, tokens), 0.0)


def _operators(layer: Layer, model: ModelSpec, gpu: GpuSpec, gpus: int, tables: Tables, in_service: bool) -> _Operators:
    build, hidden = tables.build, model.hidden_size
    attending = attention_operators(layer, model, gpus, tables)
    of_tokens: list[Any] = []
    shared: list[Any] = []
    routed: list[Any] = []
    for matrix in matrices_alone(layer, tables.backend):
        inputs, outputs = _shard(matrix, gpus)
        made = [build.product(inputs, outputs, matrix.format)]
        if matrix.name.endswith(("gate_up", "up")) and not in_service:
            made.append(build.elementwise(outputs, outputs // 2 if "gate" in matrix.name else outputs))
        (shared if matrix.name.startswith("shared") else routed if matrix.name == "router" else of_tokens).extend(made)
    has_feed = layer.experts is not None or any("down" in matrix.name for matrix in layer.matrices)
    parts = (layer.attention is not None) + has_feed
    if not in_service:
        of_tokens += [build.elementwise(2 * hidden, 2 * hidden)] * parts
    if gpus > 1:
        of_tokens += [build.all_reduce(hidden, gpus)] * parts
    if layer.experts is not None:
        routed.append(expert_operator(layer, gpus, tables, gpu.kernels))
    fused = [
        matrix.format
        for matrix in matrices_alone(layer, tables.backend)
        if in_service and matrix.format.multiply in gpu.kernels.fused_quantization
    ]
    return _Operators(
        build.text([*of_tokens, *shared, *routed]),
        build.text(shared) if shared and routed else None,
        build.text(routed) if shared and routed else None,
        None if attending is None else build.text(attending[0]),
        None if attending is None else build.text(attending[1]),
        partial(Node(gpu, gpus).norms_s, layer, hidden) if in_service else None,
        build.text([build.product(_SMALL, _SMALL, form) for form in fused]) if fused else None,
        build.text([build.product(_SMALL, _SMALL, FP16) for _ in fused]) if fused else None,
    )


def attention_operators(
    layer: Layer, model: ModelSpec, gpus: int, tables: Tables
) -> tuple[list[Any], list[Any]] | None:
    """Return the attention of prompts and that of decode steps; None: the layer has none.

    Raises
    ------
    DataError
        For attention that is not looked up, and heads that do not divide among the GPUs.
    """
    attention = layer.attention
    if attention is None:
        return None
    if attention.kind == "linear" or attention.attended_tokens is not None:
        kind = "linear attention" if attention.kind == "linear" else "sparse attention with an index"
        raise DataError(f"{model.name} has layers of {kind}, which are not looked up in operator tables")
    if attention.num_heads % gpus:
        raise DataError(f"{model.name}: {attention.num_heads} heads do not divide among {gpus} GPUs")
    build = tables.build
    if attention.kind != "latent":
        prompt, decode = build.attention(attention, gpus, model.kv_precision)
        return [prompt], [decode]
    if (attention.key_dim, attention.value_dim, attention.kv_numbers) != _LATENT:
        raise DataError(f"{model.name} has compressed keys and values of other widths than the operator tables")
    if tables.backend == _WITH_MODULES:
        inside = next(matrix for matrix in layer.matrices if matrix.name in _MODULE_MATRICES)
        prompt, decode = build.latent_module(attention, gpus, model.kv_precision, inside.format)
        return [prompt], [decode]
    prompt, decodes = build.latent_attention(attention, gpus, model.kv_precision)
    expanded = [matrix for matrix in layer.matrices if matrix.name == "kv_b"]
    return [prompt, *(build.product(*_shard(matrix, gpus), matrix.format) for matrix in expanded)], decodes


def product_operators(layer: Layer, gpus: int, tables: Tables) -> list[Any]:
    """Return the matrix products of a layer but the router's, and but those measured together with its attention."""
    matrices = [matrix for matrix in matrices_alone(layer, tables.backend) if matrix.name != "router"]
    return [tables.build.product(*_shard(matrix, gpus), matrix.format) for matrix in matrices]


def expert_operator(layer: Layer, gpus: int, tables: Tables, kernels: Kernels) -> Any:
    """Return the routed experts cut as helixsim cuts them, or in groups of whole ones where only those are known.

    They multiply in the format that the engine's kernels do: MXFP4 in 16 bits on Hopper, in FP8 on Blackwell.
    """
    assert layer.experts is not None, "only layers with experts are asked"
    multiply = kernels.experts_of(layer.experts.matrices[0].format.name).multiply
    experts = layer.experts if multiply is None else _multiplied_in(layer.experts, multiply)
    has_shared = any(matrix.name.startswith("shared") for matrix in layer.matrices)
    sliced = tables.build.experts(experts, gpus, by_expert=False, has_shared=has_shared)
    try:
        tables.ns(tables.build.text([sliced]), 1)
    except DataError:
        if gpus == 1:
            raise
        return tables.build.experts(experts, gpus, by_expert=True, has_shared=has_shared)
    return sliced


def _multiplied_in(experts: Experts, multiply: Multiply) -> Experts:
    return replace(
        experts,
        matrices=tuple(replace(one, format=replace(one.format, multiply=multiply)) for one in experts.matrices),
    )


def matrices_alone(layer: Layer, backend: str = _WITH_MODULES) -> list[Matrix]:
    """Return the matrices of a layer that are measured one by one, not together with its attention."""
    inside: frozenset[str] = frozenset()
    if layer.attention is not None and layer.attention.kind == "latent":
        inside = _MODULE_MATRICES if backend == _WITH_MODULES else frozenset({"kv_b"})
    return [matrix for matrix in layer.matrices if matrix.name not in inside]


def _shard(matrix: Matrix, gpus: int) -> tuple[int, int]:
    inputs, outputs = matrix.shard(gpus)
    return round(inputs), round(outputs)


def _layer_times(operators: _Operators, tables: Tables, most_context: int) -> LayerTimes:
    knots, shared, routed = _token_knots(), operators.shared, operators.routed
    work = decode = _curve(knots, lambda tokens: operators.tokens_ns(tables, tokens))
    if shared is not None and routed is not None:
        saved = _curve(knots, lambda tokens: min(tables.ns(shared, tokens), tables.ns(routed, tokens)))
        decode = Curve(work.x, tuple(y - less for y, less in zip(work.y_ns, saved.y_ns, strict=True)))
    return LayerTimes(work, decode, token_work=decode, attention=_attention(operators, tables, most_context))


def _attention(operators: _Operators, tables: Tables, most: int) -> AttentionTable | None:
    prompt, decode = operators.prompt, operators.decode
    if prompt is None or decode is None:
        return None
    contexts, lengths, pasts = _knots(most, 2), _knots(most, 3), [0, *_knots(most, 1)[7:]]

    def chunks(past: int, seqs: int) -> Curve:
        return _curve(lengths, lambda tokens: tables.ns(prompt, seqs, tokens, past, is_prompt=True))

    def further(past: int, first: Curve) -> Curve:
        """Return what each of three more prompts adds."""
        four = chunks(past, 4)
        return Curve(first.x, tuple(max(y - one, 0.0) / 3 for y, one in zip(four.y_ns, first.y_ns, strict=True)))

    of_one = [(float(past), chunks(past, 1)) for past in pasts]
    of_more = [(past, further(int(past), first)) for past, first in of_one]
    of_decode = [(float(seqs), _curve(contexts, partial(tables.ns, decode, seqs))) for seqs in _knots(_MOST_SEQS, 2)]
    numbers = [y for rows in (of_decode, of_one, of_more) for _, curve in rows for y in curve.y_ns]
    digest = hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()
    return AttentionTable(tuple(of_decode), tuple(of_one), tuple(of_more), digest)


def _head(model: ModelSpec, gpu: GpuSpec, gpus: int, tables: Tables) -> Curve:
    product = tables.build.text([tables.build.product(model.hidden_size, model.vocab_size // gpus, FP16)])
    constant, each = gpu.kernels.sampler_s * NS_PER_S, gpu.kernels.sampler_s_per_sequence * NS_PER_S
    return _curve(_knots(_MOST_SEQS, 3), lambda seqs: tables.ns(product, seqs) + constant + each * seqs)


def _shares(operators: Mapping[Layer, _Operators], counts: Mapping[Layer, int], tables: Tables) -> str:
    """Return how much of the time of a decode step and of a prompt is known how."""
    texts = []
    for name, seqs, tokens, is_prompt in (("decode steps", _SEQS, _CONTEXT, False), ("prompts", 1, _PROMPT, True)):
        times: dict[str, float] = defaultdict(float)
        for layer, one in operators.items():
            attention = one.prompt if is_prompt else one.decode
            tokens_in_step = seqs * (tokens if is_prompt else 1)
            found = [tables.by_source(one.tokens, tokens_in_step)]
            found += [tables.by_source(attention, seqs, tokens, is_prompt=is_prompt)] if attention else []
            if one.norms_s is not None:
                times["laws"] += counts[layer] * one.norms_s(tokens_in_step) * NS_PER_S
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


def _curve(xs: list[int], law: Callable[[int], float]) -> Curve:
    return Curve(tuple(map(float, xs)), tuple(map(law, xs)))
