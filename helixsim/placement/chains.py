"""Chains of nodes that hold the model one after another: how many layers each can take, and how they share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, pairwise

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.replicas import LEAST_KV_TOKENS
from helixsim.units import BITS_PER_BYTE

_HALVINGS = 100
"""Of the level of water, to the precision of floats."""

Split = Callable[[Sequence[Node], Sequence[int]], list[int]]
"""Shares the layers among the nodes of a chain that hold at most so many each; empty: it cannot."""


class LayerLimits:
    """The most layers that nodes can hold beside KV memory for one context; equal nodes share what is found.

    A context has ``LEAST_KV_TOKENS`` tokens, or as many as the longest of the model. The first node of a chain holds
    the embedding and the last one the output head, too. ``weight_share``: share of the memory that weights may take.
    """

    def __init__(self, fleet: Deployment, weight_share: float = 1.0) -> None:
        self._fleet = fleet
        self.num_layers = fleet.model.num_layers
        self._share = weight_share
        self._known: dict[tuple[Hashable, bool, bool], int] = {}

    def kind_of(self, node: Node) -> Hashable:
        """Return the same for nodes that hold equally many layers."""
        return self._fleet.profile(node.id).kind, node.kv_blocks

    def of(self, node: Node, *, is_first: bool = False, is_last: bool = False) -> int:
        """Return the most layers of a node at the ends of the model, or inside."""
        key = (self.kind_of(node), is_first, is_last)
        if key not in self._known:
            self._known[key] = self._most(node, is_first, is_last)
        return self._known[key]

    def of_chain(self, nodes: Sequence[Node]) -> list[int]:
        """Return the most layers of each node of a chain in this order."""
        last = len(nodes) - 1
        return [self.of(node, is_first=at == 0, is_last=at == last) for at, node in enumerate(nodes)]

    def _most(self, node: Node, is_first: bool, is_last: bool) -> int:
        fleet, model, profile = self._fleet, self._fleet.model, self._fleet.profile(node.id)
        most = min(len(profile.kv_blocks), self.num_layers)
        if self._share < 1:
            room = self._share * node_memory_bytes(fleet, node) - (is_first + is_last) * model.vocabulary_bytes
            most = min(most, int(room / model.weight_bytes_per_layer))
        least = min(LEAST_KV_TOKENS, model.max_context_tokens) / profile.block_tokens
        for layers in range(most, 0, -1):
            if layers == self.num_layers or is_first:
                blocks = fleet.kv_blocks(node.id, LayerRange(0, layers))
            elif is_last:
                blocks = fleet.kv_blocks(node.id, LayerRange(self.num_layers - layers, self.num_layers))
            else:
                blocks = profile.kv_blocks[layers - 1] if node.kv_blocks is None else node.kv_blocks
            if blocks >= least:
                return layers
        return 0


def node_memory_bytes(fleet: Deployment, node: Node) -> float:
    """Return the memory of a node for weights and KV cache [B]; 0 if it holds no layer."""
    profile, model = fleet.profile(node.id), fleet.model
    if not profile.kv_blocks:
        return 0.0
    return model.weight_bytes_per_layer + profile.kv_tokens(1) * model.kv_bytes_per_token_per_layer


def water_fill(total: int, weights: Sequence[float], most: Sequence[int], least: int = 0) -> list[int]:
    """Return shares of ``total`` in proportion to weights, none above its limit or below ``least``.

    The shares are ``min(most, level * weight)``, or ``least``, with the one level at which they add up to the total,
    rounded down; what is left goes to the largest remainders.

    Raises
    ------
    ValueError
        If the limits add up to less than the total, or ``least`` for each to more.
    """
    if sum(most) < total or least * len(most) > total or any(limit < least for limit in most):
        raise ValueError(f"{total} cannot be shared within limits {list(most)} and at least {least} each")

    def at_level(level: float) -> list[float]:
        return [min(limit, max(least, level * weight)) for weight, limit in zip(weights, most, strict=True)]

    low, high = 0.0, max(limit / weight for weight, limit in zip(weights, most, strict=True))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(at_level(middle)) >= total else (middle, high)
    exact = at_level(high)
    shares = [math.floor(share + 1e-9) for share in exact]
    order = sorted(range(len(most)), key=lambda at: (shares[at] - exact[at], at))
    while sum(shares) < total:
        for at in order:
            if sum(shares) < total and shares[at] < most[at]:
                shares[at] += 1
    return shares


def balanced_split(total: int, tables: Sequence[Sequence[float]], most: Sequence[int]) -> tuple[list[int], float]:
    """Return the layers of each node with which the slowest node of a chain is the fastest, and its tokens/s.

    ``tables``: tokens/s of each node with 1, 2, ... layers. Nodes may stay without layers.
    ([], 0.0): the model does not fit.
    """
    limits = [min(limit, len(table), total) for table, limit in zip(tables, most, strict=True)]
    if sum(limits) < total:
        return [], 0.0

    def held_at(flow: float) -> list[int]:
        """Return the most layers of each node with which it passes a flow."""
        return [
            max((layers for layers in range(1, limit + 1) if table[layers - 1] >= flow), default=0)
            for table, limit in zip(tables, limits, strict=True)
        ]

    flows = sorted({table[layers] for table, limit in zip(tables, limits, strict=True) for layers in range(limit)})
    low, high = 0, len(flows) - 1  # flows[low] can be passed: every node holds its most at the smallest value
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(held_at(flows[middle])) >= total else (low, middle - 1)
    shares = held_at(flows[low])
    excess = sum(shares) - total
    while excess:  # from the node that is closest to the bottleneck
        at = min((at for at, share in enumerate(shares) if share), key=lambda at: (tables[at][shares[at] - 1], -at))
        shares[at] -= 1
        excess -= 1
    return shares, flows[low]


def in_order(nodes: Sequence[Node], fleet: Deployment) -> list[Node]:
    """Return nodes as a chain visits them: one region after another, in each the largest first."""
    regions = list(dict.fromkeys(node.region for node in fleet.cluster.nodes))
    index = fleet.cluster.index
    return sorted(nodes, key=lambda node: (regions.index(node.region), -node_memory_bytes(fleet, node), index[node.id]))


def split_chain(limits: LayerLimits, nodes: Sequence[Node], split: Split) -> tuple[list[Node], list[int]]:
    """Return the nodes of a chain that get layers, in their order, and the layers of each; empty if it cannot hold all.

    Without the nodes that get none, others hold the embedding and the output head, so the rest is shared again.
    """
    kept = list(nodes)
    while kept:
        most = limits.of_chain(kept)
        layers = split(kept, most) if sum(most) >= limits.num_layers else []
        if not layers or all(layers):
            return (kept, layers) if layers else ([], [])
        kept = [node for node, held in zip(kept, layers, strict=True) if held]
    return [], []


def chain_ranges(nodes: Sequence[Node], layers: Sequence[int]) -> dict[str, LayerRange]:
    """Return the layer range of each node of a chain."""
    ends = list(accumulate(layers))
    return {node.id: LayerRange(start, end) for node, start, end in zip(nodes, [0, *ends], ends, strict=False)}


def link_flow(fleet: Deployment, nodes: Sequence[Node]) -> float:
    """Return the tokens/s that the slowest link or NIC between successive nodes passes; infinite for one node."""
    bits = BITS_PER_BYTE * fleet.model.activation_bytes_per_token
    flow = math.inf
    for src, dst in pairwise(nodes):
        rates = (fleet.cluster.link(src.id, dst.id).bandwidth_bps, src.nic_bps, dst.nic_bps)
        flow = min(flow, *(rate / bits for rate in rates if rate is not None))
    return flow


def chain_flow(fleet: Deployment, nodes: Sequence[Node], layers: Sequence[int], capacity: CapacityTable) -> float:
    """Return the tokens/s that a chain passes: of its slowest node, link or NIC; 0 for an empty one."""
    ends = accumulate(layers)
    compute = (
        capacity.held_tokens_per_s(node.id, LayerRange(end - held, end), fleet.model.num_layers)
        for node, held, end in zip(nodes, layers, ends, strict=True)
    )
    return min(min(compute, default=0.0), link_flow(fleet, nodes))
