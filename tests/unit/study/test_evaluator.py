"""The evaluator prefers what keeps up with the load, then what the criterion asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import helixsim
from helixsim.errors import ConfigError
from helixsim.study.evaluator import Evaluator
from helixsim.study.systems import capacity_table

EXPERIMENT = """\
schema: 1
model: llama-2-13b
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: a100-40g, count: 1, region: a}
    - {gpu: t4, count: 4, region: a}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 10 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 300, output_tokens: 60}
  arrivals: {process: poisson, rate: 1 /s}
  warmup: 10 s
  duration: 60 s
systems:
  - {name: a, placement: {strategy: separate}}
slo: {ttft: 5 s}
"""


@pytest.fixture
def experiment(tmp_path: Path):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return lambda *overrides: helixsim.load_experiment(path, overrides)


def scores(experiment, criterion: str = "balanced") -> tuple[float, float]:
    """Scores of two placements: everything on the A100, or one pipeline of the four T4."""
    placement = helixsim.place(experiment, "a").placement
    system = experiment.systems[0]
    evaluator = Evaluator(experiment, system, capacity_table(experiment, system))
    evaluator.criterion = criterion
    halves = [
        replace(placement, ranges={n: r for n, r in placement.ranges.items() if n.startswith(kind)}, pipelines={})
        for kind in ("a100", "t4")
    ]
    return evaluator(halves[0]), evaluator(halves[1])


def test_at_a_light_load_both_keep_up_and_the_faster_wins(experiment):
    fast, slow = scores(experiment("workload.arrivals.rate=0.5"))
    assert fast > slow > 0


def test_what_falls_behind_ranks_below_what_keeps_up(experiment):
    fast, slow = scores(experiment("workload.arrivals.rate=4"))
    assert fast > 0 > slow


def test_where_both_fall_behind_the_larger_throughput_wins(experiment):
    fast, slow = scores(experiment("workload.arrivals.rate=300"))
    assert 0 > fast > slow


def test_under_saturation_the_criteria_are_throughput_latency_and_their_balance(experiment):
    saturated = experiment("workload.arrivals={process: saturate}")
    served, each, balanced = (scores(saturated, criterion) for criterion in ("throughput", "latency", "balanced"))
    result = helixsim.simulate(saturated, helixsim.place(saturated, "a"))
    together = (result.series.output_tokens[-1] - result.series.output_tokens[0]) / (result.end_ns / 1e9)
    assert served[0] > served[1] > 0
    assert sum(served) == pytest.approx(together, rel=0.25)
    for whole, share, both in zip(served, each, balanced, strict=True):
        assert whole > share > 0
        assert both == pytest.approx(whole * share**0.5)


def test_goodput_needs_an_objective(experiment):
    loaded = experiment("slo={}", "systems.0.placement={strategy: helix, criterion: goodput}")
    with pytest.raises(ConfigError, match="criterion goodput needs an objective"):
        Evaluator(loaded, loaded.systems[0], capacity_table(loaded, loaded.systems[0]))
