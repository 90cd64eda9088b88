"""From layer ranges to a complete placement: checked, with its max-flow and upper bound."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.maxflow import max_flow_value
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.stages import NodeGroup
from helixsim.units import format_bytes


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
    objective = max_flow_value(problem.fleet, draft, problem.capacity) if problem.needs_flow else 0.0
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


def why_none(fleet: Deployment, groups: Sequence[NodeGroup], options: HelixOptions) -> str:
    """Return why ``helix`` found no placement on these groups of nodes, for a message."""
    model, nodes = fleet.model, len(fleet.cluster.nodes)
    room = sum(len(group.nodes) * len(group.tokens_per_s) for group in groups)
    if room < model.num_layers:
        missing = model.num_layers - room
        short = format_bytes(missing * model.weight_bytes_per_layer)
        return (
            f"helix: all {nodes} nodes together hold {room} layers of the {model.num_layers} of {model.name}: "
            f"{missing} layers ({room}-{model.num_layers - 1}), {short} of weights, do not fit (most layers of a "
            f"node: {fleet.layer_limits()}); add nodes or raise the limit"
        )
    limit = f" within {options.max_hops} hops" if options.max_hops is not None else ""
    pins = " that keeps the pinned nodes" if options.pinned else ""
    return (
        f"helix: no placement of the {model.num_layers} layers of {model.name}{limit}{pins} was found, though all "
        f"{nodes} nodes together hold {room} layers"
    )
