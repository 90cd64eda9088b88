"""SWARM's placement: equal stages, each node joins the slowest one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """Options of ``swarm``.

    Parameters
    ----------
    stages
        Number of stages; None: the fewest equal ones that fit the smallest node.
    """

    stages: int | None = field(default=None, metadata={"ge": 1})


class Swarm:
    """SWARM Parallelism's placement as the Helix paper's artifact builds it.

    The model is cut into equal stages. Each node, the fastest first, joins the stage with the least tokens/s so far.
    Unlike in SWARM, nodes do not move between stages at run time. If the layers do not divide evenly, stages differ by
    one layer (the artifact refuses this case).
    """

    summary: ClassVar[str] = "equal stages, each node joins the slowest one (SWARM)"
    Options: ClassVar[type[SwarmOptions]] = SwarmOptions

    def solve(self, problem: PlacementProblem, options: SwarmOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If there are fewer nodes than stages, or no node holds a stage.
        """
        started = time.perf_counter()
        fleet, capacity = problem.fleet, problem.capacity
        num_layers = fleet.model.num_layers
        stages = _default_stages(fleet) if options.stages is None else options.stages
        if not 1 <= stages <= num_layers:
            raise InfeasibleError(f"swarm: stages is {stages}, allowed: 1 to {num_layers} (the layers of the model)")
        cuts = [stage * num_layers // stages for stage in range(stages + 1)]
        longest = -(-num_layers // stages)
        holders = [position for position, profile in enumerate(fleet.profiles) if len(profile.kv_blocks) >= longest]
        if len(holders) < stages:
            raise InfeasibleError(
                f"swarm: {stages} stages need {stages} nodes that hold {longest} layers, the fleet has {len(holders)}; "
                "choose another number of stages"
            )
        ids = [node.id for node in fleet.cluster.nodes]
        holders.sort(key=lambda position: (capacity.tokens_per_s(ids[position], longest), position), reverse=True)
        speed = [0.0] * stages
        ranges: dict[str, LayerRange] = {}
        for position in holders:
            weakest = min(range(stages), key=speed.__getitem__)
            layers = LayerRange(cuts[weakest], cuts[weakest + 1])
            speed[weakest] += capacity.tokens_per_s(ids[position], layers.layers)
            ranges[ids[position]] = layers
        unused = [node for node in ids if node not in ranges]
        return finished(
            problem, "swarm", ranges, started_s=started, notes={"stages": stages, "too_small_for_a_stage": unused}
        )


def _default_stages(fleet: Deployment) -> int:
    """Return the fewest equal stages that fit the smallest node, or unequal ones if the nodes are too few."""
    smallest = min((layers for layers in fleet.usual_layers().values() if layers), default=0)
    if not smallest:
        raise InfeasibleError(f"swarm: no node of the fleet can hold a layer of {fleet.model.name}")
    num_layers = fleet.model.num_layers
    fewest = -(-num_layers // smallest)
    equal = next(stages for stages in range(fewest, num_layers + 1) if num_layers % stages == 0)
    return equal if equal <= len(fleet.profiles) else fewest
