"""What is done with an experiment: place, simulate, search; and results read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helixsim.api.building import plain
from helixsim.api.experiment import Experiment
from helixsim.api.placements import Placed
from helixsim.api.results import Capacity, Fleets, RunSet, Sweep
from helixsim.api.tenants import TenantRuns
from helixsim.config.edit import Edit, parse_option
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.config.sweep_file import Block, SweepPlan
from helixsim.domain.result import RunResult
from helixsim.errors import ConfigError, DataError
from helixsim.experiment import Experiment as _Experiment
from helixsim.placement.base import PlacementProblem
from helixsim.runtime.executors import executor as make_executor
from helixsim.runtime.manifest import checked_manifest
from helixsim.study.systems import PlacedSystem


def load(path: str | Path) -> Experiment:
    """Return the experiment that a file describes (``Experiment.load``)."""
    return Experiment.load(path)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ResolvedExperiment:
    """Read and check an experiment file: ``load(path).with_(...).resolve()``.

    Parameters
    ----------
    overrides
        ``key.path=value`` texts, as with ``--set``.

    Raises
    ------
    ConfigError, DataError, InfeasibleError
        With every fault found (``helixsim.errors``).
    """
    return load(path).with_(map(parse_option, overrides)).resolve()


def place(
    experiment: _Experiment | ResolvedExperiment,
    system: str | SystemSpec,
    *,
    by_flow: bool = False,
    cache: str | Path | None = None,
    runs: str | Path | None = None,
) -> Placed:
    """Place the model for one system.

    The result holds the placement, its max-flow (``plan``) and its operating point; ``frontier`` and ``table()`` are
    data frames, ``plot()`` and ``plot_frontier()`` figures.

    Parameters
    ----------
    system
        Name of a system of the experiment, or one of ``experiment.resolve().systems``, changed.
    by_flow
        Select candidates by max-flow alone, without short simulations.
    cache
        Folder of placements, found again under their inputs; None: always search.
    runs
        Folder of the simulations of a race that have the window and the seed of the experiment, where ``simulate``
        finds that of the placement; None: nowhere.

    Raises
    ------
    ConfigError
        If the experiment has no such system, or is wrong.
    InfeasibleError
        If its strategy finds no placement.
    """
    from helixsim.study.finished import SimulatedStore
    from helixsim.study.placements import placement_store
    from helixsim.study.placing import place_system

    resolved = _resolved(experiment)
    spec = resolved.system(system) if isinstance(system, str) else system
    store = None if cache is None else placement_store(Path(cache))
    kept = None if runs is None else SimulatedStore(Path(runs))
    return Placed.of(place_system(resolved, spec, by_flow=by_flow, store=store, runs=kept))


def problem(experiment: _Experiment | ResolvedExperiment, system: str) -> PlacementProblem:
    """Return what the placement strategy of a system is given: fleet, capacities and seed, without an evaluator.

    Raises
    ------
    ConfigError
        If the experiment has no such system, or is wrong.
    """
    from helixsim.study.placing import placement_problem

    resolved = _resolved(experiment)
    return placement_problem(resolved, resolved.system(system))


def simulate(
    experiment: _Experiment | ResolvedExperiment,
    placed: PlacedSystem,
    *,
    seed: int | None = None,
    runs: str | Path | None = None,
) -> RunResult:
    """Simulate the experiment's load on a placed system and return the columns of the simulation.

    Parameters
    ----------
    seed
        That of the requests and of random choices; None: the experiment's.
    runs
        Folder of simulations without faults and with the experiment's seed (``place``); None: simulate anew.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    from helixsim.study.faults import simulate_run
    from helixsim.study.finished import SimulatedStore, simulated

    resolved = _resolved(experiment)
    if runs is not None and seed is None and resolved.faults is None:
        return simulated(resolved, placed, SimulatedStore(Path(runs)))
    return simulate_run(resolved, placed, seed=seed)


def capacity(
    experiment: _Experiment,
    *,
    seeds: int = 3,
    tolerance: float = 0.02,
    percentile: float = 99.0,
    share: float | None = None,
    curve: bool = False,
    lose: str | Sequence[str] = (),
    replan: bool = True,
    mtbf: str | Sequence[str] = (),
    mttr: str | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
    dask: str | None = None,
) -> Capacity:
    """Search the highest rate at which each system meets the SLO, and each of ``slo_targets``.

    Parameters
    ----------
    seeds
        Seeds searched; from 2 on there is a 95 % interval.
    tolerance
        Relative step of the rates.
    percentile
        Percentile of TTFT, TPOT and E2EL that must be within the objective.
    share
        Share of requests that must meet all objectives at once, 0..1.
    curve
        Simulate lower rates, too, for ``plot.load_curve()``.
    lose
        Search the capacity after losses, too: ``"any-node"`` (each node in turn, equal ones once), nodes or patterns,
        ``"site:NAME"``, ``"gpu:NAME"``.
    replan
        After a loss the model is placed anew; False: the placement stays on the nodes that are left.
    mtbf, mttr
        Mean time of a node from a repair to the next failure (``"30 d"``, ``"t4=10 d"`` for a type), and to the repair:
        what is served over time, by the capacities after the loss of any node.
    out
        Where results and single simulations are kept and found again.
    jobs
        Processes; None: one per core.
    dask
        Address of a dask scheduler, or ``local``; workers run in the same folder and see the same files.

    Raises
    ------
    ConfigError
        If the experiment states no objective, its requests do not come at a rate, or a loss names unknown nodes.
    """
    from helixsim.config.reliability import reliability_of
    from helixsim.planning.capacity import SearchOptions, capacity_targets
    from helixsim.planning.capacity_run import run_capacity
    from helixsim.planning.losses import ANY_NODE, Losses

    resolved = experiment.resolve()
    targets = capacity_targets(resolved, percentile, share)
    options = SearchOptions(tolerance, seeds, with_curve=curve)
    with make_executor(jobs, dask, Path(out)) as executor:
        reliability = reliability_of([mtbf] if isinstance(mtbf, str) else mtbf, mttr, resolved.fleet.cluster)
        wanted = (lose,) if isinstance(lose, str) else tuple(lose)
        wanted = wanted if reliability is None or ANY_NODE in wanted else (*wanted, ANY_NODE)
        losses = Losses(wanted, replan, reliability) if wanted else None
        return Capacity.load(run_capacity(resolved, targets, options, Path(out), executor, losses=losses))


def sweep(
    experiment: _Experiment,
    axes: Mapping[str, Sequence[Any]],
    *,
    name: str = "sweep",
    seeds: int | Sequence[int] | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
    dask: str | None = None,
) -> Sweep:
    """Run all combinations of axis values; each point is a run like any other, kept and found again.

    Parameters
    ----------
    axes
        Dotted key of the experiment -> its values.
    seeds
        Replications: how many, or a list.
    out, jobs, dask
        As in ``capacity``.

    Raises
    ------
    ConfigError
        If a key does not exist or a value is wrong.
    """
    from helixsim.planning.sweep import prepare, run_sweep

    blocks = tuple(
        Block(tuple((Edit.of(key, plain(value), f"sweep: {key}"),) for value in values)) for key, values in axes.items()
    )
    if not blocks or not all(block.points for block in blocks):
        raise ConfigError("sweep: expected at least one key with one value or more")
    given = tuple(seeds) if isinstance(seeds, Sequence) else seeds
    plan = SweepPlan(name, None, experiment.path, (), given, blocks, None, None)
    with make_executor(jobs, dask, Path(out)) as executor:
        directory, found = run_sweep(prepare(plan, experiment), Path(out), executor)
    return Sweep.of(found, directory, Path(out))


def fleet(
    experiment: _Experiment,
    offers: Mapping[str, int] | Sequence[Mapping[str, Any]],
    *,
    budget: str | None = None,
    system: str | None = None,
    simulations: int = 40,
    percentile: float = 99.0,
    share: float | None = None,
    name: str = "fleet",
    out: str | Path = "runs",
    jobs: int | None = None,
    dask: str | None = None,
) -> Fleets:
    """Search the cheapest mix of nodes that serves the experiment's load within its SLO.

    Parameters
    ----------
    experiment
        Model, load, network and SLO; its nodes are replaced.
    offers
        GPU -> how many nodes can be had, at the price of the profile; or a list of mappings with the keys of
        ``offers`` in a plan file (``gpu gpus region price available``).
    budget
        Such as ``"40 $/h"``: search the fleet of the highest capacity within it instead.
    system
        The system of the experiment that serves; None: the first.
    simulations
        Most fleets that are simulated.
    percentile, share, out, jobs, dask
        As in ``capacity``.

    Raises
    ------
    ConfigError
        If an offer is wrong, the experiment states no objective, or its requests do not come at a rate.
    InfeasibleError
        If nothing on offer serves the load.
    """
    from helixsim.config.plan_file import plan_of
    from helixsim.planning.fleet_run import run_fleet

    if isinstance(offers, Mapping):
        offers = [{"gpu": gpu, "available": available} for gpu, available in offers.items()]
    given = {"name": name, "offers": [dict(offer) for offer in offers], "budget": budget, "system": system,
             "simulations": simulations, "percentile": percentile, "share": share}  # fmt: skip
    plan = plan_of({key: value for key, value in given.items() if value is not None}, experiment.path)
    with make_executor(jobs, dask, Path(out)) as executor:
        directory, found = run_fleet(plan, Path(out), executor, base=experiment)
    return Fleets.of(found, directory)


def run_tenants(
    experiment: _Experiment,
    *,
    out: str | Path = "runs",
    jobs: int | None = None,
    dask: str | None = None,
    force: bool = False,
    check: bool = False,
) -> TenantRuns:
    """Run every tenant of an experiment with ``tenants`` on its part of the cluster, which is planned if none states.

    Parameters
    ----------
    out, jobs, dask, force, check
        As of ``Experiment.run``.

    Raises
    ------
    ConfigError, DataError, InfeasibleError, SimulationError
        As the command ``run``; also without ``tenants``.
    """
    from helixsim.planning.tenants import run_tenants as run

    with make_executor(jobs, dask, Path(out)) as executor:
        return TenantRuns.load(run(experiment.tenants(), Path(out), executor, force=force, check=check))


def read(directory: str | Path) -> RunSet | Capacity | TenantRuns:
    """Return the results in a run directory, or in one of capacities or of tenants.

    Nothing is missing but what never is in files: the columns of a simulation (``Run.simulation``), and the single
    simulations of a search as other than a table. Sweeps and fleets come back by their own functions, which run nothing
    again.

    Raises
    ------
    DataError
        If the directory holds neither, is incomplete, or a file is not as it was written.
    """
    path = Path(directory)
    if (path / "tenants.csv").exists():
        checked_manifest(path)
        return TenantRuns.load(path)
    if (path / "summary.json").exists():
        checked_manifest(path)
        return RunSet.load(path)
    if (path / "capacity.json").exists():
        checked_manifest(path)
        return Capacity.load(path)
    raise DataError(f"{path}: no results of a run (summary.json) or of a search for capacities (capacity.json)")


def _resolved(experiment: _Experiment | ResolvedExperiment) -> ResolvedExperiment:
    return experiment if isinstance(experiment, ResolvedExperiment) else experiment.resolve()
