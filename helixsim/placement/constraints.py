"""Constraints by the user: excluded nodes, layer limits, pinned nodes, and a running placement to keep close to.

Exclusions and limits narrow the problem before the search. Pins and a running placement are applied afterwards: nodes
of a group are interchangeable, so their roles are reassigned, and a pinned node whose range no node of its group holds
takes that range instead of its role.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import did_you_mean
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.base import PlacementProblem


def constraint_faults(
    fleet: Deployment, exclude: Sequence[str], max_layers: Mapping[str, int], pinned: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, str]]:
    """Yield (option, message) for each constraint that does not fit the fleet."""
    ids = [node.id for node in fleet.cluster.nodes]
    for pattern in exclude:
        if not fnmatch.filter(ids, pattern):
            yield "exclude", f"{pattern!r} matches no node{did_you_mean(pattern, ids)}"
    types = sorted({profile.kind for profile in fleet.profiles})
    for node_type, limit in max_layers.items():
        if node_type not in types:
            hint = did_you_mean(node_type, types)
            yield "max_layers", f"no node of type {node_type!r}{hint} (known: {', '.join(types)})"
        elif limit < 1:
            yield "max_layers", f"{node_type} is {limit}, allowed: 1 or more"
    available = {ids[at] for at in _not_excluded(fleet, exclude)}
    if not available:
        yield "exclude", f"{', '.join(exclude)} leaves no node"
    for node, pair in pinned.items():
        if node not in available:
            yield "pinned", f"no node {node!r} to place{did_you_mean(node, available)}"
            continue
        profile = fleet.profile(node)
        limit = len(profile.kv_blocks[: max_layers.get(profile.kind)])
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= fleet.model.num_layers or pair[1] - pair[0] > limit:
            allowed = f"[start, end] of up to {limit} of the layers 0 to {fleet.model.num_layers}"
            yield "pinned", f"{node} has {list(pair)}, allowed: {allowed}"


def _not_excluded(fleet: Deployment, exclude: Sequence[str]) -> list[int]:
    """Return the positions of the nodes that no pattern excludes."""
    return [
        at
        for at, node in enumerate(fleet.cluster.nodes)
        if not any(fnmatch.fnmatchcase(node.id, pattern) for pattern in exclude)
    ]


def narrowed(problem: PlacementProblem, exclude: Sequence[str], max_layers: Mapping[str, int]) -> PlacementProblem:
    """Return the problem without the nodes that match ``exclude``, and with at most ``max_layers`` layers per node."""
    fleet = problem.fleet
    positions = _not_excluded(fleet, exclude)
    profiles: dict[str, NodeProfile] = {}
    for profile in fleet.profiles:
        limit = max_layers.get(profile.kind, profile.max_layers)
        held = slice(max_layers.get(profile.kind))
        profiles[profile.kind] = replace(
            profile,
            kv_blocks=profile.kv_blocks[held],
            limits=profile.limits[held],
            max_layers=min(profile.max_layers, limit),
        )
    narrow = replace(
        fleet,
        cluster=replace(fleet.cluster, nodes=tuple(fleet.cluster.nodes[at] for at in positions)),
        profiles=tuple(profiles[fleet.profiles[at].kind] for at in positions),
    )
    return replace(problem, fleet=narrow, capacity=limited_table(problem.capacity, max_layers))


def limited_table(table: CapacityTable, max_layers: Mapping[str, int]) -> CapacityTable:
    """Return the capacities of nodes with at most ``max_layers`` layers per node of a type."""
    tables = {node_type: values[: max_layers.get(node_type)] for node_type, values in table.tables.items()}
    return replace(table, tables=tables)


def reassigned(
    fleet: Deployment,
    ranges: Mapping[str, LayerRange],
    previous: Mapping[str, LayerRange],
    pinned: Mapping[str, LayerRange],
) -> dict[str, LayerRange]:
    """Return the placement with roles exchanged among interchangeable nodes, so that few weights move.

    Pinned nodes get their ranges. Then nodes take the roles of their group that overlap most with their ranges in
    ``previous``, the largest overlap first.
    """
    groups: dict[tuple[str, str, float | None], list[str]] = {}
    for node in fleet.cluster.nodes:
        groups.setdefault(_group(node), []).append(node.id)
    result = dict(pinned)
    for members in groups.values():
        roles = [ranges[node] for node in members if node in ranges]
        for member in members:
            if pinned.get(member) in roles:
                roles.remove(pinned[member])
        free = [member for member in members if member not in pinned]
        unchanged = {member: ranges[member] for member in free if member in ranges}
        if not previous and sorted(unchanged.values()) == sorted(roles):
            result.update(unchanged)
            continue
        pairs = sorted(
            (-_overlap(previous.get(member), role), at, number)
            for at, member in enumerate(free)
            for number, role in enumerate(roles)
        )
        assigned_nodes: set[int] = set()
        assigned_roles: set[int] = set()
        for _, at, number in pairs:
            if at not in assigned_nodes and number not in assigned_roles:
                assigned_nodes.add(at)
                assigned_roles.add(number)
                result[free[at]] = roles[number]
    return result


def moved_to(fleet: Deployment, placement: Placement, held: Mapping[str, LayerRange]) -> Placement:
    """Return a placement whose interchangeable nodes have exchanged roles, so that few weights move from ``held``.

    A node takes over the pipeline of a node whose layers it takes over.
    """
    ranges = reassigned(fleet, placement.ranges, held, {})
    free: dict[tuple[object, ...], list[int]] = {}
    for node, own in placement.ranges.items():
        if node in placement.pipelines:
            free.setdefault((*_group(fleet.cluster.node(node)), own), []).append(placement.pipelines[node])
    pipelines = {}
    for node in sorted(ranges, key=fleet.cluster.index.__getitem__):
        if numbers := free.get((*_group(fleet.cluster.node(node)), ranges[node])):
            pipelines[node] = numbers.pop(0)
    return replace(placement, ranges=ranges, pipelines=pipelines)


def moved_bytes(fleet: Deployment, ranges: Mapping[str, LayerRange], previous: Mapping[str, LayerRange]) -> int:
    """Return the weights that nodes must load to change from ``previous`` to ``ranges`` [B]."""
    layers = sum(new.layers - _overlap(previous.get(node), new) for node, new in ranges.items())
    return layers * fleet.model.weight_bytes_per_layer


def _group(node: Node) -> tuple[str, str, float | None]:
    """Return what interchangeable nodes have in common."""
    return node.node_type, node.region, node.nic_bps


def _overlap(before: LayerRange | None, after: LayerRange) -> int:
    return 0 if before is None else before.shared(after).layers
