"""helixsim beside aisimulate on one machine: CPU seconds of both commands from start to end, and their predictions.

    python -m venv RIVAL
    RIVAL/bin/pip install --only-binary :all: 'aisimulate==0.13.*'      # --pre where the index has only builds of 0.13
    python -m tests.bench.rival_aisimulate --rival RIVAL/bin/aisimulate [--repeat N]

Qwen3-32B in 16 bits on H200 replicas of one GPU under vLLM, prompts of 1 024 tokens and outputs of 128, Poisson
arrivals, each tool with its own defaults and its own arrival times. The processes that a command starts count.
aisimulate writes a table and JSON, helixsim a run directory with its report and figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.cases import ROOT, Spent, require_success, run_python, run_timed

PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 128
LOADS = ((5_000, 2, 4), (10_000, 4, 8), (50_000, 4, 8))
"""(Requests, replicas, requests/s)."""

RIVAL = """\
traffic:
  source: {{type: synthetic, input_tokens: {prompt}, output_tokens: {output}}}
  load: {{type: poisson, requests_per_second: {rate}}}
  stop: {{requests: {requests}}}
engine:
  mode: aggregated
  model: Qwen/Qwen3-32B
  hardware: h200_sxm
  backend: vllm
  workers:
    aggregated: {{parallelism: {{replicas: {replicas}}}}}
"""

OURS = """\
schema: 1
name: side-by-side
model: qwen3-32b
cluster:
  nodes:
    - {{gpu: h200, count: {replicas}}}
  network:
    intra_region: {{bandwidth: 100 Gbit/s, latency: 50 us}}
engine: vllm-1
workload:
  lengths: {{distribution: fixed, prompt_tokens: {prompt}, output_tokens: {output}}}
  arrivals: {{process: poisson, rate: {rate}, num_requests: {requests}}}
systems:
  - {{name: replicas, placement: homogeneous, routing: least_loaded}}
"""

COLUMNS = (
    "requests", "replicas", "requests/s", "tool", "CPU s", "peak MB", "output tokens/s", "mean TTFT, ms",
    "median TTFT, ms", "mean TPOT, ms", "median TPOT, ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one command took and says."""

    cpu_s: float
    peak_rss_bytes: int
    output_tokens_per_s: float
    latencies_ms: tuple[float, float, float, float]


def main() -> None:
    """Run all loads, one tool after the other, and print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rival_aisimulate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rival", default="aisimulate", metavar="COMMAND", help="the aisimulate command to run")
    parser.add_argument("--repeat", type=int, default=1, help="run each so often, print the fastest")
    args = parser.parse_args()
    command = shutil.which(args.rival)
    if command is None:
        sys.exit(f"--rival {args.rival}: no such command; install it in an environment of its own:\n\n{__doc__}")
    print(f"{_version(command)}\n\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for requests, replicas, rate in LOADS:
        values = {"requests": requests, "replicas": replicas, "rate": rate}
        pairs = [(_theirs(command, values), _ours(values)) for _ in range(args.repeat)]
        for tool, found in zip(("aisimulate", "helixsim"), zip(*pairs, strict=True), strict=True):
            best = min(found, key=lambda one: one.cpu_s)
            cells = [f"{best.cpu_s:.1f}", f"{best.peak_rss_bytes / 1e6:.0f}", f"{best.output_tokens_per_s:.0f}",
                     *(f"{value:.1f}" for value in best.latencies_ms)]  # fmt: skip
            print("| " + " | ".join([str(requests), str(replicas), str(rate), tool, *cells]) + " |", flush=True)


def _theirs(command: str, values: dict[str, int]) -> Prediction:
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "prediction.yaml", Path(folder) / "out"
        config.write_text(RIVAL.format(prompt=PROMPT_TOKENS, output=OUTPUT_TOKENS, **values), encoding="utf-8")
        done, spent = run_timed([command, "predict", "--config", str(config), "--output-dir", str(out)], Path(folder))
        require_success(done)
        found = json.loads((out / "prediction.json").read_text(encoding="utf-8"))
    return _prediction(spent, found["output_throughput_tok_s"], found)


def _ours(values: dict[str, int]) -> Prediction:
    with tempfile.TemporaryDirectory() as folder:
        experiment, out = Path(folder) / "exp.yaml", Path(folder) / "out"
        experiment.write_text(OURS.format(prompt=PROMPT_TOKENS, output=OUTPUT_TOKENS, **values), encoding="utf-8")
        done, spent = run_python(["-m", "helixsim", "run", str(experiment), "--out", str(out), "-q"], ROOT)
        require_success(done)
        (summary,) = out.rglob("summary.json")
        found = json.loads(summary.read_text(encoding="utf-8"))["systems"]["replicas"]
    return _prediction(spent, found["output_throughput"], found)


def _prediction(spent: Spent, output_tokens_per_s: float, found: dict[str, Any]) -> Prediction:
    names = ("mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms")
    mean_ttft, median_ttft, mean_tpot, median_tpot = (float(found[name]) for name in names)
    return Prediction(
        spent.cpu_s, spent.peak_rss_bytes, output_tokens_per_s, (mean_ttft, median_ttft, mean_tpot, median_tpot)
    )


def _version(command: str) -> str:
    """Return the version of the package beside the command."""
    python = Path(command).resolve().with_name("python")
    asked = [str(python), "-c", "import importlib.metadata as m; print('aisimulate', m.version('aisimulate'))"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False) if python.exists() else None
    return done.stdout.strip() if done is not None and done.returncode == 0 else "aisimulate, version unknown"


main()
