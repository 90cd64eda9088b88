"""How fast the engine is. Outside the normal run: ``python -m pytest -m bench tests/bench``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import helixsim

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

CASES = {
    "single24 70B, published placement, 660 s": (
        "paper/single24-70b-published.yaml",
        ["engine.transfers=batch"],
        "helix",
    ),
    "the same, a message per request": ("paper/single24-70b-published.yaml", [], "helix"),
    "quickstart, Swarm, overloaded": ("quickstart.yaml", [], "swarm"),
}


@pytest.mark.bench
@pytest.mark.parametrize("case", CASES)
def test_simulate(case, benchmark):
    path, overrides, system = CASES[case]
    experiment = helixsim.load_experiment(EXPERIMENTS / path, overrides)
    placed = helixsim.place(experiment, system)
    result = benchmark.pedantic(helixsim.simulate, (experiment, placed), rounds=3)
    started_s = time.process_time()
    helixsim.simulate(experiment, placed)
    cpu_s = time.process_time() - started_s
    benchmark.extra_info |= {
        "cpu_s": round(cpu_s, 2),
        "output_tokens_per_cpu_s": round(int(result.series.output_tokens[-1]) / cpu_s),
        "token_hops_per_cpu_s": round(result.counters["token_hops"] / cpu_s),
        "events": result.counters["events"],
    }
