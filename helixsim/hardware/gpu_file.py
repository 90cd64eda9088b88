"""``profiles/gpus`` and ``profiles/kernels``: figures of GPUs, and constants of their kernels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from helixsim.domain.hardware import EngineKernels, GpuSpec
from helixsim.domain.kernels import MOST_ONE_SHOT_BYTES, AllReduce, AttentionLaw, ExpertsLaw, GemmLaw, Kernels
from helixsim.errors import unknown_name
from helixsim.hardware.formats import WEIGHTS
from helixsim.hardware.interconnect import TITLES, Kind, default_kind, usual_all_reduce
from helixsim.hardware.mig import MigSection
from helixsim.units import BITS_PER_BYTE
from helixsim.validation import Section, Words, base_unit

Efficiency = Annotated[float, Field(ge=0.01, le=1)]
Sharpness = Annotated[float, Field(ge=1, le=100)]
Tokens = Annotated[float, Field(ge=0, le=10_000)]
Cores = Annotated[int, Field(ge=1, le=10_000)]
Time = Annotated[float, base_unit("time")]
TimeOrNone = Annotated[float, base_unit("time", zero=True)]
Bandwidth = Annotated[float, base_unit("bandwidth")]
Rate = Annotated[float, base_unit("flops")]
Backend = Literal["vllm", "sglang", "trtllm"]
ExpertsFormat = Literal["fp16", "bf16", "fp8", "int8", "int4", "mxfp4", "nvfp4"]


class DirectAllReduce(Section):
    """All-reduce of GPUs that reach each other's memory (NVLink): times [s], bandwidths [bit/s]; see ``AllReduce``.

    The latency of one step is ``one_shot + per_doubling x log2(GPUs)``; ``eager``: least time outside CUDA graphs.
    """

    one_shot: Time
    per_doubling: TimeOrNone
    two_shot: Time
    bandwidth: Bandwidth
    ring: Time
    ring_bandwidth: Bandwidth
    switch_bandwidth: Bandwidth | None = None
    eager: TimeOrNone = 0.0
    most_one_shot: Annotated[float, base_unit("size")] = MOST_ONE_SHOT_BYTES

    def laws(self) -> tuple[AllReduce, ...]:
        """Return the laws for 2, 4, 8 and 16 GPUs."""
        return tuple(
            AllReduce(
                gpus=gpus,
                ring_s=self.ring,
                ring_bytes_per_s=self.ring_bandwidth / BITS_PER_BYTE,
                one_shot_s=self.one_shot + self.per_doubling * math.log2(gpus),
                two_shot_s=self.two_shot,
                bytes_per_s=self.bandwidth / BITS_PER_BYTE,
                eager_s=self.eager,
                most_one_shot_bytes=self.most_one_shot,
                switch_bytes_per_s=0.0 if self.switch_bandwidth is None else self.switch_bandwidth / BITS_PER_BYTE,
            )
            for gpus in (2, 4, 8, 16)
        )


class RingAllReduce(Section):
    """All-reduce through the PCIe tree of the host, measured with 2, 4 and 8 GPUs: times [s], bandwidths [bit/s]."""

    ring: Annotated[list[Time], Field(min_length=3, max_length=3)]
    ring_bandwidth: Annotated[list[Bandwidth], Field(min_length=3, max_length=3)]
    eager: TimeOrNone = 0.0

    def laws(self) -> tuple[AllReduce, ...]:
        """Return the laws for 2, 4 and 8 GPUs."""
        figures = zip((2, 4, 8), self.ring, self.ring_bandwidth, strict=True)
        return tuple(AllReduce(gpus, time, rate / BITS_PER_BYTE, eager_s=self.eager) for gpus, time, rate in figures)


class KneeSection(Section):
    """Sharpness and constant part [s] of 16-bit products; the efficiencies are the GPU's own."""

    sharpness: Sharpness
    launch: TimeOrNone


class GemmSection(KneeSection):
    """See ``GemmLaw``; ``quantised`` [bit/s], absent: the kernels before do that."""

    bandwidth_efficiency: Efficiency
    compute_efficiency: Efficiency
    tile: Annotated[int, Field(ge=0, le=4096)] = 0
    least_outputs: Annotated[float, Field(ge=0, le=1e8)] = 0.0
    quantised: Bandwidth | None = None
    quantised_padding: Tokens = 0.0

    def law(self) -> GemmLaw:
        """Return the law."""
        return GemmLaw(
            bandwidth_efficiency=self.bandwidth_efficiency,
            compute_efficiency=self.compute_efficiency,
            sharpness=self.sharpness,
            launch_s=self.launch,
            tile_tokens=self.tile,
            least_outputs=self.least_outputs,
            quantised_bytes_per_s=math.inf if self.quantised is None else self.quantised / BITS_PER_BYTE,
            quantised_padding=self.quantised_padding,
        )


class ExpertsSection(KneeSection):
    """See ``ExpertsLaw``; ``most_read`` [bit/s], absent: no limit but the memory's."""

    bandwidth_efficiency: Efficiency
    compute_efficiency: Efficiency
    tile: Annotated[int, Field(ge=0, le=4096)] = 64
    passes: Annotated[float, Field(ge=0, le=100)] = 0.0
    most_read: Bandwidth | None = None
    multiply: Literal["fp16", "fp8", "fp4", "int8"] | None = None

    def law(self) -> ExpertsLaw:
        """Return the law."""
        return ExpertsLaw(
            bandwidth_efficiency=self.bandwidth_efficiency,
            compute_efficiency=self.compute_efficiency,
            sharpness=self.sharpness,
            launch_s=self.launch,
            tile_tokens=self.tile,
            most_bytes_per_s=math.inf if self.most_read is None else self.most_read / BITS_PER_BYTE,
            passes=self.passes,
            multiply=self.multiply,
        )


class AttentionSection(Section):
    """See ``AttentionLaw``; times [s], ``most_kv8`` and ``kv_core`` [bit/s] (absent: no limit but the memory's).

    ``latent``: as measured on H100 and H200 if absent; so ``indexed``.
    """

    compute_efficiency: Efficiency
    launch: TimeOrNone
    padding_tokens: Tokens
    kv_bandwidth_efficiency: Efficiency
    kv_launch: TimeOrNone
    kv_padding_tokens: Tokens
    latent: TimeOrNone = 75e-6
    indexed: TimeOrNone = 65e-6
    most_kv8: Bandwidth | None = None
    kv_core: Bandwidth | None = None
    softmax_columns: Annotated[float, Field(ge=0, le=10_000)] = 0.0

    def law(self) -> AttentionLaw:
        """Return the law."""
        return AttentionLaw(
            compute_efficiency=self.compute_efficiency,
            launch_s=self.launch,
            padding_tokens=self.padding_tokens,
            kv_bandwidth_efficiency=self.kv_bandwidth_efficiency,
            kv_launch_s=self.kv_launch,
            kv_padding_tokens=self.kv_padding_tokens,
            latent_s=self.latent,
            indexed_s=self.indexed,
            most_kv8_bytes_per_s=math.inf if self.most_kv8 is None else self.most_kv8 / BITS_PER_BYTE,
            kv_core_bytes_per_s=math.inf if self.kv_core is None else self.kv_core / BITS_PER_BYTE,
            softmax_columns=self.softmax_columns,
        )


class EngineSection(Section):
    """Constants under an engine with kernels of its own; what is absent is as in the file of kernels."""

    fp8: GemmSection | None = None
    fp4: GemmSection | None = None
    experts: ExpertsSection | None = None
    experts_by_format: dict[ExpertsFormat, ExpertsSection] = Field(default_factory=dict)
    attention: AttentionSection | None = None
    latent: TimeOrNone | None = None
    indexed: TimeOrNone | None = None
    elementwise: TimeOrNone | None = None
    fused_quantization: list[Literal["fp8", "fp4"]] = Field(default_factory=list)
    moe_backends: dict[Words, dict[ExpertsFormat, ExpertsSection]] = Field(default_factory=dict)
    source: Words

    def stated(self) -> dict[str, Any]:
        """Return what is stated."""
        apart = {"experts_by_format", "latent", "indexed", "fused_quantization", "moe_backends"}
        return {key: getattr(self, key) for key in self.model_fields_set - apart}


class KernelsFile(Section):
    """``profiles/kernels/*.yaml``: constants of one generation of GPUs; times [s]. See ``Kernels``.

    ``fp4``: as ``fp8`` if absent; ``head_norms``: as on H100; ``cores``: of the GPU that they are of. The constants are
    those of vLLM's kernels, each timed alone; ``engines`` has what differs under an engine, and ``sustained`` what of
    the multiply rate is left in service.
    """

    name: Words
    fp16: KneeSection
    fp8: GemmSection
    fp4: GemmSection | None = None
    experts: ExpertsSection
    experts_by_format: dict[ExpertsFormat, ExpertsSection] = Field(default_factory=dict)
    attention: AttentionSection
    elementwise: TimeOrNone
    head_norms: TimeOrNone = 6e-6
    sustained: Efficiency = 1.0
    sampler: TimeOrNone
    sampler_per_sequence: TimeOrNone
    source: Words
    cores: Cores | None = None
    engines: dict[Backend, EngineSection] = Field(default_factory=dict)

    def laws(self, bandwidth: float, compute: float) -> Kernels:
        """Return the laws of vLLM's kernels, with these efficiencies of 16-bit products."""
        return Kernels(
            name=self.name,
            fp16=GemmLaw(bandwidth, compute, self.fp16.sharpness, self.fp16.launch),
            fp8=self.fp8.law(),
            fp4=(self.fp4 or self.fp8).law(),
            experts=self.experts.law(),
            attention=self.attention.law(),
            elementwise_s=self.elementwise,
            head_norms_s=self.head_norms,
            sampler_s=self.sampler,
            sampler_s_per_sequence=self.sampler_per_sequence,
            source=self.source,
            experts_by_format=tuple((form, one.law()) for form, one in self.experts_by_format.items()),
        )

    def under(self, engine: Backend, bandwidth: float, compute: float) -> Kernels:
        """Return the laws in service under an engine."""
        own = self.engines.get(engine)
        file = self
        if own is not None:
            by_format = {**self.experts_by_format, **own.experts_by_format}
            file = self.model_copy(update={**own.stated(), "experts_by_format": by_format})
        laws = file.laws(bandwidth, compute)
        if own is not None:
            stated = {f"{key}_s": getattr(own, key) for key in ("latent", "indexed")}
            changed = {key: value for key, value in stated.items() if value is not None}
            laws = replace(
                laws,
                attention=replace(laws.attention, **changed),
                fused_quantization=tuple(own.fused_quantization),
                backends=tuple(
                    (name, tuple((form, one.law()) for form, one in by_format.items()))
                    for name, by_format in own.moe_backends.items()
                ),
            )
        return replace(laws.scaled(self.sustained), sustained=self.sustained)


class GpuSources(Section):
    """Where each figure of a GPU comes from."""

    memory: Words
    usable_memory: Words
    fp16: Words
    memory_bandwidth: Words
    compute_efficiency: Words
    bandwidth_efficiency: Words
    interconnect: Words
    tdp: Words
    price: Words
    fp8: Words | None = None
    fp4: Words | None = None
    int8: Words | None = None
    kernels: Words | None = None
    all_reduce: Words | None = None
    engine_all_reduce: Words | None = None
    interconnect_gpus: Words | None = None
    network: Words | None = None
    host_link: Words | None = None
    reserved_memory: Words | None = None
    cores: Words | None = None
    refuses: Words | None = None
    mig: Words | None = None


class GpuFile(Section):
    """``profiles/gpus/*.yaml``: memory [B], FLOP/s, bandwidths [bit/s], power [W], price [$/h].

    ``compute_efficiency`` and ``bandwidth_efficiency`` are those of 16-bit matrix products. ``kernels`` names the file
    of ``profiles/kernels`` with the other constants, or holds them. ``interconnect`` is the peak rate of all links from
    a GPU to the others of its node, ``host_link`` that of its link to the host, each way. It joins
    ``interconnect_gpus``, more of them the card of each (``network``). Without ``all_reduce``, the law of
    ``interconnect_kind`` is assumed; ``engine_all_reduce`` has those that an engine uses instead.
    ``reserved_memory`` is what engines take of each GPU outside weights, activations and KV cache (context, graphs,
    communication); without it, that of ``kv_memory``. ``cores`` (streaming multiprocessors) count where they are other
    than those of the GPU whose kernels are taken. What NVIDIA's GPUs run follows from ``compute_capability``; of
    others, ``refuses`` names the formats that engines do not run. ``mig``: instances into which it can be divided.
    """

    name: Words
    memory: Annotated[float, base_unit("size")]
    usable_memory: Annotated[float, base_unit("size")]
    fp16: Rate
    fp8: Rate | None = None
    fp4: Rate | None = None
    int8: Rate | None = None
    memory_bandwidth: Bandwidth
    compute_efficiency: Efficiency
    bandwidth_efficiency: Efficiency
    kernels: Words | KernelsFile = "h100"
    interconnect: Bandwidth
    interconnect_kind: Kind | None = None
    interconnect_gpus: Annotated[int, Field(ge=1)] = 8
    network: Bandwidth = 400e9
    host_link: Bandwidth | None = None
    all_reduce: DirectAllReduce | RingAllReduce | None = None
    engine_all_reduce: dict[Backend, DirectAllReduce] = Field(default_factory=dict)
    reserved_memory: Annotated[float, base_unit("size", zero=True)] | None = None
    tdp: Annotated[float, base_unit("power")]
    price: Annotated[float, base_unit("price")]
    compute_capability: Annotated[float, Field(ge=1, le=99)] | None = None
    cores: Cores | None = None
    refuses: list[Words] | None = None
    mig: MigSection | None = None
    sources: GpuSources

    @field_validator("usable_memory")
    @classmethod
    def _fits(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("memory", math.inf):
            raise ValueError("exceeds memory")
        return value

    @field_validator("refuses")
    @classmethod
    def _are_formats(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if name not in WEIGHTS:
                raise ValueError(unknown_name("precision", name, WEIGHTS))
        return value

    def spec(self, kernels: KernelsFile) -> GpuSpec:
        """Return the GPU with the constants of its kernels."""
        rates = {"fp16": self.fp16, "fp8": self.fp8, "fp4": self.fp4, "int8": self.int8}
        efficiencies = self.bandwidth_efficiency, self.compute_efficiency
        links = self.interconnect / BITS_PER_BYTE
        kind = self.interconnect_kind or default_kind(links)
        host = links if self.host_link is None else self.host_link / BITS_PER_BYTE
        all_reduce = self.all_reduce.laws() if self.all_reduce else usual_all_reduce(kind, links, host)
        in_service = tuple(
            replace(law, switch_bytes_per_s=0.0) for law in all_reduce
        )  # engines set NCCL_CUMEM_ENABLE=0
        own_reduces = {engine: law.laws() for engine, law in self.engine_all_reduce.items()}
        cores = self.cores / kernels.cores if self.cores and kernels.cores else 1.0
        engines = tuple(
            EngineKernels(
                engine, kernels.under(engine, *efficiencies).with_cores(cores), own_reduces.get(engine, in_service)
            )
            for engine in get_args(Backend)
        )
        return GpuSpec(
            name=self.name,
            memory_bytes=round(self.memory),
            usable_memory_bytes=round(self.usable_memory),
            flops=tuple((name, rate) for name, rate in rates.items() if rate is not None),
            memory_bandwidth_bytes_per_s=self.memory_bandwidth / BITS_PER_BYTE,
            kernels=kernels.laws(*efficiencies).with_cores(cores),
            all_reduce=all_reduce,
            tdp_w=self.tdp,
            cost_usd_per_hour=self.price,
            sources=tuple((figure, said) for figure, said in self.sources.model_dump().items() if said is not None),
            compute_capability=self.compute_capability,
            cores=self.cores,
            interconnect=TITLES[kind],
            interconnect_bytes_per_s=links,
            interconnect_gpus=self.interconnect_gpus,
            network_bytes_per_s=self.network / BITS_PER_BYTE,
            refuses=None if self.refuses is None else tuple(self.refuses),
            reserved_bytes=None if self.reserved_memory is None else round(self.reserved_memory),
            engines=engines,
        )
