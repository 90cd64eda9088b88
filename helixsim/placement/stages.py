"""Blocks and groups: the vocabulary of the search, and how blocks become layer ranges.

Nodes of one kind in one region are interchangeable. A *group* is such a set. A *strand* is a chain of nodes; a *block*
is a number of consecutive layers held by strands side by side (a plain stage has strands of one node); a *chain* is a
sequence of blocks that holds the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from helixsim.domain.cluster import TOKEN_ID_BYTES
from helixsim.domain.placement import LayerRange
from helixsim.placement.base import PlacementProblem
from helixsim.placement.clusters import regions_of
from helixsim.units import BITS_PER_BYTE

Strand = tuple[tuple[int, int], ...]
"""(group number, layers) of each node of a strand."""


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


@dataclass(frozen=True)
class Block:
    """``layers`` consecutive layers held by strands side by side: (strand, how many of it), sorted."""

    layers: int
    strands: tuple[tuple[Strand, int], ...]

    @classmethod
    def of(cls, layers: int, strands: Iterable[Strand]) -> Block:
        """Return the block with these strands."""
        counts: dict[Strand, int] = {}
        for strand in strands:
            counts[strand] = counts.get(strand, 0) + 1
        return cls(layers, tuple(sorted(counts.items())))

    @cached_property
    def members(self) -> Mapping[int, int]:
        """Group number -> how many of its nodes."""
        found: dict[int, int] = {}
        for strand, count in self.strands:
            for group, _ in strand:
                found[group] = found.get(group, 0) + count
        return found

    @cached_property
    def width(self) -> int:
        """Number of strands."""
        return sum(count for _, count in self.strands)

    @cached_property
    def depth(self) -> int:
        """Most nodes a request passes."""
        return max((len(strand) for strand, _ in self.strands), default=0)

    def tokens_per_s(self, groups: Sequence[Group]) -> float:
        """Return the tokens/s of the block."""
        return sum(count * strand_tokens_per_s(groups, strand) for strand, count in self.strands)


Chain = tuple[Block, ...]


def strand_tokens_per_s(groups: Sequence[Group], strand: Strand) -> float:
    """Return the tokens/s of a strand: those of its slowest node."""
    return min(groups[group].tokens_per_s[layers - 1] for group, layers in strand)


def hops(chain: Iterable[Block]) -> int:
    """Return the most nodes a request passes."""
    return sum(block.depth for block in chain)


def groups_of(problem: PlacementProblem) -> tuple[Group, ...]:
    """Return the groups of a fleet in the order of their first nodes; nodes that can hold no layer are left out."""
    fleet = problem.fleet
    token = fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES
    regions = regions_of(fleet, problem.capacity)
    members: dict[tuple[str, str, float | None], list[str]] = {}
    for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
        if profile.max_layers:
            members.setdefault((profile.kind, regions[node.id], node.nic_bps), []).append(node.id)
    groups = []
    for (kind, region, nic_bps), nodes in members.items():
        profile = fleet.profile(nodes[0])
        most = min(profile.max_layers, fleet.model.num_layers)
        card = float("inf") if nic_bps is None else nic_bps / BITS_PER_BYTE / token
        table = tuple(min(value, card) for value in problem.capacity.of(nodes[0])[:most])
        if max(table) > 0:
            kv_tokens = tuple(profile.kv_tokens(k) for k in range(1, most + 1))
            groups.append(Group(kind, region, tuple(nodes), table, kv_tokens))
    return tuple(groups)


def lay_out(
    groups: Sequence[Group], chains: Sequence[Sequence[Block]], *, use_idle: bool = True
) -> dict[str, LayerRange]:
    """Give node ids to the blocks of one or more chains, each of which holds the whole model.

    Idle nodes join nodes of their region: first where they raise the flow of the chain, then where KV memory is
    scarcest, because a saturated pipeline admits what its scarcest layer can keep.
    """
    free = [list(group.nodes) for group in groups]
    held: dict[tuple[int, LayerRange], list[tuple[int, str]]] = {}
    for number, chain in enumerate(chains):
        start = 0
        for block in chain:
            for strand, count in block.strands:
                for _ in range(count):
                    at = start
                    for group, layers in strand:
                        place = (number, LayerRange(at, at + layers))
                        held.setdefault(place, []).append((group, free[group].pop(0)))
                        at += layers
            start += block.layers
    if use_idle:
        _place_idle(groups, free, held)
    return {node: layers for (_, layers), nodes in held.items() for _, node in nodes}


def _place_idle(
    groups: Sequence[Group], free: Sequence[Sequence[str]], held: dict[tuple[int, LayerRange], list[tuple[int, str]]]
) -> None:
    """Let idle nodes join ranges that nodes of their region hold already."""
    length = max((layers.end for _, layers in held), default=0)
    count = 1 + max((chain for chain, _ in held), default=0)
    speed = np.zeros((count, length))
    memory = np.zeros((count, length))

    def add(chain: int, layers: LayerRange, number: int) -> None:
        size = layers.layers - 1
        speed[chain, layers.start : layers.end] += groups[number].tokens_per_s[size]
        memory[chain, layers.start : layers.end] += groups[number].kv_tokens[size]

    regions: dict[tuple[int, LayerRange], set[str]] = {}
    for (chain, layers), nodes in held.items():
        regions[chain, layers] = {groups[group].region for group, _ in nodes}
        for number, _ in nodes:
            add(chain, layers, number)
    idle = [(number, node) for number, nodes in enumerate(free) for node in nodes]
    idle.sort(key=lambda item: -len(groups[item[0]].tokens_per_s))
    for number, node in idle:
        group = groups[number]
        slowest = speed.min(axis=1)
        best: tuple[float, float] | None = None
        place = (0, LayerRange(0, 0))
        for (chain, layers), own in regions.items():
            if layers.layers <= len(group.tokens_per_s) and own == {group.region}:
                inside = slice(layers.start, layers.end)
                lowest = speed[chain, inside].min()
                rank = (lowest if lowest <= slowest[chain] * (1 + 1e-9) else np.inf, memory[chain, inside].min())
                if best is None or rank < best:
                    best, place = rank, (chain, layers)
        if best is not None:
            held[place].append((number, node))
            add(*place, number)
