"""Stages and groups: the vocabulary of the stage-pattern search, and how stages become layer ranges.

Nodes of one kind in one region are interchangeable. A *group* is such a set; a *stage* is a number of consecutive
layers held by some nodes of some groups at once; a *chain* is a sequence of stages that holds the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helixsim.domain.placement import LayerRange
from helixsim.placement.base import PlacementProblem


@dataclass(frozen=True, slots=True)
class Group:
    """Interchangeable nodes.

    ``tokens_per_s[k - 1]`` and ``kv_tokens[k - 1]`` belong to a node with k layers; their length is the most layers
    the planner gives it.
    """

    kind: str
    region: str
    nodes: tuple[str, ...]
    tokens_per_s: tuple[float, ...]
    kv_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """``layers`` consecutive layers held by ``members``: (group number, how many of its nodes), by group number."""

    layers: int
    members: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Number of nodes."""
        return sum(count for _, count in self.members)

    def tokens_per_s(self, groups: Sequence[Group]) -> float:
        """Return the tokens/s of the stage."""
        return sum(count * groups[group].tokens_per_s[self.layers - 1] for group, count in self.members)


def groups_of(problem: PlacementProblem) -> tuple[Group, ...]:
    """Return the groups of a fleet in the order of their first nodes; nodes that can hold no layer are left out."""
    members: dict[tuple[str, str], list[str]] = {}
    for node, profile in zip(problem.fleet.cluster.nodes, problem.fleet.profiles, strict=True):
        if profile.max_layers:
            members.setdefault((profile.kind, node.region), []).append(node.id)
    groups = []
    for (kind, region), nodes in members.items():
        profile = problem.fleet.profile(nodes[0])
        most = min(profile.max_layers, problem.fleet.model.num_layers)
        table = problem.capacity.of(nodes[0])[:most]
        if max(table) > 0:
            kv_tokens = tuple(profile.kv_tokens(k) for k in range(1, most + 1))
            groups.append(Group(kind, region, tuple(nodes), table, kv_tokens))
    return tuple(groups)


def lay_out(
    groups: Sequence[Group], chains: Sequence[Sequence[Stage]], *, use_idle: bool = True
) -> dict[str, LayerRange]:
    """Give node ids to the stages of one or more chains, each of which holds the whole model.

    Idle nodes join stages of their region: first where they raise the flow of the chain, then where KV memory is
    scarcest, because a saturated pipeline admits what its scarcest layer can keep.
    """
    free = [list(group.nodes) for group in groups]
    placed: list[tuple[LayerRange, list[tuple[int, str]]]] = []
    chain_of: list[int] = []
    for number, chain in enumerate(chains):
        start = 0
        for stage in chain:
            nodes = [(group, free[group].pop(0)) for group, count in stage.members for _ in range(count)]
            placed.append((LayerRange(start, start + stage.layers), nodes))
            chain_of.append(number)
            start += stage.layers
    if use_idle:
        _place_idle(groups, free, placed, chain_of)
    return {node: layers for layers, nodes in placed for _, node in nodes}


def _place_idle(
    groups: Sequence[Group],
    free: Sequence[Sequence[str]],
    placed: Sequence[tuple[LayerRange, list[tuple[int, str]]]],
    chain_of: Sequence[int],
) -> None:
    speed = [sum(groups[g].tokens_per_s[layers.layers - 1] for g, _ in nodes) for layers, nodes in placed]
    memory = [sum(groups[g].kv_tokens[layers.layers - 1] for g, _ in nodes) for layers, nodes in placed]
    regions = [{groups[g].region for g, _ in nodes} for _, nodes in placed]
    idle = [(number, node) for number, nodes in enumerate(free) for node in nodes]
    idle.sort(key=lambda item: -len(groups[item[0]].tokens_per_s))
    for number, node in idle:
        group = groups[number]
        open_stages = [
            at
            for at, (layers, _) in enumerate(placed)
            if layers.layers <= len(group.tokens_per_s) and regions[at] == {group.region}
        ]
        if not open_stages:
            continue

        def urgency(at: int) -> tuple[float, float]:
            own = [other for other in range(len(placed)) if chain_of[other] == chain_of[at]]
            slowest = min(speed[other] for other in own)
            return (speed[at] if speed[at] <= slowest * (1 + 1e-9) else float("inf"), memory[at])

        at = min(open_stages, key=urgency)
        size = placed[at][0].layers
        placed[at][1].append((number, node))
        speed[at] += group.tokens_per_s[size - 1]
        memory[at] += group.kv_tokens[size - 1]
