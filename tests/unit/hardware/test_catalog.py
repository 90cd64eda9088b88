"""Every shipped profile loads; shapes give the bytes and FLOPs the field knows; faults say where and what."""

import json
from pathlib import Path

import pytest

from helixsim.datafiles import data_path
from helixsim.errors import DataError
from helixsim.hardware import catalog

MIB = 2**20


@pytest.mark.parametrize("name", catalog.gpu_names())
def test_gpu_figures_are_sane_and_sourced(name: str) -> None:
    gpu = catalog.load_gpu(name)
    assert gpu.name == name
    assert 0.9 < gpu.usable_memory_bytes / gpu.memory_bytes <= 1
    # FLOPs per byte of a real GPU: bandwidth-bound decode, compute-bound prefill
    assert 30 < gpu.fp16_flops / gpu.memory_bandwidth_bytes_per_s < 1000
    assert all(law.ring_bytes_per_s < gpu.memory_bandwidth_bytes_per_s for law in gpu.all_reduce)
    assert {"memory", "fp16", "kernels", "interconnect", "host_link"} | {form for form, _ in gpu.flops} <= set(
        dict(gpu.sources)
    )
    price = dict(gpu.sources)["price"]
    assert "typical" in price
    assert any(year in price for year in ("2024", "2025", "2026"))


@pytest.mark.parametrize("name", catalog.link_names())
def test_link_names_state_their_bandwidth(name: str) -> None:
    stated = name.rpartition("-")[2]
    factor = {"g": 1e9, "m": 1e6}[stated[-1]]
    assert catalog.load_link(name).bandwidth_bps == float(stated[:-1]) * factor


CARDS = {
    "llama-1-30b": 32.5, "llama-2-7b": 6.74, "llama-2-13b": 13.0, "llama-2-70b": 69.0, "llama-3-8b": 8.03,
    "llama-3-70b": 70.6, "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6, "llama-3.1-405b": 405.9, "llama-3.2-1b": 1.24,
    "llama-3.2-3b": 3.21, "llama-3.3-70b": 70.6, "llama-4-scout": 107.8, "llama-4-maverick": 400.7,
    "qwen2.5-7b": 7.62, "qwen2.5-32b": 32.8, "qwen2.5-72b": 72.7, "qwen3-1.7b": 1.72, "qwen3-4b": 4.02,
    "qwen3-8b": 8.19, "qwen3-14b": 14.8, "qwen3-32b": 32.8, "qwen3-30b-a3b": 30.5, "qwen3-235b-a22b": 235.1,
    "qwen3-coder-480b-a35b": 480.2, "qwen3-next-80b-a3b": 79.7, "deepseek-v3": 671.0, "deepseek-r1": 671.0,
    "kimi-k2": 1026.4, "glm-4.5": 352.8, "glm-4.5-air": 106.9, "gpt-oss-20b": 20.9, "gpt-oss-120b": 116.8,
    "mistral-7b": 7.24, "mistral-small": 23.6, "mixtral-8x7b": 46.7, "mixtral-8x22b": 140.6, "gemma-3-12b": 11.8,
    "gemma-3-27b": 27.0, "phi-4": 14.7, "minimax-m2": 228.7, "minimax-m2.5": 228.7,
    "kimi-k2.5": 1026.4, "glm-5": 744, "qwen3.5-397b-a17b": 397,
}  # fmt: skip
"""Parameters in thousand millions: model cards, or the size of the checkpoint; text models without draft layers."""

ACTIVE = {
    "mixtral-8x7b": 12.9, "mixtral-8x22b": 39.1, "deepseek-v3": 37, "deepseek-r1": 37, "kimi-k2": 32, "glm-4.5": 32,
    "glm-4.5-air": 12, "gpt-oss-20b": 3.6, "gpt-oss-120b": 5.1, "llama-4-scout": 17, "llama-4-maverick": 17,
    "qwen3-30b-a3b": 3.3, "qwen3-235b-a22b": 22, "qwen3-coder-480b-a35b": 35, "qwen3-next-80b-a3b": 3.9,
    "minimax-m2": 10, "minimax-m2.5": 10, "kimi-k2.5": 32, "glm-5": 40, "qwen3.5-397b-a17b": 17,
}  # fmt: skip
"""Active parameters by the model cards, which count the ends or not as they please."""


@pytest.mark.parametrize("name", catalog.model_names())
def test_parameter_counts_are_those_of_the_model_cards(name: str) -> None:
    model = catalog.load_model(name)
    assert model.parameters / 1e9 == pytest.approx(CARDS[name], rel=0.005)
    if any(layer.experts for layer in model.layers):
        embedding = model.vocab_size * model.hidden_size
        low, high = model.active_parameters - embedding, model.active_parameters + embedding
        assert 0.98 * low / 1e9 <= ACTIVE[name] <= 1.02 * high / 1e9
    if not model.notes:  # 16 bits: 1 % for the allocator's steps
        total = sum(layer.weight_bytes for layer in model.layers) + model.embedding_bytes
        assert total / 2 == pytest.approx(model.parameters, rel=0.01)


def test_a_hugging_face_id_is_the_profile_unless_there_is_a_folder_of_that_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for identity, name in catalog.hugging_face_ids().items():
        assert name in catalog.model_names()
        assert identity.count("/") == 1
    assert catalog.load_model("Qwen/Qwen3-32B") == catalog.load_model("qwen3-32b")
    (tmp_path / "Qwen/Qwen3-32B").mkdir(parents=True)
    (tmp_path / "Qwen/Qwen3-32B/config.json").write_text(json.dumps(CONFIG))
    assert catalog.load_model("Qwen/Qwen3-32B").num_layers == CONFIG["num_hidden_layers"]
    with pytest.raises(DataError, match="no such file"):
        catalog.load_model("Qwen/Qwen3-33B")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("qwen/qwen3-32b", "'Qwen/Qwen3-32B'"),
        ("unsloth/Llama-3.1-8B-Instruct", "'meta-llama/Llama-3.1-8B-Instruct'"),
        ("zai-org/GLM-4.5-air", "'zai-org/GLM-4.5-Air'"),
    ],
)
def test_an_id_of_another_owner_or_case_is_suggested_and_not_taken(written: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"no such file.*did you mean {meant}"):
        catalog.load_model(written)
    assert catalog.hugging_face_hint("Qwen/Qwen3-33B") == ""


def test_weights_are_rounded_up_tensor_by_tensor() -> None:
    # qkv 253.5 -> 254, o 84.5 -> 86, gate and up 455 -> 456, down 227.5 -> 228 MiB
    assert catalog.load_model("llama-1-30b").weight_bytes_per_layer == (254 + 86 + 456 + 228) * MIB
    assert catalog.load_model("llama-2-70b").weight_bytes_per_layer == 1632 * MIB  # nothing to round


def test_grouped_attention_and_kv_precision_shrink_the_cache() -> None:
    assert catalog.load_model("llama-1-30b").kv_bytes_per_token_per_layer == 26_624
    assert catalog.load_model("llama-2-70b").kv_bytes_per_token_per_layer == 4_096
    assert catalog.load_model("llama-2-70b", kv_precision="fp8").kv_bytes_per_token_per_layer == 2_048


def test_weight_precision_scales_weights_only() -> None:
    full, half, quarter = (catalog.load_model("llama-3-70b", precision) for precision in ("bf16", "fp8", "int4"))
    assert half.weight_bytes_per_layer == full.weight_bytes_per_layer / 2
    assert 0.25 < quarter.weight_bytes_per_layer / full.weight_bytes_per_layer < 0.265
    for model in (half, quarter):
        assert model.activation_bytes_per_token == full.activation_bytes_per_token
        assert model.kv_bytes_per_token_per_layer == full.kv_bytes_per_token_per_layer
        assert model.flops_per_token_per_layer == full.flops_per_token_per_layer


def test_a_mixture_of_experts_keeps_all_and_multiplies_some() -> None:
    mixtral = catalog.load_model("mixtral-8x7b")
    dense = catalog.load_model("mistral-7b")
    assert mixtral.weight_bytes_per_layer > 6 * dense.weight_bytes_per_layer
    # two experts of the dense model's size, attention once
    assert dense.flops_per_token_per_layer < mixtral.flops_per_token_per_layer < 2 * dense.flops_per_token_per_layer
    experts = mixtral.layers[0].experts
    assert experts is not None
    assert 0.9 < experts.bytes / mixtral.weight_bytes_per_layer < 1


@pytest.mark.parametrize(
    ("load", "name", "meant"),
    [
        (catalog.load_gpu, "a100-40", "a100-40g"),
        (catalog.load_link, "ethernet-10", "ethernet-10g"),
        (catalog.load_model, "llama2-70b", "llama-2-70b"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(load, name: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"unknown .*{name}.*did you mean '{meant}'"):
        load(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("H100", "h100"),
        ("rtx 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("A6000", "rtx-a6000"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_a_gpu_goes_by_the_names_that_people_and_drivers_use(written: str, meant: str) -> None:
    assert catalog.gpu_name(written) == meant
    assert catalog.load_gpu(written) == catalog.load_gpu(meant)


@pytest.mark.parametrize("name", ["A100", "mi250x", "gh200", "h1000", "mi350x"])
def test_a_name_of_several_gpus_or_of_another_one_is_refused(name: str) -> None:
    assert catalog.gpu_name(name) == name
    with pytest.raises(DataError, match="unknown GPU"):
        catalog.load_gpu(name)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("l4", ("l4", 1)), ("t4x4", ("t4", 4)), ("mi300x", ("mi300x", 1)), ("mi300xx8", ("mi300x", 8))],
)
def test_kinds_split_into_gpu_and_count(kind: str, expected: tuple[str, int]) -> None:
    assert catalog.split_kind(kind) == expected


def test_published_names_are_translated_and_others_kept() -> None:
    assert catalog.kind_name("T4x4") == "t4x4"
    assert catalog.model_name("llama70b") == "llama-2-70b"
    assert catalog.kind_name("my-gpu") == "my-gpu"


CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}


def _config(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in {**CONFIG, **changes}.items() if value is not None}))
    return path


def test_a_config_json_equals_the_profile(tmp_path: Path) -> None:
    profile = catalog.load_model("llama-2-70b")
    for path in (_config(tmp_path), tmp_path):  # the file, or the folder it lies in
        model = catalog.load_model(str(path))
        assert model.weight_bytes_per_layer == profile.weight_bytes_per_layer
        assert model.flops_per_token_per_layer == profile.flops_per_token_per_layer
        assert model.embedding_bytes == profile.embedding_bytes
        assert model.max_context_tokens == profile.max_context_tokens


def test_config_json_defaults(tmp_path: Path) -> None:
    model = catalog.load_model(_config(tmp_path, num_key_value_heads=None))
    attention = model.layers[0].attention
    assert attention is not None
    assert attention.num_kv_heads == attention.num_heads
    tied = catalog.load_model(_config(tmp_path, tie_word_embeddings=True))
    assert tied.embedding_bytes == model.embedding_bytes / 2


@pytest.mark.parametrize(
    "model_type", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "granite"]
)
def test_every_named_architecture_is_read(tmp_path: Path, model_type: str) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 1} if model_type == "mixtral" else {}
    model = catalog.load_model(_config(tmp_path, model_type=model_type, head_dim=256, **experts))
    assert model.kv_bytes_per_token_per_layer == 2 * 8 * 256 * 2
    found = model.layers[0].experts
    assert (found.count if found else 0) == (4 if experts else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "unknown model_type 'mamba'.*llama"),
        ({"model_type": None}, "unknown model_type"),
        ({"hidden_size": None, "vocab_size": None}, "missing hidden_size, vocab_size"),
        ({"model_type": "mixtral"}, "missing num_local_experts, num_experts_per_tok"),
        ({"num_hidden_layers": "80"}, "num_hidden_layers: expected a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected a whole number"),
        ({"num_key_value_heads": 7}, "no multiple"),
        ({"hidden_size": 32}, "below the number of attention heads"),
    ],
)
def test_config_json_faults(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        catalog.load_model(_config(tmp_path, **changes))


def test_unreadable_model_files(tmp_path: Path) -> None:
    broken = tmp_path / "config.json"
    broken.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        catalog.load_model(broken)
    broken.write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        catalog.load_model(broken)
    with pytest.raises(DataError, match="no such file"):
        catalog.load_model(tmp_path / "absent.json")


@pytest.mark.parametrize("arguments", [("fp17", None), ("fp16", "int4")])
def test_unknown_number_formats(arguments: tuple[str, str | None]) -> None:
    with pytest.raises(DataError, match=r"unknown (kv_)?precision"):
        catalog.load_model("llama-2-70b", *arguments)


def test_a_gpu_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(data_path("profiles", "gpus", "l4.yaml").read_text().replace("name: l4", "name: mine"))
    gpu = catalog.load_gpu(str(path))
    assert gpu.name == "mine"
    assert gpu.fp16_flops == catalog.load_gpu("l4").fp16_flops


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tdp: 72 W", "tpd: 72 W", "mine.yaml:15:1: tpd: unknown key 'tpd'; did you mean 'tdp'"),
        ("tdp: 72 W\n", "", "mine.yaml:1:1: tdp: required key is missing"),
        ("tdp: 72 W", "tdp: 72 W\ncolour: green", "mine.yaml:16:1: colour: unknown key 'colour'"),
        ("tdp: 72 W", "tdp: 72", r"mine.yaml:15:6: tdp: .*needs a unit"),
        ("tdp: 72 W", "tdp: 0 W", "above zero"),
        ("memory: 22.5 GiB\nusable", "memory: 20 GiB\nusable", "usable_memory: exceeds memory"),
        ("compute_efficiency: 0.41", "compute_efficiency: 39", "must be less than or equal to 1, got 39"),
        ("compute_efficiency: 0.41", "compute_efficiency: .nan", "must be a finite number, got nan"),
        ("sources:", "refuses: [fp9]\nsources:", "refuses: unknown precision 'fp9'.*fp8"),
        ("name: l4", "name: 4", "mine.yaml:1:7: name: must be text, got 4"),
        ("sources:", "sources: none\nother:", "sources: must be a mapping"),
        ("name: l4", "name: l4\nname: l4", "duplicate key"),
    ],
)
def test_gpu_file_faults(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = data_path("profiles", "gpus", "l4.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        catalog.load_gpu(path)


def test_a_gpu_file_without_a_kind_of_interconnect_gets_one_by_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    lines = data_path("profiles", "gpus", "l4.yaml").read_text().splitlines()
    left_out = ("interconnect_kind:", "host_link:", "all_reduce:", "  host_link:", "  all_reduce:")
    text = "\n".join(line for line in lines if not line.startswith(left_out))
    for rate, title in (("31.5 GB/s", "PCIe"), ("300 GB/s", "NVLink")):
        path.write_text(text.replace("interconnect: 31.5 GB/s", f"interconnect: {rate}"))
        gpu = catalog.load_gpu(path)
        assert gpu.interconnect == title
        assert gpu.all_reduce
        assert all(law.ring_bytes_per_s < gpu.interconnect_bytes_per_s for law in gpu.all_reduce)
    path.write_text(text.replace("interconnect: 31", "interconnect_kind: nvlink2\ninterconnect: 31"))
    with pytest.raises(DataError, match=r"interconnect_kind: .*nvswitch.*thunderbolt"):
        catalog.load_gpu(path)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = data_path("profiles", "gpus", "l4.yaml").read_text()
    path.write_text(text.replace("name: l4", "name: 4").replace("72 W", "72").replace("  price:", "  prize:"))
    with pytest.raises(DataError) as caught:
        catalog.load_gpu(path)
    places = [line.split(": ")[0].removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert places == ["1:7", "15:6", "32:3"]
    for text in ("", "[1, 2]"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"mine\.yaml.*must be a mapping"):
            catalog.load_gpu(path)
