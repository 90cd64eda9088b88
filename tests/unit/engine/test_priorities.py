"""Classes of requests under priority scheduling: who waits when there is not enough for all."""

from __future__ import annotations

from pathlib import Path

import pytest

import helixsim
from helixsim.errors import ConfigError
from helixsim.metrics.summary import summarise

EXPERIMENT = """\
schema: 1
name: classes
model: llama-3-8b
cluster:
  nodes: [{gpu: rtx-4090}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 256, output_tokens: 64}
  arrivals: {process: poisson, rate: 9}
  classes:
    batch: {share: 0.6, priority: 1}
    chat: {share: 0.4}
  warmup: 10 s
  duration: 40 s
slo: {ttft: 60 s, classes: {chat: {ttft: 2 s}}}
engine: {name: vllm-1, max_num_seqs: 8, max_weight_fraction: 0.95}
systems: [{name: one, placement: separate}]
"""


def served(tmp_path: Path, *overrides: str):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path, list(overrides))
    placed = helixsim.place(experiment, "one")
    stats = experiment.workload_stats
    return summarise(
        helixsim.simulate(experiment, placed), slo=experiment.slo, fleet=experiment.fleet,
        placement=placed.placement, plan=placed.plan, mean_prompt_tokens=stats.mean_prompt_tokens,
        mean_output_tokens=stats.mean_output_tokens, offered_rps=stats.offered_rps,
    )  # fmt: skip


def test_the_class_of_the_lower_priority_number_is_served_first(tmp_path):
    fair = served(tmp_path)
    ranked = served(tmp_path, "engine.scheduling_policy=priority")
    assert fair.load.saturation == "OVERLOADED"
    assert fair.classes["chat"].ttft.p50_s > 2
    assert ranked.classes["chat"].ttft.p99_s < 2
    assert ranked.classes["batch"].ttft.p50_s > fair.classes["batch"].ttft.p50_s
    assert ranked.classes["chat"].slo_attainment == 1 > fair.classes["chat"].slo_attainment


def test_priorities_do_not_change_what_all_requests_together_get(tmp_path):
    fair, ranked = served(tmp_path), served(tmp_path, "engine.scheduling_policy=priority")
    tokens = [one.throughput.output_tokens_per_s for one in (fair, ranked)]
    assert abs(tokens[0] / tokens[1] - 1) < 0.02
    for one in (fair, ranked):
        assert one.throughput.completed == sum(part.completed for part in one.classes.values())


def test_priorities_need_the_scheduler_of_a_replica(tmp_path):
    """Where routes branch, nodes schedule what reaches them in order of arrival."""
    mixed = ["cluster.nodes=[{gpu: t4, count: 6}]", "systems=[{name: one, placement: swarm, routing: swarm}]"]
    with pytest.raises(ConfigError, match=r"engine\.scheduling_policy.*scheduling_policy needs routes that are chains"):
        served(tmp_path, *mixed, "engine.scheduling_policy=priority")
