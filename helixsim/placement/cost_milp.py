"""Composition and assignment by an integer program: which replicas to form of which nodes within a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.chains import LayerLimits, chain_flow, chain_ranges, in_order, node_memory_bytes, water_fill
from helixsim.placement.outcome import finished, layers_to_hold
from helixsim.placement.replicas import equal_nodes

MAX_CONFIGURATIONS = 5_000
"""Configurations of one site that are enumerated, those with fewer nodes first."""

EXTRA_NODES = 4
"""Nodes of a configuration beyond the fewest with which it holds the model, at most."""

_TIE = 1e-6
"""Weight of the number of nodes beside throughput: of equal compositions the one with fewer nodes."""


@dataclass(frozen=True, slots=True)
class CostMilpOptions:
    """Options of ``cost_milp``.

    Parameters
    ----------
    budget_usd_per_hour
        Most that all nodes in use may cost [$/h]; None: no limit.
    max_nodes
        Most nodes of a replica.
    time_limit_s
        Time limit of the integer program [s].
    """

    budget_usd_per_hour: float | None = field(default=None, metadata={"gt": 0})
    max_nodes: int = field(default=32, metadata={"ge": 1, "le": 200})
    time_limit_s: float = field(default=60.0, metadata={"gt": 0, "le": 1e6})


@dataclass(frozen=True, slots=True)
class Configuration:
    """A replica: nodes of each class, tokens/s and price [$/h]."""

    counts: tuple[int, ...]
    tokens_per_s: float
    usd_per_hour: float


class CostMilp:
    """The plan of Jiang et al., "Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs" (ICML 2025).

    Configurations are replicas of nodes of one site (arXiv 2502.00722: no pipeline over slow links), layers in
    proportion to the memory of the stages. An integer program takes so many of each that the throughput of all is
    largest, within the nodes there are and a budget. Requests are assigned in proportion to throughput (routing
    ``flow_weighted``).

    Differences: the load is one type of request with the mean lengths, so that the least makespan is the largest
    throughput and no bisection on it is needed; the throughput of a configuration is the KV-limited estimate in place
    of a measured one. Tensor parallelism is that of the nodes. Where no site holds the model, configurations span
    sites. A configuration has at most ``EXTRA_NODES`` nodes more than the fewest of its kind.
    """

    summary: ClassVar[str] = "replicas by an integer program of composition and assignment, within a budget (cost MILP)"
    Options: ClassVar[type[CostMilpOptions]] = CostMilpOptions
    reads_prices: ClassVar[bool] = True

    def solve(self, problem: PlacementProblem, options: CostMilpOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If no configuration holds the model, or none fits the budget.
        """
        started = time.perf_counter()
        fleet, limits = problem.fleet, LayerLimits(problem.fleet)
        classes = equal_nodes(fleet)
        found = configurations(problem, classes, options.max_nodes)
        if not found:
            raise InfeasibleError(f"cost_milp: no {options.max_nodes} nodes hold {layers_to_hold(fleet)}")
        numbers = _composition(found, [len(nodes) for nodes in classes], options)
        if not any(numbers):
            cheapest = min(one.usd_per_hour for one in found)
            raise InfeasibleError(
                f"cost_milp: budget_usd_per_hour is {options.budget_usd_per_hour:g}, the cheapest replica costs "
                f"{cheapest:.4g} $/h"
            )
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        free = [list(nodes) for nodes in classes]
        composition: dict[str, int] = {}
        for one, number in zip(found, numbers, strict=True):
            for _ in range(number):
                members = [nodes.pop(0) for nodes, count in zip(free, one.counts, strict=True) for _ in range(count)]
                nodes, layers = _shared(limits, fleet, members)
                pipelines |= dict.fromkeys((node.id for node in nodes), len(set(pipelines.values())))
                ranges |= chain_ranges(nodes, layers)
            if number:
                parts = [
                    f"{count} {nodes[0].node_type}" for nodes, count in zip(classes, one.counts, strict=True) if count
                ]
                name = " + ".join(parts)
                composition[name] = composition.get(name, 0) + number
        total = sum(one.usd_per_hour * number for one, number in zip(found, numbers, strict=True))
        limited = "" if options.budget_usd_per_hour is None else " within the budget"
        idle = [node.id for node in fleet.cluster.nodes if node.id not in ranges]
        notes = {
            "configurations": len(found), "composition": composition, "usd_per_hour": total,
            "idle": dict.fromkeys(idle, f"not in the composition with the largest throughput{limited}"),
        }  # fmt: skip
        return finished(problem, "cost_milp", ranges, started_s=started, pipelines=pipelines, notes=notes)


def configurations(problem: PlacementProblem, classes: Sequence[Sequence[Node]], max_nodes: int) -> list[Configuration]:
    """Return the replicas that nodes of one site can form; of several sites only where no site holds the model."""
    fleet, limits = problem.fleet, LayerLimits(problem.fleet)
    capacity = problem.capacity if problem.operating is None else problem.operating
    regions = list(dict.fromkeys(nodes[0].region for nodes in classes))
    sites = [[at for at, nodes in enumerate(classes) if nodes[0].region == region] for region in regions]
    for one in (sites, [list(range(len(classes)))]):
        found: list[Configuration] = []
        for site in one:
            for counts in _multisets(limits, fleet, [classes[at] for at in site], max_nodes):
                members = [node for at, count in zip(site, counts, strict=True) for node in classes[at][:count]]
                nodes, layers = _shared(limits, fleet, members)
                flow = chain_flow(fleet, nodes, layers, capacity)
                if flow > 0:
                    whole = dict(zip(site, counts, strict=True))
                    price = sum(node.cost_usd_per_hour for node in members)
                    found.append(Configuration(tuple(whole.get(at, 0) for at in range(len(classes))), flow, price))
        if found:
            return found
    return []


def _multisets(
    limits: LayerLimits, fleet: Deployment, classes: Sequence[Sequence[Node]], max_nodes: int
) -> Iterator[tuple[int, ...]]:
    """Yield numbers of nodes of each class that hold the model, by the number of all, up to a few more than needed.

    A multiset is extended by nodes of its last class or later ones, so each is met once; it stops ``EXTRA_NODES`` nodes
    after it holds the model.
    """
    level: list[tuple[tuple[int, ...], int]] = [((0,) * len(classes), 0)]
    yielded = 0
    for _ in range(max_nodes):
        following: list[tuple[tuple[int, ...], int]] = []
        for counts, beyond in level:
            last = max((at for at, count in enumerate(counts) if count), default=0)
            for at in range(last, len(classes)):
                if counts[at] == len(classes[at]):
                    continue
                more = tuple(count + (at == number) for number, count in enumerate(counts))
                members = [node for nodes, count in zip(classes, more, strict=True) for node in nodes[:count]]
                holds = bool(_shared(limits, fleet, members)[0])
                if holds:
                    yield more
                    yielded += 1
                if beyond < EXTRA_NODES:
                    following.append((more, beyond + holds))
                if yielded >= MAX_CONFIGURATIONS or len(following) >= 4 * MAX_CONFIGURATIONS:
                    return
        level = following


def _shared(limits: LayerLimits, fleet: Deployment, members: Sequence[Node]) -> tuple[list[Node], list[int]]:
    """Return a replica's nodes in order and their layers, by memory; empty if they cannot hold the model."""
    nodes = in_order(members, fleet)
    most = limits.of_chain(nodes)
    if sum(most) < limits.num_layers or not all(most) or len(nodes) > limits.num_layers:
        return [], []
    return nodes, water_fill(limits.num_layers, [node_memory_bytes(fleet, node) for node in nodes], most, least=1)


def _composition(found: Sequence[Configuration], available: Sequence[int], options: CostMilpOptions) -> list[int]:
    """Return how many replicas of each configuration have the largest throughput."""
    from helixsim import solver  # deferred: loads HiGHS

    program = solver.Program(maximise=True)
    top = max(one.tokens_per_s for one in found)
    columns = [
        program.column(one.tokens_per_s / top - _TIE * sum(one.counts), integer=True, upper=min(
            number // count for number, count in zip(available, one.counts, strict=True) if count
        ))
        for one in found
    ]  # fmt: skip
    for at, number in enumerate(available):
        row = {column: float(one.counts[at]) for column, one in zip(columns, found, strict=True) if one.counts[at]}
        program.row(row, upper=float(number))
    if options.budget_usd_per_hour is not None:
        prices = {column: one.usd_per_hour for column, one in zip(columns, found, strict=True)}
        program.row(prices, upper=options.budget_usd_per_hour)
    solution = solver.solve(program, time_limit_s=options.time_limit_s, relative_gap=1e-4)
    if not solution.is_feasible:  # no replica at all is a solution
        raise solver.SolverError(f"cost_milp: HiGHS ended with {solution.status}")
    return [round(value) for value in solution.values]
