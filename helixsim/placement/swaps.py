"""Local search: nodes of one type exchange their roles where links differ.

The search for pipelines assumes ample links inside a region and equal links between two regions. Where the actual
network carries less than the pipeline, random exchanges are accepted as long as the exact max-flow does not decrease;
exchanges that leave it unchanged are accepted too, so that the search can cross plateaus.
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
    replicas: Mapping[str, int] | None = None,
    steps: int,
    time_left_s: Callable[[], float],
) -> tuple[dict[str, LayerRange], float]:
    """Return the placement after up to ``steps`` exchanges, fewer if it carries the target, and its flow [tokens/s].

    Where nodes belong to replicas, only nodes of the same replica exchange their roles.
    """
    replicas = replicas or {}
    fleet = problem.fleet
    rng = np.random.default_rng(0)
    nodes = [node.id for node in fleet.cluster.nodes]
    groups: dict[tuple[str, int | None], list[str]] = {}
    alike = {
        node: groups.setdefault((profile.kind, replicas.get(node)), [])
        for node, profile in zip(nodes, fleet.profiles, strict=True)
    }
    for node, members in alike.items():
        members.append(node)

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
            trial = {node: layers for node, layers in trial.items() if node not in roles}
            trial |= {node: layers for node, layers in roles.items() if layers is not None}
        if trial != best:
            carried = flow_of(trial)
            if carried >= flow * (1 - tuning.FLOW_TOLERANCE):
                best, flow = trial, max(flow, carried)
    return best, flow
