"""The capacity graph of a cluster with a placement: usable links, and capacities in tokens/s.

Method: Helix (ASPLOS'25) section 4.2 as its artifact builds it. A node with k layers has capacity T(k), a link its
bandwidth over the bytes of a token, both in prompt and output tokens together. Latency is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.units import BITS_PER_BYTE


@dataclass(frozen=True, slots=True)
class Link:
    """A directed link that a route can use."""

    src: str
    dst: str
    capacity_tokens_per_s: float


@dataclass(frozen=True)
class FlowNetwork:
    """Nodes and links on complete routes.

    Parameters
    ----------
    nodes
        Node ids by ascending end of their range, so that links between nodes lead forwards.
    links
        Links from the coordinator, between nodes, and to the coordinator, in that order.
    compute_tokens_per_s
        The planner's capacity of each node.
    nic_tokens_per_s
        Capacity of each NIC, the same in both directions; only nodes, and the coordinator, with a limit.
    """

    nodes: tuple[str, ...]
    links: tuple[Link, ...]
    compute_tokens_per_s: Mapping[str, float]
    nic_tokens_per_s: Mapping[str, float]

    def node_limit(self, node: str) -> tuple[str, float]:
        """Return the bottleneck of a node (``node`` or ``nic``) and its capacity [tokens/s]."""
        compute = self.compute_tokens_per_s[node]
        nic = self.nic_tokens_per_s.get(node)
        return ("node", compute) if nic is None or compute <= nic else ("nic", nic)


def build_network(fleet: Deployment, placement: Placement, capacity: CapacityTable) -> FlowNetwork:
    """Return the capacity graph; without nodes if the placement has no complete route."""
    order = {node: position for position, node in enumerate(placement.ranges)}
    compute = {node: capacity.tokens_per_s(node, layers.layers) for node, layers in placement.ranges.items()}
    able = [(node, layers) for node, layers in placement.ranges.items() if compute[node] > 0]
    held = sorted(able, key=lambda item: (item[1].end, order[item[0]]))
    usable = _on_complete_routes(held, placement)
    nodes = [(node, layers) for node, layers in held if node in usable]
    rate = _link_rates(fleet)
    links = [Link(COORDINATOR, node, rate(COORDINATOR, node)) for node, layers in nodes if layers.start == 0]
    entered = _entered_from(nodes, placement)
    links += [
        Link(node, follower, rate(node, follower))
        for node, layers in nodes
        for follower in entered.get((placement.pipelines.get(node), layers.end), ())
    ]
    links += [
        Link(node, COORDINATOR, rate(node, COORDINATOR)) for node, layers in nodes if layers.end == placement.num_layers
    ]
    return FlowNetwork(
        nodes=tuple(node for node, _ in nodes),
        links=tuple(links),
        compute_tokens_per_s={node: compute[node] for node, _ in nodes},
        nic_tokens_per_s=_nics(fleet, links),
    )


def entry_points(layers: LayerRange, *, partial_inference: bool) -> range:
    """Return the layers at which a request may enter a node that holds ``layers``."""
    return range(layers.start, layers.end) if partial_inference else range(layers.start, layers.start + 1)


_At = tuple[int | None, int]
"""A position along a pipeline: (pipeline, layers completed)."""


def _on_complete_routes(held: list[tuple[str, LayerRange]], placement: Placement) -> set[str]:
    """Return the nodes that can be reached from layer 0 and from which the last layer can be reached."""
    partial, pipeline = placement.partial_inference, placement.pipelines.get
    reached: set[_At] = set()
    forward: list[tuple[str, LayerRange]] = []
    for node, layers in held:
        entries = entry_points(layers, partial_inference=partial)
        if layers.start == 0 or any((pipeline(node), layer) in reached for layer in entries):
            reached.add((pipeline(node), layers.end))
            forward.append((node, layers))
    usable: set[str] = set()
    leads_on: set[_At] = set()
    for node, layers in reversed(forward):
        if layers.end == placement.num_layers or (pipeline(node), layers.end) in leads_on:
            leads_on.update((pipeline(node), layer) for layer in entry_points(layers, partial_inference=partial))
            usable.add(node)
    return usable


def _entered_from(nodes: list[tuple[str, LayerRange]], placement: Placement) -> dict[_At, list[str]]:
    entered: dict[_At, list[str]] = {}
    for node, layers in nodes:
        for layer in entry_points(layers, partial_inference=placement.partial_inference):
            entered.setdefault((placement.pipelines.get(node), layer), []).append(node)
    return entered


def token_bytes(fleet: Deployment, src: str, dst: str) -> int:
    """Return the bytes of a token on a link: its id and, between nodes, its activations."""
    outside = COORDINATOR in (src, dst)
    return TOKEN_ID_BYTES if outside else fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES


def link_tokens_per_s(fleet: Deployment, src: str, dst: str) -> float:
    """Return the capacity of a link [tokens/s]."""
    return fleet.cluster.link(src, dst).bandwidth_bps / BITS_PER_BYTE / token_bytes(fleet, src, dst)


def _link_rates(fleet: Deployment) -> Callable[[str, str], float]:
    """Return ``link_tokens_per_s`` of a fleet, cached by pair of regions for links without an entry of their own."""
    cluster = fleet.cluster
    own = cluster.network.pairs
    places = {node.id: node.region for node in cluster.nodes}
    known: dict[tuple[str | None, str | None], float] = {}

    def rate(src: str, dst: str) -> float:
        if (src, dst) in own:
            return link_tokens_per_s(fleet, src, dst)
        between = places.get(src), places.get(dst)  # None: the coordinator
        if between not in known:
            known[between] = link_tokens_per_s(fleet, src, dst)
        return known[between]

    return rate


def _nics(fleet: Deployment, links: list[Link]) -> dict[str, float]:
    """Return the capacity of each limited NIC [tokens/s]; a token counts as its largest message (paper artifact)."""
    nics = {node.id: node.nic_bps for node in fleet.cluster.nodes if node.nic_bps is not None}
    if fleet.cluster.network.coordinator_nic_bps is not None:
        nics[COORDINATOR] = fleet.cluster.network.coordinator_nic_bps
    largest: dict[str, int] = {}
    for link in links:
        for endpoint in (link.src, link.dst):
            if endpoint in nics:
                largest[endpoint] = max(largest.get(endpoint, 0), token_bytes(fleet, link.src, link.dst))
    return {endpoint: nics[endpoint] / BITS_PER_BYTE / size for endpoint, size in largest.items()}
