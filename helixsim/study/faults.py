"""Faults of an experiment for one of its systems."""

from __future__ import annotations

from array import array
from dataclasses import replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import Reaction
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.engine.inputs import FaultPlan
from helixsim.errors import ConfigError, Problem
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import RoutingGraph, RoutingPolicy

_ENDLESS_NS = 2**62


def fault_plan(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    placement: Placement,
    graph: RoutingGraph,
    capacity: CapacityTable,
    window: Window,
    seed: int,
) -> FaultPlan | None:
    """Return the faults of a run of a system; None: there are none.

    ``graph``: that of the whole placement, by whose hops requests are routed whatever nodes are left.
    """
    spec = experiment.faults
    if spec is None:
        return None

    def reroute(down: frozenset[str]) -> RoutingPolicy | None:
        left = placement.part(placement.ranges.keys() - down)
        plan = max_flow(system.fleet, left, capacity)
        if plan.max_flow_tokens_per_s <= 0:
            return None
        policy = routing_registry.get(system.routing)
        made: RoutingPolicy = policy(with_flow(graph, plan), system.routing_options, stream(seed, "routing"))
        return made

    parts: dict[str, tuple[str, ...]] = {}
    for part, machine in system.fleet.cluster.machine_of.items():
        parts[machine] = (*parts.get(machine, ()), part)
    end_ns = _ENDLESS_NS if window.duration_ns is None else window.warmup_ns + window.duration_ns
    return FaultPlan(
        spec.of_run(seed, end_ns, parts),
        spec.detection_ns,
        spec.retry_limit,
        spec.timeout_ns,
        spec.delay_ns,
        reroute if spec.reaction is Reaction.REROUTE else None,
    )


def with_flow(graph: RoutingGraph, plan: FlowPlan) -> RoutingGraph:
    """Return a graph with the flow of a plan for some of its nodes; edges that the plan does not have carry none."""
    flows = array("d", bytes(8 * graph.num_edges))
    for source, hops in [(COORDINATOR, graph.first), *zip(graph.node_ids, graph.successors, strict=True)]:
        if source in plan.class_of:
            leaving = {one.dst: one.flow_tokens_per_s for one in plan.departures(plan.class_of[source])}
            for hop in hops:
                flows[hop.edge] = leaving.get(graph.node_ids[hop.node], 0.0)
    return replace(graph, flow_tokens_per_s=flows, plan=plan)


def refuse_faults(experiment: ResolvedExperiment, command: str) -> None:
    """Refuse an experiment with faults.

    Raises
    ------
    ConfigError
        If it has any.
    """
    if experiment.faults is not None:
        message = f"{command} simulates no faults: remove this section (run and sweep simulate them)"
        raise ConfigError([Problem(str(experiment.source), "faults", message)])
