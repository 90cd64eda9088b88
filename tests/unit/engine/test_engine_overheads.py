"""What an engine costs: each overhead against its closed form on one request through two nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import two_node_pipeline
from simulating import MS, random_load, requests, run

from helixsim.domain.engine import EngineSpec

ROUNDS, HOPS, LINKS = 3, 2, 3
"""A request of three output tokens goes round three times, over two nodes and three links."""


def finish_ns(**overheads):
    result = run(two_node_pipeline(), requests((0, 100, ROUNDS)), engine=EngineSpec(**overheads))
    return int(result.requests.finish_ns[0])


@pytest.mark.parametrize(
    ("overheads", "times"),
    [
        ({"batch_overhead_ns": 7}, ROUNDS * HOPS),
        ({"sequence_overhead_ns": 7}, ROUNDS * HOPS),
        ({"gather_ns": 7}, ROUNDS * HOPS),
        ({"message_overhead_ns": 7}, ROUNDS * LINKS),
    ],
)
def test_an_overhead_is_paid_once_per_hop_or_message(overheads, times):
    assert finish_ns(**overheads) - finish_ns() == 7 * times


def test_no_layer_is_faster_than_its_launch():
    # 2 layers on each node; a layer takes 0.1 ms for the prompt and 1 ms for each of the two decode steps.
    gained = finish_ns(layer_launch_ns=3 * MS) - finish_ns()
    assert gained == 2 * HOPS * (3 * MS - MS // 10) + 2 * 2 * HOPS * (3 * MS - MS)
    assert finish_ns(layer_launch_ns=MS // 20) == finish_ns()


def test_what_arrives_while_the_engine_gathers_joins_the_batch():
    load = requests(*[(0, 10, 5)] * 8)
    alone, together = (
        run(two_node_pipeline(), load, is_one_by_one=True, batching="prefill_first", engine=EngineSpec(gather_ns=wait))
        for wait in (0, MS)
    )
    assert together.counters["batches"] < alone.counters["batches"]
    assert together.counters["token_hops"] == alone.counters["token_hops"]


def test_laws_hold_with_every_overhead():
    engine = EngineSpec(
        gather_ns=MS // 10, batch_overhead_ns=MS, sequence_overhead_ns=1000, layer_launch_ns=MS, min_free_share=0.05,
        message_overhead_ns=1000, shares_weight_reads=True,
    )  # fmt: skip
    load = random_load(1, 60, rate_rps=20)
    result = run(two_node_pipeline(), load, engine=engine, is_one_by_one=True)
    rows = result.requests
    assert list(rows.output_tokens) == [request.output_tokens for request in load]
    # Every request computes at least its prompt and steps alone: batches only add to that.
    assert (rows.compute_ns >= 2 * rows.output_tokens * (MS + 1000 + 2 * MS)).all()
    # And passes three links per step, each with its latency and the overhead of a message.
    assert (rows.network_ns >= 3 * rows.output_tokens * (MS + 1000)).all()


def test_a_share_of_blocks_stays_free_at_admission():
    # 600 blocks per node; each request needs 10 blocks from the start, and grows by none.
    load = requests(*[(0, 150, 5)] * 80)
    peaks = [
        run(
            two_node_pipeline(), load, engine=replace(EngineSpec(), min_free_share=share), high_water=1.0
        ).nodes.kv_peak_blocks.max()
        for share in (0.0, 0.5)
    ]
    assert peaks[0] > 300 >= peaks[1]
