"""Small fleets with hand-made profiles, for tests of every room.

All times are round numbers so that answers can be worked out by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helixsim.domain.cluster import Cluster, Deployment, LinkSpec, Network, Node
from helixsim.domain.curves import Curve
from helixsim.domain.hardware import BatchLimits, ComputeProfile, NodeProfile
from helixsim.domain.layers import Attention, Layer, Matrix
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable

GBIT = 1e9


def model(num_layers: int = 8, activation_bytes_per_token: int = 1000) -> ModelSpec:
    """A model of ``num_layers`` layers whose sizes are round numbers."""
    width = activation_bytes_per_token // 8
    attention = Attention("full", 4, 4, width, width, activation_bytes_per_token)
    return ModelSpec(
        name="tiny",
        layers=(Layer(attention, (Matrix("all", 500, 1000, 1_000_000),)),) * num_layers,
        hidden_size=activation_bytes_per_token // 2,
        intermediate_size=2 * activation_bytes_per_token,
        vocab_size=0,
        is_tied=False,
        precision="fp16",
        kv_precision="fp16",
        kv_bits=16,
        max_context_tokens=4096,
        source="made up for tests",
    )


def profile(
    kind: str,
    max_layers: int = 4,
    *,
    prefill_ns_per_token: float = 1_000.0,
    decode_ns: float = 1_000_000.0,
    kv_blocks: Sequence[int] | None = None,
    typical_layers: int | None = None,
    max_decode_seqs: int = 64,
) -> NodeProfile:
    """A node kind: one layer takes ``prefill_ns_per_token`` per prompt token and ``decode_ns`` per decode step.

    A decode step costs the same for every batch size. With ``k`` layers there are ``1200 // k`` KV blocks of 16 tokens.
    """
    blocks = tuple(1200 // k for k in range(1, max_layers + 1)) if kv_blocks is None else tuple(kv_blocks)
    return NodeProfile(
        kind=kind,
        compute=ComputeProfile(
            kind=kind,
            model="tiny",
            source="measured",
            prefill=Curve((0.0, 1000.0), (0.0, 1000.0 * prefill_ns_per_token)),
            decode=Curve((1.0,), (decode_ns,)),
        ),
        block_tokens=16,
        kv_blocks=blocks,
        limits=tuple(BatchLimits(4, 4096, max_decode_seqs) for _ in blocks),
        max_layers=max_layers,
        typical_layers=typical_layers or max(1, max_layers - 1),
        typical_layers_full=max_layers,
    )


def fleet(
    kinds: Sequence[NodeProfile],
    *,
    num_layers: int = 8,
    regions: Sequence[str] | None = None,
    intra: LinkSpec | None = None,
    inter: LinkSpec | None = None,
    pairs: Mapping[tuple[str, str], LinkSpec] | None = None,
    nic_bps: float | None = None,
    coordinator_nic_bps: float | None = None,
) -> Deployment:
    """One node per entry of ``kinds``, called ``<kind>-<number within the kind>``."""
    counts: dict[str, int] = {}
    nodes = []
    for position, kind in enumerate(kinds):
        number = counts.get(kind.kind, 0)
        counts[kind.kind] = number + 1
        region = regions[position] if regions is not None else "here"
        nodes.append(
            Node(
                id=f"{kind.kind}-{number}",
                gpu=kind.kind,
                gpus=1,
                region=region,
                nic_bps=nic_bps,
                cost_usd_per_hour=1.0,
                tdp_w=100.0,
            )
        )
    network = Network(
        intra_region=intra or LinkSpec(GBIT, 1_000_000),
        inter_region=inter or LinkSpec(GBIT / 10, 10_000_000),
        pairs=pairs or {},
        coordinator_nic_bps=coordinator_nic_bps,
    )
    cluster = Cluster(nodes=tuple(nodes), network=network, coordinator_region=nodes[0].region)
    return Deployment(model=model(num_layers), cluster=cluster, profiles=tuple(kinds))


def capacity_of(fleet: Deployment, tables: Mapping[str, Sequence[float]]) -> CapacityTable:
    """A capacity table by hand: node kind -> tokens/s with 1, 2, ... layers."""
    return CapacityTable(
        tables={kind: tuple(values) for kind, values in tables.items()},
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        assumptions=("made up for tests",),
    )


def placement_of(
    fleet: Deployment, ranges: Mapping[str, tuple[int, int]], *, partial_inference: bool = False
) -> Placement:
    """A placement by hand."""
    return Placement(
        strategy="by-hand",
        num_layers=fleet.model.num_layers,
        ranges={node: LayerRange(*pair) for node, pair in ranges.items()},
        partial_inference=partial_inference,
    )


def two_node_pipeline() -> tuple[Deployment, CapacityTable, Placement]:
    """Two equal nodes ``n-0`` [0, 2) and ``n-1`` [2, 4) of a four-layer model.

    Answers: a prompt of 100 tokens takes 2 layers x 100 tokens x 1 us = 200 us on each node, a decode step 2 ms on
    each node whatever the batch. Links carry 1 Gbit/s with 1 ms latency. Each node holds 600 KV blocks of 16 tokens.
    The nodes take 100 tokens/s, so max-flow is 100, both nodes are in a min cut, and the only route has two hops.
    """
    kind = profile("n", 2, kv_blocks=(1200, 600))
    pair = fleet([kind, kind], num_layers=4)
    return pair, capacity_of(pair, {"n": (200.0, 100.0)}), placement_of(pair, {"n-0": (0, 2), "n-1": (2, 4)})


def tiny_fleet() -> tuple[Deployment, CapacityTable, Placement]:
    """One ``big`` and four ``small`` nodes in one region around an eight-layer model, with a good placement.

    Tokens/s: big 400, 200, 150, 100 with 1..4 layers, small 120, 60 with 1..2.
    Placement: big-0 [0, 4), small-0 and small-1 [4, 6), small-2 and small-3 [6, 8).
    Answers: stages carry 100, 120 and 120, so max-flow is 100 and the min cut is big-0. Every route has three hops.
    Spread in proportion to capacity, each small node carries 50.
    """
    big, small = profile("big", 4), profile("small", 2, prefill_ns_per_token=3_000.0, decode_ns=3_000_000.0)
    cluster = fleet([big, small, small, small, small], num_layers=8)
    table = capacity_of(cluster, {"big": (400.0, 200.0, 150.0, 100.0), "small": (120.0, 60.0)})
    ranges = {"big-0": (0, 4), "small-0": (4, 6), "small-1": (4, 6), "small-2": (6, 8), "small-3": (6, 8)}
    return cluster, table, placement_of(cluster, ranges)
