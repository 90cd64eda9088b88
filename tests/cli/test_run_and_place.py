"""``run`` and ``place`` as a user meets them: files, streams, exit codes, and that equal runs leave equal bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from helixsim import load_experiment
from helixsim.cli.main import main
from helixsim.study.evaluator import Evaluator
from helixsim.study.placing import place_system
from helixsim.study.systems import capacity_table

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: l4, count: 2, region: a}
    - {gpu: t4, count: 3, region: a}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 10 ms}
workload:
  lengths: azure-conversation
  limits: {max_prompt_tokens: 1024, max_output_tokens: 256}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 5 s
  duration: 20 s
systems:
  - {name: helix, placement: {strategy: helix, candidates: 2, criterion: balanced}, routing: flow_weighted}
  - {name: sp, placement: separate, routing: least_loaded}
slo: {ttft: 5 s, tpot: 500 ms}
"""

CHEAP = ["--set", "systems.0.placement=swarm"]
"""For what does not depend on the search."""

LEFT_BY_A_RUN = {
    ".helixsim", "manifest.json", "config.resolved.yaml", "summary.json", "placements", "requests", "nodes.csv",
    "links.csv",
    "series.csv", "node_series.csv", "itl.csv", "report.html", "figures",
}  # fmt: skip


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def helixsim(*arguments, hash_seed="0"):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-m", "helixsim", *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_equal_runs_leave_equal_bytes_whatever_the_hash_seed_and_the_number_of_processes(experiment, tmp_path):
    left = []
    for hash_seed, jobs in (("1", 1), ("2", 2)):
        out = tmp_path / f"out-{hash_seed}"
        done = helixsim("run", experiment, "--out", out, "--jobs", jobs, "--check", hash_seed=hash_seed)
        assert done.returncode == 0, done.stderr
        (directory,) = (out / "tiny").iterdir()
        assert {path.name for path in directory.iterdir()} == LEFT_BY_A_RUN
        left.append((done.stdout, files(directory)))
    assert left[0] == left[1]
    assert "helix" in left[0][0]


def test_a_finished_run_is_found_again_and_force_repeats_it(experiment, tmp_path, capsys):
    arguments = ["run", str(experiment), "--out", str(tmp_path / "runs"), "--jobs", "1", *CHEAP]
    assert main(arguments) == 0
    assert "written" in capsys.readouterr().err
    (manifest,) = (tmp_path / "runs").rglob("manifest.json")
    first = manifest.read_bytes()
    assert main([*arguments, "--json"]) == 0
    answer = capsys.readouterr()
    assert "cached (use --force to rerun)" in answer.err
    document = json.loads(answer.out)
    assert set(document["systems"]) == {"helix", "sp"}
    assert manifest.read_bytes() == first
    assert main([*arguments, "--force", "-q"]) == 0
    assert manifest.read_bytes() != first  # its timing differs
    assert capsys.readouterr().err == ""


def test_thresholds_that_fail_give_exit_code_6_after_the_answer(experiment, tmp_path, capsys):
    arguments = ["run", str(experiment), "--out", str(tmp_path), "--jobs", "1", "-q", *CHEAP]
    assert main([*arguments, "--fail-on-slo", "--fail-under", "1e6", "--set", "slo.ttft=1 ms"]) == 6
    streams = capsys.readouterr()
    assert "goodput" in streams.out
    assert "helix: SLO missed" in streams.err
    assert "below --fail-under 1e+06" in streams.err
    assert main([*arguments, "--set", "slo={}", "--fail-on-slo"]) == 2


def test_an_exported_placement_can_be_used_again_and_means_the_same(experiment, tmp_path, capsys):
    exported = tmp_path / "placement.json"
    common = ["place", str(experiment), "--json", "-q"]
    assert main([*common, "--system", "sp", "--export", str(exported)]) == 0
    first = json.loads(capsys.readouterr().out)["systems"]["sp"]
    override = f"systems.1.placement={{strategy: fixed, file: {exported}}}"
    assert main([*common, "--system", "sp", "--set", override]) == 0
    again = json.loads(capsys.readouterr().out)["systems"]["sp"]
    assert (again["layers"], again["objective_tokens_per_s"]) == (first["layers"], first["objective_tokens_per_s"])
    assert main([*common, "--system", "sp", "--export", str(exported)]) == 2
    assert "exists" in capsys.readouterr().err


def test_place_writes_what_starts_a_placement_to_stdout_or_to_a_file(experiment, tmp_path, capsys):
    common = ["place", str(experiment), "-q", "--set", "engine.name=vllm-1", "--system", "sp", "--export", "vllm"]
    assert main(common) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/sh\n# tiny: system sp, placement separate")
    out = tmp_path / "serve.sh"
    assert main([*common, "--out", str(out), "--model-id", "mine"]) == 0
    assert out.read_text(encoding="utf-8") == script.replace("MODEL=meta-llama/Llama-2-7b-hf", "MODEL=mine")
    assert main([*common, "--out", str(out)]) == 2
    assert "exists (--force replaces it)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export", "kubernets"], "'kubernets' is no target; did you mean 'kubernetes'? (a file: ./kubernets)"),
        (["--export", ""], "--export: got an empty text, expected a file or one of vllm, ray"),
        (["--export", "p.json", "--out", "serve.sh"], "--out goes with --export TARGET, one of vllm, ray"),
        (["--model-id", "mine"], "--model-id goes with --export TARGET"),
        (["--export", "ray", "--json"], "--json and --export TARGET both write to stdout: add --out FILE"),
    ],
)
def test_export_options_that_do_not_fit_together_are_errors(experiment, options, message, capsys):
    assert main(["place", str(experiment), "-q", "--system", "sp", *options]) == 2
    assert message in capsys.readouterr().err


def test_vllm_partitions_are_the_layers_of_their_nodes(experiment, tmp_path, capsys):
    """Both separate pipelines can be given to vLLM; reading the file back gives the same partitions."""
    files = [tmp_path / "first.json", tmp_path / "again.json"]
    common = ["place", str(experiment), "-q", "--system", "sp", "--export"]
    assert main([*common, str(files[0])]) == 0
    override = f"systems.1.placement={{strategy: fixed, file: {files[0]}}}"
    assert main([*common, str(files[1]), "--set", override]) == 0
    capsys.readouterr()
    first, again = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    assert len(first["replicas"]) == len(first["vllm"]) == 2
    for chain in first["vllm"]:
        sizes = [int(size) for size in chain["VLLM_PP_LAYER_PARTITION"].split(",")]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        ranges = [first["layers"][node] for node in chain["nodes"]]
        assert ranges == [[start, start + size] for start, size in zip(starts, sizes, strict=True)]
        assert sum(sizes) == first["num_layers"] == 32
    assert again["vllm"] == first["vllm"]


@pytest.mark.parametrize(
    "criterion", ["balanced", *(pytest.param(one, marks=pytest.mark.slow) for one in ("throughput", "latency"))]
)
def test_every_criterion_chooses_a_placement_no_worse_than_the_baseline_by_it(experiment, criterion):
    loaded = load_experiment(
        experiment, [f"systems.0.placement={{strategy: helix, candidates: 4, criterion: {criterion}}}"]
    )
    system = loaded.systems[0]
    evaluator = Evaluator(loaded, system, capacity_table(loaded, system))
    mine = place_system(loaded, system).placement
    scores = [entry["score"] for entry in mine.notes["candidates"] if entry["score"] is not None]
    assert evaluator(mine) == max(scores) > 0
    assert evaluator(mine) >= evaluator(place_system(loaded, loaded.systems[1], by_flow=True).placement)


def test_place_shows_the_frontier(experiment, capsys):
    """In a text and as JSON: the largest flow first, and less flow only with fewer nodes per request."""
    assert main(["place", str(experiment), "--json", "--by-flow", "-q", "--system", "helix"]) == 0
    answer = json.loads(capsys.readouterr().out)["systems"]["helix"]
    points = [(point["hops"], point["max_flow_tokens_per_s"]) for point in answer["frontier"]]
    assert len(points) > 1
    assert points == sorted(points, reverse=True)
    assert [flow for _, flow in points] == sorted((flow for _, flow in points), reverse=True)
    assert main(["place", str(experiment), "--by-flow", "-q", "--system", "helix"]) == 0
    assert "max-flow estimate, tokens/s" in capsys.readouterr().out


def test_place_answers_with_the_worst_loss_and_what_is_carried_over_time(experiment, capsys):
    survive = ["--set", "systems.0.placement={strategy: helix, survive: host}"]
    arguments = ["place", str(experiment), "--by-flow", "--system", "helix", "--mtbf", "9 h", "--mttr", "1 h", "-q"]
    assert main([*arguments, *survive, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)["systems"]["helix"]
    kept, most = one["survival"]["kept_tokens_per_s"], one["objective_tokens_per_s"]
    assert 0 < kept < most
    assert kept <= one["survival"]["bound_tokens_per_s"]
    low, high = one["availability"]["mean_tokens_per_s"]
    assert 0 < low <= high < most
    assert one["availability"]["tokens_per_s"]["0.99"] <= kept
    assert main([*arguments, *survive]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Worst loss of one host: {one['survival']['worst_loss']}" in said
    assert "Max-flow with failures of a host" in said


def test_place_says_which_kinds_of_nodes_are_left_out(experiment, capsys):
    too_small = ["--set", "cluster.nodes.1.count=1", "--set", "model=llama-2-13b"]
    assert main(["place", str(experiment), "-q", "--system", "sp", *too_small]) == 0
    assert "not used, too small for the model: t4" in " ".join(capsys.readouterr().out.split())


def test_place_answers_with_bound_hops_and_history(experiment, capsys):
    assert main(["place", str(experiment), "--json", "--by-flow", "-q"]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    for answer in systems.values():
        assert answer["objective_tokens_per_s"] <= answer["upper_bound_tokens_per_s"] * (1 + 1e-9)
        assert 1 <= answer["mean_hops"] <= answer["max_hops"] <= 5
        assert set(answer["layers"]) == {"l4-0", "l4-1", "t4-0", "t4-1", "t4-2"}
    assert systems["helix"]["objective_tokens_per_s"] >= systems["sp"]["objective_tokens_per_s"]
    assert systems["helix"]["history"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "model=llama-2-70b"], 4, "35 layers (45-79) find no place, 55.8 GiB"),
        (["--set", "systems.0.placement=helx"], 2, "did you mean 'helix'"),
        (["--set", "workload.trace={path: nowhere.csv}"], 2, "nowhere.csv"),
        (["--jobs", "0"], 2, "expected a whole number from 1 to 10000"),
        (["--set", "workload.arrivals.rate=1e-12"], 2, "expected 1e-06 .. 1e+06 requests/s"),
        (
            [
                "--set",
                "workload.lengths={distribution: fixed, prompt_tokens: 5000, output_tokens: 5}",
                "--set",
                "workload.limits={}",
            ],
            2,
            "the context of llama-2-7b has 4096",
        ),
        (["--set", "cluster.nodes.0.gpus=3"], 2, "3 GPUs cannot share the 32 attention heads"),
    ],
)
def test_what_cannot_run_says_why(experiment, tmp_path, capsys, arguments, code, message):
    assert main(["run", str(experiment), "--out", str(tmp_path), "-q", *arguments]) == code
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.out == ""


def test_a_system_that_cannot_be_placed_does_not_stop_the_others(experiment, tmp_path, capsys):
    broken = "systems.1.placement={strategy: swarm, stages: 6}"  # more stages than nodes
    arguments = ["run", str(experiment), "--out", str(tmp_path), "--jobs", "1", "-q", *CHEAP, "--set", broken]
    for _ in range(2):  # computed, then found again
        assert main(arguments) == 0
        streams = capsys.readouterr()
        assert "helix" in streams.out
        assert "warning: sp: swarm" in streams.err
    assert main([*arguments, "--strict"]) == 4
    assert main([*arguments, "--set", "systems.0.placement={strategy: swarm, stages: 6}"]) == 4


def test_an_interrupted_search_is_no_result(experiment, tmp_path, monkeypatch, capsys):
    """``place`` keeps the incumbent of a search that was stopped; a run must not cache it as its own."""
    from helixsim.placement.helix import _Search

    def stop(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Search, "_evaluate", stop)
    assert main(["run", str(experiment), "--out", str(tmp_path), "--jobs", "1", "-q"]) == 130
    assert "no system had finished" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
    assert main(["place", str(experiment), "--system", "helix", "-q"]) == 0


def test_an_interrupt_during_the_report_keeps_the_results(experiment, tmp_path, monkeypatch, capsys):
    import helixsim.study.run as planning

    build, calls = planning.build_report, []

    def stop_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return build(*arguments)

    monkeypatch.setattr(planning, "build_report", stop_once)
    assert main(["run", str(experiment), "--out", str(tmp_path), "--jobs", "1", "-q", *CHEAP]) == 130
    (kept,) = (tmp_path / "tiny").glob("*-partial")
    assert set(json.loads((kept / "summary.json").read_text())["systems"]) == {"helix", "sp"}


def test_an_unknown_system_is_named(experiment, capsys):
    assert main(["place", str(experiment), "--system", "helixx"]) == 2
    assert "did you mean 'helix'?" in capsys.readouterr().err


def test_ctrl_c_keeps_the_systems_that_have_finished(experiment, tmp_path):
    """The first system is done in a moment, the second would take minutes."""
    long = ["--set", "systems.1.arrivals={process: poisson, rate: 40}", "--set", "workload.duration=2 h"]
    short = ["--set", "systems.0.arrivals={process: poisson, rate: 0.01}", "--set", "systems.0.placement=swarm"]
    process = subprocess.Popen(
        [sys.executable, "-m", "helixsim", "run", experiment, "--out", tmp_path, "--jobs", "2", *long, *short],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (a background job ignores it)
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "(sp: " in line:  # only the second is left
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (kept,) = (tmp_path / "tiny").glob("*-partial")
    assert str(kept) in err
    assert json.loads((kept / "manifest.json").read_text())["unfinished"] == ["sp"]
    assert [path for path in (tmp_path / "tiny").iterdir() if path.name[0] != "."] == [kept]
    assert list(json.loads((kept / "summary.json").read_text())["systems"]) == ["helix"]
