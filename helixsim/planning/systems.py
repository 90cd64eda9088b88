"""One system of an experiment, placed: what planners expect of its nodes, and how it is simulated."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.batching import registry as batching_registry
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.domain.result import RunResult
from helixsim.engine.simulate import Progress as SimulationProgress
from helixsim.engine.simulate import SimulationInputs, simulate
from helixsim.flow.capacity import CapacityTable, paper_capacity
from helixsim.flow.operating import OperatingLoad, OperatingPoint, operating_capacity
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import routing_graph
from helixsim.units import seconds_to_ns
from helixsim.workload.feed import make_feed


@dataclass(frozen=True)
class PlacedSystem:
    """A system whose model is placed; ``plan`` is the max-flow of the placement.

    ``operating`` says where the placement settles under saturation; None: not worked out.
    """

    system: SystemSpec
    placement: Placement
    plan: FlowPlan
    operating: OperatingPoint | None = None


def capacity_table(experiment: ResolvedExperiment, system: SystemSpec) -> CapacityTable:
    """Return the tokens/s planners expect of each node, by the model of capacity the experiment chose."""
    load = operating_load(experiment, system)
    if experiment.capacity.model == "operating":
        return operating_capacity(system.fleet, load)
    return paper_capacity(
        experiment.fleet, load.mean_prompt_tokens, load.mean_output_tokens, experiment.capacity.kv_occupancy
    )


def operating_load(experiment: ResolvedExperiment, system: SystemSpec) -> OperatingLoad:
    """Return what a system serves, by its means."""
    spec, stats = experiment.capacity, experiment.workload_stats
    prompt_tokens = stats.mean_prompt_tokens if spec.prompt_tokens is None else spec.prompt_tokens
    output_tokens = stats.mean_output_tokens if spec.output_tokens is None else spec.output_tokens
    expected = system.kv.expected_output_tokens
    return OperatingLoad(
        prompt_tokens,
        output_tokens,
        system.kv.high_water,
        output_tokens if expected is None else expected,
        experiment.engine,
        stats.prompt_spread,
    )


def simulate_system(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    *,
    window: Window | None = None,
    seed: int | None = None,
    check: bool = False,
    progress: SimulationProgress | None = None,
) -> RunResult:
    """Simulate the experiment's load on a placed system.

    Every system of an experiment sees the same requests: they depend on the seed only. ``window`` and ``seed``
    replace the experiment's; ``check`` tests the laws of memory and idle nodes all along.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    system, fleet = placed.system, placed.system.fleet
    seed = experiment.seed if seed is None else seed
    graph = routing_graph(placed.placement, placed.plan)
    policy = routing_registry.get(system.routing)(graph, system.routing_options, stream(seed, "routing"))
    expected_output = system.kv.expected_output_tokens
    sample_s = experiment.sample_s
    inputs = SimulationInputs(
        fleet=fleet,
        placement=placed.placement,
        plan=placed.plan,
        graph=graph,
        policy=policy,
        batching=batching_registry.get(system.batching)(system.batching_options),
        feed=make_feed(experiment.workload, seed, len(fleet.cluster.nodes), system.arrivals),
        window=experiment.workload.window if window is None else window,
        high_water=system.kv.high_water,
        expected_output_tokens=(
            experiment.workload_stats.mean_output_tokens if expected_output is None else expected_output
        ),
        seed=seed,
        is_one_by_one=experiment.is_one_by_one,
        engine=experiment.engine,
        sample_ns=None if sample_s is None else seconds_to_ns(sample_s),
        check=check,
    )
    return simulate(inputs, progress)
