"""Instances into which NVIDIA's Multi-Instance GPU (MIG) divides a GPU: each is a GPU of its own.

An instance has a share of the cores and of the memory slices, and with these of the memory bandwidth and the cache,
which no other instance uses. Source: NVIDIA Multi-Instance GPU User Guide, "Concepts" and "Supported MIG Profiles".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.kernels import ExpertsLaw, Kernels
from helixsim.errors import ConfigError
from helixsim.validation import Section, Words, base_unit

_INSTANCE = re.compile(
    r"(?:(?P<gpu>[^/]+?)[-_ ])??(?:mig[-_ ])?(?P<cores>\d+g)\.?(?P<memory>\d+gb)(?:[+.]me)?", re.IGNORECASE
)
"""With ``+me`` (``.me`` in Kubernetes) an instance has the engines for media, too, which are not simulated."""

ALONE = "MIG instances have no access to each other's memory"
"""Why no node has several."""

Number = Annotated[int, Field(ge=1, le=10_000)]


class InstanceSection(Section):
    """An instance: streaming multiprocessors, memory that the driver reports [B], slices of the memory."""

    cores: Number
    memory: Annotated[float, base_unit("size")]
    memory_slices: Number


class MigSection(Section):
    """``mig`` of a file of ``profiles/gpus``: cores and memory slices of the whole GPU, and its instances by name."""

    cores: Number
    memory_slices: Number
    profiles: Mapping[Words, InstanceSection]

    def instance(self, gpu: GpuSpec, profile: str) -> GpuSpec:
        """Return one of ``profiles`` of a GPU as a GPU.

        Multiply rates follow the cores; bandwidth, power and price the memory slices, of which instances that fit on a
        GPU together have no more than all. Its link to the host is that of the whole GPU, and it has none to others.
        """
        own = self.profiles[profile]
        cores, memory = own.cores / self.cores, own.memory_slices / self.memory_slices
        usable = own.memory * gpu.usable_memory_bytes / gpu.memory_bytes
        said = dict(gpu.sources)
        share = f"{own.memory_slices} of {self.memory_slices} memory slices of {gpu.name}"
        return replace(
            gpu,
            name=f"{gpu.name}-{profile}",
            memory_bytes=round(own.memory),
            usable_memory_bytes=round(usable),
            flops=tuple((form, rate * cores) for form, rate in gpu.flops),
            memory_bandwidth_bytes_per_s=gpu.memory_bandwidth_bytes_per_s * memory,
            kernels=_with_share(gpu.kernels, cores),
            engines=tuple(one._replace(kernels=_with_share(one.kernels, cores)) for one in gpu.engines),
            interconnect_gpus=1,
            tdp_w=gpu.tdp_w * memory,
            cost_usd_per_hour=gpu.cost_usd_per_hour * memory,
            cores=own.cores,
            sources=tuple(
                {
                    **said,
                    "memory": said["mig"],
                    "cores": said["mig"],
                    "usable_memory": f"assumed: the share that is free on {gpu.name}",
                    **{form: f"{own.cores} of {self.cores} cores of {gpu.name}" for form, _ in gpu.flops},
                    "memory_bandwidth": share,
                    "compute_efficiency": f"assumed: as {gpu.name}",
                    "bandwidth_efficiency": f"assumed: as {gpu.name}",
                    "kernels": f"assumed: those of {gpu.name}",
                    "interconnect": ALONE,
                    "tdp": f"assumed: {share}",
                    "price": f"assumed: {share}",
                }.items()
            ),
        )


def split_instance(name: str) -> tuple[str, str | None]:
    """Return (GPU, MIG profile) of a name such as ``h100-3g.40gb`` or ``...-H100-80GB-HBM3-MIG-3g.40gb``.

    The GPU is empty where the profile stands alone.
    """
    match = _INSTANCE.fullmatch(name)
    return (match["gpu"] or "", f"{match['cores']}.{match['memory']}".lower()) if match else (name, None)


def is_instance(name: str) -> bool:
    """Return whether the name of a GPU is that of an instance."""
    return split_instance(name)[1] is not None


def alone_fault(name: str, gpus: int, key: str = "gpus") -> str | None:
    """Return why so many instances cannot compute layers together; None: they can, or are whole GPUs."""
    return f"{gpus}: {ALONE}, so that {key} is 1" if gpus > 1 and is_instance(name) else None


def require_alone(name: str, gpus: int, key: str) -> None:
    """Raise ``ConfigError`` where several instances are to compute layers together."""
    if fault := alone_fault(name, gpus, "it"):
        raise ConfigError(f"{key}: {fault}")


def _with_share(kernels: Kernels, cores: float) -> Kernels:
    """Return the kernels on a share of the cores, with what the cores limit."""

    def experts(law: ExpertsLaw) -> ExpertsLaw:
        return replace(law, most_bytes_per_s=law.most_bytes_per_s * cores)

    kernels, attention = kernels.with_cores(cores), kernels.attention
    return replace(
        kernels,
        attention=replace(attention, most_kv8_bytes_per_s=attention.most_kv8_bytes_per_s * cores),
        experts=experts(kernels.experts),
        experts_by_format=tuple((form, experts(law)) for form, law in kernels.experts_by_format),
        backends=tuple((name, tuple((form, experts(law)) for form, law in laws)) for name, laws in kernels.backends),
    )
