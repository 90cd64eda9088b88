"""What is timed: experiments as users write them, each in a process of its own so that memory is its own too."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAPER = "experiments/paper"
SINGLE24 = f"{PAPER}/published/single24-70b-offline.yaml"
MAX_RESERVED = ("kv.max_reserved_share=0.85",)
FED = (*MAX_RESERVED, "workload.arrivals={process: saturate, prompts_in_flight: 20, feed_below: 0.8}")
VLLM = ("engine=vllm-1",)
ONE, TEN, THOUSAND, THREE_THOUSAND, TEN_THOUSAND = (
    f"tests/bench/{name}.yaml"
    for name in ("one-replica", "ten-replicas", "thousand-nodes", "three-thousand-nodes", "ten-thousand-nodes")
)


@dataclass(frozen=True)
class Case:
    """One experiment.

    Parameters
    ----------
    is_long
        Minutes, run only when asked for.
    formerly
        Case with which a commit that lacks this one is compared: the same load on the engine of its time.
    """

    title: str
    file: str
    system: str
    overrides: tuple[str, ...] = ()
    is_long: bool = False
    formerly: str | None = None


def _requests(count: int) -> tuple[str, ...]:
    return (f"workload.arrivals.num_requests={count}",)


def _short_answers(count: int) -> tuple[str, ...]:
    return (*_requests(count), "workload.limits={max_output_tokens: 20}", "workload.arrivals.rate=80")


CASES = {
    "a": Case(
        "24 nodes, 70B, published placement, saturated, 660 s", SINGLE24, "helix", ("engine.transfers=batch", *FED)
    ),
    "a-request": Case("the same, a message per request", SINGLE24, "helix", FED),
    "b": Case(
        "the same online, 0.9 requests/s", SINGLE24, "helix",
        ("engine.transfers=batch", *MAX_RESERVED, "workload.arrivals={process: poisson, rate: 0.9}"),
    ),
    "c": Case(
        "42 nodes, 70B, published placement, saturated, 660 s", f"{PAPER}/het42-70b.yaml", "helix-published",
        ("engine.transfers=batch", "workload.warmup=60 s"),
    ),
    "c-request": Case(
        "the same, a message per request", f"{PAPER}/het42-70b.yaml", "helix-published", ("workload.warmup=60 s",)
    ),
    "d": Case("1 A100 80G, 8B, 1 000 requests at 2/s", ONE, "replicas"),
    "d-saturated": Case("the same, all at once", ONE, "replicas", ("workload.arrivals.rate=1000",)),
    "e": Case("10 A100 80G, 8B, 10 000 requests at 20/s", TEN, "replicas"),
    "f-100k": Case("the same, 100 000 requests", TEN, "replicas", _requests(100_000), is_long=True),
    "f-1m": Case("the same, 1 000 000 requests", TEN, "replicas", _requests(1_000_000), is_long=True),
    "s-10k": Case("10 A100 80G, short answers, 10 000 requests at 80/s", TEN, "replicas", _short_answers(10_000)),
    "s-1m": Case("the same, 1 000 000 requests", TEN, "replicas", _short_answers(1_000_000), is_long=True),
    "u": Case("d under vllm-1: 1 A100 80G, 8B, 1 000 requests at 2/s", ONE, "replicas", VLLM, formerly="d"),
    "v": Case(
        "e under vllm-1: 10 A100 80G, 8B, 10 000 requests at 20/s", TEN, "replicas", VLLM, formerly="e"
    ),
    "v-100k": Case(
        "v with 100 000 requests", TEN, "replicas", (*VLLM, *_requests(100_000)), is_long=True, formerly="f-100k"
    ),
    "v-1m": Case(
        "v with 1 000 000 requests", TEN, "replicas", (*VLLM, *_requests(1_000_000)), is_long=True, formerly="f-1m"
    ),
    "g": Case("1 000 nodes, 70B, saturated, 600 s", THOUSAND, "homogeneous", is_long=True),
}  # fmt: skip

COMMANDS = {
    "helixsim --help": ("--help",),
    "helixsim validate": ("validate", "experiments/quickstart.yaml"),
    "helixsim profile list": ("profile", "list"),
    "helixsim run, 1 000 requests": ("run", ONE),
    "helixsim run, 1 000 requests under vllm-1": ("run", ONE, "--set", *VLLM),
    "helixsim run, 10 000 requests under vllm-1": ("run", TEN, "--set", *VLLM),
}
LONG_COMMANDS = {
    "helixsim place, 1 000 nodes": ("place", THOUSAND, "--system", "helix", "--by-flow"),
    "helixsim place, 3 000 nodes": ("place", THREE_THOUSAND, "--by-flow"),
    "helixsim place, 10 000 nodes in ten regions": ("place", TEN_THOUSAND, "--by-flow"),
    "helixsim place, 3 000 nodes, with a race": ("place", THREE_THOUSAND),
    "helixsim place, 10 000 nodes in ten regions, with a race": ("place", TEN_THOUSAND),
} | {
    f"helixsim run, {title} requests under vllm-1": (
        "run",
        TEN,
        "--set",
        *VLLM,
        "--set",
        *_requests(count),
    )
    for title, count in (("100 000", 100_000), ("1 000 000", 1_000_000))
}
"""Whole commands, from start to the last figure of the report; those of ``run`` write into a folder of their own."""


def measure(name: str) -> dict[str, float]:
    """Run one case in this process and return its figures."""
    import helixsim

    case = CASES[name]
    experiment = helixsim.load_experiment(ROOT / case.file, case.overrides)
    placed = helixsim.place(experiment, case.system)
    started_s = time.process_time()
    result = helixsim.simulate(experiment, placed)
    cpu_s = time.process_time() - started_s
    return {
        "cpu_s": cpu_s,
        "before_s": started_s,
        "requests": len(result.requests.status),
        "output_tokens": int(result.series.output_tokens[-1]),
        "token_hops": result.counters["token_hops"],
        "events": result.counters["events"],
        "simulated_s": result.end_ns / 1e9,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took."""

    cpu_s: float
    peak_rss_bytes: int


def measure_apart(name: str, root: Path = ROOT) -> dict[str, float] | None:
    """Run one case of the code in ``root`` in a fresh process; None if that code has no such case."""
    done, _ = run_python(["-m", "tests.bench", "--inside", name], root)
    if done.returncode == _USAGE:
        return None
    require_success(done)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure_command(arguments: Sequence[str], root: Path = ROOT) -> Spent | None:
    """Run a command line of the code in ``root``, start to end; None if that code does not take it."""
    with tempfile.TemporaryDirectory() as out:
        writes = ("--out", out, "-q") if arguments[0] == "run" else ()
        done, spent = run_python(["-m", "helixsim", *arguments, *writes], root)
    if done.returncode == _USAGE:
        return None
    require_success(done)
    return spent


_USAGE = 2


def run_python(arguments: Sequence[str], root: Path) -> tuple[subprocess.CompletedProcess[str], Spent]:
    """Run Python with the code in ``root``, which has been compiled, as that of an installed package has."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(root)
    _compile(root, tuple(environment.items()))
    return run_timed([sys.executable, *arguments], root, environment)


@lru_cache
def _compile(root: Path, environment: tuple[tuple[str, str], ...]) -> None:
    command = [sys.executable, "-m", "compileall", "-q", "helixsim", "tests/bench"]
    subprocess.run(command, cwd=root, env=dict(environment), check=True)


def run_timed(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], Spent]:
    """Run a command; the processes that it started and waited for count, too."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())
    return done, Spent(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def require_success(done: subprocess.CompletedProcess[str]) -> None:
    """End with what a command said if it failed."""
    if done.returncode:
        sys.exit(f"{' '.join(map(str, done.args))}: exit code {done.returncode}\n{done.stderr}")
