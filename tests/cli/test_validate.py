"""``helixsim validate``: the summary, --json, --set and --seed, faults and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helixsim.cli.main import main

EXPERIMENT = """\
schema: 1
name: two-kinds
model: llama-2-70b
cluster:
  coordinator: {region: eu}
  nodes:
    - {gpu: a100-40g, count: 4, region: eu}
    - {gpu: l4, count: 8, region: us}
  network:
    intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 100 Mbit/s, latency: 50 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 20}
  arrivals: {process: poisson, rate: 2.5}
  duration: 600 s
systems:
  - {placement: swarm, routing: swarm}
  - {placement: petals}
  - {placement: helix}
slo: {ttft: 5 s}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def test_the_summary_names_model_nodes_load_and_systems(experiment, capsys):
    assert main(["validate", str(experiment)]) == 0
    out = capsys.readouterr().out
    for words in ("two-kinds: ok", "llama-2-70b, 80 layers", "a100-40g", "l4", "8 Gbit/s 1 ms", "2.5 requests/s",
                  "mean prompt 100", "10 min", "swarm (baseline)", "petals"):  # fmt: skip
        assert words in out


def test_the_summary_names_each_fault_with_its_nodes(experiment, capsys):
    events = "[{at: 20 s, nodes: ['l4-*'], notice: 5 s, for: 9 s}, {at: 1 min, kind: slow, factor: 2, nodes: [a100-0]}]"
    assert (
        main(["validate", str(experiment), "--set", f"faults.events={events}", "--set", "faults.reaction=reroute"]) == 0
    )
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault ")]
    assert found == [
        "fault      15 s notice: l4-0, l4-1, l4-2, l4-3 and 4 more",
        "fault      20 s down: l4-0, l4-1, l4-2, l4-3 and 4 more",
        "fault      29 s up: l4-0, l4-1, l4-2, l4-3 and 4 more",
        "fault      60 s slow by a factor of 2: a100-0",
        "fault      reaction reroute, known after 5 s",
    ]


def test_json_is_one_document_and_follows_set_and_seed(experiment, capsys):
    arguments = ["validate", str(experiment), "--json", "--seed", "7", "--set", "cluster.nodes.1.count=3"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seed"] == 7
    assert [(entry["node_type"], entry["region"], entry["count"]) for entry in summary["nodes"]] == [
        ("a100-40g", "eu", 4),
        ("l4", "us", 3),
    ]
    fits = sum(entry["count"] * entry["layers_that_fit"] for entry in summary["nodes"])
    assert summary["layers_that_fit"] == fits
    for entry in summary["nodes"]:
        assert 1 <= entry["max_layers"] <= entry["layers_that_fit"]
        assert entry["kv_tokens_at_max_layers"] > 0
    assert summary["network"]["inter_region"] == {"bandwidth_bps": 1e8, "latency_s": 0.05}


def test_every_fault_is_a_line_with_its_position(experiment, capsys):
    text = EXPERIMENT.replace("count: 8", "cuont: 8").replace("rate: 2.5", "rate: .nan").replace("5 s}", "5}")
    experiment.write_text(text, encoding="utf-8")
    assert main(["validate", str(experiment)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 3
    for line, position in zip(lines, (":8:17: ", ":14:38: ", ":20:13: "), strict=True):
        assert line.startswith(f"helixsim: error: {experiment}{position}")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--set", "model=llama-3.1-405b"], 4, "126 layers"),
        (["--set", "systems.0.placement=swrm"], 2, "did you mean 'swarm'"),
        (["--set", "systems.0.routing={policy: random, speed: 3}"], 2, "unknown key 'speed'"),
        (["--seed", "x"], 2, "invalid int"),
    ],
)
def test_exit_codes(experiment, capsys, change, code, words):
    assert main(["validate", str(experiment), *change]) == code
    assert words in capsys.readouterr().err


def test_missing_and_unreadable_files(tmp_path, capsys):
    assert main(["validate", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml: cannot be read" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("a: [1\n", encoding="utf-8")
    assert main(["validate", str(tmp_path / "broken.yaml")]) == 2
    assert "broken.yaml:2:1: unreadable YAML" in capsys.readouterr().err


def test_a_damaged_trace_is_exit_code_3(experiment, tmp_path, capsys, monkeypatch):
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,ten,5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["validate", str(experiment), "--set", "workload={trace: {path: t.csv}}"]) == 3
    assert "t.csv" in capsys.readouterr().err


def test_validate_imports_no_solver_simulator_tables_or_pictures(experiment):
    code = (
        f"import sys; from helixsim.cli.main import main; main(['validate', {str(experiment)!r}]); "
        "print([m for m in ('pandas', 'matplotlib', 'highspy', 'simpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_engine_is_named_with_its_release_and_its_limits_by_gpu(experiment, capsys):
    change = ["--set", "engine=vllm-1", "--set", "cluster.nodes.0.gpu=h100"]
    assert main(["validate", str(experiment), *change]) == 0
    out = capsys.readouterr().out
    line = (
        "vllm-1, defaults of vLLM 0.19; up to 8192 tokens and 1024 sequences (h100); 2048 tokens and 256 sequences (l4)"
    )
    assert f"engine     {line} a step" in out
    assert "no engine given" not in out
    assert main(["validate", str(experiment)]) == 0
    assert "assumed    no engine given: ideal" in capsys.readouterr().out
