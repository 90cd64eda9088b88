"""``helixsim accuracy`` on a file of made-up measured points: documents, tables, choices, errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from helixsim.accuracy import sample
from helixsim.cli.main import main
from helixsim.errors import ExitCode

ROW = {
    "mode": "agg", "backend": "vllm", "backend_version": "1", "model_path": "meta-llama/Llama-3.1-8B-Instruct",
    "system": "h100_sxm", "precision": "", "isl": "64", "osl": "16", "gemm_quant_mode": "", "batch_size": "2",
    "tp_size": "1", "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "1", "moe_ep_size": "1",
    "silicon_ttft_ms": "20", "silicon_tpot_ms": "7",
}  # fmt: skip
SIZES = ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
APART = {f"{role}_{size}": "1" for role in ("prefill", "decode") for size in SIZES}
ROWS = (
    {},
    {"backend": "sglang", "silicon_tpot_ms": "8"},
    {"backend": "trtllm", "system": "h200_sxm", "silicon_tpot_ms": "6"},
    {"silicon_ttft_ms": "20.0"},
    {"system": "other"},
    {"mode": "disagg", "osl": "17", **APART},
    {"mode": "disagg", "system": "another", **APART},
)


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    source = {"silicon_data_source": "source_file=any.csv; silicon_concurrency=2"}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", *source, *ROW, *APART])
        writer.writeheader()
        writer.writerows({**ROW, **source, **change, "id": f"row-{number}"} for number, change in enumerate(ROWS))
    return path


def command(points: Path, out: str, *more: str) -> list[str]:
    return ["accuracy", "--points", str(points), "--out", str(points.parent / out), "-q", *more]


def test_results_do_not_depend_on_the_number_of_processes_or_on_what_was_kept(points, capsys):
    documents = []
    for out, jobs in (("one", "1"), ("two", "2"), ("two", "1")):
        assert main(command(points, out, "--all", "--json", "--jobs", jobs)) == ExitCode.OK
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1] == documents[2]
    (document, *_) = documents
    assert [one["point"]["id"] for one in document["points"]] == ["row-0", "row-1", "row-2", "row-5"]
    assert [one["point"]["rows"] for one in document["points"]] == [2, 1, 1, 1]
    assert document["rows"] == 5
    assert document["left_out"] == {"no profile of the GPU other": 1}
    assert document["errors"]["analytic"]["tpot"]["all"]["all points"]["count"] == 3
    apart = document["disaggregated"]
    assert (apart["rows"], apart["left_out"]) == (2, {"no profile of the GPU another": 1})
    assert apart["errors"]["analytic"]["tpot"]["all"]["all points"]["count"] == 1


def test_a_run_that_was_stopped_goes_on_with_what_is_kept(points, capsys, monkeypatch):
    assert main(command(points, "out", "--all", "--json", "--where", "engine=vllm-1", "--jobs", "1")) == ExitCode.OK
    monkeypatch.setattr("helixsim.accuracy.run.simulated_means", lambda *_: {"ttft_ms": 1.0, "tpot_ms": 1.0})
    capsys.readouterr()
    assert main(command(points, "out", "--all", "--json", "--jobs", "1")) == ExitCode.OK
    found = {
        one["point"]["engine"]: one["analytic"]["tpot_ms"] for one in json.loads(capsys.readouterr().out)["points"]
    }
    assert found.pop("vllm-1") > 1.0
    assert set(found.values()) == {1.0}


def test_tables_are_written_and_read_again(points, tmp_path, capsys):
    assert main(command(points, "out", "--all", "--update", str(tmp_path / "tables"))) == ExitCode.OK
    assert "4 of its 5 rows (80.0%)" in capsys.readouterr().out
    known = sample.read(tmp_path / "tables" / "sample.csv")
    assert {one.point.engine for one in known} == {"vllm-1", "sglang", "trtllm"}
    assert sample.worse(known, [one.log_errors for one in known]) == []
    with (tmp_path / "tables" / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert sum(int(cell["points"]) for cell in cells) == 4


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["--update"], ExitCode.CONFIG, "--all"),
        (["--all", "--update", "--where", "gpu=h100"], ExitCode.CONFIG, "--where"),
        (["--where", "gpu"], ExitCode.CONFIG, "KEY=VALUE"),
        (["--where", "gpus=99"], ExitCode.CONFIG, "--where gpus=99: no measured point has it; the points have 1"),
        (["--where", "engine=vllm-2"], ExitCode.CONFIG, "the points have sglang, trtllm, vllm-1"),
        (["--where", "engine=sglang", "--where", "gpu=h200"], ExitCode.CONFIG, "none has all: engine=sglang gpu=h200"),
        (["--where", "card=h100"], ExitCode.CONFIG, "card"),
    ],
)
def test_what_cannot_be_done_is_told(points, capsys, more, code, text):
    assert main(command(points, "out", *more)) == code
    assert text in capsys.readouterr().err


def test_a_file_that_has_no_points_is_refused(tmp_path, capsys):
    path = tmp_path / "points.csv"
    path.write_text("id,mode\nx,agg\n", encoding="utf-8")
    assert main(command(path, "out")) == ExitCode.DATA
    assert "no column 'silicon_data_source'" in capsys.readouterr().err
