"""``helixsim profile``: what reaches stdout, files and exit."""

import argparse
import json
from pathlib import Path

import pytest
from made_up_tables import made_up

from helixsim.cli import profile, profile_roofline
from helixsim.cli.main import main
from helixsim.datafiles import data_path
from helixsim.errors import ConfigError, DataError
from helixsim.hardware import catalog, compute_file

ROWS = [f"{phase},{x},{7 + 0.05 * x:.1f}" for phase in ("prefill", "decode") for x in range(1, 400, 20)]


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    profile.add_parser(parser.add_subparsers())
    args = parser.parse_args(["profile", *arguments])
    return args.func(args)


@pytest.fixture
def timings(tmp_path: Path) -> Path:
    path = tmp_path / "timings.csv"
    rows = [f"{model},mine,{row}" for model in ("llama70b", "other") for row in ROWS]
    path.write_text("\n".join(["model,gpu,phase,batch_tokens,ms_per_layer", *rows]))
    return path


def test_list_names_everything(capsys) -> None:
    assert _run("list") == 0
    text = capsys.readouterr().out
    for name in (*catalog.gpu_names(), *catalog.link_names(), *catalog.model_names(), *compute_file.fitted_names()):
        assert f"\n{name} " in text


def test_list_as_json(capsys) -> None:
    assert _run("list", "gpus", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["gpus"]
    assert {row["name"] for row in document["gpus"]} == set(catalog.gpu_names())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("geo-100m", "latency_ns", 50_000_000),
        ("llama-2-70b", "num_layers", 80),
        ("ideal", "min_free_share", 0.0),
        ("llama-2-70b/t4x4", "precision", "fp16"),
    ],
)
def test_show_knows_every_family(capsys, name: str, key: str, value: object) -> None:
    assert _run("show", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)[key] == value
    assert _run("show", name) == 0
    assert f"{key}: {value}" in capsys.readouterr().out


def test_show_of_a_gpu_has_units_sources_and_rates_by_format(capsys) -> None:
    for name in ("l4", "NVIDIA L4"):
        assert _run("show", name, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["tdp_w"] == 72.0
        assert _run("show", name) == 0
        lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
        assert {"tdp: 72 W", "fp8: 242 TFLOP/s", "memory bandwidth: 300 GB/s", "interconnect: PCIe, 31.5 GB/s"} <= {
            *lines
        }
        assert {"interconnected GPUs: 8", "network: 50 GB/s a GPU"} <= {*lines}
    for name in catalog.gpu_names():
        assert _run("show", name) == 0
        text = capsys.readouterr().out
        assert all(said in text for figure, said in catalog.load_gpu(name).sources if figure != "host_link")


@pytest.mark.parametrize(
    ("folder", "name", "key"),
    [
        ("gpus", "l4", "tdp_w"), ("engines", "vllm-1", "batch_overhead"), ("links", "geo-100m", "latency_ns"),
        ("models", "qwen3-8b", "num_layers"), ("compute", "llama-2-70b", "kinds"),
    ],
)  # fmt: skip
def test_show_takes_files_of_every_family(capsys, tmp_path: Path, folder: str, name: str, key: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(data_path("profiles", folder, f"{name}.yaml").read_text())
    assert _run("show", str(path), "--json") == 0
    assert key in json.loads(capsys.readouterr().out)
    assert _run("show", str(path)) == 0
    path.write_text("name: mine\n")
    with pytest.raises(DataError, match=r"no profile.*memory_bandwidth \(gpu\)"):
        _run("show", str(path))
    with pytest.raises(DataError, match="unknown profile"):
        _run("show", str(tmp_path / "absent.yaml"))


def test_list_tells_measured_cards_from_assumed_ones(capsys) -> None:
    assert _run("list", "gpus", "--json") == 0
    basis = {row["name"]: row["kernels"] for row in json.loads(capsys.readouterr().out)["gpus"]}
    assert basis["h100"] == basis["l40s"] == "measured"
    assert basis["mi325x"] == basis["h100-nvl"] == "assumed"
    assert basis["t4"] == basis["mi300x"] == "partly measured"


def test_models_go_by_their_hugging_face_ids(capsys) -> None:
    for identity, name in catalog.hugging_face_ids().items():
        assert _run("show", identity, "--json") == 0
        assert json.loads(capsys.readouterr().out)["name"] == name
    assert _run("list", "models") == 0
    assert "Qwen/Qwen3-32B" in capsys.readouterr().out
    with pytest.raises(DataError, match="did you mean 'Qwen/Qwen3-32B'"):
        _run("show", "qwen/qwen3-32b")


def test_show_suggests(capsys) -> None:
    with pytest.raises(DataError, match="did you mean 'llama-2-70b/t4x4'"):
        _run("show", "LLaMA-2-70B/T4x4")
    with pytest.raises(DataError, match=r"unknown GPU 'a30-9g.6gb': a30 has the MIG instances a30-1g.6gb, "):
        _run("show", "a30-9g.6gb")
    assert capsys.readouterr().out == ""


def test_show_in_another_precision(capsys) -> None:
    _run("show", "llama-3-8b", "--precision", "fp8", "--json")
    assert json.loads(capsys.readouterr().out)["precision"] == "fp8"


def test_fit_prints_residuals_and_writes_a_usable_file(capsys, timings: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    assert _run("fit", str(timings), "--model", "llama-2-70b", "--source", "a test", "--out", str(out)) == 0
    assert "llama-2-70b/mine" in capsys.readouterr().out
    (fitted,) = compute_file.read(out)
    assert (fitted.model, fitted.kind, fitted.source) == ("llama-2-70b", "mine", "a test")
    assert fitted.decode.curve(201) == pytest.approx(17.05e6, rel=0.01)
    with pytest.raises(ConfigError, match="--force"):
        _run("fit", str(timings), "--model", "llama-2-70b", "--out", str(out))
    assert _run("fit", str(timings), "--model", "other", "--out", str(out), "--force", "--json") == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["model"], document["kind"]) == ("other", "mine")
    assert document["decode"]["ms"] == sorted(document["decode"]["ms"])
    assert compute_file.read(out)[0].model == "other"


def test_fit_refuses_what_it_cannot_write(timings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llama-2-70b, other: select one with --model"):
        _run("fit", str(timings), "--out", str(tmp_path / "both.yaml"))
    with pytest.raises(DataError, match="unknown model 'llama'"):
        _run("fit", str(timings), "--model", "llama")
    with pytest.raises(ConfigError, match="cannot be written"):
        _run("fit", str(timings), "--model", "other", "--out", str(tmp_path / "absent" / "mine.yaml"))


def test_roofline_shows_its_errors_on_every_measured_node(capsys) -> None:
    assert _run("roofline", "--gpu", "h100", "--model", "llama-3-70b", "--gpus", "2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["profile"]["kind"] == "h100x2"
    assert document["profile"]["decode"]["ms"] == sorted(document["profile"]["decode"]["ms"])
    assert len(document["errors"]) == len(compute_file.fitted_names())
    assert _run("roofline", "--gpu", "h100", "--model", "llama-3-70b") == 0
    text = capsys.readouterr().out
    assert "kind: h100\n" in text
    assert text.count("%\n") >= 14


KERNELS = """\
gpu,model,tp,precision,phase,batch,prompt,context,measured_ms
h100,llama-3-8b,1,bf16,decode,16,0,1000,0.2
h100,llama-3-8b,1,bf16,decode,128,0,1000,0.3
h100,any,2,bf16,all_reduce_graph,4096,0,0,0.005
l40s,llama-3-8b,1,fp8,prefill,1,512,0,1.0
h100,llama-3-8b,1,bf16,op_rope,1,0,0,0.01
"""


def test_roofline_beside_measured_rows(tmp_path, capsys) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(KERNELS, encoding="utf-8")
    assert _run("roofline", "--measured", str(path), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    groups = {tuple(group[key] for key in ("gpu", "phase", "term", "regime")): group for group in document["errors"]}
    assert groups["h100", "decode", "layer", "all"]["count"] == 2
    assert groups["h100", "decode", "layer", "to 64 tokens"]["count"] == 1
    assert ("l40s", "prefill", "layer", "all") in groups
    assert sum(document["left_out"].values()) == 1
    assert _run("roofline", "--measured", str(path), "--measured", str(path), "--gpu", "h100") == 0
    text = capsys.readouterr().out
    assert "all_reduce_graph" in text
    assert "l40s" not in text
    assert "left out: 2 rows: other GPUs" in text
    assert "left out: 2 rows: op_rope" in text
    with pytest.raises(DataError, match="no row to compare: other GPUs"):
        _run("roofline", "--measured", str(path), "--gpu", "t4")


def test_roofline_beside_operator_tables(monkeypatch, capsys) -> None:
    monkeypatch.setattr(profile_roofline, "check_version", lambda: "0.12.0")
    monkeypatch.setattr(profile_roofline, "open_tables", lambda gpu, backend: made_up(gpu))
    with pytest.raises(DataError, match="no row to compare: llama-3-8b on 1 h100: no int4 here"):
        _run("roofline", "--measured", "operators", "--gpu", "h100", "--model", "llama-3-8b", "--precision", "int4")
    assert _run("roofline", "--measured", "operators", "--model", "llama-3-8b", "--gpus", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)["errors"]
    assert {"a100-80g", "h100", "h200", "b200", "l40s"} <= {group["gpu"] for group in found}
    assert {group["term"] for group in found} == {"layer", "products", "attention", "all-reduces"}


def test_roofline_needs_a_gpu_and_a_model_or_rows() -> None:
    with pytest.raises(ConfigError, match="--gpu and --model, or --measured"):
        _run("roofline", "--gpu", "h100")
    with pytest.raises(ConfigError, match="--gpus: 2: MIG instances have no access"):
        _run("roofline", "--gpu", "a30-1g.6gb", "--model", "llama-3-8b", "--gpus", "2")


def test_show_of_an_instance_has_no_links_to_others(capsys) -> None:
    _run("show", "h100-3g.40gb")
    shown = capsys.readouterr().out
    assert "interconnect: none " in shown
    assert "all-reduce" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("roofline", "--gpu", "l4", "--model", "llama-3-8b", "--gpus", "0"),
        ("fit", "x.csv", "--memory-fraction", "1.5"),
        ("list", "colours"),
        (),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        _run(*arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_plot_of_a_fit_has_two_panels_per_kind_and_stable_bytes(timings, tmp_path, capsys) -> None:
    first, again = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, again):
        assert _run("fit", str(timings), "--model", "llama-2-70b", "--plot", str(path)) == 0
    assert first.read_bytes() == again.read_bytes()
    assert first.read_text().count('id="axes_') == 2


def test_engines_are_listed_with_what_they_choose_by_gpu(capsys):
    assert main(["profile", "list", "engines"]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("vllm-1 "))
    assert "vLLM 0.19" in line
    assert "8192 / 2048 by GPU" in line
    assert "1024 / 256 by GPU" in line


def test_measured_times_are_not_written_over_by_their_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="YAML"):
        _run("measure", "--model", "llama-3-8b", "--gpu", "h100", "--out", str(tmp_path / "mine.csv"))
