"""Place the model for one system of an experiment."""

from __future__ import annotations

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.flow.maxflow import max_flow
from helixsim.placement import registry as placement_registry
from helixsim.placement.base import PlacementProblem, Progress, silent
from helixsim.placement.check import check
from helixsim.planning.judge import Judge
from helixsim.planning.systems import PlacedSystem, capacity_table


def place_system(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    *,
    progress: Progress = silent,
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
    judge = Judge(experiment, system, capacity) if judged else None
    strategy = placement_registry.get(system.placement)()
    problem = PlacementProblem(system.fleet, capacity, experiment.seed, judge, progress)
    placement = strategy.solve(problem, system.placement_options)
    check(system.fleet, placement)
    return PlacedSystem(system, placement, max_flow(system.fleet, placement, capacity))
