"""What README, the pages of the guide and experiments/ show works as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.config.plan_file import load_plan
from helixsim.config.starter import parse_gpus, starter
from helixsim.config.sweep_file import load_sweep
from helixsim.domain.summary import LATENCIES, STATISTICS
from helixsim.experiment import Experiment
from helixsim.planning.sweep import prepare

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(
    path for path in (ROOT / "experiments").rglob("*.yaml") if "\nsystems:" in path.read_text(encoding="utf-8")
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = sorted(
    page for page in (ROOT / "docs").glob("*.md") if page.stem.startswith(("first", "own-", "commands", "planning"))
)
TEXT = "\n".join([README, *(page.read_text(encoding="utf-8") for page in GUIDE)])
COMMANDS = [
    line.removeprefix("python -m helixsim ").split("  #")[0]
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", TEXT, flags=re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python -m helixsim ")
]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
QUICK = ("validate experiments", "inspect", "profile", "trace", "init")


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
    arguments = [str(ROOT / word) if (ROOT / word).exists() else word for word in shlex.split(command)]
    monkeypatch.chdir(tmp_path)  # which has no folder: output goes beside what the reader has
    assert main(arguments) == 0, capsys.readouterr().err


def test_the_readme_shows_the_two_commands_and_the_page_of_the_architecture_the_map():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c requirements/locked.txt"
    assert blocks[0] == f"{install} . && .venv/bin/python -m helixsim run experiments/quickstart.yaml\n"
    assert blocks[1] == f"{install} -e '.[dev]' && .venv/bin/python -m pytest -n auto\n"
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "helixsim").glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}" in page or f" {room}/" in page} == rooms


def test_the_readme_is_one_screen_with_one_picture_and_the_verdict():
    assert len(README.splitlines()) < 100
    assert README.count("![") == 1
    table = re.search(r"```text\n(.*?)```", README, flags=re.S).group(1)
    assert table.startswith("Verdict ")
    assert max(map(len, table.splitlines())) <= 100
    linked = set(re.findall(r"\]\(docs/([^)#]+)\.md", README))
    assert {page.stem for page in GUIDE} <= linked


@pytest.mark.parametrize("page", [page for page in GUIDE if "```yaml" in page.read_text(encoding="utf-8")],
                         ids=lambda page: page.stem)  # fmt: skip
def test_yaml_of_the_guide_is_valid_in_an_experiment(page, tmp_path):
    """Each block in place of the same keys of what ``init`` writes, the blocks of a page together; sweeps and plans."""
    text = starter("x", "qwen3-32b", parse_gpus("2xh100,2xl40s"), {"ttft": "1 s"}, ROOT)
    data = yamlio.loads(text, "x").data
    (tmp_path / "exp.yaml").write_text(text, encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
        own = yamlio.loads(block, page.name).data
        (tmp_path / "own.yaml").write_text(block, encoding="utf-8")
        if "axes" in own:
            assert prepare(load_sweep(tmp_path / "own.yaml")).points
            continue
        if "offers" in own:
            assert load_plan(tmp_path / "own.yaml").offers
            continue
        if (trace := own.get("workload", {}).get("trace")) and trace["path"] == "gateway.csv":
            trace["path"] = str(tmp_path / "gateway.csv")
            (tmp_path / "gateway.csv").write_text("time,prompt_tokens,output_tokens,tier\n0,9,9,chat\n1,9,9,batch\n")
        data = {**data, **own}
        Experiment.from_data(data).resolve()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_glossary_defines_every_key_of_a_summary_and_every_row_of_the_table():
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    frozen = json.loads((ROOT / "tests/golden/constant.summary.json").read_text(encoding="utf-8"))
    compared = ("ratio_to_baseline", "ratio_to_baseline_interval", "paired_with_baseline")
    statistics = {f"{statistic}_{name}_ms" for statistic in STATISTICS for name in LATENCIES}
    keys = {*frozen, *frozen["helixsim"], *compared} - statistics - {"helixsim"}
    assert {key for key in keys if f"`{key}" not in glossary} == set()
    labels = (ROOT / "helixsim" / "report" / "rows.py").read_text(encoding="utf-8")
    for term in ("goodput", "max-flow estimate", "KV-limited estimate", "utilisation", "preemption", "stationary"):
        assert term in labels
        assert f"| {term}" in glossary


def test_the_policy_shown_in_the_readme_runs(tmp_path, monkeypatch):
    import helixsim

    (code,) = (code for code in PYTHON if "@hx." in code)
    (tmp_path / "my_policy.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    overrides = [
        "systems=[{placement: swarm, routing: my_policy:fewest_in_flight}]", "baseline=swarm",
        "workload.warmup=10 s", "workload.duration=20 s",
    ]  # fmt: skip
    experiment = helixsim.load_experiment(ROOT / "experiments/quickstart.yaml", overrides)
    result = helixsim.simulate(experiment, helixsim.place(experiment, "swarm"))
    assert result.counters["batches"] > 100
    routed = result.requests.route[result.requests.route >= 0]
    assert len(set(routed.tolist())) > 1  # those in flight decide, not the order of nodes


def on_one_core():
    """Let a process compute by itself, without a pool of processes, as others test beside this one."""
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})


def run_code(folder, code, *, window=None):
    """Run a script in a folder and return what it prints; its experiments have a shorter window if one is given."""
    if window is not None:
        code, changed = re.subn(r'window=\("\d+ s", "\d+ s"\)', f"window={window}", code)
        assert changed == 1
    (folder / "script.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False,
        preexec_fn=on_one_core if hasattr(os, "sched_setaffinity") else None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_script_shown_in_the_readme_runs(tmp_path):
    (code,) = (code for code in PYTHON if "exp.run()" in code)
    said = run_code(tmp_path, code, window=("5 s", "15 s"))
    assert "ttft_p99_s" in said
    assert "requests_per_s" in said
    assert (tmp_path / "latency.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(tmp_path):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.S))
    said = run_code(tmp_path, code)
    assert "did you mean 'rate'" in said
    assert "swarm-fewest" in said
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_the_tour_runs(tmp_path):
    code = (ROOT / "docs" / "tour.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) < 50
    said = run_code(tmp_path, code, window=("5 s", "15 s"))
    assert "fewest" in said
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("latency", "placement", "load"))


BLOCK = """
import helixsim as hx
exp = hx.Experiment("llama-2-70b", hx.Cluster({"a100-40g": 4, "l4": 8, "t4": 12}, link="8 Gbit/s, 1 ms"),
                    load=hx.poisson(1.3, "azure-conversation"), window=("10 min", "10 min"),
                    slo=hx.Slo(ttft="10 s", tpot="2 s"), systems=["helix", "swarm"])
exp = hx.load("quickstart.yaml").with_(seed=1)
runs = exp.run(); runs.table(); run = runs["helix"]; run.summary.ttft.p99_s; run.requests; run.plot.latency(); run.placement.plot()
hx.place(exp, "helix").frontier; hx.capacity(exp, seeds=3); hx.sweep(exp, {"workload.arrivals.rate": [1, 2, 3]}).table()
@hx.routing("fewest")
def fewest(hops, view): ...
"""  # noqa: E501 - one line as users paste it


@pytest.mark.slow
def test_all_that_the_api_was_designed_for_in_one_block(tmp_path):
    text = (ROOT / "experiments" / "quickstart.yaml").read_text(encoding="utf-8")
    short = text.replace("warmup: 10 min", "warmup: 20 s").replace("duration: 10 min", "duration: 40 s")
    assert short.count(" s\n") > text.count(" s\n")
    (tmp_path / "quickstart.yaml").write_text(short, encoding="utf-8")
    run_code(tmp_path, BLOCK)
