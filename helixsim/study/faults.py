"""Faults of an experiment for one of its systems."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import partial

from helixsim.config.choices import PHASES
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import Outage, Reaction
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.result import RunResult
from helixsim.domain.timeline import Timeline
from helixsim.engine.inputs import FaultPlan, Legs, SimulationInputs
from helixsim.engine.simulate import Progress, simulate
from helixsim.errors import ConfigError, Problem
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import RoutingGraph, RoutingPolicy
from helixsim.study.legs import policy_of_leg
from helixsim.study.reacting import Reactions, with_cuts
from helixsim.study.systems import PlacedSystem, capacity_table, simulate_system, simulation_inputs

_ENDLESS_NS = 2**62

_NO_FLOW_TOKENS_PER_S = 1e-3
"""Less than this flows over cut links alone."""


def simulate_run(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    *,
    seed: int | None = None,
    check: bool = False,
    timeline: Timeline | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Simulate the experiment's load on a placed system as ``simulate_system`` does, with the faults of the experiment.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    if experiment.faults is None:
        return simulate_system(experiment, placed, seed=seed, check=check, timeline=timeline, progress=progress)
    inputs = simulation_inputs(experiment, placed, seed=seed)
    faults = _plan(experiment, placed, inputs)
    return simulate(replace(inputs, check=check, timeline=timeline, faults=faults), progress)


def _plan(experiment: ResolvedExperiment, placed: PlacedSystem, inputs: SimulationInputs) -> FaultPlan:
    """Return the faults of a run."""
    spec, window = experiment.faults, inputs.window
    assert spec is not None
    parts: dict[str, tuple[str, ...]] = {}
    for part, machine in placed.system.fleet.cluster.machine_of.items():
        parts[machine] = (*parts.get(machine, ()), part)
    absent = frozenset(spec.absent)
    if early := sorted(absent & placed.placement.ranges.keys()):
        message = f"{', '.join(early)}: join, and the placement of {placed.system.name} has layers on them at the start"
        raise ConfigError([Problem(str(experiment.source), "faults.events", message)])
    rerouted = partial(_rerouted, experiment)
    reroute = rerouted if inputs.legs is None else partial(_rerouted_legs, experiment)
    end_ns = _ENDLESS_NS if window.duration_ns is None else window.warmup_ns + window.duration_ns
    return FaultPlan(
        spec.of_run(inputs.seed, end_ns, parts),
        spec.detection_ns,
        spec.retry_limit,
        spec.timeout_ns,
        spec.delay_ns,
        partial(reroute, placed, inputs) if spec.reaction is Reaction.REROUTE else None,
        Reactions(experiment, placed, spec, inputs.seed, rerouted) if spec.reaction is Reaction.REPLACE else None,
        spec.links_of_run(inputs.seed, end_ns, parts),
        spec.clients,
        spec.replication,
        absent,
    )


def _rerouted(
    experiment: ResolvedExperiment, placed: PlacedSystem, inputs: SimulationInputs, out: Outage
) -> RoutingPolicy | None:
    """Return the policy of a system by the max-flow without some nodes and links; None if they leave no route."""
    system = _without_shares(placed.system)
    graph = _graph_without(experiment, system, placed.placement, inputs.graph, out)
    if graph is None:
        return None
    policy = routing_registry.get(system.routing)
    made: RoutingPolicy = policy(graph, system.routing_options, stream(inputs.seed, "routing"))
    return made


def _rerouted_legs(
    experiment: ResolvedExperiment, placed: PlacedSystem, inputs: SimulationInputs, out: Outage
) -> Legs | None:
    """Return the legs of a system by the max-flow of each without some nodes; None if one of them has no route left."""
    system, legs = placed.system, inputs.legs
    assert legs is not None
    found = {}
    for phase, leg in zip(PHASES, (legs.prefill, legs.decode), strict=True):
        part = placed.placement.part(system.fleet.cluster.serving(phase))
        graph = _graph_without(experiment, system, part, leg.graph, out)
        if graph is None:
            return None
        found[phase] = replace(leg, graph=graph, policy=policy_of_leg(system, phase, graph, inputs.seed))
    return replace(legs, prefill=found["prefill"], decode=found["decode"])


def _graph_without(
    experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, graph: RoutingGraph, out: Outage
) -> RoutingGraph | None:
    """Return a graph of a placement with its max-flow without some nodes and links; None if they leave no route."""
    left = placement.part(placement.ranges.keys() - out.nodes)
    plan = max_flow(with_cuts(system.fleet, out), left, capacity_table(experiment, system))
    return None if plan.max_flow_tokens_per_s < _NO_FLOW_TOKENS_PER_S else with_flow(graph, plan)


def _without_shares(system: SystemSpec) -> SystemSpec:
    """Return a system that routes by the flow, where a search had chosen other shares for the placement of before."""
    options = system.routing_options
    return system.with_routing(system.routing, replace(options, shares={})) if hasattr(options, "shares") else system


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
