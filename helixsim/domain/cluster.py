"""Nodes, links, clusters, and clusters with a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from helixsim.domain.hardware import NodeProfile
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange, Role

COORDINATOR = "coordinator"
"""Id of the machine where requests arrive and tokens leave."""

TOKEN_ID_BYTES = 2
"""Size of a token in messages to and from the coordinator [B], as in the paper's artifact."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One direction of a connection."""

    bandwidth_bps: float
    latency_ns: int


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: one GPU, or several joined by tensor parallelism.

    Parameters
    ----------
    gpu, gpus
        Name of the GPU profile, and number of GPUs.
    nic_bps
        Bandwidth of the NIC, each way [bit/s]; None: unlimited.
    cost_usd_per_hour, tdp_w
        Price [$/h] and power [W] of the whole node.
    kv_blocks, max_requests
        KV blocks and maximum of resident requests; None: by memory, unlimited.
    machine
        Id of the machine of which this node is a part; None: the node is the whole machine. The parts of a machine
        share its NIC and its links.
    first_gpu
        Number of its first GPU on the machine.
    peer_link
        Between two parts of the machine: the interconnect of its GPUs; None: as between two machines of the region.
    tp
        GPUs that tensor parallelism shall join; None: all, unless a strategy divides the node.
    role
        Phases it serves.
    """

    id: str
    gpu: str
    gpus: int
    region: str
    nic_bps: float | None
    cost_usd_per_hour: float
    tdp_w: float
    kv_blocks: int | None = None
    max_requests: int | None = None
    machine: str | None = None
    first_gpu: int = 0
    peer_link: LinkSpec | None = None
    tp: int | None = None
    role: Role = "both"

    @property
    def node_type(self) -> str:
        """``l4`` for one GPU, ``l4x2`` for two as one node."""
        return node_type(self.gpu, self.gpus)

    def divided(self, gpus: int) -> tuple[Node, ...]:
        """Return the parts of so many GPUs each, which share price and power evenly; the node itself if that is all."""
        count = self.gpus // gpus
        if count == 1:
            return (self,)
        return tuple(
            replace(
                self,
                id=f"{self.id}.{number}",
                gpus=gpus,
                cost_usd_per_hour=self.cost_usd_per_hour / count,
                tdp_w=self.tdp_w / count,
                machine=self.id,
                first_gpu=number * gpus,
                tp=gpus,
            )
            for number in range(count)
        )


def node_type(gpu: str, gpus: int) -> str:
    """Return the type of a node of so many GPUs."""
    return gpu if gpus == 1 else f"{gpu}x{gpus}"


@dataclass(frozen=True, slots=True)
class Network:
    """Links between all pairs of nodes: classes by region, with exceptions.

    ``pairs`` overrides single directions, keyed (source id, destination id), including the coordinator. ``regions``
    overrides ordered pairs of regions. ``is_shared``: messages share the bandwidth of a link evenly, otherwise they are
    sent in sequence.
    """

    intra_region: LinkSpec
    inter_region: LinkSpec
    regions: Mapping[tuple[str, str], LinkSpec] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], LinkSpec] = field(default_factory=dict)
    coordinator_nic_bps: float | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Cluster:
    """The nodes in service, whose order breaks ties, and their network.

    ``down_usd_per_hour`` is the price of the nodes out of service [$/h], which is paid all the same.
    """

    nodes: tuple[Node, ...]
    network: Network
    coordinator_region: str
    down_usd_per_hour: float = 0.0
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {node.id: position for position, node in enumerate(self.nodes)}
        if len(index) != len(self.nodes) or COORDINATOR in index:
            raise ValueError("node ids must be unique and none may be called 'coordinator'")
        object.__setattr__(self, "index", index)

    @cached_property
    def machine_of(self) -> Mapping[str, str]:
        """Machine of each node that is a part of one."""
        return {node.id: node.machine for node in self.nodes if node.machine is not None}

    @cached_property
    def widths(self) -> Mapping[str, int]:
        """GPUs of each part of the machines that are divided."""
        return {node.machine: node.gpus for node in self.nodes if node.machine is not None}

    def divided(self, widths: Mapping[str, int]) -> Cluster:
        """Return the cluster with machines divided into nodes of so many GPUs each; unknown ids are ignored.

        Raises
        ------
        ValueError
            If the id of a part is that of another node.
        """
        parts = (part for node in self.nodes for part in node.divided(widths.get(node.id, node.gpus)))
        return replace(self, nodes=tuple(parts))

    @property
    def cost_usd_per_hour(self) -> float:
        """Price of all nodes, including those out of service [$/h]."""
        return sum((node.cost_usd_per_hour for node in self.nodes), self.down_usd_per_hour)

    def node(self, node_id: str) -> Node:
        """Return the node with this id."""
        return self.nodes[self.index[node_id]]

    def type_of(self, nodes: Sequence[str]) -> str:
        """Return the type of the machine whose parts these are, or of a node."""
        parts = [self.node(node) for node in nodes]
        return node_type(parts[0].gpu, sum(part.gpus for part in parts))

    def region_of(self, endpoint: str) -> str:
        """Return the region of a node id or of the coordinator."""
        return self.coordinator_region if endpoint == COORDINATOR else self.node(endpoint).region

    def link(self, src: str, dst: str) -> LinkSpec:
        """Return the link from ``src`` to ``dst`` (node ids or the coordinator)."""
        machines = self.machine_of
        pair = (machines.get(src, src), machines.get(dst, dst)) if machines else (src, dst)
        if pair[0] == pair[1] and pair[0] in self.widths:
            peer = self.node(src).peer_link
            return self._region_link(src, dst) if peer is None else peer
        found = self.network.pairs.get(pair)
        if found is not None:
            return found
        return self._region_link(src, dst)

    def _region_link(self, src: str, dst: str) -> LinkSpec:
        src_region, dst_region = self.region_of(src), self.region_of(dst)
        found = self.network.regions.get((src_region, dst_region))
        if found is not None:
            return found
        return self.network.intra_region if src_region == dst_region else self.network.inter_region

    def without(self, lost: Set[str], *, paid: Set[str]) -> Cluster:
        """Return the cluster without some nodes and their links; the price of those in ``paid`` goes on."""
        kept = tuple(node for node in self.nodes if node.id not in lost)
        pairs = {pair: link for pair, link in self.network.pairs.items() if lost.isdisjoint(pair)}
        down = sum(node.cost_usd_per_hour for node in self.nodes if node.id in paid)
        return replace(
            self,
            nodes=kept,
            network=replace(self.network, pairs=pairs),
            down_usd_per_hour=self.down_usd_per_hour + down,
        )

    def with_roles(self, roles: Mapping[str, Role]) -> Cluster:
        """Return the cluster whose nodes have these roles; the others keep theirs."""
        return replace(self, nodes=tuple(replace(node, role=roles.get(node.id, node.role)) for node in self.nodes))

    def serving(self, phase: Role) -> list[str]:
        """Return the ids of the nodes that serve a phase."""
        return [node.id for node in self.nodes if node.role in (phase, "both")]

    @cached_property
    def is_disaggregated(self) -> bool:
        """Whether some nodes serve one phase only."""
        return any(node.role != "both" for node in self.nodes)

    @cached_property
    def sites(self) -> Mapping[str, int]:
        """Number of the site of each node; the nodes of a site have equal links to and from every other end.

        A site is a region, without the nodes that have links of their own: of these, only nodes with the same ones
        share a site. The parts of a machine are a site.
        """
        own: dict[str, set[tuple[str, bool, LinkSpec]]] = {}
        ends = {node.machine or node.id: node.id for node in self.nodes} | {COORDINATOR: COORDINATOR}
        for (src, dst), link in self.network.pairs.items():
            if src in ends and dst in ends and link != self._region_link(ends[src], ends[dst]):
                own.setdefault(src, set()).add((dst, True, link))
                own.setdefault(dst, set()).add((src, False, link))
        numbers: dict[tuple[str, str | None, frozenset[tuple[str, bool, LinkSpec]]], int] = {}
        return {
            node.id: numbers.setdefault(
                (node.region, node.machine, frozenset(own.get(node.machine or node.id, ()))), len(numbers)
            )
            for node in self.nodes
        }


@dataclass(frozen=True)
class Deployment:
    """A cluster with the model it serves and the profiles of its nodes.

    ``profiles`` is aligned with ``cluster.nodes``; nodes of one type share an object. ``parts`` are the profiles of the
    types of nodes into which machines of several GPUs may be divided, by node type. ``of_role`` are those that nodes
    take on with a role that a placement gives them, by role and node type: where its leg has limits of its own.
    """

    model: ModelSpec
    cluster: Cluster
    profiles: tuple[NodeProfile, ...]
    parts: Mapping[str, NodeProfile] = field(default_factory=dict)
    of_role: Mapping[Role, Mapping[str, NodeProfile]] = field(default_factory=dict)

    def widths_of(self, node: Node) -> list[int]:
        """Return the numbers of GPUs of the parts into which a node may be divided, the largest first.

        Limits of a node of its own (``kv_blocks``, ``max_requests``) are those of all its GPUs together.
        """
        has_limits = node.kv_blocks is not None or node.max_requests is not None
        if node.tp is not None or has_limits or f"{node.id}.0" in self.cluster.index:
            return []
        widths = [gpus for gpus in range(node.gpus - 1, 0, -1) if node.gpus % gpus == 0]
        return [gpus for gpus in widths if node_type(node.gpu, gpus) in self.parts]

    def divided(self, widths: Mapping[str, int]) -> Deployment:
        """Return the fleet with machines divided; as ``Cluster.divided``."""
        key = tuple(sorted(widths.items()))
        if not any(node in self.cluster.index for node in widths):
            return self
        if key not in self._divided:
            cluster = self.cluster.divided(widths)
            whole = dict(zip(self.cluster.index, self.profiles, strict=True))
            profiles = (whole.get(node.id) or self.parts[node.node_type] for node in cluster.nodes)
            self._divided[key] = replace(self, cluster=cluster, profiles=tuple(profiles))
        return self._divided[key]

    @cached_property
    def _divided(self) -> dict[tuple[tuple[str, int], ...], Deployment]:
        return {}

    def with_roles(self, roles: Mapping[str, Role]) -> Deployment:
        """Return the fleet whose nodes have these roles and their profiles; as ``Cluster.with_roles``."""
        cluster = self.cluster.with_roles(roles)
        pairs = zip(cluster.nodes, self.profiles, strict=True)
        profiles = (self.of_role.get(node.role, {}).get(node.node_type, profile) for node, profile in pairs)
        return replace(self, cluster=cluster, profiles=tuple(profiles))

    def without(self, lost: Set[str], *, paid: Set[str]) -> Deployment:
        """Return the fleet without some nodes; as ``Cluster.without``."""
        pairs = zip(self.cluster.nodes, self.profiles, strict=True)
        profiles = tuple(profile for node, profile in pairs if node.id not in lost)
        return replace(self, cluster=self.cluster.without(lost, paid=paid), profiles=profiles)

    def profile(self, node_id: str) -> NodeProfile:
        """Return the profile of a node."""
        return self.profiles[self.cluster.index[node_id]]

    def kv_blocks(self, node_id: str, held: LayerRange) -> int:
        """Return the KV blocks of a node that holds these layers, pinned or from its profile."""
        pinned = self.cluster.node(node_id).kv_blocks
        return self.profile(node_id).blocks(held, self.model.num_layers) if pinned is None else pinned

    def usual_layers(self) -> dict[str, int]:
        """Return the layers that strategies without a search of their own give each kind of node.

        All of the model where it fits, else as many as leave usual room for KV (``typical_layers_full``); the most
        that fit if the nodes together could not hold the model otherwise.
        """
        num_layers = self.model.num_layers
        kinds = {profile.kind: profile for profile in self.profiles}
        usual = {
            kind: num_layers if one.max_layers >= num_layers else min(one.typical_layers_full, one.max_layers)
            for kind, one in kinds.items()
        }
        if sum(usual[profile.kind] for profile in self.profiles) >= num_layers:
            return usual
        return {kind: one.max_layers for kind, one in kinds.items()}

    def layer_limits(self) -> str:
        """Return how many layers planners give each kind of node and why not more, in words for messages."""
        kinds = {profile.kind: profile for profile in self.profiles}
        return ", ".join(
            f"{kind} {profile.max_layers}" + (f" ({profile.limited_by})" if profile.limited_by else "")
            for kind, profile in kinds.items()
        )
