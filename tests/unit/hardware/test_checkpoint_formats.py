"""Formats that a checkpoint states, module by module: what is excluded, what has a format of its own, the KV cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helixsim.domain.layers import Layer, Matrix
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.formats import format_faults, format_notes

MIXTURE: dict[str, Any] = {
    "model_type": "qwen3_next", "num_hidden_layers": 4, "hidden_size": 2048, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "num_experts": 64, "num_experts_per_tok": 8,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "vocab_size": 32000,
    "max_position_embeddings": 8192,
}  # fmt: skip
LAST = 3
"""The layer with attention."""


@pytest.fixture
def load(tmp_path: Path):
    def loaded(stated: dict[str, Any] | None, beside: dict[str, Any] | None = None, **formats: str) -> ModelSpec:
        config = {**MIXTURE, **({"quantization_config": stated} if stated else {})}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside or {}))
        return catalog.load_model(tmp_path, **formats)

    return loaded


def _matrix(layer: Layer, name: str) -> Matrix:
    return next(matrix for matrix in layer.matrices if matrix.name == name)


def _formats(layer: Layer) -> dict[str, str]:
    assert layer.experts is not None
    found = {matrix.name: matrix.format.name for matrix in layer.matrices}
    return {**found, "experts": layer.experts.matrices[0].format.name}


@pytest.mark.parametrize(
    ("excluded", "sixteen_bits"),
    [
        ([], set()),
        (["lm_head", "model.embed_tokens"], set()),
        (["model.layers.3.self_attn.q_proj", "model.layers.3.self_attn"], {"qkv", "attention_output"}),
        (["model.language_model.layers.3.self_attn*"], {"qkv", "attention_output"}),
        (["*.self_attn.*"], {"qkv", "attention_output"}),
        (["model.layers.*.self_attn"], {"qkv", "attention_output"}),
        (["re:.*self_attn.*"], {"qkv", "attention_output"}),
        (["self_attn"], {"qkv", "attention_output"}),
        (["model.layers.3.mlp.shared_expert*"], {"shared_gate_up", "shared_down"}),
        (["model.layers.3.mlp.experts.*"], {"experts"}),
        (["model.layers.0.self_attn*", "model.layers.33*"], set()),
        (["mtp.layers.3*", "mtp.layers.3.self_attn", "model.vision_tower.layers.3*", "visual.layers.3.mlp"], set()),
        (["model.layers.3*"], {"qkv", "attention_output", "shared_gate_up", "shared_down", "experts"}),
    ],
)
@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignore", "exclude_modules"])
def test_what_is_excluded_stays_in_16_bits(load, key: str, excluded: list[str], sixteen_bits: set[str]) -> None:
    formats = _formats(load({"quant_method": "fp8", key: excluded}).layers[LAST])
    always = {"router", "shared_gate"}
    assert {name for name, stored in formats.items() if stored == "fp16"} == sixteen_bits | always
    assert set(formats.values()) <= {"fp16", "fp8"}


@pytest.mark.parametrize(
    ("stated", "name", "bits", "multiply"),
    [
        ({"quant_method": "fp8"}, "fp8", 8, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4", 4.25, "fp16"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 4.125, "fp16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4", 4.5, "fp16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4", 4, "fp16"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 8.125, "fp16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 4.125, "fp16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4.5, "fp4"),
        ({"quant_algo": "W4A16_NVFP4"}, "nvfp4", 4.5, "fp16"),
        ({"quant_algo": "MXFP8"}, "fp8", 8.25, "fp8"),
        ({"quant_algo": "W4A8_AWQ"}, "int4", 4.125, "fp8"),
    ],
)
def test_formats_with_their_scales(load, stated: dict[str, Any], name: str, bits: float, multiply: str) -> None:
    model = load(stated)
    stored = _matrix(model.layers[LAST], "qkv").format
    assert (stored.name, stored.bits, stored.multiply) == (name, bits, multiply)
    assert model.precision == name
    again = load(None, {"quantization": stated})
    assert again.layers == model.layers


@pytest.mark.parametrize(
    ("weights", "activations", "name", "bits", "multiply"),
    [
        ({"num_bits": 8, "type": "float"}, {"num_bits": 8}, "fp8", 8, "fp8"),
        ({"num_bits": 8, "type": "float"}, None, "fp8", 8, "fp16"),
        ({"num_bits": 8, "type": "int"}, {"num_bits": 8}, "int8", 8, "int8"),
        ({"num_bits": 4, "type": "int", "group_size": 32}, None, "int4", 4.5, "fp16"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 4}, "nvfp4", 4.5, "fp4"),
        ({"num_bits": 4, "type": "float", "group_size": 32}, None, "mxfp4", 4.25, "fp16"),
    ],
)
def test_compressed_tensors(load, weights, activations, name: str, bits: float, multiply: str) -> None:
    group = {"weights": weights, "input_activations": activations, "targets": ["Linear"]}
    stored = _matrix(
        load({"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}).layers[LAST], "qkv"
    ).format
    assert (stored.name, stored.bits, stored.multiply) == (name, bits, multiply)


def test_groups_and_lists_give_modules_formats_of_their_own(load) -> None:
    eight = {"weights": {"num_bits": 8, "type": "float"}, "targets": ["re:.*self_attn.*"]}
    four = {"weights": {"num_bits": 4, "type": "float", "group_size": 16}, "targets": ["model.layers.3.mlp.experts"]}
    grouped = load({"quant_method": "compressed-tensors", "config_groups": {"a": eight, "b": four}})
    layers = {
        **{f"model.layers.3.self_attn.{name}_proj": {"quant_algo": "FP8"} for name in "qkvo"},
        "model.layers.3.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16},
    }
    listed = load(None, {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}})
    for model in (grouped, listed):
        formats = _formats(model.layers[LAST])
        assert (formats["qkv"], formats["experts"], formats["shared_gate_up"]) == ("fp8", "nvfp4", "fp16")
        assert model.precision == "fp16"  # three of four layers have no format of their own
    assert grouped.layers == listed.layers


def test_what_is_asked_for_goes_before_what_is_stated(load) -> None:
    stated = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}
    model = load(stated)
    assert load(stated, precision="fp8").layers == model.layers  # a resolved experiment states it: the same model
    other = load(stated, precision="int4")
    assert _formats(other.layers[LAST])["qkv"] == "int4"
    assert any("although its checkpoint states fp8" in note for note in other.notes)
    note = next(note for note in model.notes if "as its checkpoint states" in note)
    assert "fp16: " in note
    assert "qkv" in note


@pytest.mark.parametrize(
    ("stated", "beside", "kv", "bits"),
    [
        ({"quant_method": "fp8"}, None, "fp16", 16),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, None, "fp8", 8),
        (None, {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "fp8", 8),
        (None, {"quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}, "fp4", 4.5),
        (None, {"quant_algo": None, "kv_cache_quant_algo": "FP8"}, "fp8", 8),
    ],
)
def test_the_kv_cache(load, stated, beside, kv: str, bits: float) -> None:
    model = load(stated, beside and {"quantization": beside})
    assert (model.kv_precision, model.kv_bits) == (kv, bits)
    assert load(stated, beside and {"quantization": beside}, kv_precision="fp16").kv_bits == 16


@pytest.mark.parametrize(
    ("stated", "what"),
    [
        ({"quant_method": "hqq9"}, "quant_method hqq9"),
        ({"quant_method": "gptq", "bits": 3}, "quant_method gptq with 3 bits"),
        ({"quant_algo": "W2A16"}, "quant_algo W2A16"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a.b": {"quant_algo": "FP3"}}}, "quant_algo FP3"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": [2], "type": "x"}}}},
            r"weights of \[2\] bits, type x",
        ),
        ({"quant_method": "fp8", "ignore": ["re:["]}, "a pattern of modules"),
    ],
)
def test_an_unknown_format_is_refused_unless_another_is_given(load, stated: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=f"quantized with {what}.*which helixsim does not know.*nvfp4"):
        load(stated)
    assert load(stated, precision="int4").precision == "int4"


def test_an_unknown_kv_cache_is_refused_unless_another_is_given(load) -> None:
    stated = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 3, "type": "float"}}
    with pytest.raises(DataError, match=r"states a KV cache of 3 bits, type float.*kv_precision: fp8"):
        load(stated)
    assert load(stated, kv_precision="fp8").kv_precision == "fp8"


@pytest.mark.parametrize(
    ("gpu", "precision", "said"),
    [
        ("t4", "fp8", "runs no FP8 weights; use precision: int8, int4 or fp16"),
        ("v100", "fp8", r"runs no FP8 weights; use precision: int4 \(GPTQ\) or fp16"),
        ("t4", "nvfp4", "runs no NVFP4 weights"),
        ("v100", "mxfp4", "runs no MXFP4 weights"),
        ("v100", "int8", "8-bit integers; use precision: int4"),
        ("b200", "int8", "8-bit integers.*use precision: fp8"),
        ("t4", "int8", ""),
        ("v100", "int4", ""),
        ("a100-80g", "fp8", ""),
        ("h100", "nvfp4", ""),
        ("b200", "nvfp4", ""),
    ],
)
def test_formats_that_engines_refuse_on_a_gpu_are_faults(load, gpu: str, precision: str, said: str) -> None:
    faults = list(format_faults(load(None, precision=precision), [catalog.load_gpu(gpu)]))
    assert [key for key, _ in faults] == ["precision"] * bool(said)
    assert all(re.search(said, fault) for _, fault in faults)


@pytest.mark.parametrize(
    ("gpu", "kv_precision", "said"),
    [("t4", "fp8", "n: fp16"), ("h100", "fp4", "n: fp8 or fp16"), ("t4", "fp4", "n: fp16"), ("h100", "fp8", "")],
)
def test_kv_caches_that_engines_refuse_on_a_gpu_are_faults(load, gpu: str, kv_precision: str, said: str) -> None:
    faults = list(format_faults(load(None, kv_precision=kv_precision), [catalog.load_gpu(gpu)]))
    assert [key for key, _ in faults] == ["kv_precision"] * bool(said)
    assert all(fault.endswith(said) for _, fault in faults)


@pytest.mark.parametrize(
    ("gpu", "precision", "said"),
    [
        ("h100", "nvfp4", "multiplies NVFP4 weights in 16 bits"),
        ("a100-80g", "fp8", "multiplies FP8 weights in 16 bits"),
        ("v100", "int4", "as GPTQ, not as AWQ"),
        ("b200", "nvfp4", ""),
        ("h100", "mxfp4", ""),
    ],
)
def test_formats_that_save_memory_alone_are_named(load, gpu: str, precision: str, said: str) -> None:
    notes = list(format_notes(load(None, precision=precision), [catalog.load_gpu(gpu)]))
    assert len(notes) == bool(said)
    assert all(re.search(said, note) for note in notes)
