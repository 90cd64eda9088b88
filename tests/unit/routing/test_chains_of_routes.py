"""Routes that are chains of whole nodes: one scheduler can form the steps of each."""

from __future__ import annotations

import pytest

import helixsim
from helixsim.domain.placement import LayerRange, Placement
from helixsim.routing.graph import chains, routing_graph
from helixsim.study.placing import assembled
from helixsim.study.systems import simulate_system

EXPERIMENT = """\
schema: 1
name: three-nodes
model: llama-3.1-8b
cluster:
  coordinator: {region: here}
  nodes: [{gpu: l4, count: 3, region: here}]
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 0.1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 1 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 10}
  arrivals: {process: poisson, rate: 1 /s}
  duration: 5 s
engine: vllm-1
systems: [{name: petals, placement: petals, routing: flow_weighted}]
"""


@pytest.mark.parametrize("start", [16, 20])
def test_a_node_that_is_entered_in_the_middle_of_its_layers_is_part_of_no_chain(tmp_path, start: int) -> None:
    """Layers that two neighbours hold are computed once: the second node runs fewer layers than it holds."""
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path)
    one, two, three = experiment.fleet.cluster.index
    ranges = {one: LayerRange(0, 10), two: LayerRange(10, 20), three: LayerRange(start, 32)}
    placed = assembled(experiment, experiment.systems[0], Placement("petals", 32, ranges, partial_inference=True))
    found = chains(routing_graph(placed.placement, placed.plan))
    assert found == ([[0, 1, 2]] if start == 20 else None)
    run = simulate_system(experiment, placed)
    assert (run.requests.finish_ns > 0).all()
    assert len(run.requests.finish_ns) > 0
