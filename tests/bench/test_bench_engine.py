"""How fast the engine is, case by case. Outside the normal run: ``python -m pytest -m bench tests/bench``."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import helixsim
from tests.bench.cases import CASES, ROOT


@pytest.mark.bench
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.is_long])
def test_simulate(name, benchmark):
    case = CASES[name]
    experiment = helixsim.load_experiment(ROOT / case.file, case.overrides)
    placed = helixsim.place(experiment, case.system)
    started_s = time.process_time()
    result = benchmark.pedantic(helixsim.simulate, (experiment, placed), rounds=3)
    cpu_s = (time.process_time() - started_s) / 3
    benchmark.extra_info |= {
        "cpu_s": round(cpu_s, 2),
        "output_tokens_per_cpu_s": round(int(result.series.output_tokens[-1]) / cpu_s),
        "token_hops_per_cpu_s": round(result.counters["token_hops"] / cpu_s),
        "events": result.counters["events"],
    }


@pytest.mark.bench
def test_a_commit_against_itself_takes_the_same():
    command = [sys.executable, "-m", "tests.bench", "d-saturated", "--repeat", "3", "--against", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    row = done.stdout.splitlines()[-1].split("|")
    assert float(row[-2]) == pytest.approx(1.0, rel=0.5)
