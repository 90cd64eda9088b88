"""Host memory and disks behind the GPUs of a run: what each replica may keep there, and what all have kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from helixsim.domain.disaggregation import KvSizes
from helixsim.domain.result import OffloadStats
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kv_room import KvRoom
from helixsim.engine.kv_tiers import TierRules
from helixsim.units import NS_PER_S


def tier_rules(inputs: SimulationInputs, ids: Sequence[str]) -> tuple[TierRules, ...]:
    """Return the tiers of a replica of these nodes, each with as many blocks as the node that keeps the fewest.

    A block is what all layers of a node keep of its tokens, for each GPU that a sequence is spread over, as on the
    GPUs.
    """
    fleet, sizes, tokens = inputs.fleet, KvSizes(inputs.fleet.model), inputs.fleet.profiles[0].block_tokens
    if not inputs.engine.kv_tiers:
        return ()
    gpus = [fleet.cluster.node(node).gpus for node in ids]
    spread = [max(1, count // fleet.profile(node).compute.ranks) for node, count in zip(ids, gpus, strict=True)]
    block_bytes = [
        sizes.of(inputs.placement.ranges[node], 0, tokens, tokens + 1, count)
        for node, count in zip(ids, spread, strict=True)
    ]
    return tuple(
        TierRules(
            tier.name,
            min(tier.size_bytes // max(size, 1) for size in block_bytes),
            tuple(
                size * NS_PER_S / (tier.bytes_per_s * (count if tier.name == "host" else 1))
                for size, count in zip(block_bytes, gpus, strict=True)
            ),
            tier.latency_ns,
        )
        for tier in inputs.engine.kv_tiers
    )


def offload_stats(rooms: Sequence[KvRoom]) -> OffloadStats | None:
    """Return what the tiers of replicas have kept; None if they have none."""
    caches = [(room.rules.tiers, room.tiers) for room in rooms if room.tiers is not None]
    if not caches:
        return None
    capacity, peak, stored, loaded = (Counter[str]() for _ in range(4))
    for rules, cache in caches:
        for rule, tier, blocks in zip(rules, cache.tiers, cache.loaded_blocks, strict=True):
            capacity[rule.name] += tier.capacity * cache.block_tokens
            peak[rule.name] += tier.peak * cache.block_tokens
            stored[rule.name] += tier.came * cache.block_tokens
            loaded[rule.name] += blocks * cache.block_tokens
    loads = sum(cache.loads for _, cache in caches)
    return OffloadStats(loads, dict(capacity), dict(peak), dict(stored), dict(loaded))
