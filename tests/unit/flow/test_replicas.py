"""The operating point of replicas, against its closed form on one node and against the simulation on several."""

from __future__ import annotations

from pathlib import Path

import pytest

import helixsim
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.flow.operating import operating_point
from helixsim.study.systems import operating_load
from helixsim.units import NS_PER_S

EXPERIMENT = """\
schema: 1
name: saturated
model: llama-3.1-8b
cluster:
  nodes: [{gpu: rtx-4090}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 900, output_tokens: 150}
  arrivals: {process: saturate}
  warmup: 30 s
  duration: 60 s
engine: vllm-1
systems: [{name: one, placement: separate}]
"""


def placed(tmp_path: Path, *overrides: str):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    experiment = helixsim.load_experiment(path, list(overrides))
    return experiment, helixsim.place(experiment, "one")


def simulated_output_per_s(experiment, system) -> float:
    series = helixsim.simulate(experiment, system).series
    inside = series.time_ns >= experiment.workload.window.warmup_ns
    tokens, times = series.output_tokens[inside], series.time_ns[inside]
    return (tokens[-1] - tokens[0]) / ((times[-1] - times[0]) / NS_PER_S)


def test_all_sequences_of_one_node_share_each_step(tmp_path):
    """A round takes a step of all of them and, nearly in proportion, the prompts that come in it."""
    experiment, system = placed(tmp_path)
    point, (held,) = system.operating, system.placement.ranges.values()
    (profile,) = experiment.fleet.profiles
    time = StepTime(profile.compute, experiment.engine, held, held.end)
    running, context = point.requests, 900 + 150 / 2
    decodes = BatchShape(decode_seqs=running, decode_context=running * context, sampled=running)
    prompt = BatchShape(900, prefill_pairs(900), 1, sampled=1)
    prompt_ns = time.ns(prompt.joined(decodes)) - time.ns(decodes)
    assert point.round_trip_s == pytest.approx((time.ns(decodes) + running / 150 * prompt_ns) / NS_PER_S, rel=0.02)
    assert point.output_tokens_per_s == pytest.approx(running / point.round_trip_s)


CONVERSATIONS = (
    "workload.lengths=azure-conversation",
    "workload.limits={max_prompt_tokens: 4096, max_output_tokens: 512}",
    "workload.warmup=90 s",
    "workload.duration=180 s",
)
AFAR = (
    "cluster.nodes=[{gpu: h100, count: 3, region: here}]",
    "cluster.coordinator={region: there}",
    "cluster.network.inter_region={bandwidth: 1 Gbit/s, latency: 60 ms}",
    "model=qwen3-30b-a3b",
    "workload.duration=60 s",
)
"""Requests that take the places of others come after the next step has begun, and most gather in one."""
FOUR = ("cluster.nodes=[{gpu: rtx-4090, count: 4}]", "model=qwen2.5-32b")


@pytest.mark.parametrize(
    ("within", "overrides"),
    [
        (0.10, ()),
        (0.10, ("cluster.nodes=[{gpu: a100-80g}]",)),
        (0.10, CONVERSATIONS),
        (0.10, (*CONVERSATIONS, *FOUR)),
        (0.10, (*CONVERSATIONS, *FOUR, "engine.max_num_batched_tokens=512")),
        (0.10, (*CONVERSATIONS, "cluster.nodes=[{gpu: mi300x, count: 4}]", "model=llama-3.3-70b")),
        (0.10, (*CONVERSATIONS, "cluster.nodes=[{gpu: h100, gpus: 2, count: 3}]", "model=qwen3-30b-a3b")),
        (0.10, (*CONVERSATIONS, "cluster.nodes=[{gpu: l40s, gpus: 2, count: 2}]")),
        (0.05, (*CONVERSATIONS, *AFAR)),
    ],
)
def test_it_is_where_the_simulation_settles(tmp_path, within, overrides):
    experiment, system = placed(tmp_path, *overrides)
    assert simulated_output_per_s(experiment, system) == pytest.approx(system.operating.output_tokens_per_s, rel=within)


def test_less_load_takes_shorter_rounds(tmp_path):
    experiment, system = placed(tmp_path, "cluster.nodes=[{gpu: rtx-4090, count: 4}]", "model=qwen2.5-32b")
    load = operating_load(experiment, experiment.systems[0])
    points = [
        operating_point(experiment.fleet, system.placement, load, offered_output_per_s=rate)
        for rate in (1.0, 50.0, 150.0, 250.0, 1e6)
    ]
    trips_s = [point.offered_round_trip_s for point in points]
    assert trips_s == sorted(trips_s)
    assert trips_s[0] < 0.7 * trips_s[-1]
    assert trips_s[-1] == pytest.approx(system.operating.round_trip_s)
