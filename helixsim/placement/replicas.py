"""Replicas: every node that holds the model serves it alone, or together with as few equal nodes as hold it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished
from helixsim.placement.splits import even_split

LEAST_KV_TOKENS = 4096
"""KV memory of a replica for which its nodes must have room, or for the longest context of the model [tokens]."""


@dataclass(frozen=True, slots=True)
class ReplicasOptions:
    """Options of ``replicas``.

    Parameters
    ----------
    max_nodes
        Most nodes of a replica; None: no limit. 1: only nodes that hold the model alone.
    """

    max_nodes: int | None = field(default=None, metadata={"ge": 1})


class Replicas:
    """One replica of the model per node, or per smallest group of equal nodes of one region that holds it.

    This is how serving engines are deployed: tensor parallelism inside a node, pipeline parallelism only where a node
    is too small. Nodes are equal if GPU, number of GPUs, NIC and limits are. A group holds the model if each of its
    nodes has KV memory for one context, of ``LEAST_KV_TOKENS`` at most, beside an even share of the layers. Nodes that
    are left over, or of which all together do not hold the model, stay idle.
    """

    summary: ClassVar[str] = "one replica per node, or per smallest group of equal nodes that holds the model"
    Options: ClassVar[type[ReplicasOptions]] = ReplicasOptions

    def solve(self, problem: PlacementProblem, options: ReplicasOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If no group of equal nodes holds the model.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        idle: dict[str, str] = {}
        replicas = 0
        for nodes in equal_nodes(fleet):
            shares = smallest_group(fleet, nodes, options.max_nodes)
            size = len(shares)
            served = len(nodes) // size * size if size else 0
            for first in range(0, served, size or 1):
                for node, held in zip(nodes[first : first + size], shares, strict=True):
                    ranges[node.id], pipelines[node.id] = held, replicas
                replicas += 1
            reason = f"left over: a replica takes {size} nodes" if size else _too_small(fleet, nodes, options.max_nodes)
            idle.update(dict.fromkeys((node.id for node in nodes[served:]), reason))
        if not ranges:
            reasons = "; ".join(dict.fromkeys(idle.values()))
            raise InfeasibleError(
                f"replicas: no group of equal nodes of one region holds the {fleet.model.num_layers} layers of "
                f"{fleet.model.name} ({reasons}); use strategy helix, which joins unlike nodes, or add nodes"
            )
        return finished(
            problem, "replicas", ranges, started_s=started, pipelines=pipelines,
            notes={"replicas": replicas, "idle": {node: idle[node] for node in fleet.cluster.index if node in idle}},
        )  # fmt: skip


def equal_nodes(fleet: Deployment) -> list[list[Node]]:
    """Return the nodes of a fleet by type, region, NIC and limits of their own, each class in cluster order."""
    classes: dict[tuple[object, ...], list[Node]] = {}
    for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
        key = (profile.kind, node.region, node.nic_bps, node.kv_blocks, node.max_requests)
        classes.setdefault(key, []).append(node)
    return list(classes.values())


def smallest_group(fleet: Deployment, nodes: Sequence[Node], max_nodes: int | None = None) -> list[LayerRange]:
    """Return the layers of each node of the smallest group of these equal nodes that holds the model, or nothing."""
    num_layers = fleet.model.num_layers
    profile = fleet.profile(nodes[0].id)
    limit = min(len(nodes), num_layers, len(nodes) if max_nodes is None else max_nodes)
    most = len(profile.kv_blocks)
    least = min(LEAST_KV_TOKENS, fleet.model.max_context_tokens) / profile.block_tokens
    for size in range(-(-num_layers // most) if most else limit + 1, limit + 1):
        group = nodes[:size]
        ends = list(accumulate(even_split(fleet, group, [most] * size)))
        shares = [LayerRange(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        if all(fleet.kv_blocks(node.id, held) >= least for node, held in zip(group, shares, strict=True)):
            return shares
    return []


def _too_small(fleet: Deployment, nodes: Sequence[Node], max_nodes: int | None) -> str:
    """Return why no group of these nodes holds the model."""
    profile = fleet.profile(nodes[0].id)
    most = len(profile.kv_blocks)
    count = len(nodes) if max_nodes is None else min(len(nodes), max_nodes)
    word = f"{count} nodes of type {profile.kind} hold" if count > 1 else f"one node of type {profile.kind} holds"
    limited = ""
    if count * most >= fleet.model.num_layers:
        least = min(LEAST_KV_TOKENS, fleet.model.max_context_tokens)
        limited = f", but not with KV memory for {least} tokens beside embedding and output head"
    return f"too small: {word} {count * most} of {fleet.model.num_layers} layers in {nodes[0].region}{limited}"
