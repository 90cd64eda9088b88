"""One system of an experiment: place the model, find its max-flow, simulate the load."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.batching import registry as batching_registry
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import FeedMode, Window
from helixsim.domain.result import RunResult
from helixsim.engine.simulate import Progress as SimulationProgress
from helixsim.engine.simulate import SimulationInputs, simulate
from helixsim.errors import ConfigError
from helixsim.flow.capacity import CapacityTable, paper_capacity
from helixsim.flow.maxflow import max_flow
from helixsim.metrics.throughput import throughput
from helixsim.placement import registry as placement_registry
from helixsim.placement.base import PlacementProblem, silent
from helixsim.placement.base import Progress as PlacementProgress
from helixsim.placement.check import check
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import routing_graph
from helixsim.units import NS_PER_S, seconds_to_ns
from helixsim.workload.feed import make_feed

JUDGE_WARMUP_NS = 120 * NS_PER_S
JUDGE_DURATION_NS = 240 * NS_PER_S
"""Longest warm-up and window of the short simulations by which placements are chosen: a 70B request lives for some
minutes, so that less would judge how a cluster fills, not how it serves."""

_TIE_WEIGHT = 1e-9
"""Weight of throughput beside goodput: it decides between equals only."""

JUDGE_SEED_OFFSET = 1_000_003
"""Candidates are judged on other requests than those they are reported on, unless the load is a recorded trace."""


@dataclass(frozen=True)
class PlacedSystem:
    """A system whose model is placed; ``plan`` is the max-flow of the placement."""

    system: SystemSpec
    placement: Placement
    plan: FlowPlan


def capacity_table(experiment: ResolvedExperiment) -> CapacityTable:
    """Return the tokens/s planners expect of each node."""
    spec, stats = experiment.capacity, experiment.workload_stats
    return paper_capacity(
        experiment.fleet,
        stats.mean_prompt_tokens if spec.prompt_tokens is None else spec.prompt_tokens,
        stats.mean_output_tokens if spec.output_tokens is None else spec.output_tokens,
        spec.kv_occupancy,
    )


def place_system(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    *,
    progress: PlacementProgress = silent,
    judged: bool = True,
) -> PlacedSystem:
    """Place the model for one system.

    ``judged``: let strategies that compare candidates simulate them on the experiment's workload.

    Raises
    ------
    InfeasibleError
        If the strategy finds no placement.
    """
    capacity = capacity_table(experiment)

    def judge(placement: Placement) -> float:
        return _score(experiment, system, placement, capacity)

    strategy = placement_registry.get(system.placement)()
    problem = PlacementProblem(system.fleet, capacity, experiment.seed, judge if judged else None, progress)
    placement = strategy.solve(problem, system.placement_options)
    check(system.fleet, placement)
    return PlacedSystem(system, placement, max_flow(system.fleet, placement, capacity))


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
        sample_ns=None if sample_s is None else seconds_to_ns(sample_s),
        check=check,
    )
    return simulate(inputs, progress)


def _score(experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, capacity: CapacityTable) -> float:
    """Score a placement by a short simulation of the actual load; higher is better.

    The criterion is that of the strategy's options. ``throughput``: under saturation or a closed loop output tokens/s;
    at a given rate every placement that keeps up serves the same tokens, so the score is Kleinrock's power, throughput
    over time per token, which by Little's law is throughput squared over the mean number of requests in the system.
    ``goodput``: requests/s that meet the experiment's objectives, equals ranked by the former. ``latency``: tokens/s
    for each request in the system, the inverse of the time per token.
    """
    placed = PlacedSystem(system, placement, max_flow(system.fleet, placement, capacity))
    if placed.plan.max_flow_tokens_per_s <= 0:
        return 0.0
    full = experiment.workload.window
    duration_ns = JUDGE_DURATION_NS if full.duration_ns is None else min(full.duration_ns, JUDGE_DURATION_NS)
    window = Window(min(full.warmup_ns, JUDGE_WARMUP_NS), duration_ns, drain=False)
    run = simulate_system(experiment, placed, window=window, seed=experiment.seed + JUDGE_SEED_OFFSET)
    series = run.series
    inside = (series.time_ns >= run.window_start_ns) & (series.time_ns <= run.window_end_ns)
    tokens = series.output_tokens[inside]
    if len(tokens) < 2:
        return 0.0
    served = float(tokens[-1] - tokens[0]) / (duration_ns / NS_PER_S)
    in_system = max(1.0, float((series.waiting + series.running)[inside].mean()))
    criterion = getattr(system.placement_options, "criterion", "throughput")
    if criterion == "latency":
        return served / in_system
    score = served if run.mode is not FeedMode.OPEN else served**2 / in_system
    if criterion == "goodput":
        counts = throughput(run, experiment.slo)
        if counts.good_requests is None:
            raise ConfigError(
                f"{system.name}: criterion goodput needs an objective: add slo: {{ttft: 5 s}} or the like"
            )
        return counts.rate(counts.good_requests) + _TIE_WEIGHT * score
    return score
