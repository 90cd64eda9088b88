"""What nobody who knows GPUs would believe of the shipped profiles: laws over all of them."""

from __future__ import annotations

import pytest

from helixsim.domain.hardware import BatchLimits, GpuSpec, NodeProfile
from helixsim.errors import InfeasibleError
from helixsim.hardware import catalog
from helixsim.hardware.formats import FP4_NATIVE, FP8_NATIVE, format_faults, format_notes
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.roofline import roofline

GPUS = {name: catalog.load_gpu(name) for name in catalog.gpu_names()}

SUCCESSORS = [
    ("v100", "a100-40g"), ("a100-40g", "a100-80g"), ("a100-80g", "h100"), ("h100", "h200"), ("h200", "b200"),
    ("b200", "b300"), ("b200", "gb200"), ("b300", "gb300"), ("gb200", "gb300"), ("t4", "l4"), ("a10g", "a10"),
    ("a10", "l40s"), ("rtx-3090", "rtx-4090"), ("rtx-4090", "rtx-5090"), ("rtx-a6000", "rtx-6000-ada"),
    ("rtx-6000-ada", "rtx-pro-6000"), ("l40s", "rtx-pro-6000"), ("mi250x-gcd", "mi300x"), ("mi300x", "mi325x"),
    ("mi325x", "mi355x"),
]  # fmt: skip
"""(older, newer) of one class of card."""

CUT = [
    ("l20", "l40s"), ("h20", "h200"), ("h800", "h100"), ("h100-pcie", "h100-nvl"), ("h100-nvl", "h200"),
    ("a100-pcie-80g", "a100-80g"), ("a30", "a100-40g"), ("m4-max", "m3-ultra"), ("h200-nvl", "h200"),
]  # fmt: skip
"""(lesser, full) versions of one architecture."""

SLACK = 1.05
"""Constants of kernels come from one measured card each, so that a successor's may be a little worse."""


def step_ms(gpu: GpuSpec, *, prompt: int = 0, seqs: int = 0, context: int = 0, precision: str = "bf16") -> float:
    """Return the time of Llama 3 8B for a prompt or a decode step, without the engine [ms]."""
    model = catalog.load_model("llama-3-8b", precision)
    compute = roofline(model, gpu)
    layers = model.num_layers
    ns = compute.prefill_ns(layers, prompt) if prompt else compute.decode_ns(layers, seqs, seqs * context)
    return ns / 1e6


def runs(gpu: str, precision: str) -> bool:
    """Return whether engines run weights of that format on the GPU at all."""
    return not list(format_faults(catalog.load_model("llama-3-8b", precision), [GPUS[gpu]]))


@pytest.mark.parametrize(
    ("lesser", "better", "precision"),
    [(*pair, form) for pair in SUCCESSORS + CUT for form in ("bf16", "fp8", "int4") if runs(pair[0], form)],
)
def test_a_successor_is_not_slower(lesser: str, better: str, precision: str) -> None:
    for shape in (
        {"prompt": 512}, {"prompt": 8192}, {"seqs": 1, "context": 1000}, {"seqs": 32, "context": 1000},
        {"seqs": 128, "context": 2000},
    ):  # fmt: skip
        slow, fast = (step_ms(GPUS[name], precision=precision, **shape) for name in (lesser, better))
        assert fast <= SLACK * slow, shape


@pytest.mark.parametrize(("older", "newer"), SUCCESSORS)
def test_a_successor_has_no_smaller_memory_or_rates(older: str, newer: str) -> None:
    old, new = GPUS[older], GPUS[newer]
    assert new.memory_bytes >= 0.99 * old.memory_bytes  # cards of 80 GB report a little less from one to the next
    rates = dict(new.flops)
    for form, rate in old.flops:
        assert rates[form] >= rate or (form == "int8" and newer in FEW_INTEGERS)


FEW_INTEGERS = {"b300", "gb300"}
"""Blackwell Ultra gave INT8 up for FP4 (NVIDIA Blackwell Ultra datasheet)."""


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_rates_double_where_bits_halve_and_exist_where_the_hardware_has_them(gpu: GpuSpec) -> None:
    rates, capability = dict(gpu.flops), gpu.compute_capability
    if capability is not None:
        assert ("fp8" in rates) == (capability >= FP8_NATIVE)
        assert ("fp4" in rates) == (capability >= FP4_NATIVE)
        assert ("int8" in rates) == (capability >= 7.5)
    for form, least, most in (("fp8", 1, 2.1), ("fp4", 3.99, 8.1), ("int8", 1, 4.1)):
        if form in rates and not (form == "int8" and gpu.name in FEW_INTEGERS):
            assert least <= rates[form] / rates["fp16"] <= most
    kernels = gpu.kernels
    for law in (kernels.fp16, kernels.fp8, kernels.experts):
        assert 0.3 <= law.compute_efficiency <= 1
        assert 0.5 <= law.bandwidth_efficiency <= 1


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_eight_bits_save_time_where_the_hardware_multiplies_them_and_memory_everywhere(gpu: GpuSpec) -> None:
    assert step_ms(gpu, seqs=1, context=100, precision="fp8") < step_ms(gpu, seqs=1, context=100)
    wide, narrow = step_ms(gpu, prompt=8192), step_ms(gpu, prompt=8192, precision="fp8")
    assert narrow < wide * 1.001
    if "fp8" not in dict(gpu.flops):
        assert narrow == pytest.approx(wide, rel=0.02)
        model = catalog.load_model("llama-3-8b", "fp8")
        said = [*format_notes(model, [gpu]), *format_faults(model, [gpu])]
        assert gpu.compute_capability is None or said


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_models_that_fit_run_on_every_gpu(gpu: GpuSpec) -> None:
    """Each GPU with a quarter of the models."""
    for name in catalog.model_names()[list(GPUS).index(gpu.name) % 4 :: 4]:
        assert_runs_if_it_fits(name, gpu)


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.model_names())
def test_every_model_that_fits_runs_on_every_gpu(name: str) -> None:
    for gpu in GPUS.values():
        assert_runs_if_it_fits(name, gpu)


def assert_runs_if_it_fits(name: str, gpu: GpuSpec) -> None:
    """Eight of the cards; the whole memory less the weights is the KV cache, to what engines take for themselves."""
    options = ProfileOptions(holds_ends=True, max_prefill_tokens=2048, max_decode_seqs=128)
    model = catalog.load_model(name)
    weights = sum(layer.weight_bytes for layer in model.layers) + model.embedding_bytes
    try:
        node, _ = node_profile(model, gpu, 8, options)
    except InfeasibleError:
        assert weights > 0.5 * 8 * gpu.memory_bytes / model.num_layers
        return
    if len(node.kv_blocks) < model.num_layers:
        assert weights > 0.7 * 8 * gpu.memory_bytes
        return
    token_bytes = sum(node.memory.kv_bytes) if node.memory else node.block_bytes / 16 * model.num_layers
    kv_bytes = node.kv_tokens(model.num_layers, model.num_layers) * token_bytes
    assert 0 <= kv_bytes <= 0.9 * 8 * gpu.memory_bytes - weights
    _check_times(node)


def _check_times(node: NodeProfile) -> None:
    compute, limits = node.compute, node.limits[0]
    assert isinstance(limits, BatchLimits)
    assert 0 < compute.decode_ns(1, 1, 100) <= compute.decode_ns(1, 128, 12_800) < 1e9
    assert 0 < compute.prefill_ns(1, 16) < compute.prefill_ns(1, 2048) < 1e11


def test_a_gpu_of_another_maker_says_what_engines_do_not_run_on_it() -> None:
    def faults(gpu: str, precision: str | None = None, kv_precision: str | None = None) -> list[tuple[str, str]]:
        return list(format_faults(catalog.load_model("llama-3-8b", precision, kv_precision), [GPUS[gpu]]))

    ((key, said),) = faults("mi250x-gcd", "fp8")
    assert (key, said) == (
        "precision", "mi250x-gcd runs no FP8 weights; use precision: int4 or fp16, or other GPUs"
    )  # fmt: skip
    assert [key for key, _ in faults("m3-ultra", None, "fp8")] == ["kv_precision"]
    assert faults("mi355x", "nvfp4")
    assert not faults("mi300x", "fp8", "fp8")
    assert not faults("m4-max", "int4")
    for gpu in GPUS.values():
        assert (gpu.compute_capability is None) == (gpu.refuses is not None)
