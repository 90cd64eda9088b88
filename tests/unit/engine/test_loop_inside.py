"""Engines whose loop stays inside: a node computes all its sequences in each step, whatever the links take."""

from __future__ import annotations

from pathlib import Path

import pytest

import helixsim
from helixsim.metrics.summary import summarise

EXPERIMENT = """\
schema: 1
name: inside
model: llama-3-8b
cluster:
  nodes: [{gpu: rtx-4090}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 128, output_tokens: 128}
  arrivals: {process: closed_loop, concurrency: 2}
  warmup: 5 s
  duration: 15 s
engine: {name: vllm-1, max_weight_fraction: 0.95}
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


def test_two_in_flight_make_almost_twice_the_tokens_of_one(tmp_path):
    """Decode of 8B reads its weights once a step for all sequences (InferenceX issue 828: x 1.8 for each doubling)."""
    rates = [
        served(tmp_path, f"workload.arrivals.concurrency={count}").throughput.output_tokens_per_s
        for count in (1, 2, 3, 8, 32)
    ]
    assert rates[1] >= 1.9 * rates[0]
    assert rates == sorted(rates)
    assert rates[4] > 20 * rates[0]


def test_time_per_token_does_not_fall_with_the_number_in_flight(tmp_path):
    times = [served(tmp_path, f"workload.arrivals.concurrency={count}").tpot.p50_s for count in (1, 2, 8, 32)]
    assert times == sorted(times)
    assert times[1] < 1.05 * times[0]
    assert times[3] < 1.3 * times[0]


@pytest.mark.parametrize("nodes", ["[{gpu: rtx-4090}]", "[{gpu: rtx-4090, count: 3}]"])
def test_a_latency_of_nothing_and_of_a_microsecond_are_the_same(tmp_path, nodes):
    model = "model=llama-3-8b" if "count" not in nodes else "model=llama-2-13b"
    rates = [
        served(
            tmp_path, model, f"cluster.nodes={nodes}", f"cluster.network.intra_region.latency={latency}",
            "workload.arrivals.concurrency=6",
        ).throughput.output_tokens_per_s
        for latency in ("0 s", "1 us")
    ]  # fmt: skip
    assert rates[1] == pytest.approx(rates[0], rel=0.01)


def test_no_more_sequences_run_than_a_step_holds(tmp_path):
    few = served(tmp_path, "workload.arrivals.concurrency=32", "engine.max_num_seqs=4")
    assert few.tpot.p50_s < 1.1 * served(tmp_path, "workload.arrivals.concurrency=4").tpot.p50_s
    assert few.ttft.p50_s > 5  # the others wait for admission
