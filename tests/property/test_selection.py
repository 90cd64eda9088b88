"""The placement that is chosen by simulation never loses to a baseline placement, on random small clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import InfeasibleError
from helixsim.study.evaluator import Evaluator
from helixsim.study.placing import place_system
from helixsim.study.systems import capacity_table

EXPERIMENT = """\
schema: 1
model: llama-2-13b
cluster:
  coordinator: {{region: a}}
  nodes: [{nodes}]
  network:
    intra_region: {{bandwidth: 10 Gbit/s, latency: 1 ms}}
    inter_region: {{bandwidth: {bandwidth} Mbit/s, latency: {latency} ms}}
workload:
  lengths: {{distribution: lognormal, prompt_mean: 300, prompt_cv: 1.0, output_mean: 60, output_cv: 0.8}}
  limits: {{max_prompt_tokens: 2000, max_output_tokens: 400}}
  arrivals: {arrivals}
  warmup: 5 s
  duration: 10 s
systems:
  - {{name: helix, placement: {{strategy: helix, criterion: balanced}}, routing: flow_weighted}}
  - {{name: swarm, placement: swarm}}
  - {{name: petals, placement: petals}}
  - {{name: separate, placement: separate}}
  - {{name: homogeneous, placement: homogeneous}}
"""


def random_experiment(seed: int, directory: Path) -> ResolvedExperiment:
    """Two to nine slow nodes in one or two regions, links from 100 Mbit/s, saturated or at a rate."""
    rng = np.random.default_rng(seed)
    regions = ("a", "b")[: int(rng.integers(1, 3))]
    nodes = [
        f"{{gpu: {gpu}, count: {count}, region: {region}}}"
        for region in regions
        for gpu, count in zip(("l4", "t4", "v100"), rng.integers((1, 0, 0), (4, 4, 2)), strict=True)
        if count
    ]
    arrivals = ("{process: saturate}", f"{{process: poisson, rate: {rng.choice([0.2, 1, 4])}}}")[int(rng.integers(2))]
    text = EXPERIMENT.format(
        nodes=", ".join(nodes), bandwidth=rng.choice([100, 1000, 10_000]), latency=rng.choice([1, 20, 50]),
        arrivals=arrivals,
    )  # fmt: skip
    path = directory / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return helixsim.load_experiment(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_the_chosen_placement_never_loses_to_a_baseline(seed: int, tmp_path: Path) -> None:
    experiment = random_experiment(seed, tmp_path)
    system, *others = experiment.systems
    baselines = {}
    for other in others:
        try:
            baselines[other.name] = place_system(experiment, other, by_flow=True).placement
        except InfeasibleError:
            continue
    evaluator = Evaluator(experiment, system, capacity_table(experiment, system))
    try:
        chosen = evaluator(place_system(experiment, system).placement)
    except InfeasibleError:
        assert not baselines, "a baseline holds the model, the search does not"
        return
    for name, baseline in baselines.items():
        assert chosen >= evaluator(baseline) - 1e-9, name
