"""What users ask of a placement beside flow: nodes left out, layers limited, nodes pinned, little moved.

Nodes left out and limits narrow the problem before the search. Pins and a running placement are served afterwards:
nodes of a group are interchangeable, so their roles are dealt out anew, and a pinned node whose range no node of its
group holds takes it in place of its role.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from helixsim.domain.cluster import Fleet
from helixsim.domain.placement import LayerRange
from helixsim.errors import did_you_mean
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.base import PlacementProblem


def wish_faults(
    fleet: Fleet, exclude: Sequence[str], max_layers: Mapping[str, int], pinned: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, str]]:
    """Yield (option, message) for each wish that does not fit the fleet."""
    ids = [node.id for node in fleet.cluster.nodes]
    for pattern in exclude:
        if not fnmatch.filter(ids, pattern):
            yield "exclude", f"{pattern!r} matches no node{did_you_mean(pattern, ids)}"
    kinds = sorted({profile.kind for profile in fleet.profiles})
    for kind, most in max_layers.items():
        if kind not in kinds:
            yield "max_layers", f"no node of kind {kind!r}{did_you_mean(kind, kinds)} (known: {', '.join(kinds)})"
        elif most < 1:
            yield "max_layers", f"{kind} is {most}, allowed: 1 or more"
    kept = {ids[at] for at in _kept(fleet, exclude)}
    if not kept:
        yield "exclude", f"{', '.join(exclude)} leaves no node"
    for node, pair in pinned.items():
        if node not in kept:
            yield "pinned", f"no node {node!r} to place{did_you_mean(node, kept)}"
            continue
        profile = fleet.profile(node)
        most = len(profile.kv_blocks[: max_layers.get(profile.kind)])
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= fleet.model.num_layers or pair[1] - pair[0] > most:
            allowed = f"[start, end] of up to {most} of the layers 0 to {fleet.model.num_layers}"
            yield "pinned", f"{node} has {list(pair)}, allowed: {allowed}"


def _kept(fleet: Fleet, exclude: Sequence[str]) -> list[int]:
    """Return the positions of the nodes that no pattern excludes."""
    return [
        at
        for at, node in enumerate(fleet.cluster.nodes)
        if not any(fnmatch.fnmatchcase(node.id, pattern) for pattern in exclude)
    ]


def narrowed(problem: PlacementProblem, exclude: Sequence[str], max_layers: Mapping[str, int]) -> PlacementProblem:
    """Return the problem without the nodes that match ``exclude`` and with at most so many layers per kind of node."""
    fleet = problem.fleet
    kept = _kept(fleet, exclude)
    profiles = {
        profile.kind: replace(
            profile,
            kv_blocks=profile.kv_blocks[: max_layers.get(profile.kind)],
            limits=profile.limits[: max_layers.get(profile.kind)],
            max_layers=min(profile.max_layers, max_layers.get(profile.kind, profile.max_layers)),
        )
        for profile in fleet.profiles
    }
    narrow = replace(
        fleet,
        cluster=replace(fleet.cluster, nodes=tuple(fleet.cluster.nodes[at] for at in kept)),
        profiles=tuple(profiles[fleet.profiles[at].kind] for at in kept),
    )
    return replace(problem, fleet=narrow, capacity=limited_table(problem.capacity, max_layers))


def limited_table(table: CapacityTable, max_layers: Mapping[str, int]) -> CapacityTable:
    """Return the capacities of nodes that hold at most so many layers per kind."""
    tables = {kind: values[: max_layers.get(kind)] for kind, values in table.tables.items()}
    return replace(table, tables=tables)


def dealt_anew(
    fleet: Fleet, ranges: Mapping[str, LayerRange], previous: Mapping[str, LayerRange], pinned: Mapping[str, LayerRange]
) -> dict[str, LayerRange]:
    """Return the placement with roles exchanged among interchangeable nodes, so that little is moved.

    Pinned nodes get their ranges. Then nodes take the roles of their group that overlap most with what they hold in
    ``previous``, those with the largest overlap first.
    """
    groups: dict[tuple[str, str, float | None], list[str]] = {}
    for node in fleet.cluster.nodes:
        groups.setdefault((node.kind, node.region, node.nic_bps), []).append(node.id)
    found = dict(pinned)
    for members in groups.values():
        roles = [ranges[node] for node in members if node in ranges]
        for member in members:
            if member in pinned and pinned[member] in roles:
                roles.remove(pinned[member])
        free = [member for member in members if member not in pinned]
        kept = {member: ranges[member] for member in free if member in ranges}
        if not previous and sorted(kept.values()) == sorted(roles):
            found.update(kept)
            continue
        pairs = sorted(
            (-_overlap(previous.get(member), role), at, number)
            for at, member in enumerate(free)
            for number, role in enumerate(roles)
        )
        taken: set[int] = set()
        served: set[int] = set()
        for _, at, number in pairs:
            if at not in served and number not in taken:
                served.add(at)
                taken.add(number)
                found[free[at]] = roles[number]
    return found


def moved_bytes(fleet: Fleet, ranges: Mapping[str, LayerRange], previous: Mapping[str, LayerRange]) -> int:
    """Return the bytes of weights that nodes must load to get from ``previous`` to ``ranges``."""
    layers = sum(held.layers - _overlap(previous.get(node), held) for node, held in ranges.items())
    return layers * fleet.model.weight_bytes_per_layer


def _overlap(before: LayerRange | None, after: LayerRange) -> int:
    return 0 if before is None else max(0, min(before.end, after.end) - max(before.start, after.start))
