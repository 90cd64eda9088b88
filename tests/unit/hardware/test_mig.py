"""Instances of a GPU: what they have together, what steps take on them, names."""

from __future__ import annotations

import re

import pytest

from helixsim.domain.hardware import GpuSpec
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.mig import split_instance
from helixsim.hardware.roofline import roofline

DIVISIBLE = [name for name in catalog.gpu_names() if catalog.gpu_instances(name)]

DIVISIONS = [
    ("h100", ("3g.40gb", "3g.40gb")), ("h100", ("4g.40gb", "3g.40gb")), ("h100", ("1g.10gb",) * 7),
    ("h100", ("1g.20gb",) * 4), ("h100", ("3g.40gb", "2g.20gb", "1g.10gb")), ("h200", ("2g.35gb",) * 3 + ("1g.18gb",)),
    ("a100-80g", ("4g.40gb", "2g.20gb", "1g.10gb")), ("a100-40g", ("3g.20gb", "3g.20gb")), ("a30", ("2g.12gb",) * 2),
    ("h200-nvl", ("3g.71gb", "2g.35gb", "1g.18gb")),
]  # fmt: skip
"""Divisions that NVIDIA's MIG User Guide allows."""


def step_ns(gpu: GpuSpec, *, prompt: int = 0, seqs: int = 0, precision: str = "bf16") -> float:
    model = catalog.load_model("llama-3-8b", precision)
    compute = roofline(model, gpu)
    layers = model.num_layers
    return compute.prefill_ns(layers, prompt) if prompt else compute.decode_ns(layers, seqs, seqs * 500)


@pytest.mark.parametrize(("name", "profiles"), DIVISIONS)
def test_instances_have_no_more_together_than_their_gpu(name: str, profiles: tuple[str, ...]) -> None:
    gpu, parts = catalog.load_gpu(name), [catalog.load_gpu(f"{name}-{one}") for one in profiles]
    assert sum(one.memory_bytes for one in parts) <= gpu.memory_bytes
    assert sum(one.memory_bandwidth_bytes_per_s for one in parts) <= gpu.memory_bandwidth_bytes_per_s * 1.0001
    assert sum(one.fp16_flops for one in parts) <= gpu.fp16_flops * 1.0001
    assert sum(one.cost_usd_per_hour for one in parts) <= gpu.cost_usd_per_hour * 1.0001
    assert all(one.usable_memory_bytes <= one.memory_bytes for one in parts)


@pytest.mark.parametrize("name", DIVISIBLE)
@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_a_larger_instance_is_not_slower(name: str, precision: str) -> None:
    """By cores and memory slices; long prompts take as many times longer as there are fewer cores."""
    whole = catalog.load_gpu(name)
    parts = [catalog.load_gpu(f"{name}-{one}") for one in catalog.gpu_instances(name)]
    for shape in ({"prompt": 64}, {"prompt": 8192}, {"seqs": 1}, {"seqs": 32}, {"seqs": 256}):
        for part in parts:
            took = step_ns(part, precision=precision, **shape)
            for other in (*parts, whole):
                if (
                    other.fp16_flops >= part.fp16_flops
                    and other.memory_bandwidth_bytes_per_s >= part.memory_bandwidth_bytes_per_s
                ):
                    assert step_ns(other, precision=precision, **shape) <= took * (1 + 1e-9), (part.name, other.name)
    for part in parts:
        ratio = step_ns(part, prompt=8192, precision=precision) / step_ns(whole, prompt=8192, precision=precision)
        assert 0.85 * whole.fp16_flops / part.fp16_flops <= ratio
        assert ratio <= max(
            whole.fp16_flops / part.fp16_flops, whole.memory_bandwidth_bytes_per_s / part.memory_bandwidth_bytes_per_s
        ) * (1 + 1e-9)


def test_rates_that_the_cores_limit_follow_the_cores() -> None:
    whole, part = catalog.load_gpu("h100"), catalog.load_gpu("h100-3g.40gb")
    for gpu, own in zip((whole, *(whole.under(one.engine) for one in whole.engines)),
                        (part, *(part.under(one.engine) for one in part.engines)), strict=True):  # fmt: skip
        limits = [
            [law.most_bytes_per_s for law in (one.kernels.experts, *dict(one.kernels.experts_by_format).values())]
            + [one.kernels.attention.most_kv8_bytes_per_s, one.kernels.fp8.quantised_bytes_per_s]
            for one in (gpu, own)
        ]
        assert limits[1] == pytest.approx([60 / 132 * rate for rate in limits[0]])


def test_names_of_instances() -> None:
    assert split_instance("h100-3g.40gb") == ("h100", "3g.40gb")
    assert split_instance("h100") == ("h100", None)
    assert split_instance("./cards/own-3g.40gb") == ("./cards/own-3g.40gb", None)
    assert catalog.load_gpu("NVIDIA-H100-80GB-HBM3-MIG-3g.40gb") == catalog.load_gpu("h100-3g.40gb")
    assert catalog.is_gpu("H100 MIG 1g.10gb")
    assert catalog.gpu_name("h100-3g40gb") == "h100-3g.40gb"
    assert catalog.gpu_name("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me") == "h100-1g.10gb"
    assert not catalog.is_gpu("l4-1g.10gb")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h100-5g.40gb", "h100 has the MIG instances h100-1g.10gb, "),
        ("l4-1g.10gb", "unknown GPU 'l4-1g.10gb': no MIG instances of l4 are known"),
        ("h101-1g.10gb", "unknown GPU 'h101-1g.10gb' (known: a10, "),
        ("a100-3g.20gb", "unknown GPU 'a100-3g.20gb'; did you mean 'a100-40g-3g.20gb'?"),
        ("mig-1g.6gb", "unknown GPU 'mig-1g.6gb'; did you mean 'a30-1g.6gb'?"),
        ("3g.90gb", "unknown GPU '3g.90gb' (known: a10, "),
    ],
)
def test_unknown_instances(name: str, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        catalog.load_gpu(name)


def test_an_instance_has_no_file() -> None:
    said = "h100-3g.40gb: a MIG instance has no file of its own (its GPU: h100)"
    with pytest.raises(DataError, match=re.escape(said)):
        catalog.gpu_document("h100-3g.40gb")
