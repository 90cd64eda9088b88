"""Composition and assignment by an integer program: which replicas to form of which nodes within a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

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

MOST_COLUMNS = 150
"""Configurations that the integer program chooses from: those that cost least at the prices of the relaxed program."""

COMPOSITION_GAP, COMPOSITION_NODES = 2e-3, 2_000
"""Gap to the largest throughput, and nodes of branch and bound, at which the integer program ends. With seven classes
of nodes the proof would take hours."""

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
    sites. A configuration has at most ``EXTRA_NODES`` nodes more than the fewest of its kind; dominated ones are left
    out, and the integer program chooses from the ``MOST_COLUMNS`` that the relaxed one prices best.
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
        fleet = problem.fleet
        chains, classes = _Chains(fleet), equal_nodes(fleet)
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
                nodes, layers = chains.shared(members)
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
    fleet, chains = problem.fleet, _Chains(problem.fleet)
    capacity = problem.capacity if problem.operating is None else problem.operating
    regions = list(dict.fromkeys(nodes[0].region for nodes in classes))
    sites = [[at for at, nodes in enumerate(classes) if nodes[0].region == region] for region in regions]
    for one in (sites, [list(range(len(classes)))]):
        found: list[Configuration] = []
        for site in one:
            for counts in _multisets(chains, [classes[at] for at in site], max_nodes):
                members = [node for at, count in zip(site, counts, strict=True) for node in classes[at][:count]]
                nodes, layers = chains.shared(members)
                flow = chain_flow(fleet, nodes, layers, capacity)
                if flow > 0:
                    whole = dict(zip(site, counts, strict=True))
                    price = sum(node.cost_usd_per_hour for node in members)
                    found.append(Configuration(tuple(whole.get(at, 0) for at in range(len(classes))), flow, price))
        if found:
            return _undominated(found)
    return []


def _undominated(found: Sequence[Configuration]) -> list[Configuration]:
    """Return the configurations for which no other one has as much throughput with no more nodes of any class."""
    counts = np.array([one.counts for one in found])
    flows = np.array([one.tokens_per_s for one in found])
    kept: list[Configuration] = []
    for at, one in enumerate(found):
        better = (flows >= flows[at]) & (counts <= counts[at]).all(axis=1)
        better[at] = False
        equal = np.flatnonzero(better & (flows == flows[at]) & (counts == counts[at]).all(axis=1))
        better[equal[equal > at]] = False
        if not better.any():
            kept.append(one)
    return kept


class _Chains:
    """Replicas of nodes as chains: their order, and their layers in proportion to memory."""

    def __init__(self, fleet: Deployment) -> None:
        self._limits = LayerLimits(fleet)
        self._rank = {node.id: at for at, node in enumerate(in_order(fleet.cluster.nodes, fleet))}
        self._memory = {node.id: node_memory_bytes(fleet, node) for node in fleet.cluster.nodes}

    def holds(self, members: Sequence[Node]) -> bool:
        """Return whether nodes hold the model, each at least one layer."""
        most = self._limits.of_chain(self._in_order(members))
        return all(most) and sum(most) >= self._limits.num_layers >= len(members)

    def shared(self, members: Sequence[Node]) -> tuple[list[Node], list[int]]:
        """Return nodes that hold the model in their order, and the layers of each."""
        nodes = self._in_order(members)
        weights = [self._memory[node.id] for node in nodes]
        return nodes, water_fill(self._limits.num_layers, weights, self._limits.of_chain(nodes), least=1)

    def _in_order(self, members: Sequence[Node]) -> list[Node]:
        return sorted(members, key=lambda node: self._rank[node.id])


def _multisets(chains: _Chains, classes: Sequence[Sequence[Node]], max_nodes: int) -> Iterator[tuple[int, ...]]:
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
                holds = chains.holds(members)
                if holds:
                    yield more
                    yielded += 1
                if beyond < EXTRA_NODES:
                    following.append((more, beyond + holds))
                if yielded >= MAX_CONFIGURATIONS or len(following) >= 4 * MAX_CONFIGURATIONS:
                    return
        level = following


def _composition(found: Sequence[Configuration], available: Sequence[int], options: CostMilpOptions) -> list[int]:
    """Return how many replicas of each configuration have the largest throughput."""
    from helixsim import solver  # deferred: loads HiGHS

    top = max(one.tokens_per_s for one in found)
    worth = [one.tokens_per_s / top - _TIE * sum(one.counts) for one in found]

    def program(chosen: Sequence[int], *, is_relaxed: bool) -> solver.Program:
        made = solver.Program(maximise=True)
        columns = {}
        for number in chosen:
            counts = found[number].counts
            most = min(there // count for there, count in zip(available, counts, strict=True) if count)
            columns[number] = made.column(
                worth[number], integer=not is_relaxed, upper=solver.INFINITY if is_relaxed else most
            )
        for at, there in enumerate(available):
            made.row({columns[n]: float(found[n].counts[at]) for n in chosen if found[n].counts[at]}, upper=there)
        if options.budget_usd_per_hour is not None:
            made.row({columns[n]: found[n].usd_per_hour for n in chosen}, upper=options.budget_usd_per_hour)
        return made

    chosen = list(range(len(found)))
    if len(found) > MOST_COLUMNS:
        relaxed = solver.solve(program(chosen, is_relaxed=True)).optimum("cost_milp")
        assert relaxed is not None, "no replica at all is a solution"
        prices = np.array(relaxed.row_duals)
        spent = np.array([(*one.counts, one.usd_per_hour)[: len(prices)] for one in found]) @ prices
        loss = spent - np.array(worth)
        chosen = sorted(np.argsort(loss, kind="stable")[:MOST_COLUMNS].tolist())
    solution = solver.solve(
        program(chosen, is_relaxed=False), time_limit_s=options.time_limit_s, relative_gap=COMPOSITION_GAP,
        max_nodes=COMPOSITION_NODES,
    )  # fmt: skip
    if not solution.is_feasible:  # no replica at all is a solution
        raise solver.SolverError(f"cost_milp: HiGHS ended with {solution.status}")
    numbers = [0] * len(found)
    for number, value in zip(chosen, solution.values, strict=True):
        numbers[number] = round(value)
    return numbers
