"""Number formats of weights and of the KV cache, and which GPUs run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.layers import FP16, NumberFormat
from helixsim.domain.model import ModelSpec

WEIGHTS: Mapping[str, NumberFormat] = {
    made.name: made
    for made in (
        FP16,
        NumberFormat("bf16", 16.0),
        NumberFormat("fp8", 8.0, "fp8"),
        NumberFormat("int8", 8.0, "int8"),
        NumberFormat("int4", 4.0 + 16.0 / 128.0),  # AWQ, GPTQ: one 16-bit scale for each group of 128 weights
        NumberFormat("mxfp4", 4.0 + 8.0 / 32.0),  # one 8-bit scale for each 32 weights; weights alone
        NumberFormat("nvfp4", 4.0 + 8.0 / 16.0, "fp4"),  # one 8-bit scale for each 16 weights
    )
}
"""Formats of weights by name. Activations keep 16 bits."""

KV_BITS: Mapping[str, float] = {"fp16": 16.0, "bf16": 16.0, "fp8": 8.0, "int8": 8.0, "fp4": 4.5}
"""Bits of one number in the KV cache, with its share of the scales (fp4: NVFP4, one 8-bit scale for each 16)."""

FP8_NATIVE = 8.9
"""Compute capability from which tensor cores multiply FP8 (NVIDIA CUDA programming guide: Ada and Hopper)."""

FP8_WEIGHTS = 8.0
"""From which vLLM runs FP8 weights, multiplied in 16 bits (Marlin kernels; vLLM documentation, "FP8 W8A8")."""

FP4_NATIVE = 10.0
"""From which tensor cores multiply FP4 (NVIDIA CUDA programming guide: Blackwell); below, vLLM's Marlin kernels run
MXFP4 and NVFP4 weights in 16 bits from 8.0 on."""

INT4_WEIGHTS = 7.5
"""From which vLLM runs AWQ weights (vLLM documentation, "supported hardware for quantization kernels")."""


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
        four_bits = model.precision.upper()
        if model.precision in ("mxfp4", "nvfp4") and capability < FP8_WEIGHTS:
            yield f"{name} runs no {four_bits} weights: engines refuse them; int8 or int4 weights run there"
        elif model.precision == "nvfp4" and capability < FP4_NATIVE:
            yield f"{name} multiplies {four_bits} weights in 16 bits: they save memory, not time"
        if model.kv_precision == "fp8" and capability < FP8_WEIGHTS:
            yield f"{name} has no FP8 KV cache in today's engines"
        if model.kv_precision == "fp4" and capability < FP4_NATIVE:
            yield f"{name} has no FP4 KV cache in today's engines (from {FP4_NATIVE:g} on)"
