"""Launches of layers by their operations, and other ways to compute routed experts."""

from dataclasses import replace

import pytest

from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.kernels import Node
from helixsim.hardware.roofline import roofline

H100 = catalog.load_gpu("h100")


@pytest.mark.parametrize(("name", "launches"), [("llama-3.1-8b", 1.0), ("gpt-oss-120b", 2.0), ("deepseek-v3", 3.5)])
def test_layers_with_more_operations_take_longer_to_launch(name, launches):
    model = catalog.load_model(name)
    assert model.layers[-1].launches == launches
    held = LayerRange(model.num_layers - 1, model.num_layers)
    time = StepTime(roofline(model, H100), EngineSpec(layer_launch_ns=10**9, shares_weight_reads=True), held, 100)
    assert time.ns(BatchShape(1, 0.5, 1)) == pytest.approx(launches * 1e9, rel=1e-3)


def test_a_backend_replaces_the_experts_of_its_formats_alone():
    kernels = H100.under("vllm").kernels
    marlin = kernels.with_backend("marlin")
    assert marlin.experts_of("mxfp4") != kernels.experts_of("mxfp4")
    assert marlin.experts_of("fp8") == kernels.experts_of("fp8")
    assert kernels.with_backend(None) == kernels
    with pytest.raises(DataError, match=r"nothing is known of cutlass with h100 kernels \(known: marlin\)"):
        kernels.with_backend("cutlass")


def test_marlin_multiplies_prompts_slower():
    experts = catalog.load_model("gpt-oss-120b").layers[0].experts
    gpu = H100.under("vllm")
    other = replace(gpu, kernels=gpu.kernels.with_backend("marlin"))
    assert Node(other).experts_s(experts, 8192) > 1.5 * Node(gpu).experts_s(experts, 8192)
