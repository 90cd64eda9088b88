"""GPUs that a serving engine does not run on: what is simulated of them cannot exist, nor can a measurement of it."""

from __future__ import annotations

from collections.abc import Iterable

from helixsim.domain.hardware import GpuSpec

LEAST_CAPABILITY = {"trtllm": ("TensorRT-LLM", 8.0)}
"""First word of an engine profile -> its name, and the least compute capability of NVIDIA's GPUs that it runs on, of
all GPUs the only ones (support matrix of TensorRT-LLM 1.0: Ampere to Blackwell).

vLLM and SGLang are not here: both run on GPUs of other makers, and on old ones with slower kernels.
"""


def unsupported(engine: str, gpus: Iterable[GpuSpec]) -> tuple[str, ...]:
    """Return a sentence for each GPU that an engine does not run on."""
    family = engine.partition("-")[0]  # trtllm-1.0
    if family not in LEAST_CAPABILITY:
        return ()
    name, least = LEAST_CAPABILITY[family]
    return tuple(
        f"{name} does not run on {gpu.name}: it needs an NVIDIA GPU of compute capability {least:g} or higher"
        for gpu in dict.fromkeys(gpus)
        if gpu.compute_capability is None or gpu.compute_capability < least
    )
