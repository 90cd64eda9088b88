"""Calibration files: what a user's own benchmarks say about the host times of an engine and the kernels of GPUs.

``compare --calibrate`` writes them, and ``engine: {calibration: FILE}`` applies them. They change neither the name nor
any other figure of a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.kernels import AllReduce, AttentionLaw, Kernels
from helixsim.errors import DataError
from helixsim.hardware.engines import OVERHEADS
from helixsim.units import seconds_to_ns
from helixsim.validation import Section, Words, base_unit, read

Factor = Annotated[float, Field(ge=0.05, le=20)]
Time = Annotated[float, base_unit("time", zero=True)]

FACTORS = ("compute_efficiency", "memory_efficiency", "interconnect")
"""What of a GPU is multiplied."""


class GpuFactors(Section):
    """Factors on the constants of a GPU; shares of a peak stay at most 1.

    ``compute_efficiency``: on the shares of the peak multiply rate of all kernels. ``memory_efficiency``: on those of
    the peak memory bandwidth. ``interconnect``: on the speed of all-reduces.
    """

    compute_efficiency: Factor = 1.0
    memory_efficiency: Factor = 1.0
    interconnect: Factor = 1.0


class CalibrationFile(Section):
    """``engine.calibration``: host times [s] in place of those of the engine, and factors by name of GPU."""

    schema_version: Annotated[int, Field(alias="schema", ge=1, le=1)] = 1
    host: dict[Words, Time] = Field(default_factory=dict)
    gpus: dict[Words, GpuFactors] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Host times [s] by key of the engine, and factors by name of GPU."""

    host_s: Mapping[str, float]
    gpus: Mapping[str, Mapping[str, float]]

    def overheads_ns(self) -> dict[str, int]:
        """Return the fields of ``EngineSpec`` that are replaced."""
        return {f"{key}_ns": seconds_to_ns(seconds) for key, seconds in self.host_s.items()}

    def applied(self, gpu: GpuSpec) -> GpuSpec:
        """Return a GPU with its factors."""
        factors = self.gpus.get(gpu.name)
        return gpu if factors is None else scaled(gpu, factors)

    def document(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of a file."""
        return {
            "schema": 1,
            "host": {key: f"{seconds * 1e3:.4g} ms" for key, seconds in self.host_s.items()},
            "gpus": {
                name: {key: float(f"{one:.4g}") for key, one in factors.items()} for name, factors in self.gpus.items()
            },
            "source": dict(source),
        }


def load_calibration(path: Path) -> Calibration:
    """Return the calibration in a file.

    Raises
    ------
    DataError
        If it is unreadable or no calibration.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file (asked for as a calibration)")
    file = read(path, CalibrationFile)
    unknown = [key for key in file.host if key not in OVERHEADS]
    if unknown:
        raise DataError(f"{path}: host: unknown key {unknown[0]!r} (known: {', '.join(OVERHEADS)})")
    return Calibration(dict(file.host), {name: one.model_dump() for name, one in file.gpus.items()})


def scaled(gpu: GpuSpec, factors: Mapping[str, float]) -> GpuSpec:
    """Return a GPU whose kernels and all-reduces are faster by these factors; shares of a peak are at most 1."""
    compute, memory, links = (factors.get(key, 1.0) for key in FACTORS)

    def attention(law: AttentionLaw) -> AttentionLaw:
        return replace(
            law,
            compute_efficiency=min(1.0, law.compute_efficiency * compute),
            kv_bandwidth_efficiency=min(1.0, law.kv_bandwidth_efficiency * memory),
        )

    def all_reduce(law: AllReduce) -> AllReduce:
        return replace(
            law,
            ring_s=law.ring_s / links,
            ring_bytes_per_s=law.ring_bytes_per_s * links,
            one_shot_s=None if law.one_shot_s is None else law.one_shot_s / links,
            two_shot_s=law.two_shot_s / links,
            bytes_per_s=law.bytes_per_s * links,
            eager_s=law.eager_s / links,
        )

    def all_kernels(kernels: Kernels) -> Kernels:
        return replace(kernels.scaled(compute, memory), attention=attention(kernels.attention))

    return replace(
        gpu,
        kernels=all_kernels(gpu.kernels),
        all_reduce=tuple(map(all_reduce, gpu.all_reduce)),
        engines=tuple(
            own._replace(kernels=all_kernels(own.kernels), all_reduce=tuple(map(all_reduce, own.all_reduce)))
            for own in gpu.engines
        ),
    )


def largest_factor(gpu: GpuSpec, key: str) -> float:
    """Return the factor at which the first share of a GPU's peak reaches 1."""
    kernels = gpu.kernels
    laws = kernels.products().values()
    attention = kernels.attention
    if key == "compute_efficiency":
        return 1.0 / max(attention.compute_efficiency, *(law.compute_efficiency for law in laws))
    if key == "memory_efficiency":
        return 1.0 / max(attention.kv_bandwidth_efficiency, *(law.bandwidth_efficiency for law in laws))
    return 20.0
