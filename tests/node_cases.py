"""Small random clusters of nodes whose routes branch."""

from __future__ import annotations

import builders
from hypothesis import strategies as st


@st.composite
def cases(draw):
    """A pipeline of two to four stages with one to three nodes each, sometimes short of KV memory."""
    kinds = [
        builders.profile(
            f"k{number}",
            2,
            prefill_ns_per_token=draw(st.sampled_from([100.0, 1000.0, 5000.0])),
            decode_ns=draw(st.sampled_from([1e5, 1e6, 5e6])),
            kv_blocks=(2 * blocks, blocks),
            max_decode_seqs=draw(st.sampled_from([2, 64])),
        )
        for number in range(2)
        for blocks in [draw(st.sampled_from([40, 200, 1000]))]
    ]
    stages = draw(st.integers(2, 4))
    chosen = [draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)) for _ in range(stages)]
    fleet = builders.fleet([kind for stage in chosen for kind in stage], num_layers=2 * stages)
    ranges, position = {}, 0
    for number, stage in enumerate(chosen):
        for _ in stage:
            ranges[fleet.cluster.nodes[position].id] = (2 * number, 2 * number + 2)
            position += 1
    capacity = builders.capacity_of(fleet, {kind.kind: (200.0, 100.0) for kind in kinds})
    return fleet, capacity, builders.placement_of(fleet, ranges)
