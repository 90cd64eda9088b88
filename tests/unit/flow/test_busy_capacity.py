"""No node passes more than when it is always busy: against the simulation, and against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import builders
import pytest

import helixsim
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.result import RequestStatus
from helixsim.flow.busy import busy_capacity
from helixsim.flow.operating import operating_point
from helixsim.flow.station import OperatingLoad
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system
from helixsim.units import NS_PER_S

EXPERIMENT = """\
schema: 1
name: one-node
model: llama-3.1-8b
cluster:
  coordinator: {region: here}
  nodes: [{gpu: GPU, region: here}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.1 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: PROMPT, output_tokens: 100}
  arrivals: {process: saturate}
  warmup: 10 s
  duration: 20 s
  drain: false
engine: vllm-1
systems: [{name: replicas, placement: replicas, routing: least_loaded}]
"""


def bound_of(experiment: helixsim.ResolvedExperiment) -> float:
    """Output tokens/s that no node of an experiment with one kind of nodes exceeds."""
    stats, (profile,) = experiment.workload_stats, experiment.fleet.profiles
    prompt, output = stats.mean_prompt_tokens, stats.mean_output_tokens
    load = OperatingLoad(prompt, output, 1.0, output, experiment.engine, stats.prompt_spread)
    table = busy_capacity(experiment.fleet, load)
    return table.tables[profile.kind][experiment.fleet.model.num_layers - 1] * output / (prompt + output)


@pytest.mark.parametrize(("gpu", "prompt"), [("h100", 2000), ("l4", 300)])
def test_no_simulated_node_serves_more_than_one_that_is_always_busy(tmp_path: Path, gpu: str, prompt: int) -> None:
    """Of an empty node all that finishes was computed since; a window in which older prompts decode shows more."""
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT.replace("GPU", gpu).replace("PROMPT", str(prompt)))
    experiment = helixsim.load_experiment(path)
    run = simulate_system(experiment, place_system(experiment, experiment.systems[0]))
    finished = run.requests.status == RequestStatus.FINISHED
    served = 100 * int(finished.sum()) * NS_PER_S / int(run.requests.finish_ns[finished].max())
    assert 0.4 * bound_of(experiment) < served <= bound_of(experiment)


PROMPT, OUTPUT, SEQS = 400.0, 80.0, 8
LOAD = OperatingLoad(PROMPT, OUTPUT, 1.0, OUTPUT, EngineSpec(loops_inside=True, chunks_prompts=True))


def busiest(blocks: int = 10_000, seqs: int = SEQS, **compute) -> float:
    """Decode steps/s of a fleet of one node that holds the only layer."""
    kind = builders.profile("n", 1, kv_blocks=(blocks,), prefill_ns_per_token=1e5, decode_ns=1e6, max_decode_seqs=seqs)
    kind = replace(kind, compute=replace(kind.compute, **compute))
    fleet = builders.fleet([kind], num_layers=1)
    return busy_capacity(fleet, LOAD).tokens_per_s("n-0", 1) / LOAD.tokens_per_step


def test_where_times_are_linear_full_batches_with_their_share_of_prompts_are_the_busiest() -> None:
    """A step takes 1 ms and 0.1 ms for each prompt token, and brings 8 of 80 sequences to their ends."""
    expected = SEQS / (1e-3 + SEQS / OUTPUT * PROMPT * 1e-4)
    assert busiest() == pytest.approx(expected, rel=1e-4)
    resident = 16 * 200 / (PROMPT + OUTPUT / 2)  # sequences that memory holds at their mean context
    expected = resident / (1e-3 + resident / OUTPUT * PROMPT * 1e-4)
    assert busiest(blocks=200, seqs=64) == pytest.approx(expected, rel=1e-4)


def test_more_memory_or_sequences_never_lower_what_a_busy_node_passes() -> None:
    by_memory = [busiest(blocks=blocks, seqs=64) for blocks in (100, 200, 400, 3000)]
    by_sequences = [busiest(seqs=seqs) for seqs in (1, 4, 16, 64)]
    for found in (by_memory, by_sequences):
        assert found == sorted(found)
        assert found[-1] > 1.3 * found[0]


def test_nodes_that_prefill_beside_others_that_decode_are_within_the_bound() -> None:
    """One node is as fast with prompts as the other is with decodes: apart they serve more than each for itself."""
    slow = Curve((0.0, 1000.0), (0.0, 1e9))
    kinds = [
        builders.profile(name, 1, kv_blocks=(10_000,), decode_ns=decode_ns, max_decode_seqs=SEQS)
        for name, decode_ns in (("prefill", 1e9), ("decode", 1e6))
    ]
    kinds[1] = replace(kinds[1], compute=replace(kinds[1].compute, prefill=slow))
    fleet = builders.fleet(kinds, num_layers=1)
    table = busy_capacity(fleet, LOAD)
    prompts_per_s = 1 / (PROMPT * 1e-6)  # of the node that takes 1 us for a token and a second for a step
    together = min(prompts_per_s * OUTPUT, SEQS / 1e-3)
    bound = sum(table.tokens_per_s(node, 1) for node in fleet.cluster.index) / LOAD.tokens_per_step
    assert together <= bound < 1.5 * together
    alone = [busy_capacity(builders.fleet([kind], num_layers=1), LOAD).tables[kind.kind][0] for kind in kinds]
    assert sum(alone) / LOAD.tokens_per_step < 0.7 * together


@pytest.mark.parametrize("sizes", [(), (1, 2, 4, 8), (16, 32)])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_busy_node_passes_at_least_what_it_does_in_a_chain(nodes: int, sizes: tuple[int, ...]) -> None:
    kind = builders.profile("n", 2, kv_blocks=(4000, 2000), prefill_ns_per_token=2e4, decode_ns=1e6)
    kind = replace(kind, limits=tuple(replace(one, graph_sizes=sizes) for one in kind.limits))
    fleet = builders.fleet([kind] * nodes, num_layers=2 * nodes, intra=LinkSpec(1e15, 0))
    placement = builders.placement_of(fleet, {f"n-{i}": (2 * i, 2 * i + 2) for i in range(nodes)})
    assert busy_capacity(fleet, LOAD).tokens_per_s("n-0", 2) >= operating_point(fleet, placement, LOAD).tokens_per_s
