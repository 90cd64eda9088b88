"""Vocabulary of the search, and the step from stage groups to layer ranges.

node group
    Interchangeable nodes: one node type, one region, one NIC.
segment (``Segment``)
    Nodes in series that together hold a number of consecutive layers.
stage group (``StageGroup``)
    Segments in parallel that hold the same layers. A plain stage has segments of one node.
pipeline (``Pipeline``)
    Stage groups in series that hold the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.cluster import TOKEN_ID_BYTES
from helixsim.domain.placement import LayerRange
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.clusters import regions_of
from helixsim.units import BITS_PER_BYTE


class SegmentNode(NamedTuple):
    """A node of a segment: a member of node group ``group`` that holds ``layers`` layers."""

    group: int
    layers: int


Segment = tuple[SegmentNode, ...]


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Interchangeable nodes.

    Parameters
    ----------
    nodes
        Their ids.
    tokens_per_s, kv_tokens
        Entry k - 1: capacity [tokens/s] and KV memory [tokens] of a node that holds k layers. Their length is the most
        layers that the planner assigns to a node.
    """

    node_type: str
    region: str
    nodes: tuple[str, ...]
    tokens_per_s: tuple[float, ...]
    kv_tokens: tuple[int, ...]


@dataclass(frozen=True)
class StageGroup:
    """``layers`` consecutive layers held by parallel segments, given as sorted pairs (segment, copies)."""

    layers: int
    segments: tuple[tuple[Segment, int], ...]

    @classmethod
    def of(cls, layers: int, segments: Iterable[Segment]) -> StageGroup:
        """Return the stage group with these segments."""
        counts: dict[Segment, int] = {}
        for segment in segments:
            counts[segment] = counts.get(segment, 0) + 1
        return cls(layers, tuple(sorted(counts.items())))

    @cached_property
    def members(self) -> Mapping[int, int]:
        """Node group number -> number of its nodes in use."""
        counts: dict[int, int] = {}
        for segment, copies in self.segments:
            for node in segment:
                counts[node.group] = counts.get(node.group, 0) + copies
        return counts

    @cached_property
    def depth(self) -> int:
        """Largest number of nodes that a request passes."""
        return max((len(segment) for segment, _ in self.segments), default=0)

    def tokens_per_s(self, groups: Sequence[NodeGroup]) -> float:
        """Return the capacity [tokens/s]: the sum over the segments."""
        return sum(copies * segment_tokens_per_s(groups, segment) for segment, copies in self.segments)


Pipeline = tuple[StageGroup, ...]


def segment_tokens_per_s(groups: Sequence[NodeGroup], segment: Segment) -> float:
    """Return the capacity of a segment [tokens/s]: that of its slowest node."""
    return min(groups[node.group].tokens_per_s[node.layers - 1] for node in segment)


def hops(pipeline: Iterable[StageGroup]) -> int:
    """Return the largest number of nodes that a request passes."""
    return sum(stage_group.depth for stage_group in pipeline)


def groups_of(problem: PlacementProblem) -> tuple[NodeGroup, ...]:
    """Return the node groups of a fleet in the order of their first nodes, without nodes that can hold no layer."""
    fleet = problem.fleet
    token_bytes = fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES
    regions = regions_of(fleet, problem.capacity)
    members: dict[tuple[str, str, float | None], list[str]] = {}
    for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
        if profile.max_layers:
            members.setdefault((profile.kind, regions[node.id], node.nic_bps), []).append(node.id)
    groups = []
    for (node_type, region, nic_bps), nodes in members.items():
        profile = fleet.profile(nodes[0])
        max_layers = min(profile.max_layers, fleet.model.num_layers)
        nic_tokens_per_s = float("inf") if nic_bps is None else nic_bps / BITS_PER_BYTE / token_bytes
        tokens_per_s = tuple(min(value, nic_tokens_per_s) for value in problem.capacity.of(nodes[0])[:max_layers])
        if max(tokens_per_s) > 0:
            kv_tokens = tuple(profile.kv_tokens(k) for k in range(1, max_layers + 1))
            groups.append(NodeGroup(node_type, region, tuple(nodes), tokens_per_s, kv_tokens))
    return tuple(groups)


class _Role(NamedTuple):
    """A layer range of one of several pipelines."""

    pipeline: int
    layers: LayerRange


class _Holder(NamedTuple):
    """A node that takes a role."""

    group: int
    node: str


def lay_out(
    groups: Sequence[NodeGroup], pipelines: Sequence[Sequence[StageGroup]], *, use_idle: bool = True
) -> dict[str, LayerRange]:
    """Assign node ids to the stage groups of one or more pipelines, each of which holds the whole model.

    With ``use_idle``, idle nodes join layer ranges held in their region: first where they raise the flow of the
    pipeline, then where KV memory is scarcest, as that limits the requests in flight.
    """
    free = [list(group.nodes) for group in groups]
    holders: dict[_Role, list[_Holder]] = {}
    for number, pipeline in enumerate(pipelines):
        start = 0
        for stage_group in pipeline:
            for segment, copies in stage_group.segments:
                for _ in range(copies):
                    at = start
                    for group, layers in segment:
                        role = _Role(number, LayerRange(at, at + layers))
                        holders.setdefault(role, []).append(_Holder(group, free[group].pop(0)))
                        at += layers
            start += stage_group.layers
    if use_idle:
        _place_idle(groups, free, holders)
    return {holder.node: role.layers for role, nodes in holders.items() for holder in nodes}


def _place_idle(
    groups: Sequence[NodeGroup], free: Sequence[Sequence[str]], holders: dict[_Role, list[_Holder]]
) -> None:
    """Let idle nodes join layer ranges that nodes of their region hold."""
    length = max((role.layers.end for role in holders), default=0)
    count = 1 + max((role.pipeline for role in holders), default=0)
    speed = np.zeros((count, length))
    memory = np.zeros((count, length))

    def add(role: _Role, group: int) -> None:
        inside = slice(role.layers.start, role.layers.end)
        speed[role.pipeline, inside] += groups[group].tokens_per_s[role.layers.layers - 1]
        memory[role.pipeline, inside] += groups[group].kv_tokens[role.layers.layers - 1]

    regions: dict[_Role, set[str]] = {}
    for role, nodes in holders.items():
        regions[role] = {groups[holder.group].region for holder in nodes}
        for holder in nodes:
            add(role, holder.group)

    def rank(role: _Role, slowest: NDArray[np.float64]) -> tuple[float, float]:
        inside = slice(role.layers.start, role.layers.end)
        lowest = speed[role.pipeline, inside].min()
        is_bottleneck = lowest <= slowest[role.pipeline] * (1 + tuning.FLOW_TOLERANCE)
        return (lowest if is_bottleneck else np.inf, memory[role.pipeline, inside].min())

    idle = [_Holder(number, node) for number, nodes_left in enumerate(free) for node in nodes_left]
    for holder in sorted(idle, key=lambda holder: -len(groups[holder.group].tokens_per_s)):
        group = groups[holder.group]
        able = [
            role
            for role, in_regions in regions.items()
            if role.layers.layers <= len(group.tokens_per_s) and in_regions == {group.region}
        ]
        if able:
            slowest = speed.min(axis=1)
            role = min(able, key=lambda role: rank(role, slowest))
            holders[role].append(holder)
            add(role, holder.group)
