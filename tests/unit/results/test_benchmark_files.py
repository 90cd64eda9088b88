"""A run written as a benchmark means the same when a reader of that format reads it back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helixsim.benchmarks.benchmark import METRICS
from helixsim.benchmarks.read import read_benchmarks
from helixsim.cli.main import main
from helixsim.results.benchmark_files import FORMATS
from helixsim.results.runset import RunSet

EXPERIMENT = """\
schema: 1
name: written
model: llama-2-7b
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: l4, count: 2, region: a}
    - {gpu: l4, count: 1, gpus: 2, region: a}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 10 ms}
engine: {name: vllm-1}
workload:
  lengths: azure-conversation
  limits: {max_prompt_tokens: 1024, max_output_tokens: 128}
  arrivals: {process: gamma, rate: 2 /s, burstiness: 0.5}
  warmup: 5 s
  duration: 30 s
systems:
  - {name: open, placement: replicas, routing: least_loaded}
  - {name: closed, placement: replicas, routing: least_loaded, arrivals: {process: closed_loop, concurrency: 6}}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    path = folder / "exp.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    assert main(["run", str(path), "-q", "--out", str(folder / "runs")]) == 0
    (found,) = (folder / "runs" / "written").iterdir()
    return found


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("system", ["open", "closed"])
def test_a_benchmark_that_is_read_back_has_the_figures_and_the_load_of_the_run(
    directory, tmp_path, target, system, capsys
):
    path = tmp_path / "benchmark.json"
    command = ["report", str(directory), "--benchmark", target, "--system", system]
    assert main([*command, "--out", str(path)]) == 0
    (read,) = read_benchmarks(path)
    summary = RunSet.load(directory)[system].summary
    figures = {key: value for key, value in summary.vllm_keys().items() if key in METRICS and value is not None}
    found = dict(read.figures)
    for metric in ("ttft", "tpot", "itl", "e2el"):  # two names of one figure
        found.setdefault(f"median_{metric}_ms", found[f"p50_{metric}_ms"])
    assert found.keys() == figures.keys()
    assert found == pytest.approx(figures, rel=1e-8)
    assert read.load.rate_rps == (2.0 if system == "open" else pytest.approx(np.inf) if target == "vllm" else None)
    assert read.load.concurrency == (None if system == "open" else 6)
    assert read.load.requests == summary.vllm_keys()["completed"]
    assert read.model == "llama-2-7b"
    assert main(["compare", str(directory), str(path), "--system", system, "--tolerance", "0.0001"]) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text(encoding="utf-8"))
    assert main([*command, "--out", str(path)]) == 2  # it exists


def test_the_stack_of_a_report_counts_all_gpus_of_the_replicas(directory):
    run = RunSet.load(directory)["open"]
    document = {"model": "m", "name": "written", "engine": {"name": "vllm-1"}, "systems": [],
                "workload": {"arrivals": {"rate": 2.0}}}  # fmt: skip
    stack = [one["standardized"] for one in FORMATS["llm-d"](run, document)["scenario"]["stack"]]
    found = {(one["accelerator"]["model"], one["accelerator"]["parallelism"]["tp"]): one["replicas"] for one in stack}
    assert found == {("l4", 1): 2, ("l4x2", 2): 1}
    assert sum(one["replicas"] * one["accelerator"]["count"] for one in stack) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "vllm"], "the run has open, closed: add --system NAME"),
        (["--benchmark", "vllm", "--system", "opn"], "unknown system 'opn'"),
        (["--system", "open"], "--system goes with --benchmark, one of vllm, llm-d"),
    ],
)
def test_options_that_do_not_fit_together_are_errors(directory, options, message, capsys):
    assert main(["report", str(directory), *options]) == 2
    assert message in capsys.readouterr().err
