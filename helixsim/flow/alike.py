"""Equal parts of a capacity graph, of which one stands for all.

Thousands of equal replicas or pipelines, each of nodes of its own, carry equal flows: what settles one of them settles
all. Parts meet at the coordinator alone, so a part is a set of classes that junctions join otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.flowplan import COORDINATOR_CLASS, Junction
from helixsim.flow.network import FlowNetwork


@dataclass(frozen=True)
class Alike:
    """A network with one part of each kind.

    Parameters
    ----------
    network
        Its classes and junctions are in the order of the whole network.
    stands_for
        The classes of the whole network that each class stands for, in that order.
    """

    network: FlowNetwork
    stands_for: tuple[tuple[int, ...], ...]

    @cached_property
    def copies(self) -> tuple[int, ...]:
        """Number of classes that each class stands for."""
        return tuple(map(len, self.stands_for))


def whole(network: FlowNetwork) -> Alike:
    """Return a network in which each part stands for itself."""
    return Alike(network, tuple((number,) for number in range(len(network.classes))))


def alike(fleet: Deployment, network: FlowNetwork, kind_of: Callable[[int], Hashable]) -> Alike:
    """Return a network with one of the equal parts each.

    It has the same flow on that part where the NIC of the coordinator is no limit.

    Parameters
    ----------
    kind_of
        Returns what classes of equal nodes have in common beyond capacities and layers, by the number of a class.
    """
    root = list(range(len(network.classes)))

    def part_of(number: int) -> int:
        while root[number] != number:
            root[number] = number = root[root[number]]
        return number

    inner = [
        [number for number in (*junction.sources, *junction.targets) if number != COORDINATOR_CLASS]
        for junction in network.junctions
    ]
    for ends in inner:
        for number in ends[1:]:
            root[part_of(number)] = part_of(ends[0])
    classes: dict[int, list[int]] = {}
    junctions: dict[int, list[int]] = {}
    for number in network.node_classes:
        classes.setdefault(part_of(number), []).append(number)
    for at, ends in enumerate(inner):
        junctions.setdefault(part_of(ends[0]), []).append(at)

    def layout(part: int) -> Hashable:
        """Return the same for equal parts: their classes, and how junctions join them."""
        place = {number: at for at, number in enumerate(classes[part], start=1)} | {COORDINATOR_CLASS: 0}
        return (
            tuple(
                (
                    network.size(n), network.classes[n].layers, network.compute_tokens_per_s[n],
                    network.nic_tokens_per_s[n], kind_of(n),
                )
                for n in classes[part]
            ),
            tuple(
                (
                    one.layer, tuple(place[n] for n in one.sources), tuple(place[n] for n in one.targets),
                    one.capacity_tokens_per_s, _link(fleet, network, one),
                )
                for one in (network.junctions[at] for at in junctions[part])
            ),
        )  # fmt: skip

    parts: dict[Hashable, list[int]] = {}
    for part in classes:
        parts.setdefault(layout(part), []).append(part)
    stands_for = {COORDINATOR_CLASS: (COORDINATOR_CLASS,)}
    kept_junctions: list[int] = []
    for equal in parts.values():
        stands_for.update(zip(classes[equal[0]], zip(*(classes[part] for part in equal), strict=True), strict=True))
        kept_junctions += junctions[equal[0]]
    kept = sorted(stands_for)
    number_of = {number: at for at, number in enumerate(kept)}
    ids = {node for number in kept for node in network.classes[number].nodes}
    small = FlowNetwork(
        classes=tuple(network.classes[number] for number in kept),
        junctions=tuple(
            replace(
                one,
                sources=tuple(number_of[n] for n in one.sources),
                targets=tuple(number_of[n] for n in one.targets),
            )
            for one in (network.junctions[at] for at in sorted(kept_junctions))
        ),
        compute_tokens_per_s=tuple(network.compute_tokens_per_s[number] for number in kept),
        nic_tokens_per_s=tuple(network.nic_tokens_per_s[number] for number in kept),
        order=tuple(node for node in network.order if node in ids),
    )
    return Alike(small, tuple(stands_for[number] for number in kept))


def _link(fleet: Deployment, network: FlowNetwork, junction: Junction) -> LinkSpec:
    """Return the link of a junction, the same between all its nodes."""
    source, target = (network.classes[ends[0]].nodes[0] for ends in (junction.sources, junction.targets))
    return fleet.cluster.link(source, target)
