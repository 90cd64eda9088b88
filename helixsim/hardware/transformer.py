"""From the shape of a transformer, as in a Hugging Face ``config.json``, to bytes and FLOPs per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import field_validator

from helixsim import jsonio, validation
from helixsim.domain.layers import Attention, Experts, Layer, Matrix, NumberFormat
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, unknown_name
from helixsim.hardware.formats import KV_BITS, NOT_STATED, WEIGHTS, Quantization, quantization_of
from helixsim.validation import Count, Section, Words

MODEL_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "granite")
"""Values of ``model_type`` whose layers are understood: attention (grouped or not) and a gated MLP or experts."""

_MOST = 10**9
"""Largest figure of a ``config.json``."""

QUANTIZATION_FILE = "hf_quant_config.json"
"""What NVIDIA's ModelOpt writes beside ``config.json``."""

_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
_LATENT_KEYS = ("kv_lora_rank", "q_lora_rank")

_ALLOCATION_BYTES = 2 * 2**20
"""PyTorch's allocator takes GPU memory for a large tensor in steps of 2 MiB; with it the published KV tables follow to
a few MB (LLaMA-1 30B: 1 073 741 824 B a layer, where the bare numbers weigh 1 070 071 808 B)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys of ``config.json`` that memory and compute depend on."""

    name: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    num_local_experts: int
    num_experts_per_tok: int
    source: str
    quantization: Quantization = NOT_STATED


class ModelFile(Section):
    """``profiles/models/*.yaml``: the keys of a ``config.json``, and where they come from."""

    name: Words
    model_type: Words
    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count | None = None
    intermediate_size: Count
    vocab_size: Count
    max_position_embeddings: Count
    tie_word_embeddings: bool
    source: Words

    @field_validator("model_type")
    @classmethod
    def _known(cls, value: str) -> str:
        if said := _strange_type(value):
            raise ValueError(said)
        return value


class MixtureFile(ModelFile):
    """A mixture of experts."""

    num_local_experts: Count
    num_experts_per_tok: Count


def read_yaml(path: Path) -> Shape:
    """Return the shape in a model profile; unknown keys are refused.

    Raises
    ------
    DataError
        With file, line and column.
    """
    document = validation.load(path)
    is_mixture = isinstance(document.data, dict) and document.data.get("model_type") == "mixtral"
    file = validation.checked(document, MixtureFile if is_mixture else ModelFile)
    figures = {"num_local_experts": 0, "num_experts_per_tok": 0, **file.model_dump(exclude={"model_type"})}
    figures["head_dim"] = file.head_dim or file.hidden_size // file.num_attention_heads
    return _checked(str(path), Shape(**figures))


def read_json(path: Path) -> Shape:
    """Return the shape in a Hugging Face ``config.json``; keys that do not matter here are passed over.

    Raises
    ------
    DataError
        If it is no JSON object, its ``model_type`` is not understood, or keys are missing or make no sense.
    """
    config = _object(path)
    model_type = str(config.get("model_type"))
    if said := _strange_type(model_type):
        raise DataError(f"{path}: {said}")
    _check_dense(path, config, model_type)
    needed = ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"]
    needed += ["vocab_size", "max_position_embeddings"]
    if model_type == "mixtral":
        needed += ["num_local_experts", "num_experts_per_tok"]
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise DataError(f"{path}: missing {', '.join(missing)} (a {model_type} model needs {', '.join(needed)})")
    figures = {key: _whole(path, config, key) for key in needed}
    heads = figures["num_attention_heads"]
    optional = {"num_key_value_heads": heads, "head_dim": figures["hidden_size"] // max(heads, 1)}
    for key, default in optional.items():
        figures[key] = default if config.get(key) is None else _whole(path, config, key)
    tied = config.get("tie_word_embeddings", model_type.startswith("gemma"))
    figures["max_position_embeddings"] = _context(path, config, figures["max_position_embeddings"])
    beside = path.with_name(QUANTIZATION_FILE)
    shape = Shape(
        name=str(path),
        num_local_experts=figures.pop("num_local_experts", 0),
        num_experts_per_tok=figures.pop("num_experts_per_tok", 0),
        tie_word_embeddings=bool(tied),
        source=f"config.json, model_type {model_type}",
        quantization=quantization_of(str(path), config, _object(beside) if beside.is_file() else None),
        **figures,
    )
    return _checked(str(path), shape)


def files_of(name: str, path: Path) -> list[tuple[str, Path]]:
    """Return (name in hashes, path) of every file that decides the model at ``path``, called ``name``."""
    beside = path.with_name(QUANTIZATION_FILE)
    also = [(f"{name}: {QUANTIZATION_FILE}", beside)] if path.suffix == ".json" and beside.is_file() else []
    return [(name, path), *also]


def model_spec(name: str, shape: Shape, precision: str | None, kv_precision: str | None) -> ModelSpec:
    """Return the model with ``shape`` in the given number formats; None: what its checkpoint states, else 16 bits.

    A layer's memory counts each weight tensor as serving engines load it (Q, K and V in one; gate and up in one; all
    experts of a kind in one), rounded up to the allocator's step. Norms and biases are below 0.01 % and left out.

    Raises
    ------
    DataError
        For a number format that is not understood.
    """
    stated, notes = shape.quantization, list[str]()
    if precision is None and stated.weights is not None:
        notes.append(f"{name}: weights in {stated.weights}, as its checkpoint states")
    elif stated.weights is not None and precision != stated.weights:
        notes.append(f"{name}: weights in {precision} as asked for, although its checkpoint states {stated.weights}")
    if kv_precision is None and stated.kv is not None:
        notes.append(f"{name}: KV cache in {stated.kv}, as its checkpoint states")
    precision = precision or stated.weights or "fp16"
    kv_format = kv_precision or stated.kv or "fp16"
    for what, got, allowed in (("precision", precision, WEIGHTS), ("kv_precision", kv_format, KV_BITS)):
        if got not in allowed:
            raise DataError(f"model {name}: {unknown_name(what, got, allowed)}")
    return ModelSpec(
        name=name,
        layers=(_layer(shape, WEIGHTS[precision]),) * shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        is_tied=shape.tie_word_embeddings,
        precision=precision,
        kv_precision=kv_format,
        kv_bits=KV_BITS[kv_format],
        max_context_tokens=shape.max_position_embeddings,
        source=shape.source,
        notes=tuple(notes),
    )


def _layer(shape: Shape, weights: NumberFormat) -> Layer:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    attention = Attention(
        "full", shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim, shape.head_dim, 2 * keys
    )
    projections = (
        replace(
            _matrix("qkv", hidden, queries + 2 * keys, weights),
            kv_outputs=2 * keys,
            kv_heads=shape.num_key_value_heads,
        ),
        replace(_matrix("attention_output", queries, hidden, weights), split="inputs"),
    )
    count = shape.num_local_experts
    if not count:
        down = replace(_matrix("down", inner, hidden, weights), split="inputs")
        return Layer(attention, (*projections, _matrix("gate_up", hidden, 2 * inner, weights), down))
    router = replace(_matrix("router", hidden, count, weights), split="none")
    each = (
        _matrix("gate_up", hidden, 2 * inner, weights, copies=count),
        replace(_matrix("down", inner, hidden, weights, copies=count), split="inputs"),
    )
    return Layer(attention, (*projections, router), Experts(count, shape.num_experts_per_tok, each))


def _matrix(name: str, inputs: int, outputs: int, weights: NumberFormat, copies: int = 1) -> Matrix:
    """Return a matrix whose memory is rounded up to the allocator's step, over all ``copies`` in one tensor."""
    size = math.ceil(copies * inputs * outputs * weights.bits / 8 / _ALLOCATION_BYTES) * _ALLOCATION_BYTES
    return Matrix(name, inputs, outputs, size // copies, weights)


def _strange_type(model_type: str) -> str:
    """Return why a ``model_type`` is not understood; empty if it is."""
    if model_type in MODEL_TYPES:
        return ""
    advice = "a mixture of experts with grouped attention can be described by a YAML profile of model_type mixtral"
    return unknown_name("model_type", model_type, MODEL_TYPES, advice=advice)


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    found = jsonio.load(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _check_dense(path: Path, config: Mapping[str, Any], model_type: str) -> None:
    """Refuse keys of layers that this kind of model does not have: read as dense, it would be far too small."""
    allowed = _EXPERT_KEYS if model_type == "mixtral" else ()
    strange = [key for key in (*_EXPERT_KEYS, *_LATENT_KEYS) if key not in allowed and config.get(key)]
    if strange:
        what = "compressed attention (MLA)" if strange[0] in _LATENT_KEYS else "experts"
        raise DataError(
            f"{path}: {strange[0]}: a model with {what} is no {model_type!r} (known with experts: mixtral); "
            "a mixture of experts with grouped attention can be described by a YAML profile of model_type mixtral"
        )


def _context(path: Path, config: Mapping[str, Any], positions: int) -> int:
    """Return the longest context [tokens]: YaRN multiplies the original length, as vLLM derives max_model_len."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type")) != "yarn":
        return positions
    factor, original = scaling.get("factor", 1.0), scaling.get("original_max_position_embeddings", positions)
    if not isinstance(factor, (int, float)) or not 1 <= factor <= 1e6 or not isinstance(original, int) or original < 1:
        raise DataError(f"{path}: rope_scaling: expected a factor of at least 1 and a whole original length")
    return max(positions, round(factor * original))


def _whole(path: Path, config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise DataError(f"{path}: {key}: expected a whole number from 1 to {_MOST:.0e}, got {jsonio.shown(value)}")
    return value


def _checked(where: str, shape: Shape) -> Shape:
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise DataError(
            f"{where}: num_attention_heads {shape.num_attention_heads} is no multiple of "
            f"num_key_value_heads {shape.num_key_value_heads}"
        )
    if shape.num_experts_per_tok > shape.num_local_experts:
        raise DataError(
            f"{where}: num_experts_per_tok {shape.num_experts_per_tok} exceeds "
            f"num_local_experts {shape.num_local_experts}"
        )
    if shape.head_dim < 1:
        raise DataError(f"{where}: hidden_size {shape.hidden_size} is below the number of attention heads")
    return shape
