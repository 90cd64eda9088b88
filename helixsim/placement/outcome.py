"""From layer ranges to a complete placement: checked, with its max-flow and upper bound."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check


def layers_to_hold(fleet: Deployment) -> str:
    """Return what nodes that are too few or too small must hold, and the most that each can, for a message."""
    return f"the {fleet.model.num_layers} layers of {fleet.model.name} (most layers of a node: {fleet.layer_limits()})"


def finished(
    problem: PlacementProblem,
    strategy: str,
    ranges: Mapping[str, LayerRange],
    *,
    started_s: float,
    partial_inference: bool = False,
    pipelines: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Placement:
    """Return the placement of a strategy, with nodes in cluster order.

    ``started_s``: ``time.perf_counter()`` when the strategy started [s].

    Raises
    ------
    DataError, InfeasibleError
        As ``placement.check``.
    """
    order = problem.fleet.cluster.index
    draft = Placement(
        strategy=strategy,
        num_layers=problem.fleet.model.num_layers,
        ranges=dict(sorted(ranges.items(), key=lambda item: order.get(item[0], len(order)))),
        partial_inference=partial_inference,
        pipelines=dict(pipelines or {}),
    )
    check(problem.fleet, draft)
    objective = max_flow_value(problem.fleet, draft, problem.capacity)
    bound = upper_bound_share(problem.fleet, problem.capacity)
    seconds = time.perf_counter() - started_s
    return replace(
        draft,
        objective_tokens_per_s=objective,
        upper_bound_tokens_per_s=bound,
        solve_s=seconds,
        history=((seconds, objective, bound),),
        notes=dict(notes or {}),
    )
