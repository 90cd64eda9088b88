"""Place the model for one system of an experiment, or find the placement that was made from the same inputs before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import BOTH, Placement
from helixsim.domain.request import FeedMode
from helixsim.errors import InfeasibleError
from helixsim.flow.maxflow import max_flow
from helixsim.flow.operating import operating_capacity, operating_point
from helixsim.placement import registry as placement_registry
from helixsim.placement.base import Phases, PlacementProblem, Progress, Select, silent
from helixsim.placement.check import check
from helixsim.placement.helix_options import RACED
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes
from helixsim.runtime.pool import Executor, Serial
from helixsim.study.evaluator import Evaluator
from helixsim.study.finished import SimulatedStore
from helixsim.study.legs import check_pools, place_pools, roles_fault
from helixsim.study.placements import PlacementStore, kept_or_searched
from helixsim.study.race import Race
from helixsim.study.role_entries import RoleEntries
from helixsim.study.systems import PlacedSystem, capacity_table, on_its_nodes, operating_load
from helixsim.workload.arrivals import process_of


def place_system(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    *,
    progress: Progress = silent,
    by_flow: bool = False,
    store: PlacementStore | None = None,
    runs: SimulatedStore | None = None,
    executor: Executor | None = None,
    select: Select | None = None,
    estimated: bool = True,
) -> PlacedSystem:
    """Place the model for one system; nodes that join during the run hold no layers.

    Parameters
    ----------
    by_flow
        Strategies that compare candidates do so by max-flow alone, not by simulating them on the experiment's workload.
    store
        Where placements made from equal inputs are found, and new ones kept; None: always search.
    runs
        Where simulations with the window and the seed of the report are found and kept; None: nowhere.
    executor
        Carries out the simulations by which candidates are compared; None: this process. The result is the same.
    select
        Selects among the candidates in place of a race; nodes then get no roles.
    estimated
        Whether the result has its KV-limited estimate.

    Raises
    ------
    InfeasibleError
        If the strategy finds no placement.
    """
    asked = system
    if experiment.faults is not None and experiment.faults.absent:
        experiment, system = _at_start(experiment, system)
    if system.is_disaggregated:  # phases apart: what a pool does alone is no measure of it

        def place(pool: SystemSpec) -> Placement:
            return place_system(experiment, pool, progress=progress, by_flow=True, store=store).placement

        return assembled(experiment, asked, place_pools(system, place))
    planned = as_planned(experiment)
    system = replace(
        _without_own_roles(planned, system), autoscaling=None
    )  # candidates are compared with all they have
    problem = replace(placement_problem(experiment, system), progress=progress)

    rivals = () if by_flow else _rivals(planned, system)

    def baselines() -> list[PlacedSystem]:
        """Return the placed baselines; those that cannot be placed are left out."""
        found = []
        for rival in rivals or ():
            with suppress(InfeasibleError):
                placed = place_system(experiment, rival, store=store, estimated=False)
                if rival.is_disaggregated:  # the placement of the other system has those of its nodes
                    roles = {node: placed.system.fleet.cluster.node(node).role for node in placed.placement.ranges}
                    placed = replace(placed, placement=replace(placed.placement, roles=roles))
                found.append(placed)
        return found

    def search() -> tuple[Placement, bool]:
        mode = getattr(system.placement_options, "disaggregate", "never")
        roles = RoleEntries(planned, system, problem)
        evaluator = None if by_flow else Evaluator(planned, routed(system, None), problem.capacity)
        given = problem if evaluator is None else replace(problem, evaluator=evaluator, estimate=evaluator.estimate)
        if rivals is not None and select is not None:
            given = replace(given, select=select)
        elif rivals is not None and not by_flow:
            race = Race(planned, system, problem.capacity, baselines, runs, executor or Serial(), evaluator=evaluator)
            if mode == "always":
                given = replace(given, select=roles.only(race))
            else:
                may_have_roles = mode == "auto" and system.placement_options.survive is None
                given = replace(given, select=replace(race, roles=roles if may_have_roles else None))
        elif mode == "always":
            return roles.always(), True
        found = placement_registry.get(system.placement)().solve(given, system.placement_options)
        return found, evaluator is not None and evaluator.was_asked

    if store is None:
        placement = search()[0]
    else:
        decides_roles = getattr(system.placement_options, "disaggregate", False) is True
        capacities = (problem.capacity, problem.operating, problem.phases if decides_roles else None)
        placement = kept_or_searched(store, planned, system, capacities, rivals or (), by_flow, search)
    return assembled(experiment, asked, placement, estimated=estimated)


def _at_start(experiment: ResolvedExperiment, system: SystemSpec) -> tuple[ResolvedExperiment, SystemSpec]:
    """Return an experiment and a system of it without the nodes that join during the run."""
    assert experiment.faults is not None
    absent = frozenset(experiment.faults.absent)

    def there(fleet: Deployment) -> Deployment:
        return fleet.without(absent, paid=absent)

    systems = tuple(replace(one, fleet=there(one.fleet)) for one in experiment.systems)
    faults = replace(experiment.faults, absent=())
    first = replace(experiment, fleet=there(experiment.fleet), systems=systems, faults=faults)
    return first, replace(system, fleet=there(system.fleet))


def _without_own_roles(experiment: ResolvedExperiment, system: SystemSpec) -> SystemSpec:
    """Return a system for which the planner chooses no roles if its runs simulate none.

    The option changes, not the search alone: placements are kept by it, and runs without faults may have roles.
    """
    options = system.placement_options
    is_open = experiment.faults is None and system.autoscaling is None
    if is_open or getattr(options, "disaggregate", None) != "auto":
        return system
    return replace(system, placement_options=replace(options, disaggregate="never"))


def is_raced(experiment: ResolvedExperiment, system: SystemSpec) -> bool:
    """Return whether the placement of a system is selected by a race of simulations."""
    return not system.is_disaggregated and _rivals(as_planned(experiment), system) is not None


def _rivals(experiment: ResolvedExperiment, system: SystemSpec) -> tuple[SystemSpec, ...] | None:
    """Return the systems of the experiment that a race compares with; None: this one is not selected by a race.

    It is under saturation, and where the load has a rate and objectives are stated or the routing is selected, too,
    unless the criterion is another one. Rivals are other strategies on the same nodes with the same engine; there are
    none where the user limits the placement, as they need not keep to that.
    """
    criterion = getattr(system.placement_options, "criterion", None) if system.placement == "helix" else None
    arrivals = system.arrivals or experiment.workload.arrivals
    mode = process_of(arrivals).mode
    is_asked = mode is FeedMode.SATURATE or experiment.slo.is_stated or system.routing == "auto"
    if criterion not in RACED or mode is FeedMode.CLOSED_LOOP or not is_asked:
        return None
    options = system.placement_options
    if options.max_hops is not None or options.exclude or options.max_layers or options.pinned or options.survive:
        return ()
    return tuple(
        replace(other, autoscaling=None)
        for other in experiment.systems
        if other.placement != "helix"
        and (other.batching, other.batching_options, other.kv, other.arrivals)
        == (system.batching, system.batching_options, system.kv, system.arrivals)
        and _is_open_to(system, other)
    )


def _is_open_to(system: SystemSpec, other: SystemSpec) -> bool:
    """Return whether a system may have the placement of another, by its nodes and their roles."""
    mode = system.placement_options.disaggregate
    if not other.is_disaggregated:
        return other.fleet == system.fleet and mode != "always"
    legs, mine = other.disaggregation, system.disaggregation
    both = dict.fromkeys(other.fleet.cluster.index, BOTH)
    as_mine = replace(
        legs,
        prefill=replace(mine.prefill, caches_prefixes=legs.prefill.caches_prefixes),
        decode=replace(mine.decode, caches_prefixes=legs.decode.caches_prefixes),
    )
    return (
        mode != "never"
        and other.fleet.with_roles(both) == system.fleet
        and as_mine == mine
        and all((leg.routing, leg.routing_options) == (other.routing, other.routing_options) for leg in legs.legs)
    )


def routed(system: SystemSpec, placement: Placement | None) -> SystemSpec:
    """Return a system with the routing that was selected with its placement, where its own is ``auto``."""
    if system.routing != "auto":
        return system
    known = {} if placement is None else placement.notes.get("routing", {})
    policy = known.get("policy", "flow_weighted" if system.placement == "helix" else "earliest_finish")
    options = routing_registry.get(policy).Options
    return system.with_routing(policy, options(**known.get("options", {})))


def placement_problem(experiment: ResolvedExperiment, system: SystemSpec) -> PlacementProblem:
    """Return what the placement strategy of a system is given, without an evaluator."""
    planned = as_planned(experiment)

    problems: dict[tuple[tuple[str, int], ...], PlacementProblem] = {}

    def divided(widths: Mapping[str, int]) -> PlacementProblem:
        """Return the problem of a division; the search and the candidates with roles ask for the same ones."""
        key = tuple(widths.items())
        if key not in problems:
            problems[key] = placement_problem(experiment, replace(system, fleet=system.fleet.divided(widths)))
        return problems[key]

    load = operating_load(planned, system)
    phases = None
    if not system.is_disaggregated and roles_fault(experiment, system) is None:
        phases = Phases(load, system.disaggregation.transfer, experiment.slo.tpot_s)
    return PlacementProblem(
        system.fleet,
        capacity_table(planned, system),
        planned.seed,
        operating=operating_capacity(system.fleet, load),
        divide=divided,
        phases=phases,
    )


def assembled(
    experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, *, estimated: bool = True
) -> PlacedSystem:
    """Return a system with a placement, its max-flow and, if ``estimated``, its operating point.

    Raises
    ------
    InfeasibleError
        If a node cannot hold its layers, or no token can pass all layers.
    """
    planned = as_planned(experiment)
    system = on_its_nodes(routed(system, placement), placement)
    fleet = system.fleet
    check(fleet, placement)
    plan = max_flow(fleet, placement, capacity_table(planned, system))
    if plan.max_flow_tokens_per_s <= 0:
        raise InfeasibleError(f"{system.name}: no link carries tokens along a route through all layers")
    if system.is_disaggregated:
        times = RoutingTimes(fleet, placement, experiment.engine, experiment.workload_stats.mean_output_tokens)
        check_pools(experiment, system, routing_graph(placement, plan, times))
        return PlacedSystem(system, placement, plan)
    point = operating_point(fleet, placement, operating_load(planned, system)) if estimated else None
    return PlacedSystem(system, placement, plan, point)


def as_planned(experiment: ResolvedExperiment) -> ResolvedExperiment:
    """Return the experiment with the seed and the rate that planners suppose."""
    seed, rate_rps = experiment.planning_seed, experiment.planning_rate_rps
    if seed is not None:
        experiment = replace(experiment, seed=seed)
    if rate_rps is not None:
        workload = experiment.workload
        experiment = replace(
            experiment,
            workload=replace(workload, arrivals=replace(workload.arrivals, rate_rps=rate_rps)),
            workload_stats=replace(experiment.workload_stats, offered_rps=rate_rps),
        )
    return experiment
