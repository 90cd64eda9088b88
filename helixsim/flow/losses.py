"""Max-flow of a placement after the loss of failure domains: machines, or all nodes of a region.

Equal nodes are one class of the capacity graph, so that domains with equally many nodes of each class leave the same
flow, which is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from helixsim.domain.cluster import Cluster, Deployment
from helixsim.domain.placement import Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow_value
from helixsim.flow.network import build_network

Domain = Literal["host", "site"]
"""What fails as a whole: a machine, or all nodes of a region."""


@dataclass(frozen=True, slots=True)
class WorstLoss:
    """The loss of one domain that leaves the least max-flow [tokens/s]; ``domain``: its name."""

    domain: str
    nodes: tuple[str, ...]
    max_flow_tokens_per_s: float


def domains_of(cluster: Cluster, kind: Domain) -> dict[str, tuple[str, ...]]:
    """Return the nodes of each failure domain by its name, in cluster order."""
    found: dict[str, list[str]] = {}
    for node in cluster.nodes:
        found.setdefault(node.region if kind == "site" else node.machine or node.id, []).append(node.id)
    return {name: tuple(nodes) for name, nodes in found.items()}


def flow_classes(
    fleet: Deployment, placement: Placement, capacity: CapacityTable, domains: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Return the names of domains whose loss leaves the same flow, together; those that carry nothing are left out."""
    network = build_network(fleet, placement, capacity)
    number = {node: at for at, one in enumerate(network.classes) for node in one.nodes}
    found: dict[object, list[str]] = {}
    for name, nodes in domains.items():
        held = Counter(number[node] for node in nodes if node in number)
        if held:
            found.setdefault(tuple(sorted(held.items())), []).append(name)
    return list(found.values())


def flow_without(fleet: Deployment, placement: Placement, capacity: CapacityTable, lost: Sequence[str]) -> float:
    """Return the max-flow on the nodes that are left [tokens/s]; 0 without a route."""
    return max_flow_value(fleet, placement.part(placement.ranges.keys() - set(lost)), capacity)


def worst_loss(fleet: Deployment, placement: Placement, capacity: CapacityTable, kind: Domain) -> WorstLoss:
    """Return the domain whose loss leaves the least max-flow of a placement that is kept, and that flow."""
    domains = domains_of(fleet.cluster, kind)
    losses = [
        WorstLoss(alike[0], domains[alike[0]], flow_without(fleet, placement, capacity, domains[alike[0]]))
        for alike in flow_classes(fleet, placement, capacity, domains)
    ]
    return min(losses, key=lambda loss: loss.max_flow_tokens_per_s, default=WorstLoss("", (), 0.0))
