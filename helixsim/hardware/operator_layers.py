"""The operators of each layer of a model, as tables of measured kernels know them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.kernels import Kernels
from helixsim.domain.layers import FP16, Attention, Experts, Layer, Matrix, NumberFormat
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_choice import (
    Timed,
    all_reduce,
    by_law,
    experts,
    growing,
    latent_attention,
    products,
    sampled,
    timed,
)
from helixsim.hardware.operator_library import Tables
from helixsim.units import NS_PER_S

_MODULE_MATRICES = frozenset({"qkv_a", "q_a", "q", "kv_a", "q_b", "kv_b", "attention_output"})
"""Matrices that vLLM's tables measure as one module with the attention of compressed keys and values (MLA); those of
other engines have the attention alone, and in decode steps what replaces ``kv_b``."""

_WITH_MODULES = "vllm"

_LATENT = (192, 128, 576)
"""Widths of keys, values and compressed keys and values in the tables of MLA: those of DeepSeek V2, V3 and Kimi K2."""

_ASSUMED_NS = 13_200.0
"""What the library adds to the attention of prompts for the rotary embedding, whatever the GPU and the shape
(aiconfigurator-core 0.12: its times less those of its tables), and again for each norm of queries and keys: nothing was
measured, and the laws have these kernels among the norms."""

_SMALL = 256
"""Rows and columns of a product that takes no longer than the launches of its kernels: in 8 or 4 bits longer than in 16
by the quantising of activations, which the tables time with the product."""


@dataclass(frozen=True, slots=True)
class LayerOperators:
    """Operators of one layer.

    Parameters
    ----------
    others
        Of all tokens, but those of experts.
    shared, routed
        Shared experts, and the routed ones with their router: decode steps compute both at once (CUDA graphs).
    of_ranks
        Routed experts of the tokens of all ranks, with what brings these together, where there are several ranks.
    prompt, decode
        Attention of prompts, and of decode steps.
    norms_s
        Norms, rotary embedding and activation for so many tokens by the laws [s]; None: they are among ``others``.
    quantised, plain
        As many small products as the layer has whose activations an engine quantises in the kernels before, in their
        format and in 16 bits: what those take longer is in ``others``, and not in the engine.
    """

    others: tuple[Timed, ...]
    shared: tuple[Timed, ...]
    routed: tuple[Timed, ...]
    of_ranks: tuple[Timed, ...]
    prompt: tuple[Timed, ...]
    decode: tuple[Timed, ...]
    norms_s: Callable[[float], float] | None
    quantised: tuple[Timed, ...]
    plain: tuple[Timed, ...]

    def curve(self, knots: Sequence[int], some: Iterable[Timed], ranks: int = 1) -> Curve:
        """Return the time of operators one after the other [ns], for ``ranks`` times as many tokens."""
        sample = sampled if self.norms_s is None else growing

        def of(one: Timed) -> Curve:
            return sample(knots, lambda tokens: one.ns(tokens * ranks))

        curves = [of(one).y_ns for one in some]
        whole = tuple(map(sum, zip(*curves, strict=True))) or (0.0,) * len(knots)
        return Curve(tuple(map(float, knots)), whole)

    def apart_ns(self, tokens: int) -> float:
        """Return what to add to the operators of so many tokens [ns]: norms, less what is in other kernels."""
        norms_ns = 0.0 if self.norms_s is None else self.norms_s(tokens) * NS_PER_S
        quantised, plain = (sum(one.ns(tokens) for one in some) for some in (self.quantised, self.plain))
        return norms_ns - max(quantised - plain, 0.0)


def layer_operators(layer: Layer, model: ModelSpec, node: Node, tables: Tables, in_service: bool) -> LayerOperators:
    """Return the operators of a layer on a node, as a served engine runs them or as the library's own models do.

    Raises
    ------
    DataError
        If the tables lack one of them.
    """
    build, hidden, gpu, gpus = tables.build, model.hidden_size, node.gpu, node.tensor
    matrices = matrices_alone(layer, tables.backend, in_service=in_service)
    of_matrix: dict[str, list[Matrix]] = {"shared": [], "router": [], "": []}
    for matrix in matrices:
        of_matrix[next(key for key in of_matrix if matrix.name.startswith(key))].append(matrix)

    def of(kind: str) -> tuple[Timed, ...]:
        if in_service:
            found = products(tables, [(*_shard(one, gpus), one.format) for one in of_matrix[kind]])
            return tuple(
                _sustained(one, gpu, matrix.format, math.prod(matrix.shard(gpus)))
                for one, matrix in zip(found, of_matrix[kind], strict=True)
            )
        made: list[Any] = []
        for one in of_matrix[kind]:
            inputs, outputs = _shard(one, gpus)
            made.append(build.product(inputs, outputs, one.format))
            if one.name.endswith(("gate_up", "up")):
                made.append(build.elementwise(outputs, outputs // 2 if "gate" in one.name else outputs))
        return timed(tables, made)

    has_feed = layer.experts is not None or any("down" in matrix.name for matrix in layer.matrices)
    is_apart = node.ranks > 1 and layer.experts is not None
    parts = (layer.attention is not None) + has_feed
    others = [] if in_service else [build.elementwise(2 * hidden, 2 * hidden)] * parts
    reduces: list[Timed] = []
    if gpus > 1:
        reduces = [_all_reduce(node, hidden, gpus, tables, in_service)] * (parts - is_apart)
    routed: tuple[Timed, ...] = ()
    if layer.experts is not None:
        routed = (_experts(layer, node, tables, in_service),)
    fused = [one.format for one in matrices if in_service and one.format.multiply in gpu.kernels.fused_quantization]
    prompt, decode = _attention_timed(layer, model, gpus, tables, in_service)
    return LayerOperators(
        (*of(""), *timed(tables, others), *reduces),
        of("shared"),
        (*of("router"), *(() if is_apart else routed)),
        (*routed, _all_reduce(node, hidden, node.gpus, tables, in_service)) if is_apart else (),
        prompt,
        decode,
        partial(node.norms_s, layer, hidden) if in_service else None,
        products(tables, [(_SMALL, _SMALL, form) for form in fused]),
        products(tables, [(_SMALL, _SMALL, FP16) for _ in fused]),
    )


def _all_reduce(node: Node, width: int, gpus: int, tables: Tables, in_service: bool) -> Timed:
    if in_service:
        return all_reduce(tables, node.gpu, width, gpus)
    return timed(tables, [tables.build.all_reduce(width, gpus)])[0]


def _experts(layer: Layer, node: Node, tables: Tables, in_service: bool) -> Timed:
    if not in_service:
        return timed(tables, [expert_operator(layer, node.gpus, tables, node.gpu.kernels)])[0]
    assert layer.experts is not None, "only layers with experts are asked"
    if by_law(node.gpu.kernels, layer.experts.matrices[0].format):
        return Timed("", (), law_s=partial(node.experts_s, layer.experts))
    one = experts_of(layer, node.gpu.kernels)
    found = experts(tables, one, node.gpus, by_expert=node.by_expert, has_shared=_has_shared(layer))
    held = one.parameters_each / node.gpus
    return _sustained(found, node.gpu, one.matrices[0].format, one.count * held, one.per_token * held)


def _sustained(one: Timed, gpu: GpuSpec, form: NumberFormat, read: float, multiplied: float | None = None) -> Timed:
    """Return a product of so many weights (of those ``multiplied`` with each row) at the rates of a GPU in service."""
    peaks = dict(gpu.flops)
    multiply_s = 2.0 * (read if multiplied is None else multiplied) / peaks.get(form.multiply, peaks["fp16"])
    read_s = read * form.bits / 8 / gpu.memory_bandwidth_bytes_per_s
    return replace(one, multiply_s=multiply_s, read_s=read_s, sustained=gpu.kernels.sustained)


def _attention_timed(
    layer: Layer, model: ModelSpec, gpus: int, tables: Tables, in_service: bool
) -> tuple[tuple[Timed, ...], tuple[Timed, ...]]:
    if in_service and layer.attention is not None and layer.attention.kind != "latent":
        return attention_kernels(layer, model, gpus, tables)
    if not in_service or layer.attention is None:
        found = attention_operators(layer, model, gpus, tables)
        return ((), ()) if found is None else (timed(tables, found[0]), timed(tables, found[1]))
    _check_attention(layer.attention, model, gpus)
    prompt, decode = latent_attention(tables, layer.attention, gpus, model.kv_precision)
    expanded = [(*_shard(one, gpus), one.format) for one in layer.matrices if one.name == "kv_b"]
    return (prompt, *products(tables, expanded)), decode


def attention_kernels(
    layer: Layer, model: ModelSpec, gpus: int, tables: Tables
) -> tuple[tuple[Timed, ...], tuple[Timed, ...]]:
    """Return the attention of prompts and that of decode steps as its tables measured it, without rotary embedding.

    Raises
    ------
    DataError
        If the layer has none, or none that is looked up.
    """
    attention = layer.attention
    if attention is None:
        raise DataError(f"{model.name} has a layer without attention")
    plain = replace(layer, attention=replace(attention, head_norms=False))  # the library counts their norms, too
    found = attention_operators(plain, model, gpus, tables)
    assert found is not None, "the layer has attention"
    prompt, decode = (timed(tables, operators) for operators in found)
    if attention.kind != "latent":
        prompt = tuple(replace(one, assumed_ns=_ASSUMED_NS) for one in prompt)
    return prompt, decode


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
    _check_attention(attention, model, gpus)
    build = tables.build
    if attention.kind != "latent":
        prompt, decode = build.attention(attention, gpus, model.kv_precision)
        return [prompt], [decode]
    if tables.backend == _WITH_MODULES:
        inside = next(matrix for matrix in layer.matrices if matrix.name in _MODULE_MATRICES)
        prompt, decode = build.latent_module(attention, gpus, model.kv_precision, inside.format)
        return [prompt], [decode]
    prompt, decodes = build.latent_attention(attention, gpus, model.kv_precision)
    expanded = [matrix for matrix in layer.matrices if matrix.name == "kv_b"]
    return [prompt, *(build.product(*_shard(matrix, gpus), matrix.format) for matrix in expanded)], decodes


def _check_attention(attention: Attention, model: ModelSpec, gpus: int) -> None:
    if attention.kind == "linear" or attention.attended_tokens is not None:
        kind = "linear attention" if attention.kind == "linear" else "sparse attention with an index"
        raise DataError(f"{model.name} has layers of {kind}, which are not looked up in operator tables")
    if attention.num_heads % gpus:
        raise DataError(f"{model.name}: {attention.num_heads} heads do not divide among {gpus} GPUs")
    widths = attention.key_dim, attention.value_dim, attention.kv_numbers
    if attention.kind == "latent" and widths != _LATENT:
        raise DataError(f"{model.name} has compressed keys and values of other widths than the operator tables")


def product_operators(layer: Layer, gpus: int, tables: Tables) -> list[Any]:
    """Return the matrix products of a layer but the router's, and but those measured together with its attention."""
    matrices = [matrix for matrix in matrices_alone(layer, tables.backend) if matrix.name != "router"]
    return [tables.build.product(*_shard(matrix, gpus), matrix.format) for matrix in matrices]


def expert_operator(layer: Layer, gpus: int, tables: Tables, kernels: Kernels) -> Any:
    """Return the routed experts cut as helixsim cuts them, or in groups of whole ones where only those are known."""
    one, has_shared = experts_of(layer, kernels), _has_shared(layer)
    sliced = tables.build.experts(one, gpus, by_expert=False, has_shared=has_shared)
    try:
        tables.ns(tables.build.text([sliced]), 1)
    except DataError:
        if gpus == 1:
            raise
        return tables.build.experts(one, gpus, by_expert=True, has_shared=has_shared)
    return sliced


def experts_of(layer: Layer, kernels: Kernels) -> Experts:
    """Return the routed experts of a layer in the format that the engine's kernels multiply them in.

    That is 16 bits for MXFP4 on Hopper, and FP8 on Blackwell.
    """
    assert layer.experts is not None, "only layers with experts are asked"
    multiply = kernels.experts_of(layer.experts.matrices[0].format.name).multiply
    if multiply is None:
        return layer.experts
    matrices = (replace(one, format=replace(one.format, multiply=multiply)) for one in layer.experts.matrices)
    return replace(layer.experts, matrices=tuple(matrices))


def _has_shared(layer: Layer) -> bool:
    return any(matrix.name.startswith("shared") for matrix in layer.matrices)


def matrices_alone(layer: Layer, backend: str = _WITH_MODULES, *, in_service: bool = False) -> list[Matrix]:
    """Return the matrices of a layer that are timed one by one, not together with its attention."""
    inside: frozenset[str] = frozenset()
    if layer.attention is not None and layer.attention.kind == "latent":
        inside = _MODULE_MATRICES if backend == _WITH_MODULES and not in_service else frozenset({"kv_b"})
    return [matrix for matrix in layer.matrices if matrix.name not in inside]


def _shard(matrix: Matrix, gpus: int) -> tuple[int, int]:
    inputs, outputs = matrix.shard(gpus)
    return round(inputs), round(outputs)
