"""Strategies whose placements are the first candidates of the search."""

from __future__ import annotations

from typing import Any

from helixsim.domain.placement import Placement
from helixsim.placement.base import Strategy
from helixsim.placement.homogeneous import Homogeneous, HomogeneousOptions
from helixsim.placement.parallax import Parallax, ParallaxOptions
from helixsim.placement.petals import Petals, PetalsOptions
from helixsim.placement.replicas import Replicas, ReplicasOptions
from helixsim.placement.separate import Separate, SeparateOptions
from helixsim.placement.swarm import Swarm, SwarmOptions

FEW_NODES = 40
"""Nodes up to which the estimate of a placement by its max-flow holds for other routings, too."""

_ROUTING_OF_METHOD = {"parallax": "parallax"}
"""Heuristic -> routing that sends requests where they are expected to finish first, not by max-flow."""

CHAINS: list[tuple[Strategy, Any]] = [(Replicas(), ReplicasOptions()), (Separate(), SeparateOptions())]
"""Those that form chains of nodes that share none."""


def routing_of_method(heuristic: str, placement: Placement) -> str | None:
    """Return the routing of a heuristic's method, where its placement has many nodes; None: it has that of others."""
    return _ROUTING_OF_METHOD.get(heuristic) if len(placement.ranges) > FEW_NODES else None


def heuristics(*, raced: bool, partial: bool) -> list[tuple[Strategy, Any]]:
    """Return strategies with their options; ``partial``: nodes may compute a part of their layers."""
    own: list[tuple[Strategy, Any]] = [(Replicas(), ReplicasOptions()), (Parallax(), ParallaxOptions())]
    return [
        *(own if raced else []),
        (Swarm(), SwarmOptions()),
        (Petals(), PetalsOptions(partial_inference=partial)),
        (Separate(), SeparateOptions()),
        (Homogeneous(), HomogeneousOptions()),
    ]
