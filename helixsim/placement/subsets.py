"""Placements on a part of the nodes: replicas, and what the search finds for the others or without some of them.

The largest flow uses every node, however slow or far away. Candidates here leave nodes out, or keep fast nodes apart as
replicas, so that the selection can tell what each node is worth:

- replicas on the fastest classes of equal nodes: the fastest one, the two fastest, and so on,
- these with the pipelines that the search finds on all other nodes,
- what the search finds on one site alone, and without one class of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.placement.base import PlacementProblem
from helixsim.placement.replicas import equal_nodes, smallest_group

Searched = Callable[[PlacementProblem], Sequence[Placement]]
"""Finds the most promising placements on the nodes of a problem."""


@dataclass(frozen=True, slots=True)
class Subset:
    """A placement on a part of the nodes; ``pipelines`` as in ``Placement``."""

    name: str
    ranges: dict[str, LayerRange]
    pipelines: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Class:
    """Equal nodes as replicas, fastest class first by the time of a token through all layers."""

    name: str
    token_ns: float
    replicas: tuple[tuple[tuple[str, LayerRange], ...], ...]


def subsets(problem: PlacementProblem, searched: Searched) -> Iterator[Subset]:
    """Yield placements on parts of the nodes; ``searched`` finds pipelines on the nodes of a smaller problem."""
    fleet = problem.fleet
    classes = _classes(fleet)
    ids = list(fleet.cluster.index)
    for count in range(1, len(classes) + 1):
        chosen = classes[:count]
        name = "+".join(one.name for one in chosen)
        ranges, pipelines = _joined(chosen)
        yield Subset(f"replicas {name}", ranges, pipelines)
        others = [node for node in ids if node not in ranges]
        for placement in searched(part_of(problem, others)) if others else ():
            number = len(set(pipelines.values()))
            groups = {group: at for at, group in enumerate(dict.fromkeys(placement.pipelines.values()), start=number)}
            apart = {node: groups.get(placement.pipelines.get(node, -1), number) for node in placement.ranges}
            yield Subset(
                f"replicas {name} and {placement.strategy}", {**ranges, **placement.ranges}, {**pipelines, **apart}
            )
    for name, kept in _parts(fleet):
        for placement in searched(part_of(problem, kept)):
            yield Subset(f"{name}: {placement.strategy}", dict(placement.ranges), dict(placement.pipelines))


def part_of(problem: PlacementProblem, nodes: Sequence[str]) -> PlacementProblem:
    """Return the problem on these nodes alone."""
    fleet, kept = problem.fleet, set(nodes)
    at = [number for number, node in enumerate(fleet.cluster.nodes) if node.id in kept]
    cluster = replace(fleet.cluster, nodes=tuple(fleet.cluster.nodes[number] for number in at))
    return replace(
        problem, fleet=replace(fleet, cluster=cluster, profiles=tuple(fleet.profiles[number] for number in at))
    )


def _named(fleet: Deployment) -> list[tuple[str, list[Node]]]:
    """Return the classes of equal nodes with names that differ."""
    classes = equal_nodes(fleet)
    names = [f"{len(nodes)} {nodes[0].node_type}" for nodes in classes]
    for form in (" in {0.region}", " from {0.id}"):
        counts = Counter(names)
        names = [
            name + form.format(nodes[0]) if counts[name] > 1 else name
            for name, nodes in zip(names, classes, strict=True)
        ]
    return list(zip(names, classes, strict=True))


def _classes(fleet: Deployment) -> list[_Class]:
    found = []
    for name, nodes in _named(fleet):
        shares = smallest_group(fleet, nodes)
        if not shares:
            continue
        size = len(shares)
        replicas = tuple(
            tuple((node.id, held) for node, held in zip(nodes[start : start + size], shares, strict=True))
            for start in range(0, len(nodes) // size * size, size)
        )
        token_ns = fleet.model.num_layers * fleet.profile(nodes[0].id).compute.decode(1.0)
        if size > 1:
            token_ns += size * fleet.cluster.link(nodes[0].id, nodes[1].id).latency_ns
        found.append(_Class(name, token_ns, replicas))
    return sorted(found, key=lambda one: one.token_ns)


def _joined(classes: Sequence[_Class]) -> tuple[dict[str, LayerRange], dict[str, int]]:
    ranges: dict[str, LayerRange] = {}
    pipelines: dict[str, int] = {}
    for number, replica in enumerate(replica for one in classes for replica in one.replicas):
        for node, held in replica:
            ranges[node], pipelines[node] = held, number
    return ranges, pipelines


def _parts(fleet: Deployment) -> Iterator[tuple[str, list[str]]]:
    """Yield the nodes of each site, and all nodes but those of one class."""
    nodes = fleet.cluster.nodes
    regions = list(dict.fromkeys(node.region for node in nodes))
    classes = _named(fleet)
    if len(regions) > 1:
        for region in regions:
            yield f"only {region}", [node.id for node in nodes if node.region == region]
    if len(classes) > 1:
        for name, left_out in classes:
            gone = {node.id for node in left_out}
            kept = [node for node in nodes if node.id not in gone]
            if len(regions) == 1 or {node.region for node in kept} == set(regions):
                yield f"without {name}", [node.id for node in kept]
