"""Large fleets with the kinds, shares and capacities of the paper's 42-node cluster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import published

from helixsim.domain.cluster import Cluster, Deployment, LinkSpec, Network, Node
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.base import PlacementProblem

_INTRA_TOKENS_PER_S = 61035.15625
_INTER_TOKENS_PER_S = 762.9


def problem(count: int, num_regions: int, seed: int) -> PlacementProblem:
    """``count`` nodes spread evenly over regions; kinds are drawn with the shares of the 42-node cluster."""
    known = published.problem("het42")
    base, table = known.fleet, known.capacity
    kinds = sorted({profile.kind for profile in base.profiles})
    profiles = {profile.kind: profile for profile in base.profiles}
    shares = np.array([sum(profile.kind == kind for profile in base.profiles) for kind in kinds]) / 42
    drawn = [kinds[i] for i in np.random.default_rng(seed).choice(len(kinds), count, p=shares)]
    nodes = tuple(
        Node(f"n{i:04d}", kind, 1, f"r{i * num_regions // count}", None, 0.0, 0.0) for i, kind in enumerate(drawn)
    )
    token_bits = 8 * (base.model.activation_bytes_per_token + 2)
    client = LinkSpec(5e8 * 16, 1_000_000)
    regions = {pair: client for i in range(num_regions) for pair in ((f"r{i}", "client"), ("client", f"r{i}"))}
    network = Network(
        intra_region=LinkSpec(_INTRA_TOKENS_PER_S * token_bits, 1_000_000),
        inter_region=LinkSpec(_INTER_TOKENS_PER_S * token_bits, 50_000_000),
        regions=regions,
    )
    made: Deployment = replace(
        base, cluster=Cluster(nodes, network, "client"), profiles=tuple(profiles[kind] for kind in drawn)
    )
    capacity = CapacityTable(table.tables, {node.id: node.gpu for node in nodes})
    return PlacementProblem(made, capacity)
