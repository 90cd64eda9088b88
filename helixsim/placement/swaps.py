"""Swap search: exchange the roles of equal nodes where links differ.

The search of chains takes links inside a region as ample and all links between two regions as equal. Where the true
network carries less than the chain, nodes of one kind exchange their roles as long as the exact max-flow does not fall;
steps that leave it as it is are taken too, because a plateau often leads on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem


def swapped(
    problem: PlacementProblem,
    ranges: Mapping[str, LayerRange],
    target_tokens_per_s: float,
    *,
    steps: int,
    time_left_s: Callable[[], float],
) -> tuple[dict[str, LayerRange], float]:
    """Return the placement with roles exchanged and its flow, after so many steps or once it carries the target."""
    fleet = problem.fleet
    rng = np.random.default_rng(0)
    nodes = [node.id for node in fleet.cluster.nodes]
    kinds: dict[str, list[str]] = {}
    for node, profile in zip(nodes, fleet.profiles, strict=True):
        kinds.setdefault(profile.kind, []).append(node)
    alike = {node: kinds[profile.kind] for node, profile in zip(nodes, fleet.profiles, strict=True)}

    def flow_of(trial: Mapping[str, LayerRange]) -> float:
        return max_flow_value(fleet, Placement("swaps", fleet.model.num_layers, trial), problem.capacity)

    best = dict(ranges)
    flow = flow_of(best)
    for _ in range(steps):
        if flow >= target_tokens_per_s * (1 - 1e-6) or time_left_s() <= 0:
            break
        trial = dict(best)
        for _ in range(2 if rng.random() < tuning.DOUBLE_SWAP_SHARE else 1):
            one = nodes[rng.integers(len(nodes))]
            two = alike[one][rng.integers(len(alike[one]))]
            roles = {one: trial.get(two), two: trial.get(one)}
            trial = {node: held for node, held in trial.items() if node not in roles}
            trial |= {node: held for node, held in roles.items() if held is not None}
        if trial != best:
            carried = flow_of(trial)
            if carried >= flow * (1 - tuning.FLOW_TOLERANCE):
                best, flow = trial, max(flow, carried)
    return best, flow
