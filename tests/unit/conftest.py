"""Gives the tests of metrics, results and report the hand-made runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helixsim.results.runset import RunSet


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    name = "helixsim_fake_runs"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "metrics" / "fake_runs.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def fake_runs(fakes: ModuleType) -> RunSet:
    """Four systems, one of them overloaded, one with an awkward name."""
    from helixsim.domain.request import Slo
    from helixsim.metrics.summary import summarise
    from helixsim.results.run import Run, Simulation
    from helixsim.results.runset import RunSet

    slo = Slo(ttft_s=1.0, tpot_s=0.04)
    fleet = fakes.fleet()
    placement, plan = fakes.placement(fleet), fakes.plan(fleet)
    cases = {
        "helix": {},
        "swarm": {"rate_rps": 12.0, "count": 1500},
        "petals": {"seed": 1},
        "a/b <i>": {"step_ms": 45.0},
    }
    systems = []
    for name, options in cases.items():
        run = fakes.queue_run(**options).run
        summary = summarise(
            run, slo=slo, fleet=fleet, placement=placement, plan=plan,
            mean_prompt_tokens=255.0, mean_output_tokens=30.0, offered_rps=4.0,
        )  # fmt: skip
        systems.append(Run(name, summary, {}, Simulation(run, placement, plan, fleet)))
    return RunSet.of("fake", "swarm", slo, systems)


@pytest.fixture(scope="session")
def run_dir(fake_runs: RunSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, written as a run writes them."""
    directory = tmp_path_factory.mktemp("run")
    fake_runs.write(directory)
    return directory
