"""``helixsim profile fit`` of steps and logs: what it prints and writes, and that runs take what it writes."""

import argparse
import csv
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from helixsim.cli import main, profile
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import StepTime
from helixsim.errors import ConfigError, DataError
from helixsim.hardware import catalog, engines
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.roofline import roofline
from helixsim.hardware.step_rows import decoding, prompts

MODEL = "llama-3.2-1b"


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    profile.add_parser(parser.add_subparsers())
    args = parser.parse_args(["profile", *arguments])
    return args.func(args)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Steps of a card with half of the bandwidth of L4 and more host time for each sequence."""
    model, gpu = catalog.load_model(MODEL), catalog.load_gpu("l4")
    engine = replace(engines.load_engine("vllm-1").spec, sequence_overhead_ns=100_000)
    slower = replace(gpu, memory_bandwidth_bytes_per_s=gpu.memory_bandwidth_bytes_per_s / 2)
    layers = model.num_layers
    law, noise = StepTime(roofline(model, slower), engine, LayerRange(0, layers), layers), random.Random(3)
    rows = [("prefill", tokens, 1, 0, law.ns(prompts(tokens, 1))) for tokens in (64, 256, 1024, 4096, 16_384)]
    rows += [
        ("decode", "", seqs, context, law.ns(decoding(seqs, context)))
        for seqs in (1, 8, 32, 128)
        for context in (100, 2000)
    ]
    path = tmp_path / "steps.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("phase", "tokens", "seqs", "context", "time_ms"))
        writer.writerows((*row[:4], row[4] / 1e6 * math.exp(noise.gauss(0, 0.01))) for row in rows)
    return path


def test_steps_make_a_gpu_and_an_engine_that_experiments_take(steps: Path, tmp_path: Path, capsys) -> None:
    gpu, engine = tmp_path / "mine.yaml", tmp_path / "host.yaml"
    arguments = ("fit", str(steps), "--model", MODEL, "--gpu", "NVIDIA L4", "-q")
    assert _run(*arguments, "--out", str(gpu), "--engine-out", str(engine)) == 0
    text = capsys.readouterr().out
    assert "fp16.bandwidth_efficiency" in text
    assert "fit, rows left out" in text
    fitted, host = catalog.load_gpu(gpu), engines.load_engine(engine)
    assert fitted.name == "l4-fitted"
    assert fitted.kernels.fp16.bandwidth_efficiency < 0.6
    assert host.spec.sequence_overhead_ns > 50_000
    assert "steps.csv" in dict(fitted.sources)["bandwidth_efficiency"]
    assert "steps.csv" in dict(host.sources)["sequence_overhead"]
    before = catalog.load_gpu("l4")
    for figure in ("compute_efficiency", "bandwidth_efficiency"):
        moved = getattr(fitted.kernels.fp16, figure) / getattr(before.kernels.fp16, figure) - 1
        assert abs(moved) <= 0.01 or "steps.csv" in dict(fitted.sources)[figure]
    experiment = tmp_path / "exp.yaml"
    experiment.write_text(f"""\
schema: 1
name: fitted
model: {MODEL}
cluster:
  coordinator: {{region: here}}
  nodes: [{{gpu: ./mine.yaml, count: 1, region: here}}]
  network:
    intra_region: {{bandwidth: 10 Gbit/s, latency: 0.1 ms}}
    inter_region: {{bandwidth: 10 Gbit/s, latency: 0.1 ms}}
engine: {{name: ./host.yaml}}
workload:
  lengths: {{distribution: fixed, prompt_tokens: 200, output_tokens: 20}}
  arrivals: {{process: poisson, rate: 1 /s}}
  warmup: 0 s
  duration: 20 s
systems: [{{name: one, placement: separate, routing: least_loaded}}]
""")
    assert main.main(["run", str(experiment), "--out", str(tmp_path / "runs"), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["systems"]["one"]["completed"] > 0
    with pytest.raises(ConfigError, match="--force"):
        _run(*arguments, "--out", str(gpu))


def test_the_fit_as_json(steps: Path, capsys) -> None:
    assert _run("fit", str(steps), "--model", MODEL, "--gpu", "l4", "--json", "-q") == 0
    document = json.loads(capsys.readouterr().out)
    terms = {term["name"]: term for term in document["terms"]}
    assert terms["fp16.bandwidth_efficiency"]["after"] < terms["fp16.bandwidth_efficiency"]["before"]
    before, after = (max(error["median"] for error in document["errors"][part]) for part in ("before", "left_out"))
    assert after < 0.05 < before
    assert document["improves"]
    assert document["memory"] is None


LOG = """\
INFO 05-19 10:12:01 [utils.py:253] non-default args: {'gpu_memory_utilization': 0.85, 'max_num_batched_tokens': 2048}
INFO 05-19 10:13:00 [kv_cache_utils.py:1087] GPU KV cache size: 100,000 tokens
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.write_text(LOG)
    return path


def test_a_log_gives_the_memory_that_its_kv_cache_leaves(log: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "mine.yaml"
    arguments = ("--model", "llama-3.2-3b", "--gpu", "l4", "--max-num-seqs", "64", "--out", str(out))
    assert _run("fit", str(log), *arguments) == 0
    assert "KV cache: 100000 tokens logged" in capsys.readouterr().out
    engine, model = engines.load_engine("vllm-1"), catalog.load_model("llama-3.2-3b")
    options = ProfileOptions(
        memory_fraction=0.85, max_prefill_tokens=2048, max_decode_seqs=64, holds_ends=True, steps=engine.steps
    )
    node, _ = node_profile(model, catalog.load_gpu(out), 1, options)
    assert node.kv_tokens(28, 28) == pytest.approx(100_000, abs=16)


def test_memory_that_no_engine_takes_is_questioned(log: Path, capsys) -> None:
    assert _run("fit", str(log), "--model", "llama-3.2-3b", "--gpu", "l40s") == 0
    assert "another GPU, model or setting" in capsys.readouterr().out
    log.write_text(LOG.replace("100,000", "150,000"))
    assert _run("fit", str(log), "--model", "llama-3.2-3b", "--gpu", "l4") == 0
    assert "the log has room for more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "arguments", "error", "message"),
    [
        ("hello\n", (), DataError, "neither times of layers .* nor times of steps .* nor a log of vLLM"),
        (LOG, ("--gpu", "l4"), ConfigError, "--model needed"),
        (LOG, (), ConfigError, "--model and --gpu needed"),
        (LOG, ("--limits", "x.csv"), ConfigError, "logs of vLLM, for which there is no --limits"),
        ("model,gpu,phase,batch_tokens,ms_per_layer\n", ("--gpu", "l4"), ConfigError, "times of layers.* no --gpu"),
        ("phase,tokens,seqs,context,time_ms\n", ("--max-num-seqs", "4"), ConfigError, "has no effect on times of"),
        (LOG, ("--model", "llama-3-70b", "--gpu", "t4"), DataError, "another model, precision, GPU or setting"),
        (LOG + "tensor_parallel_size=4\n", ("--gpus", "2"), DataError, "tensor_parallel_size is 4 there, --gpus 2"),
        (LOG, ("--model", MODEL, "--gpu", "l4", "--engine-out", "x.yaml"), DataError, "no host times for --engine-out"),
        (LOG, ("--model", MODEL, "--gpu", "a30-1g.6gb", "--out", "x.yaml"), ConfigError, "has no file to start from"),
        (LOG, ("--model", MODEL, "--gpu", "a30-1g.6gb", "--gpus", "2"), ConfigError, "--gpus: 2: MIG instances"),
        (LOG.splitlines()[0], (), DataError, "neither times of layers"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_error(tmp_path, monkeypatch, text, arguments, error, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text(text)
    with pytest.raises(error, match=message):
        _run("fit", "file", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
