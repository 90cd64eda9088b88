"""Machines of several GPUs as several nodes of fewer GPUs each, a choice between tensor parallelism and replicas.

One node of 8 GPUs answers a request fastest, and 8 nodes of one GPU, if the model fits, spend no time on all-reduces;
which serves a load better is for a race to tell. Machines of a type are divided alike: all into parts of the same
number of GPUs, or one type of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from helixsim.domain.cluster import Deployment, Node, node_type
from helixsim.domain.placement import LayerRange
from helixsim.placement.base import Estimate
from helixsim.placement.select import Candidate

MOST_DIVISIONS = 12
"""Divisions that are searched; three types of eight GPUs have as many."""

DIVISION_PLACEMENTS = 2
"""Placements of each division that are candidates, with replicas of one node, and others."""


def divisions_of(fleet: Deployment) -> dict[str, dict[str, int]]:
    """Return name -> machine -> GPUs of each of its parts, for every division that leaves room for the model."""
    widths = {node.id: fleet.widths_of(node) for node in fleet.cluster.nodes}
    machines = [node for node in fleet.cluster.nodes if widths[node.id]]
    found: dict[str, dict[str, int]] = {}
    for least, kinds in _choices(machines, widths):
        divided = {
            node.id: next(gpus for gpus in [*widths[node.id], node.gpus] if gpus <= least or gpus == node.gpus)
            for node in machines
            if node.node_type in kinds
        }
        divided = {node.id: divided[node.id] for node in machines if divided.get(node.id, node.gpus) < node.gpus}
        room = sum(profile.max_layers for profile in fleet.divided(divided).profiles)
        if divided and room >= fleet.model.num_layers and len(found) < MOST_DIVISIONS:
            found.setdefault(division_name(machines, divided), divided)
    return found


def best_of_division(
    name: str,
    candidates: Sequence[Candidate],
    fleet: Deployment,
    divisions: Mapping[str, Mapping[str, int]],
    estimate: Estimate,
) -> list[Candidate]:
    """Return the best candidates of a division by the estimate, replicas of one node and others.

    Those that use no machine of a type that it divides are left out if they are candidates of another division.
    """
    widths = divisions[name]
    others = [{}, *(one for one in divisions.values() if one != widths)]
    own = [one for one in candidates if _used(fleet, widths, one.placement.ranges) not in others]
    best_first = sorted(own, key=lambda one: -estimate(one.placement))
    alone, joined = ([one for one in best_first if (one.max_hops == 1) is single] for single in (True, False))
    kept = [*alone[:DIVISION_PLACEMENTS], *joined[:DIVISION_PLACEMENTS]]
    return [replace(one, name=f"{name}: {one.name}") for one in kept]


def _used(fleet: Deployment, widths: Mapping[str, int], ranges: Mapping[str, LayerRange]) -> dict[str, int]:
    """Return the widths without those of types of machines of which a placement uses none."""
    cluster = fleet.divided(widths).cluster
    used = {cluster.machine_of.get(node, node) for node in ranges}
    kinds = {fleet.cluster.node(machine).node_type for machine in widths if machine in used}
    return {machine: gpus for machine, gpus in widths.items() if fleet.cluster.node(machine).node_type in kinds}


def division_name(machines: list[Node], widths: dict[str, int]) -> str:
    """Return for example ``h100x8 as 2 h100x4``."""
    parts = {
        node.node_type: f"{node.node_type} as {node.gpus // widths[node.id]} {node_type(node.gpu, widths[node.id])}"
        for node in machines
        if node.id in widths
    }
    return ", ".join(parts.values())


def _choices(machines: list[Node], widths: dict[str, list[int]]) -> Iterator[tuple[int, set[str]]]:
    """Yield the most GPUs of a part, and the types of machines that are divided."""
    kinds = {node.node_type: node.id for node in machines}
    for most in sorted({gpus for own in widths.values() for gpus in own}, reverse=True):
        yield most, set(kinds)
    for kind, node in kinds.items():
        for most in widths[node]:
            yield most, {kind}
