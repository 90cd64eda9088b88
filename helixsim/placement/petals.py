"""Petals' placement: nodes arrive one by one and take the slowest window of layers."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import ClassVar

from helixsim.domain.placement import LayerRange, Placement
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished


@dataclass(frozen=True, slots=True)
class PetalsOptions:
    """Options of ``petals``.

    Parameters
    ----------
    seed
        Seed of the order in which nodes arrive.
    partial_inference
        Whether a request may enter a node in the middle of its layers, as in Petals.
    """

    seed: int = field(default=0, metadata={"ge": 0, "lt": 2**128})
    partial_inference: bool = True


class Petals:
    """Petals' placement as the Helix paper's artifact builds it.

    Each node takes a window of as many layers as it can hold: the one whose sorted tokens/s per layer so far is
    lexicographically smallest. Unlike in Petals, nodes do not rebalance later.
    """

    summary: ClassVar[str] = "each node takes the slowest window of layers as it arrives (Petals)"
    Options: ClassVar[type[PetalsOptions]] = PetalsOptions

    def solve(self, problem: PlacementProblem, options: PetalsOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If no node holds a layer, or no route passes all layers.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        num_layers = fleet.model.num_layers
        arrivals = list(range(len(fleet.profiles)))
        # The generator of the artifact, which reproduces its published placements.
        random.Random(options.seed).shuffle(arrivals)
        speed = [0.0] * num_layers
        ranges: dict[str, LayerRange] = {}
        usual = fleet.usual_layers()
        for position in arrivals:
            size = min(usual[fleet.profiles[position].kind], num_layers)
            if not size:
                continue
            node = fleet.cluster.nodes[position].id
            start = min(range(num_layers - size + 1), key=lambda at: sorted(speed[at : at + size]))
            ranges[node] = LayerRange(start, start + size)
            for layer in range(start, start + size):
                speed[layer] += problem.capacity.tokens_per_s(node, size)
        return finished(problem, "petals", ranges, started_s=started, partial_inference=options.partial_inference)
