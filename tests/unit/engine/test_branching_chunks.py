"""Prompts that are cut at the first stage of routes that branch and merge, and the token budget of each node."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields, replace
from typing import NamedTuple

import builders
import numpy as np
import pytest
from simulating import MS, inputs_of, random_load, requests, run

from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import BatchLimits
from helixsim.domain.result import RequestStatus
from helixsim.engine import worker as worker_module
from helixsim.engine.simulate import simulate
from helixsim.engine.worker import Worker

CHUNKS = EngineSpec("chunks", loops_inside=True, chunks_prompts=True)
WHOLE = replace(CHUNKS, chunks_prompts=False)


def kind_of(name="n", *, budget=4096, prompts=64, **more):
    """A profile of up to four layers with this token budget."""
    kind = builders.profile(name, 4, kv_blocks=(4800, 2400, 1600, 1200), **more)
    return replace(kind, limits=tuple(BatchLimits(prompts, budget, 64) for _ in kind.limits))


def case_of(*nodes, is_shared=False, **links):
    """A placement of (kind, first layer, end) on a model of four layers."""
    fleet = builders.fleet([kind for kind, _, _ in nodes], num_layers=4, **links)
    network = replace(fleet.cluster.network, is_shared=is_shared)
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    ranges = {node.id: (start, end) for node, (_, start, end) in zip(fleet.cluster.nodes, nodes, strict=True)}
    tables = {kind.kind: (400.0, 200.0, 150.0, 100.0) for kind, _, _ in nodes}
    return fleet, builders.capacity_of(fleet, tables), builders.placement_of(fleet, ranges, partial_inference=True)


def branching(kind, second=None, **links):
    """One node before two."""
    return case_of((kind, 0, 2), (second or kind, 2, 4), (second or kind, 2, 4), **links)


def merging(kind, second=None, **links):
    """Two nodes before one."""
    return case_of((kind, 0, 2), (kind, 0, 2), (second or kind, 2, 4), **links)


class Chunk(NamedTuple):
    """A part of a prompt in a step."""

    number: int
    past: int
    tokens: int
    is_last: bool


@pytest.fixture
def steps(monkeypatch):
    """All steps of a run: node -> [(chunks, decodes)]."""
    found = defaultdict(list)
    original = Worker._duration_ns

    def watch(self, prefills, decodes, seqs):
        chunks = [Chunk(p.number, p.past, p.tokens, p.cohorts[0].is_last) for p in prefills]
        assert seqs == sum(parcel.tokens for parcel in decodes)
        found[self.node_id].append((chunks, seqs))
        return original(self, prefills, decodes, seqs)

    monkeypatch.setattr(Worker, "_duration_ns", watch)
    return found


def test_a_prompt_in_three_chunks_by_hand():
    """Each chunk leaves when it is computed; the link, which is the slowest here, is busy from the first one on."""
    result = run(branching(kind_of(budget=40)), requests((0, 100, 1)), engine=CHUNKS)
    arrived_ns, sending_ns, latency_ns = MS + 100 * 2 * 8, 100 * 1002 * 8, MS
    assert result.requests.first_token_ns[0] == arrived_ns + 80_000 + sending_ns + latency_ns + 40_000
    assert result.requests.compute_ns[0] == 80_000 + 80_000 + 40_000 + 40_000
    assert result.requests.queue_ns[0] == 0
    assert sorted(result.nodes.batches) == [0, 3, 3]
    assert sorted(result.nodes.prompt_tokens) == [0, 100, 100]
    messages = dict(zip(zip(result.links.src, result.links.dst, strict=True), result.links.messages, strict=True))
    assert sorted(messages.values()) == [1, 3]


def test_the_wait_between_two_chunks_is_queue_and_the_time_of_each_is_compute(steps):
    """The second prompt waits for the first one, then for the budget."""
    case = branching(kind_of(budget=40))
    result = run(case, requests((0, 60, 1), (0, 70, 1)), engine=CHUNKS)
    assert [[chunk[1:] for chunk in chunks] for chunks, _ in steps["n-0"]] == [
        [(0, 40, False)], [(40, 20, True), (0, 20, False)], [(20, 40, False)], [(60, 10, True)],
    ]  # fmt: skip
    # First stage: steps of 80, 80, 80 and 20 us; the second prompt reaches it 70 tokens x 2 B x 8 ns after the first.
    last = result.requests
    parts = last.queue_ns + last.compute_ns + last.network_ns
    np.testing.assert_array_equal(parts, last.finish_ns - last.arrival_ns)
    assert list(last.compute_ns) == [80_000 + 80_000 + 40_000, 80_000 + 80_000 + 20_000 + 20_000]
    assert last.queue_ns[1] == 80_000 - 70 * 2 * 8


@pytest.mark.parametrize("threshold", [0, 7])
@pytest.mark.parametrize("is_shared", [False, True])
def test_laws_of_steps(steps, monkeypatch, threshold, is_shared):
    """Budget, order, work and tokens, on routes that merge and branch, also from layers inside a node."""
    first, second = kind_of("a", budget=48), kind_of("b", budget=33)
    head = Curve((1.0, 9.0), (4e5, 7e5))
    second = replace(second, compute=replace(second.compute, prefill_ns_per_pair=2.0, head=head))
    case = case_of((first, 0, 2), (first, 0, 2), (second, 2, 4), (second, 0, 4), is_shared=is_shared)
    shapes = []
    original = worker_module._shape
    monkeypatch.setattr(
        worker_module, "_shape", lambda *parcels: shapes.append(original(*parcels)) or original(*parcels)
    )
    load = random_load(3, 60, rate_rps=400.0, prompt=100, output=12)
    engine = replace(CHUNKS, long_prefill_token_threshold=threshold, has_output_head=True)
    result = run(case, load, engine=engine)
    assert set(result.requests.status) == {RequestStatus.FINISHED}
    parts_of = defaultdict(list)
    for node, taken in steps.items():
        budget = 48 if node.startswith("a") else 33
        for chunks, decodes in taken:
            assert 0 < decodes + sum(chunk.tokens for chunk in chunks) <= budget
            assert all(chunk.tokens <= (threshold or 33) for chunk in chunks)
            for chunk in chunks:
                parts_of[node, chunk.number].append(chunk)
    assert max(map(len, parts_of.values())) > 3
    by_prompt = defaultdict(list)
    for (_, number), chunks in parts_of.items():
        ends = np.cumsum([chunk.tokens for chunk in chunks])
        assert [chunk.past for chunk in chunks] == [0, *ends[:-1]]
        assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        by_prompt[number].append([chunk.tokens for chunk in chunks])
    assert all(len({tuple(cuts) for cuts in found}) == 1 for found in by_prompt.values())  # cut once, at the first
    hops = sum(len(found) * sum(found[0]) ** 2 / 2 for found in by_prompt.values())
    assert sum(shape.prefill_pairs for shape in shapes) == hops
    assert sum(shape.sampled - shape.decode_seqs for shape in shapes) == len(parts_of)
    assert result.series.output_tokens[-1] == sum(request.output_tokens for request in load)


@pytest.mark.parametrize("make", [branching, merging])
def test_a_budget_above_all_prompts_changes_nothing(make):
    case = make(kind_of())
    load = random_load(5, 60, rate_rps=300.0, prompt=40, output=12)
    cut, whole = (run(case, load, engine=engine) for engine in (CHUNKS, WHOLE))
    for field in fields(cut.requests):
        np.testing.assert_array_equal(getattr(cut.requests, field.name), getattr(whole.requests, field.name))
    for name in ("batches", "prompt_tokens", "decode_tokens"):
        np.testing.assert_array_equal(getattr(cut.nodes, name), getattr(whole.nodes, name))
    assert cut.counters == whole.counters
    assert cut.gaps.sum_squares_ns2 == whole.gaps.sum_squares_ns2


class Own:
    """A batching policy of a user."""

    def plan(self, prefill_tokens, decode_seqs, limits):
        return min(len(prefill_tokens), 1), decode_seqs


@pytest.mark.parametrize("batching", ["own", "prefill_first"])
def test_other_policies_plan_whole_prompts(steps, batching):
    known = "prefill_first" if batching == "prefill_first" else "continuous"
    inputs = inputs_of(branching(kind_of(budget=40)), requests((0, 100, 3), (0, 90, 3)), batching=known, engine=CHUNKS)
    result = simulate(replace(inputs, batching=Own()) if batching == "own" else inputs)
    assert {(chunk.past, chunk.is_last) for taken in steps.values() for chunks, _ in taken for chunk in chunks} == {
        (0, True)
    }
    assert set(result.requests.status) == {RequestStatus.FINISHED}


def test_a_long_prompt_delays_decodes_by_its_chunks_only():
    """The largest gap between tokens is a few steps of a chunk each, not one step of 3 000 tokens."""
    load = requests(*((0, 10, 200) for _ in range(16)), (100, 3000, 5))
    gaps = []
    for budget in (128, 4096):
        case = branching(kind_of(budget=budget, prefill_ns_per_token=50_000.0))
        gaps.append(run(case, load, engine=CHUNKS).gaps.value_ns.max())
    step_ns = 2 * (128 * 50_000 + MS)  # two layers, with the decode steps
    assert gaps[0] < 5 * step_ns  # on each stage one, and one that is under way there; messages
    assert gaps[1] > 2 * 3000 * 50_000 > 5 * step_ns


def test_a_chunk_that_overtakes_an_earlier_one_of_its_prompt_on_the_way_waits_for_it(steps):
    """On an evenly shared link the short last chunk is there first."""
    case = branching(kind_of(budget=200), is_shared=True)
    result = run(case, requests((0, 210, 1)), engine=CHUNKS)
    second = next(taken for node, taken in steps.items() if node != "n-0")
    assert [chunk[1:] for chunks, _ in second for chunk in chunks] == [(0, 200, False), (200, 10, True)]
    # The link ends both after 210 tokens, the short chunk earlier; it is computed behind the long one.
    sent_ns = MS + 210 * 2 * 8 + 400_000 + 210 * 1002 * 8
    assert result.requests.first_token_ns[0] == pytest.approx(sent_ns + MS + 400_000 + 20_000, abs=2)
    assert result.requests.queue_ns[0] == 400_000  # behind the long one, on the second stage


def test_a_chunk_that_never_fits_beside_the_decodes_waits_for_one_step(steps):
    """More sequences than its budget decode on a slow node: a chunk waits until it has been passed over once."""
    case = merging(kind_of("fast", budget=20), kind_of("slow", budget=20, decode_ns=10 * MS))
    result = run(case, requests(*((0, 1, 50) for _ in range(40)), (300, 60, 2)), engine=CHUNKS)
    late = result.requests
    assert late.first_token_ns[40] < late.finish_ns[:40].min()
    assert all(decodes + sum(chunk.tokens for chunk in chunks) <= 20 for chunks, decodes in steps["slow-0"])
    taken = [([chunk.tokens for chunk in chunks], decodes) for chunks, decodes in steps["slow-0"]]
    assert ([20], 0) in taken
    assert ([], 20) in taken


def test_a_single_node_does_as_a_replica_of_one(monkeypatch):
    """The rules of nodes and those of replicas meet where there is one node; clients of replicas are a link away."""
    kind = kind_of(budget=50, prefill_ns_per_token=5_000.0)
    kind = replace(kind, compute=replace(kind.compute, prefill_ns_per_pair=3.0, decode_context_ns_per_token=20.0))
    case = case_of((kind, 0, 4))
    load = random_load(11, 60, rate_rps=40.0, prompt=60, output=12)
    engine = replace(CHUNKS, admission="prompt", sequence_overhead_ns=10_000, batch_overhead_ns=100_000)
    replica = run(case, load, engine=engine).requests
    monkeypatch.setattr("helixsim.engine.simulate.has_replicas", lambda _inputs: False)
    node = run(case, load, engine=engine).requests
    for name in ("first_token_ns", "finish_ns"):
        np.testing.assert_array_equal(getattr(node, name) + MS, getattr(replica, name))
    assert len(np.unique(node.first_token_ns)) > 20
