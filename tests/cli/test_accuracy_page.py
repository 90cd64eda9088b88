"""``helixsim accuracy``: replays, the page, the drawing and the tables, from files that a user has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helixsim.cli.main import main
from helixsim.errors import ExitCode

EXPERIMENT = """\
schema: 1
name: one-card
model: llama-3-8b
cluster:
  nodes: [{gpu: a100-40g}]
  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}}
engine: vllm-1
systems: [{name: vllm, placement: separate}]
workload: {trace: {path: requests.csv}}
"""


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Ten requests, one each second, with a first token after 100 ms and one more each 20 ms."""
    rows = ["arrival_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms"]
    rows += [f"{number},{200 + number},{30 + number},100,20" for number in range(10)]
    (tmp_path / "requests.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "series.csv").write_text("t,running,waiting\n" + "".join(f"{number},1,0\n" for number in range(1, 11)))
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_a_replay_needs_no_public_points(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(measured / name) for name in ("exp.yaml", "series.csv")]
    page, drawing = measured / "a.html", measured / "a.svg"
    assert main(["accuracy", "--replay", *files, "--html", str(page), "--figure", str(drawing), "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["points"] == []
    figures = document["replays"]["one-card"]
    assert figures["TTFT mean, s"]["measured"] == pytest.approx(0.1)
    assert figures["TPOT median, ms"]["measured"] == pytest.approx(20)
    assert "one-card" in page.read_text(encoding="utf-8")
    assert "one-card" in drawing.read_text(encoding="utf-8")


def test_tables_of_a_replay_on_the_terminal_and_as_markdown(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "--replay", str(measured / "exp.yaml"), "-q"]) == 0
    text = capsys.readouterr().out
    assert "one-card: llama-3-8b, a100-40g, vllm-1" in text
    assert "TPOT mean, ms" in text
    assert main(["accuracy", "--replay", str(measured / "exp.yaml"), "--markdown", "-q"]) == 0
    assert "| TPOT mean, ms | 20.0 |" in capsys.readouterr().out


def test_points_of_a_file_are_shown_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = (
        "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,"
        "moe_quant_mode,batch_size,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
    )
    row = "{id},x; silicon_concurrency=4; y,vllm,0.19.0,{model},h100_sxm,bf16,agg,256,32,,,4,1,1,1,1,1,60,9"
    rows = [row.format(id="a", model="meta-llama/Llama-3.1-8B-Instruct"), row.format(id="b", model="some/unknown")]
    points = tmp_path / "points.csv"
    points.write_text("\n".join([columns, *rows]) + "\n")
    page = tmp_path / "a.html"
    command = ["accuracy", "--points", str(points), "--all", "--html", str(page), "--out", str(tmp_path / "runs")]
    assert main([*command, "--json", "-q", "--jobs", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    predicted = document["points"][0]["analytic"]["tpot_ms"]
    assert f"{predicted:.3g}" in text
    assert "no profile of the model some/unknown" in text
    assert "1 of 2 points of the source are simulated" in text


def test_wrong_uses_are_refused(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp, series = (str(measured / name) for name in ("exp.yaml", "series.csv"))
    assert main(["accuracy", "--replay", exp, series, series]) == ExitCode.CONFIG
    assert "one file of time series" in capsys.readouterr().err
    assert main(["accuracy", "--figure", "a.svg"]) == ExitCode.CONFIG
    assert "--figure" in capsys.readouterr().err
