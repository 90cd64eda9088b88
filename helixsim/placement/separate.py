"""Separate pipelines: each node type serves the model by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished
from helixsim.placement.splits import even_split


@dataclass(frozen=True, slots=True)
class SeparateOptions:
    """Options of ``separate``.

    Parameters
    ----------
    leftover
        Join the nodes of types that cannot hold the model alone into one mixed pipeline (the paper's "SP+").
    """

    leftover: bool = False


class Separate:
    """The paper's baseline SP: one pipeline for each node type that can hold the whole model, layers split evenly.

    Nodes of a region follow each other, so a pipeline crosses between regions as rarely as possible (in the artifact's
    files more often). A type with more nodes than the model has layers forms several pipelines.
    """

    summary: ClassVar[str] = "one pipeline per node type, layers split evenly (SP; SP+ with leftover)"
    Options: ClassVar[type[SeparateOptions]] = SeparateOptions

    def solve(self, problem: PlacementProblem, options: SeparateOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If no node type can hold the model alone.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        num_layers = fleet.model.num_layers
        by_type: dict[str, list[Node]] = {}
        for node in fleet.cluster.nodes:
            by_type.setdefault(fleet.profile(node.id).kind, []).append(node)
        pipelines: list[list[Node]] = []
        left_out: list[str] = []
        for node_type, nodes in by_type.items():
            groups = _groups(nodes, num_layers)
            if all(_room(fleet, group) >= num_layers for group in groups):
                pipelines += groups
            else:
                left_out.append(node_type)
        rest = [node for node in fleet.cluster.nodes if fleet.profile(node.id).kind in left_out]
        if options.leftover and rest and _room(fleet, rest) >= num_layers:
            pipelines.append(_by_region(rest))
            left_out = []
        if not pipelines:
            held = ", ".join(f"{node_type}: {_room(fleet, nodes)}" for node_type, nodes in by_type.items())
            raise InfeasibleError(
                f"separate: no node type can hold the {num_layers} layers of {fleet.model.name} alone ({held})"
            )
        ranges: dict[str, LayerRange] = {}
        for group in pipelines:
            start = 0
            most = [len(fleet.profile(node.id).kv_blocks) for node in group]
            for node, layers in zip(group, even_split(fleet, group, most), strict=True):
                if layers:
                    ranges[node.id] = LayerRange(start, start + layers)
                start += layers
        numbers = {node.id: number for number, group in enumerate(pipelines) for node in group if node.id in ranges}
        return finished(
            problem, "separate", ranges, started_s=started, pipelines=numbers,
            notes={"pipelines": len(pipelines), "kinds_left_out": left_out},
        )  # fmt: skip


def _room(fleet: Deployment, nodes: Sequence[Node]) -> int:
    return sum(len(fleet.profile(node.id).kv_blocks) for node in nodes)


def _by_region(nodes: Sequence[Node]) -> list[Node]:
    regions = list(dict.fromkeys(node.region for node in nodes))
    return sorted(nodes, key=lambda node: regions.index(node.region))


def _groups(nodes: Sequence[Node], num_layers: int) -> list[list[Node]]:
    """Return the nodes of a type as one pipeline, or the fewest in which every node gets a layer."""
    ordered = _by_region(nodes)
    count = -(-len(nodes) // num_layers)
    return [ordered[len(nodes) * i // count : len(nodes) * (i + 1) // count] for i in range(count)]
