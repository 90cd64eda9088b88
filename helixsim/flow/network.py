"""The capacity graph of a cluster with a placement: usable links, and capacities in tokens/s.

Parts of a machine share its NIC and its links evenly: a flow that takes no more than its share is possible however
messages meet.

Method: Helix (ASPLOS'25) section 4.2 as its artifact builds it. A node with k layers has capacity T(k), a link its
bandwidth over the bytes of a token, both in prompt and output tokens together. Latency is ignored.

Equal nodes are one vertex with the capacity of all of them. That loses nothing: the mean of a flow over all ways to
exchange equal nodes is a flow of the same value in which they all have equal shares. Where the links between several
classes are so fast that only nodes limit the flow, they meet in one more vertex (``Junction``), so that the number of
arcs grows with the number of classes and not with that of their pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS, Junction, NodeClass
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.units import BITS_PER_BYTE

MOST_CLASS_LINKS = 500
"""Most pairs of linked classes that are kept apart; with more, junctions of several classes are formed."""


class Arc(NamedTuple):
    """An arc between two vertices: classes by their number, then junctions of several classes.

    All links between two classes are one arc.
    """

    tail: int
    head: int
    capacity_tokens_per_s: float


@dataclass(frozen=True)
class FlowNetwork:
    """Nodes and links on complete routes.

    Parameters
    ----------
    classes
        The coordinator, then the nodes by ascending end of their range, so that links between nodes lead forwards;
        empty without a complete route.
    junctions
        Those from the coordinator, between nodes, and to the coordinator, in that order.
    compute_tokens_per_s
        The planner's capacity of a node of each class.
    nic_tokens_per_s
        Capacity of the NIC of a node of each class, the same in both directions; infinite without a limit.
    order
        Node ids by ascending end of their range.
    """

    classes: tuple[NodeClass, ...]
    junctions: tuple[Junction, ...]
    compute_tokens_per_s: tuple[float, ...]
    nic_tokens_per_s: tuple[float, ...]
    order: tuple[str, ...]

    def node_limit(self, number: int) -> tuple[str, float]:
        """Return the bottleneck of a node of a class (``node`` or ``nic``) and its capacity [tokens/s]."""
        compute, nic = self.compute_tokens_per_s[number], self.nic_tokens_per_s[number]
        return ("node", compute) if compute <= nic else ("nic", nic)

    def size(self, number: int) -> int:
        """Return the number of nodes of a class."""
        return len(self.classes[number].nodes)

    @property
    def node_classes(self) -> range:
        """Numbers of the classes of nodes."""
        return range(1, len(self.classes))

    @cached_property
    def arcs(self) -> tuple[Arc, ...]:
        """The arcs of each junction in turn: one for a pair of classes, else those from its sources and to its targets.

        Arcs of a junction of several classes have no limit of their own.
        """
        arcs: list[Arc] = []
        vertex = len(self.classes)
        for junction in self.junctions:
            if junction.is_hub:
                arcs += [Arc(source, vertex, float("inf")) for source in junction.sources]
                arcs += [Arc(vertex, target, float("inf")) for target in junction.targets]
                vertex += 1
            else:
                (source,), (target,) = junction.sources, junction.targets
                links = self.size(source) * self.size(target)
                arcs.append(Arc(source, target, links * junction.capacity_tokens_per_s))
        return tuple(arcs)

    @cached_property
    def num_vertices(self) -> int:
        """Number of classes, and of junctions where several of them meet."""
        return len(self.classes) + sum(junction.is_hub for junction in self.junctions)


def build_network(
    fleet: Deployment,
    placement: Placement,
    capacity: CapacityTable,
    *,
    kinds: Mapping[str, Hashable] | None = None,
    most_class_links: int = MOST_CLASS_LINKS,
) -> FlowNetwork:
    """Return the capacity graph; without classes if the placement has no complete route.

    Links without bandwidth are left out.

    Parameters
    ----------
    kinds
        Nodes of different kinds are in different classes; None: only what a flow can tell apart is.
    most_class_links
        Most pairs of classes that are linked one by one.
    """
    classes = _classes(fleet, placement, capacity, kinds)
    rate = _link_rates(fleet)
    usable = _on_complete_routes(classes, placement, rate)
    joined = _junctions(usable, placement, rate)
    if fleet.cluster.machine_of:
        joined = _links_shared(joined, usable)
    if sum(len(junction.sources) * len(junction.targets) for junction in joined) <= most_class_links:
        junctions = [pair for junction in joined for pair in _pairs(junction)]
    else:
        junctions = [part for junction in joined for part in _ample_parts(junction, usable)]
    ordered = _in_order(usable, placement)
    return FlowNetwork(
        classes=tuple(NodeClass(tuple(one.nodes), one.layers) for one in usable),
        junctions=tuple(junctions),
        compute_tokens_per_s=tuple(one.compute_tokens_per_s for one in usable),
        nic_tokens_per_s=_nics(fleet, usable, junctions),
        order=ordered,
    )


def entry_points(layers: LayerRange, *, partial_inference: bool) -> range:
    """Return the layers at which a request may enter a node that holds ``layers``."""
    return range(layers.start, layers.end) if partial_inference else range(layers.start, layers.start + 1)


@dataclass(frozen=True, slots=True)
class _Class:
    """A class with what it has in common; ``site`` is -1 and ``pipeline`` None for the coordinator.

    ``is_part``: its nodes are parts of one machine, ``nic_bps`` the share of each of its NIC.
    """

    nodes: list[str]
    layers: LayerRange
    pipeline: int | None
    site: int
    nic_bps: float | None
    compute_tokens_per_s: float
    is_part: bool = False


_Rate = Callable[[_Class, _Class], float]


def _classes(
    fleet: Deployment, placement: Placement, capacity: CapacityTable, kinds: Mapping[str, Hashable] | None
) -> list[_Class]:
    """Return the coordinator and the classes of nodes that can compute, by ascending end of their range."""
    cluster = fleet.cluster
    sites, index, pipelines = cluster.sites, cluster.index, placement.pipelines
    machines = cluster.machine_of
    parts = Counter(machines[node] for node in placement.ranges if node in machines)
    found: dict[Hashable, _Class] = {}
    for node, layers in placement.ranges.items():
        rate = capacity.held_tokens_per_s(node, layers, placement.num_layers)
        if rate <= 0:
            continue
        pipeline, nic_bps = pipelines.get(node), cluster.nodes[index[node]].nic_bps
        if nic_bps is not None and node in machines:
            nic_bps /= parts[machines[node]]
        if layers.layers == placement.num_layers and not placement.partial_inference:
            pipeline = None  # linked to the coordinator alone, whatever its pipeline
        kind = None if kinds is None else kinds[node]
        key = (layers.start, layers.end, pipeline, sites[node], nic_bps, rate, kind)
        if key in found:
            found[key].nodes.append(node)
        else:
            found[key] = _Class([node], layers, pipeline, sites[node], nic_bps, rate, node in machines)
    coordinator = _Class([COORDINATOR], LayerRange(0, 0), None, -1, cluster.network.coordinator_nic_bps, float("inf"))
    return [coordinator, *sorted(found.values(), key=lambda one: one.layers.end)]


def _in_order(classes: Sequence[_Class], placement: Placement) -> tuple[str, ...]:
    position = {node: number for number, node in enumerate(placement.ranges)}
    nodes = [(one.layers.end, position[node], node) for one in classes[1:] for node in one.nodes]
    return tuple(node for _, _, node in sorted(nodes))


_At = tuple[int | None, int]
"""A position along a pipeline: (pipeline, layers completed)."""


def _on_complete_routes(classes: Sequence[_Class], placement: Placement, rate: _Rate) -> list[_Class]:
    """Return the classes that can be reached from layer 0 and from which the last layer can be reached."""
    partial, coordinator = placement.partial_inference, classes[0]
    reached: dict[_At, dict[int, _Class]] = {}
    forward: list[_Class] = []
    for one in classes[1:]:
        entries = entry_points(one.layers, partial_inference=partial)
        sources = [before for layer in entries for before in reached.get((one.pipeline, layer), {}).values()]
        if one.layers.start == 0:
            sources.append(coordinator)
        if any(rate(before, one) > 0 for before in sources):
            reached.setdefault((one.pipeline, one.layers.end), {}).setdefault(one.site, one)
            forward.append(one)
    usable: list[_Class] = []
    leads_on: dict[_At, dict[int, _Class]] = {}
    for one in reversed(forward):
        targets = list(leads_on.get((one.pipeline, one.layers.end), {}).values())
        if one.layers.end == placement.num_layers:
            targets.append(coordinator)
        if any(rate(one, behind) > 0 for behind in targets):
            for layer in entry_points(one.layers, partial_inference=partial):
                leads_on.setdefault((one.pipeline, layer), {}).setdefault(one.site, one)
            usable.append(one)
    return [coordinator, *reversed(usable)] if usable else []


def _junctions(classes: Sequence[_Class], placement: Placement, rate: _Rate) -> list[Junction]:
    """Return the links between each two sites of each layer boundary, as one junction."""
    entered: dict[_At, dict[int, list[int]]] = {}
    left: dict[_At, dict[int, list[int]]] = {}
    first: dict[int, list[int]] = {}
    last: dict[int, list[int]] = {}
    for number, one in enumerate(classes[1:], start=1):
        for layer in entry_points(one.layers, partial_inference=placement.partial_inference):
            entered.setdefault((one.pipeline, layer), {}).setdefault(one.site, []).append(number)
        left.setdefault((one.pipeline, one.layers.end), {}).setdefault(one.site, []).append(number)
        if one.layers.start == 0:
            first.setdefault(one.site, []).append(number)
        if one.layers.end == placement.num_layers:
            last.setdefault(one.site, []).append(number)
    coordinator = {-1: [COORDINATOR_CLASS]}
    boundaries: list[tuple[int, Mapping[int, list[int]], Mapping[int, list[int]]]] = [(0, coordinator, first)]
    boundaries += [(at[1], sources, entered.get(at, {})) for at, sources in left.items()]
    boundaries.append((placement.num_layers, last, coordinator))
    return [
        Junction(layer, tuple(sources), tuple(targets), speed)
        for layer, by_source, by_target in boundaries
        for sources in by_source.values()
        for targets in by_target.values()
        if (speed := rate(classes[sources[0]], classes[targets[0]])) > 0
    ]


def _links_shared(junctions: Sequence[Junction], classes: Sequence[_Class]) -> list[Junction]:
    """Return the junctions with each link of a divided machine shared evenly by the pairs of parts that it joins.

    The parts of one machine meet on the interconnect of their GPUs, where each pair has a way of its own.
    """

    def ends(junction: Junction) -> tuple[_Class, _Class]:
        return classes[junction.sources[0]], classes[junction.targets[0]]

    def pairs(junction: Junction) -> int:
        source, target = (
            sum(len(classes[one].nodes) for one in numbers) if classes[numbers[0]].is_part else 1
            for numbers in (junction.sources, junction.targets)
        )
        return source * target

    users: Counter[tuple[int, int]] = Counter()
    for junction in junctions:
        source, target = ends(junction)
        if source.is_part or target.is_part:
            users[source.site, target.site] += pairs(junction)
    shared = []
    for junction in junctions:
        source, target = ends(junction)
        count = 1 if source.site == target.site else users.get((source.site, target.site), 1)
        shared.append(replace(junction, capacity_tokens_per_s=junction.capacity_tokens_per_s / count))
    return shared


def _pairs(junction: Junction) -> list[Junction]:
    """Return the links between each two classes."""
    return [
        Junction(junction.layer, (source,), (target,), junction.capacity_tokens_per_s)
        for source in junction.sources
        for target in junction.targets
    ]


def _ample_parts(junction: Junction, classes: Sequence[_Class]) -> list[Junction]:
    """Return parts in which no link is slower than the slower one of its nodes, and single pairs of classes.

    A node no faster than the link never sends, or gets, more than fits on it.
    """

    def parted(numbers: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        is_slow = {one: classes[one].compute_tokens_per_s <= junction.capacity_tokens_per_s for one in numbers}
        return tuple(one for one in numbers if is_slow[one]), tuple(one for one in numbers if not is_slow[one])

    slow_sources, fast_sources = parted(junction.sources)
    slow_targets, fast_targets = parted(junction.targets)
    parts = []
    for sources, targets, is_ample in (
        (slow_sources, junction.targets, True),
        (fast_sources, slow_targets, True),
        (fast_sources, fast_targets, False),
    ):
        part = Junction(junction.layer, sources, targets, junction.capacity_tokens_per_s)
        if is_ample and min(len(sources), len(targets)) > 1:
            parts.append(part)
        else:
            parts += _pairs(part)
    return parts


def token_bytes(fleet: Deployment, src: str, dst: str) -> int:
    """Return the bytes of a token on a link: its id and, between nodes, its activations."""
    outside = COORDINATOR in (src, dst)
    return TOKEN_ID_BYTES if outside else fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES


def link_tokens_per_s(fleet: Deployment, src: str, dst: str) -> float:
    """Return the capacity of a link [tokens/s]."""
    return fleet.cluster.link(src, dst).bandwidth_bps / BITS_PER_BYTE / token_bytes(fleet, src, dst)


def _link_rates(fleet: Deployment) -> _Rate:
    """Return a function of two classes that returns ``link_tokens_per_s`` of their links, the same for one site."""
    known: dict[tuple[int, int], float] = {}

    def rate(src: _Class, dst: _Class) -> float:
        between = src.site, dst.site
        if between not in known:
            known[between] = link_tokens_per_s(fleet, src.nodes[0], dst.nodes[0])
        return known[between]

    return rate


def _nics(fleet: Deployment, classes: Sequence[_Class], junctions: Sequence[Junction]) -> tuple[float, ...]:
    """Return the capacity of each NIC [tokens/s]; a token counts as its largest message (paper artifact)."""
    between_nodes: set[int] = set()
    for junction in junctions:
        source, target = classes[junction.sources[0]], classes[junction.targets[0]]
        inside = source.is_part and source.site == target.site
        if COORDINATOR_CLASS not in (junction.sources[0], junction.targets[0]) and not inside:
            between_nodes.update(junction.sources, junction.targets)
    sizes = (TOKEN_ID_BYTES, fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES)
    return tuple(
        float("inf") if one.nic_bps is None else one.nic_bps / BITS_PER_BYTE / sizes[number in between_nodes]
        for number, one in enumerate(classes)
    )
