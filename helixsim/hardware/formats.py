"""Number formats: what a checkpoint says of its own, and what GPUs can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.layers import FP16, NumberFormat
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError

WEIGHTS: Mapping[str, NumberFormat] = {
    made.name: made
    for made in (
        FP16,
        NumberFormat("bf16", 16.0),
        NumberFormat("fp8", 8.0, "fp8"),
        NumberFormat("int8", 8.0, "int8"),
        NumberFormat("int4", 4.0 + 16.0 / 128.0),  # AWQ, GPTQ: one 16-bit scale for each group of 128 weights
    )
}
"""Formats of weights by name. Activations keep 16 bits."""

KV_BITS: Mapping[str, float] = {"fp16": 16.0, "bf16": 16.0, "fp8": 8.0, "int8": 8.0}
"""Bits of one number in the KV cache."""

_EIGHT_BITS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "int8": "int8", "w8a8_int8": "int8", "bitsandbytes_8bit": "int8"}
_FOUR_BITS = ("awq", "gptq", "auto-round", "autoround", "gptq_marlin", "awq_marlin", "bitsandbytes_4bit")

FP8_NATIVE = 8.9
"""Compute capability from which tensor cores multiply FP8 (NVIDIA CUDA programming guide: Ada and Hopper)."""

FP8_WEIGHTS = 8.0
"""From which vLLM runs FP8 weights, multiplied in 16 bits (Marlin kernels; vLLM documentation, "FP8 W8A8")."""

INT4_WEIGHTS = 7.5
"""From which vLLM runs AWQ weights (vLLM documentation, "supported hardware for quantization kernels")."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a checkpoint states: formats of weights and KV cache; None: not stated."""

    weights: str | None = None
    kv: str | None = None


NOT_STATED = Quantization()


def quantization_of(where: str, config: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Quantization:
    """Return the number formats that a checkpoint states.

    Parameters
    ----------
    config
        ``config.json``; ``quantization_config`` (or ``compression_config``) is read.
    beside
        ``hf_quant_config.json``, as NVIDIA's ModelOpt writes it beside ``config.json``.

    Raises
    ------
    DataError
        If the weights are in a format that helixsim does not know.
    """
    stated = config.get("quantization_config") or config.get("compression_config")
    if isinstance(beside, Mapping) and isinstance(beside.get("quantization"), Mapping):
        stated = {"quant_method": "modelopt", **beside["quantization"]}
    if not isinstance(stated, Mapping):
        return NOT_STATED
    method = str(stated.get("quant_method", "")).lower()
    weights = _weights(where, method, stated)
    cache = stated.get("kv_cache_quant_algo") or stated.get("kv_cache_scheme")
    if isinstance(cache, Mapping):
        cache = "fp8" if cache.get("num_bits") == 8 and cache.get("type") == "float" else "unknown"
    return Quantization(weights, "fp8" if str(cache).lower() == "fp8" else None)


def _weights(where: str, method: str, stated: Mapping[str, Any]) -> str | None:
    if method == "modelopt":
        algorithm = str(stated.get("quant_algo", "")).upper()
        known = {
            "FP8": "fp8",
            "FP8_PB_WO": "fp8",
            "W4A16_AWQ": "int4",
            "W4A8_AWQ": "int4",
            "W8A8_SQ_PER_CHANNEL": "int8",
        }
        if algorithm in ("", "NONE"):
            return None
        if algorithm in known:
            return known[algorithm]
        raise _unknown(where, f"quant_algo {algorithm}")
    if method in _EIGHT_BITS:
        return _EIGHT_BITS[method]
    if method in _FOUR_BITS:
        bits = stated.get("bits", stated.get("w_bit", 4))
        if bits not in (4, 8):
            raise _unknown(where, f"quant_method {method} with {bits} bits")
        return "int4" if bits == 4 else "int8"
    if method == "compressed-tensors":
        formats = {_group_format(where, group) for group in _groups(stated)}
        if len(formats) > 1:
            raise _unknown(where, f"several formats ({', '.join(sorted(formats))})")
        return next(iter(formats), None)
    if method == "":
        return None
    raise _unknown(where, f"quant_method {method}")


def _groups(stated: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    groups = stated.get("config_groups")
    return [one for one in groups.values() if isinstance(one, Mapping)] if isinstance(groups, Mapping) else []


def _group_format(where: str, group: Mapping[str, Any]) -> str:
    weights = group.get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    known: dict[tuple[Any, str], str] = {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "int4"}
    found = known.get((weights.get("num_bits"), str(weights.get("type"))))
    if found is None:
        raise _unknown(where, f"weights of {weights.get('num_bits')} bits, type {weights.get('type')}")
    return found


def _unknown(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: the checkpoint is quantized with {what}, which helixsim does not know; give the closest format, "
        "for example precision: int4"
    )


def format_notes(model: ModelSpec, gpus: Sequence[GpuSpec]) -> Iterator[str]:
    """Yield a note on each kind of GPU that cannot run a number format of the model as it is."""
    for gpu in {gpu.name: gpu for gpu in gpus}.values():
        capability = gpu.compute_capability
        if capability is None:
            continue
        name = f"{gpu.name} (compute capability {capability:g})"
        if model.precision == "fp8" and capability < FP8_WEIGHTS:
            yield f"{name} runs no FP8 weights: engines refuse them; int8 or int4 weights run there"
        elif model.precision == "fp8" and capability < FP8_NATIVE:
            yield f"{name} multiplies FP8 weights in 16 bits: they save memory, not time"
        if model.precision == "int4" and capability < INT4_WEIGHTS:
            yield f"{name} runs no AWQ weights (from {INT4_WEIGHTS:g} on)"
        if model.kv_precision == "fp8" and capability < FP8_WEIGHTS:
            yield f"{name} has no FP8 KV cache in today's engines"
