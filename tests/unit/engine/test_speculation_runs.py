"""Speculative decoding in whole runs: steps, tokens and memory follow the number of accepted draft tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import helixsim
from helixsim.study.systems import simulate_system

EXPERIMENT = """\
schema: 1
name: drafted
model: llama-3.1-8b
max_context_tokens: 32768
cluster:
  nodes: [{gpu: rtx-4090}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 300, output_tokens: 121}
  arrivals: {process: closed_loop, concurrency: 4, num_requests: 40}
engine: vllm-1
systems: [{name: one, placement: separate}]
"""


def run(tmp_path: Path, *overrides: str):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path, list(overrides))
    return simulate_system(experiment, helixsim.place(experiment, "one"), check=True)


def speculative(**keys) -> str:
    return "engine.speculative={" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


def test_no_draft_tokens_are_no_speculation(tmp_path):
    plain, none = run(tmp_path), run(tmp_path, speculative(k=0, acceptance=0.5))
    assert np.array_equal(plain.requests.finish_ns, none.requests.finish_ns)


def test_with_all_accepted_there_are_so_many_fewer_steps(tmp_path):
    alone = "workload.arrivals={process: closed_loop, concurrency: 1, num_requests: 5}"
    plain, drafted = run(tmp_path, alone), run(tmp_path, alone, speculative(k=3, acceptance=1))
    assert plain.nodes.batches[0] == 5 * 121
    assert drafted.nodes.batches[0] == 5 * (1 + 120 // 4)
    assert drafted.requests.output_tokens.tolist() == [121] * 5
    assert drafted.window_end_ns < 0.4 * plain.window_end_ns


def test_drafts_that_are_never_accepted_cost_time_and_gain_none(tmp_path):
    plain = run(tmp_path)
    ends = [run(tmp_path, speculative(k=3, acceptance=0, draft_cost=cost)).window_end_ns for cost in (0, 0.1)]
    assert plain.window_end_ns < ends[0] < ends[1]
    assert ends[1] == pytest.approx(plain.window_end_ns * (1 + 3 * 0.1), rel=0.1)


def test_tokens_per_step_are_those_of_the_acceptance(tmp_path):
    """With rates of 0.8, 0.64 and 0.512, a step yields 2.952 tokens."""
    result = run(tmp_path, speculative(k=3, acceptance=0.8), "workload.lengths.output_tokens=1001")
    steps = result.gaps.count.sum()
    assert 40 * 1000 / steps == pytest.approx(2.952, rel=0.02)


def test_more_drafts_gain_less_in_large_batches(tmp_path):
    """Weights are read once for all tokens of a step, but many tokens are no longer free to multiply."""
    gains = []
    for count in (1, 64):
        load = f"workload.arrivals={{process: closed_loop, concurrency: {count}, num_requests: {3 * count}}}"
        few = ("workload.lengths.prompt_tokens=64", load)
        gains.append(
            run(tmp_path, *few).window_end_ns / run(tmp_path, *few, speculative(k=4, acceptance=0.7)).window_end_ns
        )
    assert gains[0] > 1.2 * gains[1] > 1


def test_short_memory_preempts_and_loses_nothing(tmp_path):
    """check=True compares the blocks in use with those of all sequences at each sample."""
    nodes = "cluster.nodes=[{gpu: rtx-4090, kv_tokens: 1600}]"
    more = "workload.arrivals={process: closed_loop, concurrency: 8, num_requests: 40}"
    result = run(tmp_path, nodes, more, speculative(k=3, acceptance=0.7), "workload.lengths.output_tokens=200")
    assert result.counters["preemptions"] > 0
    assert result.requests.output_tokens.tolist() == [200] * 40


def test_a_pipeline_decodes_with_drafts(tmp_path):
    two = ("cluster.nodes=[{gpu: rtx-4090, count: 2}]", "model=llama-2-13b", "max_context_tokens=4096")
    plain, drafted = run(tmp_path, *two), run(tmp_path, *two, speculative(k=3, acceptance=0.8))
    assert drafted.requests.output_tokens.tolist() == [121] * 40
    assert drafted.window_end_ns < 0.7 * plain.window_end_ns
