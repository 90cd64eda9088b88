"""What is timed: experiments as users write them, each in a process of its own so that memory is its own too."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAPER = "experiments/paper"
SINGLE24 = f"{PAPER}/published/single24-70b-offline.yaml"
MAX_RESERVED = ("kv.max_reserved_share=0.85",)
FED = (*MAX_RESERVED, "workload.arrivals={process: saturate, prompts_in_flight: 20, feed_below: 0.8}")
ONE, TEN, THOUSAND = (f"tests/bench/{name}.yaml" for name in ("one-replica", "ten-replicas", "thousand-nodes"))


@dataclass(frozen=True)
class Case:
    """One experiment; ``is_long``: minutes, run only when asked for."""

    title: str
    file: str
    system: str
    overrides: tuple[str, ...] = ()
    is_long: bool = False


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
    "g": Case("1 000 nodes, 70B, saturated, 600 s", THOUSAND, "homogeneous", is_long=True),
}  # fmt: skip

COMMANDS = {
    "helixsim --help": ["--help"],
    "helixsim validate": ["validate", "experiments/quickstart.yaml"],
    "helixsim profile list": ["profile", "list"],
}


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


def measure_apart(name: str) -> dict[str, float]:
    """Run one case in a fresh process."""
    command = [sys.executable, "-m", "tests.bench", "--inside", name]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def start_cpu_s(arguments: list[str]) -> float:
    """Return the CPU seconds of a command line from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "helixsim", *arguments], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
