"""Plain stages: single nodes in parallel, the first columns of the master program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helixsim.flow.capacity import best_supply
from helixsim.placement import tuning
from helixsim.placement.stages import NodeGroup, SegmentNode, StageGroup


def stages(groups: Sequence[NodeGroup], members: Sequence[int], flow_tokens_per_s: float) -> list[StageGroup]:
    """Return minimal stages of every length that carry the flow [tokens/s], from the groups numbered ``members``."""
    longest = max((len(groups[number].tokens_per_s) for number in members), default=0)
    supply = {number: best_supply(groups[number].tokens_per_s, flow_tokens_per_s) for number in members}
    return [stage for layers in range(1, longest + 1) for stage in _patterns(groups, supply, layers, flow_tokens_per_s)]


def _patterns(groups: Sequence[NodeGroup], supply: Mapping[int, float], layers: int, flow: float) -> list[StageGroup]:
    """Enumerate minimal stages of ``layers`` layers, fastest groups first; return those with the least waste.

    ``supply``: the most that a node of each usable group could give elsewhere [layer-tokens/s].
    """
    able = [g for g in supply if len(groups[g].tokens_per_s) >= layers and groups[g].tokens_per_s[layers - 1] > 0]
    able.sort(key=lambda g: (-groups[g].tokens_per_s[layers - 1], g))
    speed = [groups[g].tokens_per_s[layers - 1] for g in able]
    enough = flow * (1 - tuning.FLOW_TOLERANCE)
    counts = [0] * len(able)
    patterns: list[StageGroup] = []
    visited = 0

    def extend(at: int, carried: float) -> None:
        nonlocal visited
        visited += 1
        if visited > tuning.MAX_PATTERN_STEPS:
            return
        if carried >= enough:
            # The slowest member is the last one added, so the stage is minimal if it cannot do without that one.
            segments = (((SegmentNode(g, layers),), n) for g, n in zip(able, counts, strict=True) if n)
            patterns.append(StageGroup(layers, tuple(sorted(segments))))
            return
        if at == len(able):
            return
        needed = -int(-(enough - carried) // speed[at])
        for count in range(min(len(groups[able[at]].nodes), needed), -1, -1):
            counts[at] = count
            extend(at + 1, carried + count * speed[at])
        counts[at] = 0

    extend(0, 0.0)
    patterns.sort(key=lambda stage: (_waste(stage, supply), stage.segments))
    return patterns[: tuning.MAX_PATTERNS]


def _waste(stage: StageGroup, supply: Mapping[int, float]) -> float:
    """Return the supply that the nodes of a stage could give elsewhere, per layer of the stage [tokens/s]."""
    return sum(count * supply[group] for group, count in stage.members.items()) / stage.layers
