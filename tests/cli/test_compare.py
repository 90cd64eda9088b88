"""``helixsim compare``: against a measured result, calibration, two runs.

The "measured" result comes from a run whose engine has overheads that the other run does not know.
"""

from __future__ import annotations

import csv
import json

import pytest

from helixsim.cli.main import main
from helixsim.hardware.engines import load_engine

EXPERIMENT = """\
schema: 1
name: one-card
model: llama-3-8b
cluster:
  nodes: [{gpu: a100-40g}]
  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}}
workload:
  lengths: {distribution: uniform, prompt_min: 50, prompt_max: 400, output_min: 5, output_max: 60}
  arrivals: {process: poisson, rate: 2, num_requests: 60}
systems:
  - {name: vllm, placement: homogeneous, routing: least_loaded}
"""

HIDDEN = ["--set", "engine.batch_overhead=8 ms"]


def run_dir(out):
    return next(path.parent for path in out.rglob("manifest.json"))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The experiment, a run of it, a run of the real thing, and what ``vllm bench serve`` would have said of that."""
    folder = tmp_path_factory.mktemp("compare")
    path = folder / "exp.yaml"
    path.write_text(EXPERIMENT)
    for name, settings in (("ours", []), ("real", HIDDEN)):
        assert main(["run", str(path), "-q", "--jobs", "1", "--out", str(folder / name), *settings]) == 0
    ours, real = run_dir(folder / "ours"), run_dir(folder / "real")
    summary = json.loads((real / "summary.json").read_text())["systems"]["vllm"]
    with (real / "requests" / "vllm.csv").open(newline="") as file:
        rows = [{key: int(row[key]) for key in row if key.endswith(("_ns", "_tokens"))} for row in csv.DictReader(file)]
    gap_s = [(r["finish_ns"] - r["first_token_ns"]) / 1e9 / max(r["output_tokens"] - 1, 1) for r in rows]
    result = {key: value for key, value in summary.items() if key != "helixsim"} | {
        "start_times": [r["arrival_ns"] / 1e9 for r in rows],
        "input_lens": [r["prompt_tokens"] for r in rows],
        "output_lens": [r["output_tokens"] for r in rows],
        "ttfts": [(r["first_token_ns"] - r["arrival_ns"]) / 1e9 for r in rows],
        "itls": [[gap] * (r["output_tokens"] - 1) for r, gap in zip(rows, gap_s, strict=True)],
        "errors": [""] * len(rows),
    }
    measured = folder / "measured.json"
    measured.write_text(json.dumps(result))
    return path, ours, real, measured


def test_errors_of_every_common_metric(case, capsys):
    _, ours, real, measured = case
    assert main(["compare", str(ours), str(measured), "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["errors"]
    a, b = (json.loads((path / "summary.json").read_text())["systems"]["vllm"] for path in (ours, real))
    assert errors["mean_ttft_ms"] == pytest.approx(a["mean_ttft_ms"] / b["mean_ttft_ms"] - 1)
    assert errors["mean_itl_ms"] < -0.1
    assert {"output_throughput", "p99_tpot_ms", "mean_e2el_ms"} <= set(errors)


def test_a_run_against_what_was_measured_of_itself_has_no_error(case, capsys):
    _, _, real, measured = case
    assert main(["compare", str(real), str(measured), "--tolerance", "0.0001"]) == 0
    assert "+0.0%" in capsys.readouterr().out


def test_tolerance_is_exit_code_6(case, capsys):
    _, ours, _, measured = case
    assert main(["compare", str(ours), str(measured), "--tolerance", "0.05"]) == 6
    assert "mean_itl_ms" in capsys.readouterr().err


def test_calibration_finds_the_hidden_overhead_and_holds_on_unseen_requests(case, capsys, tmp_path):
    path, ours, _, measured = case
    overlay = tmp_path / "mine.yaml"
    arguments = ["compare", str(ours), str(measured), "--experiment", str(path), "--calibrate", str(overlay), "-q"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert abs(found["held_out_before"][1]) > 0.1
    assert abs(found["held_out_after"][1]) < 0.02
    assert abs(found["held_out_after"][0]) < 0.05
    assert load_engine(overlay).spec.batch_overhead_ns == 8_000_000
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err


def test_the_figure_overlays_distributions(case, tmp_path):
    _, ours, _, measured = case
    for name, magic in (("cdf.svg", b"<?xml"), ("cdf.png", b"\x89PNG")):
        figure = tmp_path / name
        assert main(["compare", str(ours), str(measured), "--figure", str(figure)]) == 0
        assert figure.read_bytes().startswith(magic)


def test_two_runs_show_the_setting_that_differs(case, capsys):
    _, ours, real, _ = case
    assert main(["compare", str(ours), str(real)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("engine.batch_overhead: 0 ms | 8 ms\n")
    assert "mean_itl_ms" in text


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [("[]", 3, "JSON object"), ("{", 3, "cannot be read"), ('{"a": 1}', 3, "no figure"), (None, 3, "cannot be read")],
)
def test_unreadable_results_are_exit_code_3(case, capsys, tmp_path, content, code, said):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", str(case[1]), str(path)]) == code
    assert said in capsys.readouterr().err


def test_usage_errors(case, capsys, tmp_path):
    _, ours, real, measured = case
    for arguments, said in (
        ([str(tmp_path), str(measured)], "no run directory"),
        ([str(ours), str(measured), "--system", "vlm"], "did you mean 'vllm'"),
        ([str(ours), str(measured), "--calibrate", str(tmp_path / "x.yaml")], "--experiment"),
        ([str(ours), str(real), "--figure", "x.svg"], "needs a measured result"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
