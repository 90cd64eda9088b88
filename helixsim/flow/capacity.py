"""The planner's estimate of the tokens/s of a node that holds k layers, and upper bounds of the flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from helixsim.domain.cluster import Deployment
from helixsim.domain.curves import Curve
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.hardware import ComputeProfile, Ends, NodeProfile
from helixsim.domain.placement import LayerRange
from helixsim.errors import InfeasibleError
from helixsim.units import NS_PER_S

_ROUNDS = 10
"""Rounds of the paper artifact's fixed point between layer speeds and node capacities."""

_MIN_SPARE_ROOM = 1.2
"""With less room than this at typical layers per node [models], nodes are assumed to be full."""


class EndShares(NamedTuple):
    """What is left of the capacity of a node with the first or the last 1, 2, ... layers, 0..1."""

    first: tuple[float, ...]
    last: tuple[float, ...]


@dataclass(frozen=True)
class CapacityTable:
    """Capacity of each node type.

    Parameters
    ----------
    tables
        Node type -> tokens/s (prompt + output) with 1, 2, ... layers.
    kinds
        Node id -> node type.
    assumptions
        Assumptions of the estimate, in sentences.
    ends
        Node type -> what embedding and output head leave of these tokens/s, 0..1. Empty: they take neither memory nor
        time.
    """

    tables: Mapping[str, tuple[float, ...]]
    kinds: Mapping[str, str]
    assumptions: tuple[str, ...] = ()
    ends: Mapping[str, EndShares] = field(default_factory=dict)

    def tokens_per_s(self, node: str, layers: int) -> float:
        """Return the tokens/s of a node (id, or node type) with ``layers`` inner layers; 0 if it cannot hold them."""
        table = self.of(node)
        return table[layers - 1] if 1 <= layers <= len(table) else 0.0

    def held_tokens_per_s(self, node: str, held: LayerRange, num_layers: int) -> float:
        """Return the tokens/s of a node that holds these layers of a model, its embedding and output head included."""
        found = self.tokens_per_s(node, held.layers)
        ends = self.ends.get(self.kinds.get(node, node))
        if not found or ends is None or 0 < held.start < held.end < num_layers:
            return found
        return found * (ends.last if held.end == num_layers else ends.first)[held.layers - 1]

    def of(self, node: str) -> tuple[float, ...]:
        """Return the tokens/s of a node (id, or node type) with 1, 2, ... layers."""
        return self.tables[self.kinds.get(node, node)]


@dataclass(frozen=True, slots=True)
class _Workload:
    prompt_tokens: float
    output_tokens: float
    kv_occupancy: float


def paper_capacity(
    fleet: Deployment,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
    kv_occupancy: float = 0.3,
    engine: EngineSpec = IDEAL,
) -> CapacityTable:
    """Estimate node capacities as the paper's artifact does (its "typical throughput").

    A node serves as many sequences of mean length as fit into ``kv_occupancy`` of its KV memory. The share of them that
    are at the node at any time is its share of the layer times of an average deployment of the fleet. The network is
    ignored, and so are pinned KV blocks of single nodes: the table holds node types.

    Parameters
    ----------
    fleet
        Its node types and the number of nodes of each matter.
    mean_prompt_tokens, mean_output_tokens
        Mean lengths of the workload [tokens]; the paper uses 750 and 240.
    kv_occupancy
        Assumed share of KV memory in use, 0..1.
    engine
        Whether the last node of a route computes the output head. The engines of the paper keep neither embedding nor
        head on nodes, so that its estimate is what it was.

    Raises
    ------
    InfeasibleError
        If no node of the fleet can hold a single layer.
    """
    load = _Workload(mean_prompt_tokens, mean_output_tokens, kv_occupancy)
    profiles: dict[str, NodeProfile] = {}
    counts: dict[str, int] = {}
    for profile in fleet.profiles:
        profiles[profile.kind] = profile
        counts[profile.kind] = counts.get(profile.kind, 0) + 1
    typical = typical_layers(fleet)
    holders = list(typical)
    num_layers = fleet.model.num_layers

    def tokens_per_s(kind: str, layers: int, share: float) -> float:
        profile = profiles[kind]
        tokens = int(load.kv_occupancy * profile.kv_tokens(layers))
        sequences = tokens / (load.prompt_tokens + load.output_tokens)
        return _node_tokens_per_s(profile.compute, layers, sequences * share, load)

    # Layer-tokens/s of each node type: from its profile, or else that of one layer among equals.
    speed = {
        kind: profiles[kind].initial_layer_tokens_per_s or tokens_per_s(kind, 1, 1 / num_layers) for kind in holders
    }
    shares = _Shares(speed, counts, typical, num_layers)
    for _ in range(_ROUNDS):
        speed = {
            kind: tokens_per_s(kind, typical[kind], shares.of(kind, typical[kind])) * typical[kind] for kind in holders
        }
        shares = _Shares(speed, counts, typical, num_layers)
    tables = {
        kind: tuple(
            tokens_per_s(kind, layers, shares.of(kind, layers)) for layers in range(1, len(profile.kv_blocks) + 1)
        )
        for kind, profile in profiles.items()
    }
    return CapacityTable(
        tables=tables,
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        ends=_ends(profiles, shares, num_layers, load, engine),
        assumptions=(
            f"Node capacities: mean prompt {mean_prompt_tokens:g} and output {mean_output_tokens:g} tokens, "
            f"{kv_occupancy:.0%} of KV memory in use, network ignored (the paper artifact's estimate).",
            "Pinned KV blocks of single nodes do not change these capacities.",
        ),
    )


def typical_layers(fleet: Deployment) -> dict[str, int]:
    """Return the layers per node of each node type in an average deployment.

    Raises
    ------
    InfeasibleError
        If no node can hold a layer.
    """
    holders = {profile.kind: profile for profile in fleet.profiles if profile.kv_blocks}
    if not holders:
        raise InfeasibleError(f"no node of the fleet can hold one layer of {fleet.model.name} and any KV cache")
    typical = {kind: min(profile.typical_layers, len(profile.kv_blocks)) for kind, profile in holders.items()}
    if sum(typical.get(profile.kind, 0) for profile in fleet.profiles) < _MIN_SPARE_ROOM * fleet.model.num_layers:
        typical = {kind: min(profile.typical_layers_full, len(profile.kv_blocks)) for kind, profile in holders.items()}
    return typical


class _Shares:
    """Share of a round trip through all layers that a request spends on a node, by its type and number of layers."""

    def __init__(
        self, speed: Mapping[str, float], counts: Mapping[str, int], typical: Mapping[str, int], num_layers: int
    ) -> None:
        self._layer_time = {kind: 1.0 / value for kind, value in speed.items() if value > 0}
        deployed = {kind: counts[kind] * typical[kind] for kind in self._layer_time}
        self._mean = sum(deployed[kind] * time for kind, time in self._layer_time.items()) / max(
            1, sum(deployed.values())
        )
        self._num_layers = num_layers

    def of(self, kind: str, layers: int) -> float:
        """Return the share, 0..1."""
        if kind not in self._layer_time:
            return 0.0
        here = layers * self._layer_time[kind]
        return here / (here + max(0, self._num_layers - layers) * self._mean)


def _node_tokens_per_s(compute: ComputeProfile, layers: int, active: float, load: _Workload) -> float:
    """Return the tokens/s of a node with ``active`` sequences at any time (paper artifact)."""
    if active <= 0:
        return 0.0
    prompts = active / load.output_tokens
    prompt_tokens, decode_tokens = float(round(load.prompt_tokens * prompts)), float(round(active))
    if prompts > 1:
        prompts = 1.0
        prompt_tokens, decode_tokens = float(round(load.prompt_tokens)), float(round(load.output_tokens))
    if decode_tokens == 0:  # rounded to none, decoding would be free: assume one sequence at a time
        prompts, prompt_tokens, decode_tokens = 1 / load.output_tokens, load.prompt_tokens / load.output_tokens, 1.0
    # Each prompt of mean length is followed by `rounds` decode iterations of `decode_tokens` tokens.
    rounds = 1.0 if prompts >= 1 else 1.0 / prompts
    prefill_ns = compute.prefill(prompt_tokens if prompts >= 1 else int(prompt_tokens * rounds))
    prefill_ns += compute.prefill_ns_per_pair * load.prompt_tokens**2 / 2
    layer_ns = prefill_ns + rounds * compute.decode(decode_tokens)
    return rounds * (prompt_tokens + decode_tokens) * NS_PER_S / (layers * layer_ns) if layer_ns > 0 else 0.0


def _ends(
    profiles: Mapping[str, NodeProfile], shares: _Shares, num_layers: int, load: _Workload, engine: EngineSpec
) -> dict[str, EndShares]:
    """Return what embedding and output head leave of the capacity of each node type that has them."""

    def requests_per_s(profile: NodeProfile, layers: int, end: End | None) -> float:
        sequences = load.kv_occupancy * kv_tokens_of(profile, layers, end, num_layers) * shares.of(profile.kind, layers)
        head = profile.compute.head if end == "last" and engine.has_output_head else None
        active = sequences / (load.prompt_tokens + load.output_tokens)
        return _requests_per_s(profile.compute, layers, active, load, head)

    return end_shares(profiles, requests_per_s, engine)


End = Literal["first", "last"]
"""Where the layers of a node begin or end the model; all layers of it are its last ones."""

Speed = Callable[[NodeProfile, int, End | None], float]
"""What a node type passes with so many layers at an end of the model; None: with inner ones."""


def end_shares(profiles: Mapping[str, NodeProfile], speed: Speed, engine: EngineSpec) -> dict[str, EndShares]:
    """Return what embedding and output head leave of the speed of each node type that holds them."""

    def left(profile: NodeProfile, end: End) -> tuple[float, ...]:
        pairs = [(speed(profile, k, end), speed(profile, k, None)) for k in range(1, len(profile.kv_blocks) + 1)]
        return tuple(min(1.0, here / inside) if inside > 0 else 0.0 for here, inside in pairs)

    return {
        kind: EndShares(left(profile, "first"), left(profile, "last"))
        for kind, profile in profiles.items()
        if profile.ends_bytes != Ends() or (engine.has_output_head and profile.compute.head is not None)
    }


def kv_tokens_of(profile: NodeProfile, layers: int, end: End | None, num_layers: int) -> int:
    """Return the KV tokens beside so many layers at an end of the model; None: beside inner ones."""
    if end is None:
        return profile.kv_tokens(layers)
    start = num_layers - layers if end == "last" else 0
    return profile.block_tokens * profile.blocks(LayerRange(start, start + layers), num_layers)


def _requests_per_s(compute: ComputeProfile, layers: int, active: float, load: _Workload, head: Curve | None) -> float:
    """Return the requests/s of a node with ``active`` sequences at any time, without the roundings of the artifact.

    Each takes its prompt, and its share of a step for each token of its output. With less than one sequence the node is
    idle for the rest of the time.
    """
    batch = max(1.0, min(active, load.output_tokens))
    prompt_ns = compute.prefill(load.prompt_tokens) + compute.prefill_ns_per_pair * load.prompt_tokens**2 / 2
    request_ns = layers * (prompt_ns + load.output_tokens / batch * compute.decode(batch))
    if head is not None:
        request_ns += head(1.0) + load.output_tokens / batch * head(batch)
    return min(active, 1.0) * NS_PER_S / request_ns if request_ns > 0 else 0.0


def upper_bound_simple(fleet: Deployment, capacity: CapacityTable) -> float:
    """Return the paper's "max compute throughput" [tokens/s]: the sum of max_k k x T(k) over all nodes, per layer.

    It ignores that the nodes must hold the model; ``upper_bound_share`` is tighter.
    """
    return _simple_bound(_table_counts(fleet, capacity), fleet.model.num_layers)


def upper_bound_share(fleet: Deployment, capacity: CapacityTable) -> float:
    """Return the largest flow F [tokens/s] for which the nodes can supply F in every layer.

    Every token passes all N layers, and a node with k layers supplies at most k x min(T(k), F) layer-tokens/s, so
    sum over nodes of max_k k x min(T(k), F) >= N x F holds for every placement, with or without partial inference.
    """
    return share_bound(_table_counts(fleet, capacity), fleet.model.num_layers)


def share_bound(counts: Mapping[tuple[float, ...], int], num_layers: int) -> float:
    """Return the bound of ``upper_bound_share`` for nodes given as table (tokens/s with 1, 2, ... layers) -> count."""
    needed = num_layers * (1 - 1e-12)  # tolerance for a fleet that holds the model exactly

    def is_supplied(flow: float) -> bool:
        return sum(count * best_supply(table, flow) for table, count in counts.items()) >= needed * flow

    if sum(count * best_supply(tuple(map(bool, table)), 1.0) for table, count in counts.items()) < num_layers:
        return 0.0  # the nodes together cannot hold the model
    low, high = 0.0, _simple_bound(counts, num_layers)
    if is_supplied(high):
        return high
    # The supply of a node per unit of flow never rises with the flow, so the crossing is unique.
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if is_supplied(middle) else (low, middle)
    return high


def best_supply(table: tuple[float, ...], flow: float) -> float:
    """Return the largest supply of a node to a flow [layer-tokens/s]; ``table``: its tokens/s with 1, 2, ... layers."""
    return max((layers * min(value, flow) for layers, value in enumerate(table, start=1)), default=0.0)


def _simple_bound(counts: Mapping[tuple[float, ...], int], num_layers: int) -> float:
    return sum(count * best_supply(table, float("inf")) for table, count in counts.items()) / num_layers


def _table_counts(fleet: Deployment, capacity: CapacityTable) -> Mapping[tuple[float, ...], int]:
    return Counter(capacity.of(node.id) for node in fleet.cluster.nodes)
