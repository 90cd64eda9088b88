"""What README and experiments/ show works as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helixsim.cli.main import main
from helixsim.config.plan_file import load_plan
from helixsim.config.sweep_file import load_sweep
from helixsim.domain.summary import LATENCIES, STATISTICS
from helixsim.planning.sweep import prepare

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(
    path for path in (ROOT / "experiments").rglob("*.yaml") if "\nsystems:" in path.read_text(encoding="utf-8")
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("python -m helixsim ").split("  #")[0]
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, flags=re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python -m helixsim ")
]
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
QUICK = ("validate", "inspect", "profile", "trace")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_valid(path, capsys):
    assert main(["validate", str(path)]) == 0, capsys.readouterr().err
    assert "ok" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_and_fleet_plan_is_valid(path):
    text = path.read_text(encoding="utf-8")
    if "\naxes:" in text:
        assert prepare(load_sweep(path)).points
    elif "\noffers:" in text:
        assert load_plan(path).offers


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(QUICK)])
def test_quick_commands_of_the_readme_run(command, tmp_path, monkeypatch, capsys):
    arguments = [
        str(ROOT / word) if (ROOT / word).exists() else str(tmp_path / word) if word.startswith("out/") else word
        for word in shlex.split(command)
    ]
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0, capsys.readouterr().err


def test_the_readme_shows_the_two_commands_and_the_map():
    assert any(command.startswith("run experiments/quickstart.yaml") for command in COMMANDS)
    assert "python -m pytest" in README
    rooms = {path.parent.name for path in (ROOT / "helixsim").glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}" in README or f" {room}/" in README} == rooms


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_glossary_defines_every_key_of_a_summary_and_every_row_of_the_table():
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    frozen = json.loads((ROOT / "tests/golden/constant.summary.json").read_text(encoding="utf-8"))
    compared = ("ratio_to_baseline", "ratio_to_baseline_interval", "paired_with_baseline")
    statistics = {f"{statistic}_{name}_ms" for statistic in STATISTICS for name in LATENCIES}
    keys = {*frozen, *frozen["helixsim"], *compared} - statistics - {"helixsim"}
    assert {key for key in keys if f"`{key}" not in glossary} == set()
    table = re.search(r"```text\n(.*?)```", README, flags=re.S).group(1)
    for term in ("goodput", "max-flow estimate", "KV-limited estimate", "utilisation", "preemption", "stationary"):
        assert term in table
        assert f"| {term}" in glossary


def test_the_policy_shown_in_the_readme_runs(tmp_path, monkeypatch):
    import helixsim

    (code,) = (code for code in PYTHON if "class " in code)
    (tmp_path / "my_policy.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    overrides = [
        "systems=[{placement: swarm, routing: my_policy:FewestInFlight}]", "baseline=swarm",
        "workload.warmup=10 s", "workload.duration=20 s",
    ]  # fmt: skip
    experiment = helixsim.load_experiment(ROOT / "experiments/quickstart.yaml", overrides)
    result = helixsim.simulate(experiment, helixsim.place(experiment, "swarm"))
    assert result.counters["batches"] > 100
    routed = result.requests.route[result.requests.route >= 0]
    assert len(set(routed.tolist())) > 1  # those in flight decide, not the order of nodes


def test_the_script_shown_in_the_readme_runs(tmp_path):
    (code,) = (code for code in PYTHON if "import helixsim as hx" in code)
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ttft_p99_s" in done.stdout
    assert "requests_per_s" in done.stdout
