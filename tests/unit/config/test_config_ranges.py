"""Values out of range are refused with file, line and column, before anything is built; hints keep the meaning."""

from __future__ import annotations

import json
import math

import pytest

from helixsim import load_experiment, units
from helixsim.cli.main import main
from helixsim.errors import ConfigError, DataError, same_thing, unknown_name
from helixsim.hardware import catalog

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  nodes:
    - {gpu: l4, count: 2}
    - {gpu: t4, count: 2}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}
  arrivals: {process: poisson, rate: 2 /s}
  duration: 20 s
systems:
  - {name: a, placement: swarm}
  - {name: b, placement: petals}
"""

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 32768,
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def faults(path, *overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert all(problem.where for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.nodes.0.count=1000000000", "links, allowed: up to 10000 nodes"),
        ("cluster.nodes.0.count=" + "9" * 400, "less than or equal to"),
        ("workload.duration=100000 h", "7.2e+08 requests, allowed"),
        ("workload.arrivals={process: poisson, rate: 1, num_requests: 1000000000}", "1e+09 requests"),
        ("workload.duration=1e12 h", "out of range"),
        ("workload.duration=1e300 s", "out of range"),
        ("workload.warmup=1e-300 s", "out of range"),
        ("workload.arrivals.rate=1e300", "out of range"),
        ("workload.arrivals.rate=" + "9" * 5000, "too long"),
        ("workload.scale={rate: 1e300}", "less than or equal to"),
        ("report.sample=1 ns", "samples of 4 nodes"),
        ("name=" + "x" * 300, "at most 100 characters"),
        ("max_context_tokens=1000000000000", "less than or equal to"),
        ("systems.0.placement={strategy: helix, max_hops: 0}", "max_hops: must be greater than or equal to 1, got 0"),
        ("systems.0.placement={strategy: helix, candidates: -1}", "candidates: must be greater than"),
        ("systems.0.placement={strategy: helix, move_tolerance: 5.0}", "move_tolerance: must be less than"),
        ("systems.0.placement={strategy: helix, exclude: ['zz-*']}", "exclude: 'zz-*' matches no node"),
        ("systems.0.placement={strategy: helix, max_layers: {zz: 1}}", "max_layers: no node of type 'zz'"),
        ("systems.0.placement={strategy: helix, max_layers: {l4: 0}}", "max_layers"),
        ("systems.0.placement={strategy: helix, pinned: {l4-9: [0, 3]}}", "pinned: no node 'l4-9'"),
        ("systems.0.placement={strategy: helix, pinned: {l4-0: [9, 3]}}", "pinned: l4-0 has [9, 3]"),
        ("systems.0.placement={strategy: swarm, stages: 0}", "stages: must be greater"),
        ("systems.0.routing={policy: swarm, smoothing: 5.0}", "smoothing: must be less than 1"),
        ("systems.0.routing={policy: swarm, initial_s: 0.0}", "initial_s: must be greater than 0"),
        ("systems.0.routing={policy: flow_weighted, shares: {zz: {l4-0: 1.0}}}", "shares: unknown node 'zz'"),
        ("systems.0.routing={policy: flow_weighted, shares: {l4-0: {l4-1: 0.0}}}", "shares: l4-0: all weights are 0"),
        ("systems.0.routing={policy: flow_weighted, shares: {l4-0: {l4-1: -1.0}}}", "shares"),
        ("systems.0.routing=':'", "systems.0.routing"),
        ("systems.0.routing='.a:X'", "systems.0.routing"),
        ("slo_targets={fast: {ttft: 1 s, a.b: 1}}", "slo_targets.fast.a.b: unknown key"),
        ("whatif=[{name: x, set: {name: other}}]", "a variant cannot set 'name'"),
        ("whatif=[{name: x, set: {systems: []}}]", "a variant cannot set 'systems'"),
        ("workload.lengths={distribution: fixed, prompt_tokens: 10, output_tokens: 1000000000000}", "1e+09 tokens"),
        ('cluster.network.links="a\\0b"', "cannot be read"),
        ("cluster.network.links=.", "cannot be read: Is a directory"),
        ("systems.²=1", "no entry '²' in the list systems"),
        ("cluster=" + "c" * 5000, "no such file"),
        ('model="a\\0b"', "unknown model"),
        ("model=" + "m" * 5000 + "/x", "no such file"),
    ],
)
def test_values_out_of_range(path, override, message):
    found = faults(path, override)
    assert any(message in line for line in found), found
    assert all(len(line) < 3000 for line in found)


def test_what_is_refused_by_validate_is_refused_by_run_with_the_same_words(path, capsys):
    for command in ("validate", "run"):
        assert main([command, str(path), "--set", "systems.0.routing={policy: swarm, smoothing: 5.0}"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second


def test_a_file_with_ten_thousand_faults_names_twenty_and_counts_the_rest(path):
    text = EXPERIMENT + "".join(f"k{number}: 1\n" for number in range(10_000))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "9980 more faults of 10000 are not shown"


@pytest.mark.parametrize(
    ("text", "where"), [("a: \x00\n", "x.yaml:1:4"), ("a: 1\nb: \x1b[31m\n", "x.yaml:2:4"), ("", "x.yaml:1:1")]
)
def test_what_yaml_does_not_allow_has_a_position(tmp_path, monkeypatch, text, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment((tmp_path / "x.yaml").relative_to(tmp_path))
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize("dimension", ["bandwidth", "size", "time", "rate", "flops", "price", "power"])
def test_every_quantity_has_a_range_and_stays_finite(dimension):
    unit = {
        "bandwidth": "bit/s",
        "size": "B",
        "time": "s",
        "rate": "/s",
        "flops": "FLOP/s",
        "price": "$/h",
        "power": "W",
    }
    for number in ("1e300", "1e-300", "9" * 5000, "1e31"):
        with pytest.raises(ValueError, match=r"range|not a"):
            units.parse(f"{number} {unit[dimension]}", dimension)
    assert math.isfinite(units.parse(f"7 {unit[dimension]}", dimension))
    with pytest.raises(ValueError, match="not a"):
        units.parse(f"٣ {unit[dimension]}", dimension)  # digits of another script


@pytest.mark.parametrize(
    ("got", "hint"),
    [
        ("a100", "; did you mean one of 'a100-40g', 'a100-80g', 'a100-pcie-80g'?"),
        ("A100-40G", "; did you mean 'a100-40g'?"),
        ("rtx4090", "; did you mean 'rtx-4090'?"),
        ("h10", ""),  # another GPU, whose name a longer one begins with
        ("gh200", ""),
        ("b100", ""),
    ],
)
def test_hints_for_gpus_keep_the_kind(got, hint):
    assert same_thing(got, catalog.gpu_names()) == hint


def test_hints_never_turn_one_version_or_architecture_into_another():
    assert "did you mean" not in unknown_name("model_type", "qwen3_moe", ["qwen3", "qwen2", "llama"])
    assert "did you mean" not in unknown_name("engine", "vllm-2", ["vllm-1", "ideal"])
    assert "did you mean 'ideal'" in unknown_name("engine", "ideel", ["vllm-1", "ideal"])
    assert "did you mean 'poisson'" in unknown_name("arrival process", "poison", ["poisson", "gamma"])


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank"])
def test_experts_under_a_dense_type_are_refused(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, key: 64}))
    with pytest.raises(DataError, match=f"{key}: a model with"):
        catalog.load_model(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["model", "./model", "model/", "model/config.json"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_folder_of_a_model_with_or_without_a_byte_order_mark(path, tmp_path, name, mark):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(mark + json.dumps(LLAMA), encoding="utf-8")
    path.write_text(EXPERIMENT.replace("llama-2-7b", name), encoding="utf-8")
    found = load_experiment(path)
    assert (found.fleet.model.num_layers, found.fleet.model.name) == (32, name)
    assert [file for file, _ in found.file_hashes] == [name]
    (tmp_path / "model" / "config.json").unlink()
    path.write_text(EXPERIMENT.replace("llama-2-7b", name), encoding="utf-8")
    assert any("config.json" in line for line in faults(path))


def test_a_hugging_face_id_is_a_model_of_the_catalogue_unless_there_is_such_a_folder(path, tmp_path):
    path.write_text(EXPERIMENT.replace("llama-2-7b", "Qwen/Qwen3-8B"), encoding="utf-8")
    found = load_experiment(path)
    assert (found.fleet.model.name, found.fleet.model.num_layers) == ("qwen3-8b", 36)
    assert found.file_hashes == ()
    (tmp_path / "Qwen" / "Qwen3-8B").mkdir(parents=True)
    (tmp_path / "Qwen" / "Qwen3-8B" / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    found = load_experiment(path)
    assert (found.fleet.model.name, found.fleet.model.num_layers) == ("Qwen/Qwen3-8B", 32)
    path.write_text(EXPERIMENT.replace("llama-2-7b", "Qwen/Qwen3-9B"), encoding="utf-8")
    assert any("no such file" in line and "Hugging Face" in line for line in faults(path))


QUANTIZED = [
    ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, None, "fp8"),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, None, "fp8"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, None, "int4"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, None, "int8"),
    (
        {"quantization_config": {"quant_method": "compressed-tensors",
         "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}}, None, "fp8",
    ),
    ({}, {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, "fp8"),
    ({}, None, "fp16"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "beside", "precision"), QUANTIZED)
def test_precision_is_that_of_the_checkpoint_unless_asked_otherwise(tmp_path, more, beside, precision):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **more}))
    if beside is not None:
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    model = catalog.load_model(tmp_path)
    assert model.precision == precision
    assert model.kv_precision == ("fp8" if beside else "fp16")
    assert any("as its checkpoint states" in note for note in model.notes) is (precision != "fp16")
    half = catalog.load_model(tmp_path, "fp16")
    assert half.precision == "fp16"
    assert any("although" in note for note in half.notes) is (precision != "fp16")
    assert model.weight_bytes_per_layer <= half.weight_bytes_per_layer


def test_a_format_that_is_not_known_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "exl9"}}))
    with pytest.raises(DataError, match="quantized with quant_method exl9"):
        catalog.load_model(tmp_path)
    assert catalog.load_model(tmp_path, "int4").precision == "int4"


def test_the_context_of_yarn_is_its_factor_times_the_original_length(tmp_path):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "rope_scaling": scaling}))
    assert catalog.load_model(tmp_path).max_context_tokens == 131072


@pytest.mark.parametrize("gpu", ["t4", "v100"])
@pytest.mark.parametrize("key", ["precision", "kv_precision"])
def test_gpus_that_do_not_run_a_format_are_refused(path, gpu, key):
    with pytest.raises(ConfigError, match=rf"{gpu} .compute capability 7.* FP8 .*; use {key}: ") as caught:
        load_experiment(path, [f"cluster.nodes=[{{gpu: {gpu}, count: 2}}]", f"{key}=fp8"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("gpu", "said"), [("a100-40g", "in 16 bits"), ("l4", "")])
def test_gpus_that_read_a_format_and_multiply_in_another_are_named(path, gpu, said):
    overrides = [f"cluster.nodes=[{{gpu: {gpu}, count: 2}}]", "precision=fp8"]
    found = load_experiment(path, overrides).assumptions
    assert any(said in note and "FP8" in note for note in found) is bool(said)


def test_a_resolved_experiment_states_the_format_it_was_resolved_to(path, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "fp8"}}))
    nodes = "cluster.nodes=[{gpu: l4, count: 2}]"
    found = load_experiment(path, [f"model={tmp_path / 'config.json'}", nodes])
    assert found.document["precision"] == "fp8"
