"""Full pipelines one after the other, the best kind of node first."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import ClassVar

from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished


@dataclass(frozen=True, slots=True)
class HomogeneousOptions:
    """Options of ``homogeneous``.

    Parameters
    ----------
    seed
        Of the order of the nodes of a kind.
    """

    seed: int = field(default=0, metadata={"ge": 0, "lt": 2**128})


class Homogeneous:
    """The paper artifact's homogeneous baseline.

    Kinds are taken by layer-tokens/s at full size. Each node takes as many layers as it can hold until the model is
    complete; then a new pipeline begins. Pipelines mix kinds only where one kind runs out, and an incomplete last one
    is discarded.
    """

    summary: ClassVar[str] = "fill one pipeline after the other, the best kind of node first"
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
        kinds: dict[str, list[str]] = {}
        size: dict[str, int] = {}
        for member, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
            if profile.max_layers:
                kinds.setdefault(profile.kind, []).append(member.id)
                size[member.id] = profile.max_layers
        generator = random.Random(options.seed)
        queue: list[str] = []
        for kind in sorted(
            kinds, key=lambda kind: -capacity.tokens_per_s(kind, size[kinds[kind][0]]) * size[kinds[kind][0]]
        ):
            generator.shuffle(kinds[kind])
            queue += kinds[kind]
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        current: dict[str, LayerRange] = {}
        number = done = 0
        for node in queue:
            end = min(done + size[node], num_layers)
            current[node] = LayerRange(done, end)
            done = end
            if done == num_layers:
                ranges |= current
                pipelines |= dict.fromkeys(current, number)
                number, done, current = number + 1, 0, {}
        if not ranges:
            raise InfeasibleError(
                f"homogeneous: all nodes together hold {done} of the {num_layers} layers of {fleet.model.name}"
            )
        return finished(
            problem, "homogeneous", ranges, started_s=started, pipelines=pipelines,
            notes={"pipelines": number, "unused": list(current)},
        )  # fmt: skip
