"""The comparison of the engine of replicas with a plain one: equal in all they leave, times to the nanosecond."""

from __future__ import annotations

from collections import Counter

import numpy as np

from helixsim.domain.engine import EngineSpec
from helixsim.domain.result import RequestStatus
from helixsim.engine.recorder import GAP_RESOLUTION_NS

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")


def compare(result, reference):
    """Compare all that two engines leave."""
    rows, sequences = result.requests, reference.sequences
    for name, values in {
        "request_id": [s.request.id for s in sequences],
        "arrival_ns": [s.arrival for s in sequences],
        "status": [reference.status(s) for s in sequences],
        "admitted_ns": [s.admitted for s in sequences],
        "preemptions": [s.preemptions for s in sequences],
        "first_token_ns": [s.first_token for s in sequences],
        "finish_ns": [s.finish for s in sequences],
        "output_tokens": [s.generated for s in sequences],
    }.items():
        np.testing.assert_array_equal(getattr(rows, name), values, name)
    done = rows.finish_ns >= 0
    for name, attribute in (
        ("network_ns", "network"),
        ("queue_ns", "queue"),
        ("compute_ns", "compute"),
        ("transfer_ns", "transfer"),
        ("load_ns", "load"),
        ("cached_tokens", "cached"),
    ):
        values = np.array([getattr(s, attribute) for s in sequences])
        np.testing.assert_array_equal(getattr(rows, name)[done], values[done], name)
    for number, tier in enumerate(("host_tokens", "disk_tokens")):
        np.testing.assert_array_equal(
            getattr(rows, tier)[done], np.array([(*s.loaded, 0, 0)[number] for s in sequences])[done], tier
        )
    for number, sequence in enumerate(sequences):
        if rows.status[number] == RequestStatus.WAITING or sequence.is_elsewhere:
            assert rows.route[number] == -1
        elif rows.status[number] != RequestStatus.REJECTED:
            hops = [(stage.node.id, stage.node.range) for stage in sequence.replica.stages]
            assert list(result.routes[rows.route[number]].hops) == hops
    nodes = result.nodes
    assert list(nodes.node_id) == [node.id for node in reference.nodes]
    for name in ("batches", "prompt_tokens", "decode_tokens"):
        assert list(getattr(nodes, name)) == [getattr(node, name) for node in reference.nodes], name
    now = reference.now
    busy = [sum(min(end, now) - start for start, end in node.busy) for node in reference.nodes]
    assert list(result.series.busy_ns[-1]) == busy
    assert nodes.preemptions.sum() == sum(replica.preemptions for replica in reference.replicas)
    peaks = {stage.node.id: replica.peak for replica in reference.replicas for stage in replica.stages}
    assert list(nodes.kv_peak_blocks) == [peaks.get(node, 0) for node in nodes.node_id]
    gaps = Counter(gap // GAP_RESOLUTION_NS * GAP_RESOLUTION_NS for gap in reference.gaps)
    assert dict(zip(result.gaps.value_ns.tolist(), result.gaps.count.tolist(), strict=True)) == gaps
    assert result.gaps.sum_ns == sum(reference.gaps)
    assert result.gaps.sum_squares_ns2 == sum(gap * gap for gap in reference.gaps)
    wires = {ends: wire for ends, wire in sorted(reference.wires.items()) if wire.messages}
    links = result.links
    used = [number for number, messages in enumerate(links.messages) if messages]
    assert [(links.src[n], links.dst[n]) for n in used] == list(wires)
    assert [links.messages[n] for n in used] == [wire.messages for wire in wires.values()]
    assert [links.queue_ns[n] for n in used] == [wire.waited for wire in wires.values()]
    if reference.window_end is None:
        assert [links.bytes[n] for n in used] == [wire.bytes for wire in wires.values()]
