"""exo's placement: one ring of all nodes, layers in proportion to memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from helixsim.domain.cluster import Node
from helixsim.domain.placement import Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.chains import LayerLimits, chain_ranges, node_memory_bytes, water_fill
from helixsim.placement.outcome import finished, layers_to_hold


@dataclass(frozen=True, slots=True)
class ExoOptions:
    """Options of ``exo``.

    Parameters
    ----------
    ring
        ``all``: every node that can hold a layer is in the ring (``RingMemoryWeightedPartitioningStrategy``).
        ``smallest``: the fewest nodes that hold the model, those with the most memory (``place_instance``).
    weights
        Layers in proportion to memory, or to how fast a node decodes a single sequence, which memory bandwidth limits.
    """

    ring: Literal["all", "smallest"] = "all"
    weights: Literal["memory", "bandwidth"] = "memory"


class Exo:
    """The ring of exo (github.com/exo-explore/exo): one pipeline, the nodes with most memory first.

    Layers are shared in proportion to memory by largest remainders, at least one for each node. Unlike in exo, a share
    that does not fit beside KV memory for one context, embedding and output head is cut, and the rest goes to the other
    nodes (exo refuses it, and keeps no memory for KV). With more nodes than layers, those with least memory are left
    out (exo refuses). One ring is placed; exo starts a second instance only when told to. Nodes are joined by pipeline
    stages only, not by tensor parallelism over the network.
    """

    summary: ClassVar[str] = "one ring of all nodes, layers in proportion to memory (exo)"
    Options: ClassVar[type[ExoOptions]] = ExoOptions

    def solve(self, problem: PlacementProblem, options: ExoOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If all nodes together cannot hold the model.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        memory = {node.id: node_memory_bytes(fleet, node) for node in fleet.cluster.nodes}
        able = [node for node in fleet.cluster.nodes if memory[node.id]]
        able.sort(key=lambda node: -memory[node.id])  # equal ones stay in cluster order
        limits = LayerLimits(fleet)
        ring = _ring(limits, able, options.ring)
        if not ring:
            raise InfeasibleError(f"exo: all nodes in one ring cannot hold {layers_to_hold(fleet)}")
        if options.weights == "memory":
            weights = [memory[node.id] for node in ring]
        else:
            weights = [1.0 / fleet.profile(node.id).compute.decode(1.0) for node in ring]
        layers = water_fill(fleet.model.num_layers, weights, limits.of_chain(ring), least=1)
        left_out = [node.id for node in fleet.cluster.nodes if node not in ring]
        notes = {"ring": len(ring), "idle": dict.fromkeys(left_out, "not in the ring")}
        return finished(problem, "exo", chain_ranges(ring, layers), started_s=started, notes=notes)


def _ring(limits: LayerLimits, able: Sequence[Node], which: str) -> list[Node]:
    """Return the nodes of the ring, or none if none can hold the model; ``able``: the largest memory first."""
    most = min(len(able), limits.num_layers)
    sizes = range(1, most + 1) if which == "smallest" else range(most, 0, -1)
    for size in sizes:
        most_of_each = limits.of_chain(able[:size])
        if all(most_of_each) and sum(most_of_each) >= limits.num_layers:
            return list(able[:size])
    return []
