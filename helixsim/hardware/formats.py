"""Number formats of weights and of the KV cache, and which GPUs run them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

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

AWQ_WEIGHTS = 7.5
"""From which vLLM runs AWQ weights, and multiplies in 8-bit integers; GPTQ weights run from 7.0 on (vLLM documentation,
"supported hardware for quantization kernels")."""

INT8_ENDS = 10.0
"""From which vLLM no longer multiplies in 8-bit integers (vLLM documentation, "INT8 W8A8": use FP8 on Blackwell)."""


def format_faults(model: ModelSpec, gpus: Sequence[GpuSpec]) -> Iterator[tuple[str, str]]:
    """Yield (key, fault) of each number format that engines refuse on a kind of GPU, with what to use instead.

    Keys are ``precision`` and ``kv_precision``. GPUs that state neither their compute capability nor what they refuse
    are not judged.
    """
    weights = {matrix.format.name for layer in dict.fromkeys(model.layers) for matrix in layer.matrices}
    weights |= {model.precision} | {
        matrix.format.name
        for layer in dict.fromkeys(model.layers)
        if layer.experts
        for matrix in layer.experts.matrices
    }
    for gpu in {gpu.name: gpu for gpu in gpus}.values():
        capability = gpu.compute_capability
        if capability is None:
            yield from _stated_faults(gpu, weights, model.kv_precision)
            continue
        name = f"{gpu.name} (compute capability {capability:g})"
        instead = "precision: int8, int4 or fp16" if capability >= AWQ_WEIGHTS else "precision: int4 (GPTQ) or fp16"
        for four_or_eight in ("fp8", "mxfp4", "nvfp4"):
            if four_or_eight in weights and capability < FP8_WEIGHTS:
                yield "precision", f"{name} runs no {four_or_eight.upper()} weights; use {instead}, or other GPUs"
        if "int8" in weights and capability < AWQ_WEIGHTS:
            yield "precision", f"{name} does not multiply in 8-bit integers; use {instead}, or other GPUs"
        if "int8" in weights and capability >= INT8_ENDS:
            yield (
                "precision",
                f"{name} does not multiply in 8-bit integers in today's engines; use precision: fp8, nvfp4 or int4",
            )
        if model.kv_precision == "fp8" and capability < FP8_WEIGHTS:
            yield "kv_precision", f"{name} has no FP8 KV cache in today's engines; use kv_precision: fp16"
        if model.kv_precision == "fp4" and capability < FP4_NATIVE:
            use = "fp8 or fp16" if capability >= FP8_WEIGHTS else "fp16"
            yield (
                "kv_precision",
                f"{name} has no FP4 KV cache in today's engines (from {FP4_NATIVE:g} on); use kv_precision: {use}",
            )


def _stated_faults(gpu: GpuSpec, weights: Collection[str], kv_precision: str) -> Iterator[tuple[str, str]]:
    """Yield the faults of a GPU that states which formats engines do not run on it."""
    if gpu.refuses is None:
        return
    runs = " or ".join(form for form in ("fp8", "int8", "int4", "fp16") if form not in gpu.refuses)
    for form in gpu.refuses:
        if form in weights:
            yield "precision", f"{gpu.name} runs no {form.upper()} weights; use precision: {runs}, or other GPUs"
    if kv_precision == "fp4" or (kv_precision == "fp8" and "fp8" in gpu.refuses):
        use = "fp16" if "fp8" in gpu.refuses else "fp8 or fp16"
        yield (
            "kv_precision",
            f"{gpu.name} has no {kv_precision.upper()} KV cache in today's engines; use kv_precision: {use}",
        )


def format_notes(model: ModelSpec, gpus: Sequence[GpuSpec]) -> Iterator[str]:
    """Yield a note on each kind of GPU that reads a number format of the model and multiplies in another."""
    for gpu in {gpu.name: gpu for gpu in gpus}.values():
        capability = gpu.compute_capability
        if capability is None:
            continue
        name = f"{gpu.name} (compute capability {capability:g})"
        if model.precision == "fp8" and FP8_WEIGHTS <= capability < FP8_NATIVE:
            yield f"{name} multiplies FP8 weights in 16 bits: they save memory, not time"
        if model.precision == "int4" and capability < AWQ_WEIGHTS:
            yield f"{name} runs int4 weights as GPTQ, not as AWQ (from {AWQ_WEIGHTS:g} on)"
        if model.precision == "nvfp4" and FP8_WEIGHTS <= capability < FP4_NATIVE:
            yield f"{name} multiplies NVFP4 weights in 16 bits: they save memory, not time"
