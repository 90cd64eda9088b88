"""Placed systems of an experiment: node capacities and simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from helixsim.batching import registry as batching_registry
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import FeedMode, Slo, Window
from helixsim.domain.result import RunResult
from helixsim.domain.summary import Summary
from helixsim.domain.timeline import Timeline
from helixsim.engine.inputs import Patience, SimulationInputs
from helixsim.engine.simulate import Progress as SimulationProgress
from helixsim.engine.simulate import simulate
from helixsim.flow.capacity import CapacityTable, paper_capacity
from helixsim.flow.operating import operating_capacity
from helixsim.flow.station import OperatingLoad, OperatingPoint
from helixsim.metrics.objectives import Target
from helixsim.metrics.summary import summarise
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes
from helixsim.study.autoscaling import autoscaling_plan
from helixsim.study.legs import legs_of
from helixsim.units import seconds_to_ns
from helixsim.workload.arrivals import process_of
from helixsim.workload.feed import make_feed

LEAST_PART = 4
"""Runs that end early are measured for at least this fraction (1/n) of the window, for the load curve."""


@dataclass(frozen=True)
class PlacedSystem:
    """A system whose model is placed; ``plan`` is the max-flow of the placement.

    ``operating`` is the KV-limited estimate; None: not computed.
    """

    system: SystemSpec
    placement: Placement
    plan: FlowPlan
    operating: OperatingPoint | None = None


def is_by_cost(system: SystemSpec) -> bool:
    """Return whether a system is asked for by cost: its price decides before its latency."""
    return getattr(system.placement_options, "criterion", None) == "cost"


def capacity_table(experiment: ResolvedExperiment, system: SystemSpec) -> CapacityTable:
    """Return the estimated capacity of each node, by the capacity model of the experiment."""
    load = operating_load(experiment, system)
    if experiment.capacity.model == "kv_limited":
        return operating_capacity(system.fleet, load)
    return paper_capacity(
        system.fleet,
        load.mean_prompt_tokens,
        load.mean_output_tokens,
        experiment.capacity.kv_occupancy,
        load.engine,
    )


def on_its_nodes(system: SystemSpec, placement: Placement) -> SystemSpec:
    """Return a system with machines divided as a placement divides them, and with the roles that it gives nodes."""
    fleet = system.fleet.divided(placement.widths) if placement.widths else system.fleet
    if placement.roles:
        fleet = fleet.with_roles(placement.roles)
    return system if fleet is system.fleet else replace(system, fleet=fleet)


def operating_load(experiment: ResolvedExperiment, system: SystemSpec) -> OperatingLoad:
    """Return the mean load of a system for the KV-limited estimate."""
    spec, stats = experiment.capacity, experiment.workload_stats
    prompt_tokens = stats.mean_prompt_tokens if spec.prompt_tokens is None else spec.prompt_tokens
    output_tokens = stats.mean_output_tokens if spec.output_tokens is None else spec.output_tokens
    expected = system.kv.expected_output_tokens
    return OperatingLoad(
        prompt_tokens,
        output_tokens,
        system.kv.max_reserved_share,
        output_tokens if expected is None else expected,
        experiment.engine,
        stats.prompt_spread,
        stats.output_spread,
        stats.joint_spread,
    )


def simulate_system(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    *,
    window: Window | None = None,
    seed: int | None = None,
    check: bool = False,
    patience: Patience | None = None,
    timeline: Timeline | None = None,
    progress: SimulationProgress | None = None,
) -> RunResult:
    """Simulate the experiment's load on a placed system.

    Every system of an experiment sees the same requests: they depend on the seed only. ``window`` and ``seed``
    replace the experiment's; ``check`` tests the laws of memory and idle nodes all along; ``patience`` ends
    the run early; ``timeline`` records a part of it, with which it ends. No node fails, whatever the experiment says:
    searches of placements know of no faults (``study.faults``).

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    inputs = simulation_inputs(experiment, placed, window=window, seed=seed)
    return simulate(replace(inputs, check=check, patience=patience, timeline=timeline), progress)


def simulation_inputs(
    experiment: ResolvedExperiment, placed: PlacedSystem, *, window: Window | None = None, seed: int | None = None
) -> SimulationInputs:
    """Return what the simulation of a placed system is given; arguments as of ``simulate_system``."""
    system, fleet = placed.system, placed.system.fleet
    seed = experiment.seed if seed is None else seed
    mean_output, expected_output = experiment.workload_stats.mean_output_tokens, system.kv.expected_output_tokens
    times = RoutingTimes(fleet, placed.placement, experiment.engine, mean_output, experiment.slo)
    graph = routing_graph(placed.placement, placed.plan, times)
    legs = None
    if system.is_disaggregated:
        legs = legs_of(experiment, system, placed.placement, capacity_table(experiment, system), seed)
    made = routing_registry.get(system.routing)
    policy = made(graph, system.routing_options, stream(seed, "routing")) if legs is None else legs.prefill.policy
    sample_s = experiment.sample_s
    return SimulationInputs(
        fleet=fleet,
        placement=placed.placement,
        plan=placed.plan,
        graph=graph,
        policy=policy,
        batching=batching_registry.get(system.batching)(system.batching_options),
        feed=make_feed(experiment.workload, seed, len(fleet.cluster.nodes), system.arrivals),
        window=experiment.workload.window if window is None else window,
        high_water=system.kv.max_reserved_share,
        expected_output_tokens=mean_output if expected_output is None else expected_output,
        seed=seed,
        is_one_by_one=experiment.is_one_by_one,
        engine=experiment.engine,
        sample_ns=None if sample_s is None else seconds_to_ns(sample_s),
        legs=legs,
        autoscaling=autoscaling_plan(experiment, system, placed.placement, graph),
    )


def patience_for(
    experiment: ResolvedExperiment, system: SystemSpec, seed: int, targets: Sequence[Target]
) -> Patience | None:
    """Return when a run is sure to miss every target's TTFT; None if that cannot be said before its end.

    Of n first tokens in the window, ``n (1 - percentile)`` may be late, and n is at most the number of requests that
    arrive until its end. A run that ends at the first sample with more late ones therefore fails as a whole, and by
    the same count the part of it that was measured.
    """
    window = experiment.workload.window
    slowest_s = [target.slo.ttft_s for target in targets]
    arrivals = system.arrivals or experiment.workload.arrivals
    if window.duration_ns is None or None in slowest_s or process_of(arrivals).mode is not FeedMode.OPEN:
        return None
    end_ns = window.warmup_ns + window.duration_ns
    feed = make_feed(experiment.workload, seed, len(system.fleet.cluster.nodes), arrivals)
    arriving = sum(1 for _ in takewhile(lambda request: request.arrival_ns <= end_ns, feed.requests))
    allowed = 1.0 - min(target.percentile for target in targets) / 100
    return Patience(
        ttft_ns=seconds_to_ns(max(ttft_s for ttft_s in slowest_s if ttft_s is not None)),
        most_late=math.ceil(arriving * allowed),
        least_ns=window.duration_ns // LEAST_PART,
    )


def summary_of(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    run: RunResult,
    *,
    offered_rps: float | None,
    slo: Slo | None = None,
    kv_limited_tokens_per_s: float | None = None,
) -> Summary:
    """Return the summary of a simulated system, by the objectives of its experiment unless ``slo`` gives others.

    ``offered_rps`` and ``kv_limited_tokens_per_s`` are those of ``metrics.summary.summarise``.
    """
    stats = experiment.workload_stats
    return summarise(
        run,
        slo=experiment.slo if slo is None else slo,
        fleet=placed.system.fleet,
        placement=placed.placement,
        plan=placed.plan,
        mean_prompt_tokens=stats.mean_prompt_tokens,
        mean_output_tokens=stats.mean_output_tokens,
        offered_rps=offered_rps,
        kv_limited_tokens_per_s=kv_limited_tokens_per_s,
        engine=experiment.engine,
        unsupported=experiment.unsupported,
        cost_first=is_by_cost(placed.system),
    )
