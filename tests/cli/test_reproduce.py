"""``helixsim reproduce``: list, tables, a cell, JSON, thresholds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from helixsim.cli.main import main
from helixsim.papers.helix.cells import load_cells
from helixsim.papers.helix.entries import load_figures
from helixsim.papers.helix.names import figure_names
from helixsim.papers.helix.parts import Effort

SHORT = [
    "30b-helix-offline-l4",
    "--set",
    "workload.duration=20 s",
    "--set",
    "workload.warmup=1 s",
    "--jobs",
    "1",
    "--seeds",
    "2",
]


def test_list_names_every_cell(capsys):
    assert main(["reproduce", "list"]) == 0
    text = capsys.readouterr().out
    assert all(cell.name in text for cell in load_cells())


def test_the_leaderboard_is_listed_and_knows_its_clusters(capsys):
    assert main(["reproduce", "list"]) == 0
    assert "regions200" in capsys.readouterr().out
    assert main(["reproduce", "leaderboard", "regions20"]) == 2
    assert "regions200" in capsys.readouterr().err


def test_a_cell_as_text_markdown_and_json(capsys, tmp_path):
    out = ["--out", str(tmp_path)]
    assert main(["reproduce", "fidelity", *SHORT, *out]) == 0
    assert "30b-helix-offline-l4" in capsys.readouterr().out
    assert main(["reproduce", "fidelity", *SHORT, *out, "--markdown"]) == 0
    assert "| 30b-helix-offline-l4 |" in capsys.readouterr().out
    assert main(["reproduce", "fidelity", *SHORT, *out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    cell = document["cells"]["30b-helix-offline-l4"]
    assert cell["error"]["throughput"] == cell["helixsim"]["throughput"] / cell["measured"]["throughput"] - 1
    assert cell["spread"]["throughput"] > 0
    assert len(list((tmp_path / "fidelity").iterdir())) == 2  # one file a seed


def test_a_missed_tolerance_is_exit_code_6(capsys, tmp_path):
    assert main(["reproduce", "fidelity", *SHORT, "--out", str(tmp_path), "--tolerance", "0"]) == 6
    assert "above --tolerance" in capsys.readouterr().err


def test_an_unknown_cell_is_guessed(capsys):
    assert main(["reproduce", "fidelity", "70b-helix-ofline"]) == 2
    assert "did you mean '70b-helix-offline'" in capsys.readouterr().err


def test_list_names_every_figure(capsys):
    assert main(["reproduce", "list"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{text}" for name in figure_names())
    assert main(["reproduce", "list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["figures"]) == set(figure_names())


def test_help_names_every_figure_with_its_title(capsys):
    assert main(["reproduce", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for figure in load_figures():
        assert f" {figure.name} {figure.title}" in text
    assert "SUPPRESS" not in text


def test_tables_leave_a_page_and_data_and_say_so_as_json(capsys, tmp_path):
    assert main(["reproduce", "table8", "cost", "--quick", "--out", str(tmp_path), "--jobs", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["figures"]) == ["table8", "cost"]
    assert document == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"table8-a.csv", "cost-a.csv"}
    assert "Table 8" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_interrupted_figure_goes_on_where_it_was(capsys, tmp_path):
    arguments = ["reproduce", "fig12", "--quick", "--jobs", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "helixsim", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (a background job ignores it)
    )  # fmt: skip
    while process.poll() is None and not list((tmp_path / "cache").glob("*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.json")}
    (figure,) = load_figures(["fig12"])
    total = sum(len(part.tasks(Effort(is_quick=True))) for part in figure.parts.values())
    assert 0 < len(kept) < total
    assert not (tmp_path / "index.html").exists()

    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "cache").glob("*.json"))) == total
    parts = document["figures"]["fig12"]["parts"]
    assert {row["search"] for row in parts["a"]["rows"]} == {*figure.parts["a"].runs, "published: no start"}
    assert len(parts["b"]["rows"]) == 5
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".csv", ".png", ".svg"}


def test_an_unknown_figure_is_guessed(capsys, tmp_path):
    assert main(["reproduce", "table8", "figg5", "--out", str(tmp_path)]) == 2
    assert "unknown figure 'figg5'; did you mean 'fig5'" in capsys.readouterr().err
