"""``--json`` of every command through a real pipe: stdout is one JSON document, whatever C libraries print."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tiny import SWARM, tiny

from helixsim import yamlio
from helixsim.cli.main import build_parser, main
from helixsim.datafiles import data_path

SAMPLE = str(data_path("traces", "sample.csv"))
HELIX = "{name: helix, placement: {strategy: helix, candidates: 1, criterion: balanced}, routing: flow_weighted}"
TIMINGS = "gpu,model,phase,batch_tokens,ms_per_layer\n" + "".join(
    f"L4,llama70b,{phase},{batch},{0.5 + batch / 100}\n" for phase in ("prompt", "decode") for batch in (1, 8, 64, 512)
)

SHORT = ("--set", "workload.warmup=1 s", "--set", "workload.duration=5 s")

ARGUMENTS = {
    "run": ["{folder}/one.yaml", "--out", "{folder}/run", "--jobs", "2"],
    "place": ["{folder}/tiny.yaml"],
    "validate": ["{folder}/tiny.yaml"],
    "reproduce list": [],
    "reproduce table8": ["--quick", "--out", "{folder}/paper"],
    "reproduce fidelity": ["30b-sp-offline", "--seeds", "1", *SHORT, "--out", "{folder}/fidelity"],
    "sweep": ["{folder}/sweep.yaml", "--out", "{folder}/sweep", "--jobs", "1"],
    "capacity": ["{folder}/one.yaml", "--out", "{folder}/capacity", "--seeds", "1", "--tolerance", "50%", "--no-curve"],
    "fleet": ["{folder}/plan.yaml", "--out", "{folder}/fleet", "--simulations", "1"],
    "compare": ["{run}", "{run}"],
    "accuracy": ["--own", "{folder}/own.csv"],
    "trace info": [SAMPLE],
    "trace convert": [SAMPLE, "{folder}/converted.csv"],
    "trace generate": ["{folder}/made.csv", "--num-requests", "10", "--rate", "1"],
    "trace fit-lengths": [SAMPLE, "{folder}/lengths.json"],
    "profile list": [],
    "profile show": ["l4"],
    "profile measure": ["--model", "llama-2-7b", "--gpu", "mine", "--out", "{folder}/mine.yaml"],
    "profile fit": ["{folder}/timings.csv"],
    "profile roofline": ["--gpu", "h100", "--model", "llama-2-7b"],
    "inspect strategies": [],
    "inspect schema": [],
}
"""Arguments of each command that end soon; the figures of ``reproduce`` are one function."""

TOO_LONG = {"reproduce leaderboard"}
"""Commands whose least takes minutes; tests/unit/papers compares their JSON with their other outputs."""

PLAN = {
    "schema": 1,
    "name": "plan",
    "experiment": "one.yaml",
    "offers": [{"gpu": "l4", "region": "default", "available": 3}],
}
SWEEP = {"schema": 1, "base": "one.yaml", "axes": [{"path": "workload.arrivals.rate", "values": [1, 2]}], "plots": []}

OWN = """\
gpu,engine,family,weights,gpus,batch,context,points,tpot_log_error_mean,tpot_log_error_sd,throughput_log_error_mean,\
throughput_log_error_sd,ttft_log_error_mean,ttft_log_error_sd,stages,timings,file,result,digest,tool,load,experiment,\
calibration
l4,vllm-1,dense,fp16,1,1-8,0-2k,1,0.1,0.0,-0.1,0.0,,,1,roofline,bench.json,1,0123,vllm bench serve,,exp.yaml,
"""
LOUD = """\
import ctypes, os, sys
libc = ctypes.CDLL(None)
from helixsim.cli import main
from helixsim.hardware import measure
def measured(model, prefill_tokens, decode_seqs, **_):
    points = [("prefill", n) for n in prefill_tokens] + [("decode", n) for n in decode_seqs]
    return [measure.Timed(phase, batch, 1.0 + batch / 64, 0) for phase, batch in points]
measure.measure, measure.describe_machine = measured, lambda device: "none"
build = main.build_parser
def loud(*_):
    os.write(1, b"printed at once\\n")
    libc.puts(b"printed into a buffer that is emptied when the process ends")
    return build()
main.build_parser = loud
sys.exit(main.main())
"""
"""The command line in which a C library prints to descriptor 1; ``profile measure`` does without a GPU and PyTorch."""


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Yield (command, its function) for each command that takes ``--json``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, (*path, name))
        elif "--json" in action.option_strings:
            yield " ".join(path), parser.get_default("func")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files for all the commands."""
    path = tmp_path_factory.mktemp("json")
    (path / "tiny.yaml").write_text(tiny(HELIX, SWARM), encoding="utf-8")
    (path / "one.yaml").write_text(tiny() + "slo: {ttft: 5 s, tpot: 500 ms}\n", encoding="utf-8")
    (path / "sweep.yaml").write_text(yamlio.dump(SWEEP), encoding="utf-8")
    (path / "plan.yaml").write_text(yamlio.dump(PLAN), encoding="utf-8")
    (path / "timings.csv").write_text(TIMINGS, encoding="utf-8")
    (path / "own.csv").write_text(OWN, encoding="utf-8")
    assert main(["run", str(path / "one.yaml"), "-q", "--jobs", "1", "--out", str(path / "ours")]) == 0
    return path


def test_every_command_that_takes_json_is_run_below() -> None:
    functions = dict(commands(build_parser()))
    run = {functions[name] for name in ARGUMENTS}
    assert {name for name, function in functions.items() if function not in run} == TOO_LONG


@pytest.mark.parametrize("command", ARGUMENTS)
def test_stdout_is_one_json_document(folder, command) -> None:
    (run,) = (path.parent for path in (folder / "ours").rglob("manifest.json"))
    arguments = [text.format(folder=folder, run=run) for text in ARGUMENTS[command]]
    done = subprocess.run(
        [sys.executable, "-c", LOUD, *command.split(), *arguments, "--json"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert "printed at once" in done.stderr
    assert "printed into a buffer" in done.stderr
