"""The paper's per-node placement program, for small fleets.

Helix (ASPLOS'25) section 4.3-4.4, without partial inference, with two changes that keep its optimum: a node may stay
empty, and all capacities are cut at an upper bound of the flow, which makes the relaxation far tighter. It models every
link, so it serves fleets with irregular networks and as the reference for the search. HiGHS solves it for a handful of
nodes; the solve time is exponential in their number. See docs/placement.md, section "Exact program".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from helixsim import solver
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.placement import LayerRange
from helixsim.errors import ConfigError
from helixsim.flow.losses import Domain, domains_of
from helixsim.flow.network import link_tokens_per_s
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.select import Candidate


@dataclass(frozen=True, slots=True)
class ExactResult:
    """``ranges`` is empty if no placement was found; ``is_optimal``: the objective equals the bound."""

    ranges: Mapping[str, LayerRange]
    objective_tokens_per_s: float
    bound_tokens_per_s: float
    is_optimal: bool


def improved(
    problem: PlacementProblem,
    options: HelixOptions,
    candidates: Sequence[Candidate],
    bound_tokens_per_s: float,
    time_limit_s: float,
    progress: Callable[[float, float, float], None],
) -> ExactResult:
    """Return the result of ``solve_exact``, which starts from the best of some candidates.

    Raises
    ------
    ConfigError
        If there are too many nodes.
    """
    nodes = len(problem.fleet.cluster.nodes)
    if nodes > tuning.EXACT_MAX_NODES:
        raise ConfigError(f"helix: method exact takes at most {tuning.EXACT_MAX_NODES} nodes, the cluster has {nodes}")
    plain = [one for one in candidates if not one.placement.partial_inference and not one.placement.pipelines]
    start = max(plain, key=lambda one: one.kept_tokens_per_s, default=None)
    return solve_exact(
        problem, bound_tokens_per_s, start=start.placement.ranges if start else None, max_hops=options.max_hops,
        survive=options.survive, time_limit_s=time_limit_s, progress=progress,
    )  # fmt: skip


def solve_exact(
    problem: PlacementProblem,
    bound_tokens_per_s: float,
    *,
    start: Mapping[str, LayerRange] | None = None,
    max_hops: int | None = None,
    survive: Domain | None = None,
    time_limit_s: float = solver.INFINITY,
    max_nodes: int | None = None,
    progress: Callable[[float, float, float], None] | None = None,
) -> ExactResult:
    """Return the placement with the largest max-flow.

    Parameters
    ----------
    bound_tokens_per_s
        An upper bound of the flow [tokens/s]; every capacity is cut at it.
    start
        A placement to start from.
    max_hops
        Most nodes on a route; None: no limit.
    survive
        Largest least flow over the losses of any one domain; None: largest flow.
    progress
        Receives (seconds, objective, bound) [s, tokens/s, tokens/s].
    """
    model = _Model(problem, bound_tokens_per_s, max_hops, survive)
    solution = solver.solve(
        model.program,
        time_limit_s=time_limit_s,
        max_nodes=max_nodes,
        start=None if start is None else model.start(start),
        progress=progress,
    )
    if solution.status in {solver.SolveStatus.FAILED, solver.SolveStatus.UNBOUNDED}:
        raise solver.SolverError(f"the exact placement program: HiGHS ended with {solution.status}")
    return ExactResult(
        ranges=model.ranges(solution.values) if solution.is_feasible else {},
        objective_tokens_per_s=solution.objective,
        bound_tokens_per_s=min(solution.bound, bound_tokens_per_s),
        is_optimal=solution.status is solver.SolveStatus.OPTIMAL,
    )


class _Model:
    """Variables: first layer s, one-hot number of layers h[k], a switch d and, for each loss, a flow f of every link.

    ``losses``: nodes that are lost; a single empty loss where none counts.
    """

    def __init__(self, problem: PlacementProblem, bound: float, max_hops: int | None, survive: Domain | None) -> None:
        self.problem = problem
        self.bound = bound
        self.program = solver.Program(maximise=True)
        self.num_layers = problem.fleet.model.num_layers
        self.nodes = [node.id for node in problem.fleet.cluster.nodes]
        domains = () if survive is None else domains_of(problem.fleet.cluster, survive).values()
        self.losses: list[tuple[str, ...]] = list(domains) or [()]
        self.entering: list[list[int]] = [[] for _ in self.losses]
        self.first = {node: self.program.column(0.0, 0.0, self.num_layers, integer=True) for node in self.nodes}
        self.holds = {node: self._hold_columns(node) for node in self.nodes}
        self.inbound: list[dict[str, list[int]]] = [{node: [] for node in self.nodes} for _ in self.losses]
        self.outbound: list[dict[str, list[int]]] = [{node: [] for node in self.nodes} for _ in self.losses]
        # Position of a node on its longest route, for the hop limit.
        self.depth = {
            node: self.program.column(0.0, 1.0, float(max_hops)) for node in self.nodes if max_hops is not None
        }
        self._add_nodes()
        self._add_links()
        self._add_flows()

    def _hold_columns(self, node: str) -> dict[int, int]:
        limit = min(self.problem.fleet.profile(node).max_layers, self.num_layers)
        return {k: self.program.column(0.0, 0.0, 1.0, integer=True) for k in range(1, limit + 1)}

    def _end(self, node: str) -> dict[int, float]:
        """Return the terms of the end of a node's layer range."""
        return {self.first[node]: 1.0} | {column: float(k) for k, column in self.holds[node].items()}

    def _add_nodes(self) -> None:
        for node in self.nodes:
            self.program.row(self.holds[node].values(), upper=1.0)
            self.program.row(self._end(node), upper=float(self.num_layers))

    def _add_links(self) -> None:
        size = float(self.num_layers)
        for node in self.nodes:
            switch = self._link(COORDINATOR, node)
            self.program.row({self.first[node]: 1.0, switch: size}, upper=size)
            switch = self._link(node, COORDINATOR)
            self.program.row(self._end(node) | {switch: -size}, lower=0.0)
        for src in self.nodes:
            for dst in self.nodes:
                if src != dst:
                    switch = self._link(src, dst)
                    distance = self._end(src) | {self.first[dst]: -1.0}
                    self.program.row(distance | {switch: size}, upper=size)
                    self.program.row(distance | {switch: -size}, lower=-size)
                    self._add_depth(src, dst, switch)

    def _add_flows(self) -> None:
        """Add the capacities of nodes and the balance of each, for each loss."""
        for inbound, outbound in zip(self.inbound, self.outbound, strict=True):
            for node in self.nodes:
                capacity = {
                    column: -min(self.problem.capacity.tokens_per_s(node, k), self.bound)
                    for k, column in self.holds[node].items()
                }
                self.program.row(dict.fromkeys(inbound[node], 1.0) | capacity, upper=0.0)
                balance = dict.fromkeys(inbound[node], 1.0) | dict.fromkeys(outbound[node], -1.0)
                self.program.row(balance, 0.0, 0.0)
        if self.losses != [()]:
            least = self.program.column(1.0, 0.0, self.bound)
            for entering in self.entering:
                self.program.row({least: 1.0} | dict.fromkeys(entering, -1.0), upper=0.0)

    def _add_depth(self, src: str, dst: str, switch: int) -> None:
        if self.depth:
            longest = float(len(self.nodes))
            self.program.row({self.depth[src]: 1.0, self.depth[dst]: -1.0, switch: longest}, upper=longest - 1.0)

    def _link(self, src: str, dst: str) -> int:
        """Add a link with its flow after each loss that leaves both ends; return its switch."""
        capacity = min(link_tokens_per_s(self.problem.fleet, src, dst), self.bound)
        value = float(src == COORDINATOR and self.losses == [()])
        left = [at for at, lost in enumerate(self.losses) if src not in lost and dst not in lost]
        flows = {at: self.program.column(value, 0.0, capacity) for at in left}
        switch = self.program.column(0.0, 0.0, 1.0, integer=True)
        for at, flow in flows.items():
            self.program.row({flow: 1.0, switch: -capacity}, upper=0.0)
            (self.entering[at] if src == COORDINATOR else self.outbound[at][src]).append(flow)
            if dst != COORDINATOR:
                self.inbound[at][dst].append(flow)
        return switch

    def start(self, ranges: Mapping[str, LayerRange]) -> dict[int, float]:
        """Return the values of the integer node columns for a placement."""
        values: dict[int, float] = {}
        for node in self.nodes:
            layers = ranges.get(node)
            values[self.first[node]] = float(layers.start) if layers is not None else 0.0
            for k, column in self.holds[node].items():
                values[column] = float(layers is not None and layers.layers == k)
        return values

    def ranges(self, values: tuple[float, ...]) -> dict[str, LayerRange]:
        """Return the placement; nodes without flow are left empty."""
        ranges: dict[str, LayerRange] = {}
        for node in self.nodes:
            layers = sum(k * round(values[column]) for k, column in self.holds[node].items())
            flow = sum(values[column] for inbound in self.inbound for column in inbound[node])
            if layers and flow > 1e-6 * self.bound:
                start = round(values[self.first[node]])
                ranges[node] = LayerRange(start, start + layers)
        return ranges
