"""Full pipelines one after another, the best node type first."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import ClassVar

from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished, layers_to_hold


@dataclass(frozen=True, slots=True)
class HomogeneousOptions:
    """Options of ``homogeneous``.

    Parameters
    ----------
    seed
        Seed of the order of the nodes of a type.
    """

    seed: int = field(default=0, metadata={"ge": 0, "lt": 2**128})


class Homogeneous:
    """The paper artifact's homogeneous baseline.

    Nodes are taken by type, the largest layer-tokens/s at full size first. Each node takes as many layers as it can
    hold until the model is complete; then a new pipeline begins. An incomplete last pipeline is discarded.
    """

    summary: ClassVar[str] = "fill one pipeline after another, the best node type first"
    Options: ClassVar[type[HomogeneousOptions]] = HomogeneousOptions

    def solve(self, problem: PlacementProblem, options: HomogeneousOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If all nodes together cannot hold the model.
        """
        started = time.perf_counter()
        fleet, capacity = problem.fleet, problem.capacity
        num_layers = fleet.model.num_layers
        by_type: dict[str, list[str]] = {}
        size: dict[str, int] = {}
        usual = fleet.usual_layers()
        for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
            if usual[profile.kind]:
                by_type.setdefault(profile.kind, []).append(node.id)
                size[node.id] = usual[profile.kind]
        generator = random.Random(options.seed)
        queue: list[str] = []
        for nodes in sorted(
            by_type.values(), key=lambda ids: -capacity.tokens_per_s(ids[0], size[ids[0]]) * size[ids[0]]
        ):
            generator.shuffle(nodes)
            queue += nodes
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        current: dict[str, LayerRange] = {}
        number = done = 0
        for member in queue:
            end = min(done + size[member], num_layers)
            current[member] = LayerRange(done, end)
            done = end
            if done == num_layers:
                ranges |= current
                pipelines |= dict.fromkeys(current, number)
                number, done, current = number + 1, 0, {}
        if not ranges:
            raise InfeasibleError(f"homogeneous: all nodes together hold {done} of {layers_to_hold(fleet)}")
        return finished(
            problem, "homogeneous", ranges, started_s=started, pipelines=pipelines,
            notes={"pipelines": number, "unused": list(current)},
        )  # fmt: skip
