"""Gives the tests of report the hand-made runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    name = "helixsim_fake_runs"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "metrics" / "fake_runs.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def run_dir(fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four systems, one of them overloaded, one with an awkward name, written as a run writes them."""
    from helixsim.domain.request import Slo
    from helixsim.metrics.summary import summarise
    from helixsim.report.files import SystemReport, write_results

    directory = tmp_path_factory.mktemp("run")
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
        systems.append(SystemReport(name, summary, run, placement, plan, fleet))
    write_results(directory, "fake", "swarm", slo, systems)
    return directory
