"""Nodes with layers that are on no route, beside a replica."""

from __future__ import annotations

from pathlib import Path

import helixsim
from helixsim.study.systems import simulate_system

EXPERIMENT = """\
schema: 1
name: stray
model: llama-3.1-8b
cluster:
  nodes: [{gpu: a100-80g, ids: [whole, part]}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 20}
  arrivals: {process: poisson, rate: 2, num_requests: 20}
engine: vllm-1
systems: [{name: one, placement: {strategy: fixed, file: placement.json}}]
"""


def test_a_node_on_no_route_is_idle_and_the_replica_serves_all(tmp_path: Path):
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    (tmp_path / "placement.json").write_text('{"layers": {"whole": [0, 32], "part": [0, 10]}}')
    experiment = helixsim.load_experiment(tmp_path / "exp.yaml", [])
    result = simulate_system(experiment, helixsim.place(experiment, "one"), check=True)
    assert result.requests.output_tokens.tolist() == [20] * 20
    assert result.nodes.node_id == ("whole", "part")
    assert result.nodes.batches[0] > 0
    assert result.nodes.batches[1] == result.nodes.decode_tokens[1] == result.series.busy_ns[-1, 1] == 0
