"""Stage patterns: blocks of interchangeable nodes side by side, the first columns of ``blocks``."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.flow.capacity import best_supply
from helixsim.placement import tuning
from helixsim.placement.stages import Block, Group


def stages(groups: Sequence[Group], members: Sequence[int], flow_tokens_per_s: float) -> list[Block]:
    """Return minimal stages of every length that carry the flow, from the groups numbered ``members``."""
    longest = max((len(groups[number].tokens_per_s) for number in members), default=0)
    return [
        block for layers in range(1, longest + 1) for block in _patterns(groups, members, layers, flow_tokens_per_s)
    ]


def _patterns(groups: Sequence[Group], members: Sequence[int], layers: int, flow: float) -> list[Block]:
    able = [g for g in members if len(groups[g].tokens_per_s) >= layers and groups[g].tokens_per_s[layers - 1] > 0]
    able.sort(key=lambda g: (-groups[g].tokens_per_s[layers - 1], g))
    speed = [groups[g].tokens_per_s[layers - 1] for g in able]
    enough = flow * (1 - tuning.FLOW_TOLERANCE)
    counts = [0] * len(able)
    found: list[Block] = []
    visited = 0

    def extend(at: int, carried: float) -> None:
        nonlocal visited
        visited += 1
        if visited > tuning.MAX_PATTERN_STEPS:
            return
        if carried >= enough:
            # The slowest member is the last one added, so the stage is minimal if it cannot do without that one.
            strands = tuple(sorted((((g, layers),), n) for g, n in zip(able, counts, strict=True) if n))
            found.append(Block(layers, strands))
            return
        if at == len(able):
            return
        needed = -int(-(enough - carried) // speed[at])
        for count in range(min(len(groups[able[at]].nodes), needed), -1, -1):
            counts[at] = count
            extend(at + 1, carried + count * speed[at])
        counts[at] = 0

    extend(0, 0.0)
    found.sort(key=lambda block: (_waste(groups, block, flow), block.strands))
    return found[: tuning.MAX_PATTERNS]


def _waste(groups: Sequence[Group], block: Block, flow: float) -> float:
    """Return how much of what its nodes could supply elsewhere a stage takes, per layer it holds."""
    used = sum(count * best_supply(groups[group].tokens_per_s, flow) for group, count in block.members.items())
    return used / block.layers
