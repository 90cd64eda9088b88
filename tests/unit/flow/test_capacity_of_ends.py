"""Nodes with the first or the last layer also hold embedding or output head: what this leaves of their capacity."""

from __future__ import annotations

import json
from dataclasses import replace

import builders
import pytest

import helixsim
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import Ends
from helixsim.domain.placement import LayerRange
from helixsim.flow.capacity import paper_capacity
from helixsim.study.systems import capacity_table

PIPELINE = """\
schema: 1
name: pp8
model: llama-3-70b
cluster:
  nodes: [{gpu: l4, count: 8}]
  network: {intra_region: {bandwidth: 100 Gbit/s, latency: 0.05 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 500, output_tokens: 100}
  arrivals: {process: saturate}
  warmup: 60 s
  duration: 60 s
engine: {name: vllm-1, max_weight_fraction: 0.95, max_num_batched_tokens: 2048}
systems:
  - {name: even, placement: {strategy: fixed, file: even.json}}
  - {name: lighter-ends, placement: {strategy: fixed, file: lighter-ends.json}}
"""
CUTS = {"even": range(0, 81, 10), "lighter-ends": (0, 9, 19, 29, 40, 51, 61, 71, 80)}


@pytest.fixture
def pipelines(tmp_path):
    """An experiment with two ways to cut a model into eight stages, of which the ends hold as much or less."""
    for name, cuts in CUTS.items():
        layers = {f"l4-{stage}": [cuts[stage], cuts[stage + 1]] for stage in range(8)}
        (tmp_path / f"{name}.json").write_text(json.dumps({"layers": layers}))
    path = tmp_path / "exp.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.mark.parametrize("model", ["paper", "kv_limited"])
def test_lighter_ends_serve_more_by_every_estimate_and_by_simulation(pipelines, model):
    """vLLM PR 6920: eight L4 with 70B have twice the KV blocks and 1.46 times the throughput with lighter ends."""
    experiment = helixsim.load_experiment(pipelines, [f"capacity.model={model}"])
    figures = {}
    for name in CUTS:
        placed = helixsim.place(experiment, name)
        served = helixsim.simulate(experiment, placed).requests.output_tokens.sum()
        figures[name] = placed.plan.max_flow_tokens_per_s, placed.operating.tokens_per_s, served
    assert all(more > 1.1 * less for less, more in zip(figures["even"], figures["lighter-ends"], strict=True))


@pytest.mark.parametrize("engine", ["ideal", "helix-vllm-0.4"])
@pytest.mark.parametrize("model", ["paper", "kv_limited"])
def test_the_engines_of_the_paper_have_no_ends(pipelines, engine, model):
    changes = [f"engine={engine}", f"capacity.model={model}", "systems=[{name: one, placement: swarm}]"]
    experiment = helixsim.load_experiment(pipelines, [*changes, "model=llama-2-70b"])
    assert capacity_table(experiment, experiment.systems[0]).ends == {}


def table_of(ends=Ends(), head=None, engine=EngineSpec(has_output_head=True)):  # noqa: B008
    """Four layers on two nodes with twelve or fewer KV blocks of a byte a layer."""
    kind = builders.profile("n", 4, kv_blocks=(48, 24, 16, 12))
    kind = replace(kind, ends_bytes=ends, block_bytes=1.0, compute=replace(kind.compute, head=head))
    return paper_capacity(builders.fleet([kind] * 2, num_layers=4), 100.0, 100.0, 0.5, engine)


FIRST, INNER, LAST, WHOLE = LayerRange(0, 1), LayerRange(1, 2), LayerRange(3, 4), LayerRange(0, 4)


def left(table, held):
    """What a node passes with these layers, over as many inner ones."""
    return table.held_tokens_per_s("n-0", held, 4) / table.tokens_per_s("n-0", held.layers)


def test_memory_of_an_end_is_missing_where_it_lies():
    table = table_of(Ends(24, 12, 36))
    assert left(table, INNER) == 1
    assert left(table, FIRST) < left(table, LAST) < 1
    assert left(table, WHOLE) < 1
    assert left(table_of(Ends(24, 12, 0)), WHOLE) == 1
    assert table.tables == table_of().tables


def test_the_output_head_takes_time_of_the_last_node_alone():
    table = table_of(head=Curve((1.0,), (1e6,)))
    assert left(table, FIRST) == left(table, INNER) == 1
    assert left(table, LAST) < 1
    assert left(table, LayerRange(2, 4)) > left(table, LAST), "beside more layers it matters less"
    assert left(table_of(head=Curve((1.0,), (1e6,)), engine=EngineSpec()), LAST) == 1
