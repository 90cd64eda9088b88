"""How fast the engine is, case by case. Outside the normal run: ``python -m pytest -m bench tests/bench``."""

from __future__ import annotations

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
