"""What ``helixsim profile list`` and ``profile show`` print of GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from helixsim.domain.hardware import GpuSpec
from helixsim.hardware import catalog
from helixsim.hardware.mig import is_instance
from helixsim.units import format_bytes, format_seconds

FORMATS = ("fp16", "fp8", "fp4", "int8")
"""Number formats in the order of printing."""

_MESSAGES = (16 * 2**10, 64 * 2**20)
"""Sizes of all-reduces that are shown: those of a decode step and of a long prompt [B]."""


def header() -> tuple[str, ...]:
    """Return the titles of the columns of ``row``."""
    return ("name", "memory", "bandwidth", "fp16", "fp8", "fp4", "interconnect", "tdp", "price", "kernels")


def row(name: str) -> tuple[str, ...]:
    """Return the main figures of a GPU; rates in TFLOP/s."""
    gpu = catalog.load_gpu(name)
    rates = dict(gpu.flops)
    return (
        name,
        format_bytes(gpu.memory_bytes),
        _rate(gpu.memory_bandwidth_bytes_per_s),
        *(f"{rates[form] / 1e12:.0f} TFLOP/s" if form in rates else "-" for form in FORMATS[:3]),
        f"{gpu.interconnect} {_rate(gpu.interconnect_bytes_per_s)}",
        f"{gpu.tdp_w:g} W",
        f"{gpu.cost_usd_per_hour:.2f} $/h",
        basis(gpu),
    )


def basis(gpu: GpuSpec) -> str:
    """Return whether the shares of the peaks come from timings of this card, of some of its kernels, or of another."""
    said = dict(gpu.sources)
    figures = ("compute_efficiency", "bandwidth_efficiency", "kernels")
    assumed = sum(said.get(figure, "assumed").startswith("assumed") for figure in figures)
    return "measured" if not assumed else "assumed" if assumed == len(figures) else "partly measured"


def outline(gpu: GpuSpec) -> str:
    """Return all figures with their units and sources, one a line."""
    lines = list(_figures(gpu))
    width = max(len(f"{name}: {value}") for name, value, _ in lines)
    texts = [f"{f'{name}: {value}':<{width}}  {said}".rstrip() for name, value, said in lines]
    return "\n".join((f"name: {gpu.name}", *texts, *_kernel_lines(gpu)))


def _all_reduces(gpu: GpuSpec, where: str, source: str) -> Iterator[tuple[str, str, str]]:
    for size in _MESSAGES:
        times = ", ".join(format_seconds(one.seconds(size)) for one in gpu.all_reduce)
        times += f" ({', '.join(str(one.gpus) for one in gpu.all_reduce)} GPUs)"
        yield f"all-reduce of {format_bytes(size)}{where}", times, source if size == _MESSAGES[0] else ""


def _figures(gpu: GpuSpec) -> Iterator[tuple[str, str, str]]:
    """Yield (figure, value, source)."""
    said, rates, law = dict(gpu.sources), dict(gpu.flops), gpu.kernels.fp16
    yield "memory", format_bytes(gpu.memory_bytes), said["memory"]
    yield "usable memory", format_bytes(gpu.usable_memory_bytes), said["usable_memory"]
    for form in FORMATS:
        if form in rates:
            yield form, f"{rates[form] / 1e12:g} TFLOP/s", said[form]
    yield "memory bandwidth", _rate(gpu.memory_bandwidth_bytes_per_s), said["memory_bandwidth"]
    yield "compute efficiency", f"{law.compute_efficiency:g}", said["compute_efficiency"]
    yield "bandwidth efficiency", f"{law.bandwidth_efficiency:g}", said["bandwidth_efficiency"]
    yield "kernels", gpu.kernels.name, said.get("kernels", "not stated")
    yield from _links(gpu, said)
    if gpu.reserved_bytes is not None:
        yield "reserved memory", format_bytes(gpu.reserved_bytes), said.get("reserved_memory", "not stated")
    yield "tdp", f"{gpu.tdp_w:g} W", said["tdp"]
    yield "price", f"{gpu.cost_usd_per_hour:.2f} $/h", said["price"]
    if gpu.compute_capability is not None:
        yield "compute capability", f"{gpu.compute_capability:g}", ""
    if gpu.cores is not None:
        yield "cores", f"{gpu.cores}", said["cores"]
    if instances := catalog.gpu_instances(gpu.name):
        yield "MIG instances", ", ".join(instances), said["mig"]
    if gpu.refuses is not None:
        yield "refuses", ", ".join(gpu.refuses), said["refuses"]


def _links(gpu: GpuSpec, said: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the links to other GPUs, which instances do not have."""
    if is_instance(gpu.name):
        yield "interconnect", "none", said["interconnect"]
        return
    yield "interconnect", f"{gpu.interconnect}, {_rate(gpu.interconnect_bytes_per_s)}", said["interconnect"]
    yield "interconnected GPUs", f"{gpu.interconnect_gpus}", said.get("interconnect_gpus", "assumed: one server")
    yield "network", f"{_rate(gpu.network_bytes_per_s)} a GPU", said.get("network", "assumed: a card for each GPU")
    yield from _all_reduces(gpu, "", said.get("all_reduce", "assumed, see interconnect"))
    for own in gpu.engines:
        if own.all_reduce != gpu.all_reduce:
            yield from _all_reduces(gpu.under(own.engine), f" under {own.engine}", said["engine_all_reduce"])


def _kernel_lines(gpu: GpuSpec) -> Iterator[str]:
    kernels, attention = gpu.kernels, gpu.kernels.attention
    yield f"\nkernels of {kernels.name}: {kernels.source}"
    for name, law in kernels.products().items():
        if name not in FORMATS or name in dict(gpu.flops):
            yield (
                f"  {name}: {law.compute_efficiency:.0%} of the rate, {law.bandwidth_efficiency:.0%} of the bandwidth, "
                f"sharpness {law.sharpness:g}, {format_seconds(law.launch_s)} a product"
            )
    yield (
        f"  attention of prompts: {attention.compute_efficiency:.0%} of the fp16 rate, "
        f"{format_seconds(attention.launch_s)}, {attention.padding_tokens:g} tokens of padding and exponentials "
        f"like {attention.softmax_columns:g} numbers of a key"
    )
    yield (
        f"  attention of decode steps: {attention.kv_bandwidth_efficiency:.0%} of the bandwidth, "
        f"{format_seconds(attention.kv_launch_s)} and {attention.kv_padding_tokens:g} tokens of padding"
    )
    yield f"  norms, rotary embedding, activation: {format_seconds(kernels.elementwise_s)} a layer"
    yield f"  sampler: {format_seconds(kernels.sampler_s)}, {format_seconds(kernels.sampler_s_per_sequence)} a sequence"


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:g} GB/s"
