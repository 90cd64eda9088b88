"""Faults of an experiment for one of its systems."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import partial

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR, Deployment, LinkSpec
from helixsim.domain.faults import FaultSpec, Outage, Reaction
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import LayerRange
from helixsim.domain.result import RunResult
from helixsim.domain.timeline import Timeline
from helixsim.engine.inputs import FaultPlan, Replacement, SimulationInputs
from helixsim.engine.simulate import Progress, simulate
from helixsim.errors import ConfigError, InfeasibleError, Problem
from helixsim.flow.maxflow import max_flow
from helixsim.placement.constraints import reassigned
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import RoutingGraph, RoutingPolicy
from helixsim.study.placing import assembled, place_system
from helixsim.study.systems import PlacedSystem, capacity_table, simulate_system, simulation_inputs
from helixsim.units import BITS_PER_BYTE, seconds_to_ns

_ENDLESS_NS = 2**62

_CUT_BPS = 1e-6
"""Bandwidth of links that are cut, for searches and flows [bit/s]."""

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
    end_ns = _ENDLESS_NS if window.duration_ns is None else window.warmup_ns + window.duration_ns
    return FaultPlan(
        spec.of_run(inputs.seed, end_ns, parts),
        spec.detection_ns,
        spec.retry_limit,
        spec.timeout_ns,
        spec.delay_ns,
        partial(_rerouted, experiment, placed, inputs) if spec.reaction is Reaction.REROUTE else None,
        _Replacing(experiment, placed, inputs, spec) if spec.reaction is Reaction.REPLACE else None,
        spec.links_of_run(inputs.seed, end_ns, parts),
        spec.clients,
        spec.replication,
    )


def _rerouted(
    experiment: ResolvedExperiment, placed: PlacedSystem, inputs: SimulationInputs, out: Outage
) -> RoutingPolicy | None:
    """Return the policy of a system by the max-flow without some nodes and links; None if they leave no route."""
    system, placement = _without_shares(placed.system), placed.placement
    left = placement.part(placement.ranges.keys() - out.nodes)
    plan = max_flow(_with_cuts(system.fleet, out), left, capacity_table(experiment, system))
    if plan.max_flow_tokens_per_s < _NO_FLOW_TOKENS_PER_S:
        return None
    policy = routing_registry.get(system.routing)
    graph = with_flow(inputs.graph, plan)
    made: RoutingPolicy = policy(graph, system.routing_options, stream(inputs.seed, "routing"))
    return made


class _Replacing:
    """Placements of a system on the nodes that are left, each searched once.

    The strategy of the system searches by max-flow. Nodes of one kind exchange their layers so that few weights are
    loaded; each node loads the layers that it does not hold, all nodes at the same time.
    """

    def __init__(
        self, experiment: ResolvedExperiment, placed: PlacedSystem, inputs: SimulationInputs, spec: FaultSpec
    ) -> None:
        self._experiment = experiment
        self._placed = placed
        self._seed = inputs.seed
        self._spec = spec
        self._known = {Outage(): placed}
        self._held = placed.placement.ranges

    def __call__(self, out: Outage) -> Replacement | None:
        """Return the placement without some nodes and links; None: there is none."""
        if out not in self._known:
            try:
                self._known[out] = self._searched(out)
            except InfeasibleError:
                return None
        found = self._known[out]
        spec, model, ranges = self._spec, found.system.fleet.model, found.placement.ranges
        layers = max(held.layers - _shared(self._held.get(node), held) for node, held in ranges.items())
        load_s = layers * model.weight_bytes_per_layer * BITS_PER_BYTE / spec.load_bps
        self._held = {**self._held, **ranges}
        inputs = simulation_inputs(self._experiment, found, seed=self._seed)
        network = self._placed.system.fleet.cluster.network  # with the links that are cut now
        cluster = replace(inputs.fleet.cluster, network=network)
        inputs = replace(inputs, fleet=replace(inputs.fleet, cluster=cluster))
        return Replacement(inputs, seconds_to_ns(load_s) + spec.startup_ns)

    def _searched(self, out: Outage) -> PlacedSystem:
        system, first = _without_shares(self._placed.system), self._placed.placement.ranges
        gone = (set(system.fleet.cluster.index) - first.keys()) | out.nodes
        left = replace(system, fleet=_with_cuts(system.fleet.without(gone, paid=gone), out))
        found = place_system(self._experiment, left)
        if not found.placement.ranges.keys() <= first.keys():
            raise InfeasibleError(f"{system.name}: machines cannot be divided otherwise during a run")
        ranges = reassigned(left.fleet, found.placement.ranges, self._held, {})
        return assembled(self._experiment, left, replace(found.placement, ranges=ranges))


def _with_cuts(fleet: Deployment, out: Outage) -> Deployment:
    """Return a fleet whose cut links carry next to nothing."""
    if not out.cuts:
        return fleet
    cluster = fleet.cluster
    ends = {node.machine or node.id: node.id for node in cluster.nodes} | {COORDINATOR: COORDINATOR}
    cut = {
        (src, dst): LinkSpec(_CUT_BPS, cluster.link(own_src, own_dst).latency_ns)
        for src, own_src in ends.items()
        for dst, own_dst in ends.items()
        if src != dst and out.cuts_link(own_src, own_dst)
    }
    network = replace(cluster.network, pairs={**cluster.network.pairs, **cut})
    return replace(fleet, cluster=replace(cluster, network=network))


def _without_shares(system: SystemSpec) -> SystemSpec:
    """Return a system that routes by the flow, where a search had chosen other shares for the placement of before."""
    options = system.routing_options
    return system.with_routing(system.routing, replace(options, shares={})) if hasattr(options, "shares") else system


def _shared(before: LayerRange | None, after: LayerRange) -> int:
    return 0 if before is None else before.shared(after).layers


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
