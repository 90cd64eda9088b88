"""Balanced max-flows: of all flows of the same value, the one closest to proportional to capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from helixsim import solver
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.flow.network import FlowNetwork

_MAX_QUADRATIC_LINKS = 500
"""With more arcs the quadratic program takes seconds; a piecewise-linear one replaces it."""

_SEGMENTS = 4
"""Linear pieces of the cost of a class of nodes in that program."""

_MAX_TIE_COST = 1e-3
"""Largest random cost of an arc in that program: selects among solutions of equal cost."""

_ROUNDING = 2.0**-26
"""Flows are rounded to multiples of this share of the total, below what ``maxflow`` treats as zero.

Results then do not depend on the solver's rounding.
"""

_ACTIVE = 1e-10
"""A flow within this distance of a limit is at the limit [share of the total flow]."""

_MAX_CORRECTION = 1e-4
"""A refined flow further from the solver's is rejected [share of the total flow]."""

_MAX_REFINEMENTS = 10

_PIECES, _HALVINGS = 8, 30
"""Linear pieces of the cost of an arc in ``_successive``, and how often their range is halved."""


def balance(
    network: FlowNetwork,
    value_tokens_per_s: float,
    *,
    max_quadratic_links: int = _MAX_QUADRATIC_LINKS,
    coordinator_tokens_per_s: float | None = None,
) -> list[float]:
    """Return the balanced flow on each arc [tokens/s], ``value_tokens_per_s`` in total.

    It minimises sum f(i, j)^2 / (c(i) c(j)), where c is the capacity of a node. Between two groups of fully connected
    nodes the optimum is f(i, j) ~ c(i) c(j): nodes and links are loaded in proportion to capacity. The optimum is
    unique and prefers short routes. As it is unique, equal nodes have equal flows, and the sum over classes of nodes,
    with the capacity of all nodes of a class, is the same. With many arcs, or where classes meet in junctions, only the
    flows of nodes are balanced, by a piecewise-linear cost.

    ``coordinator_tokens_per_s`` is the capacity of the coordinator; None: the flow in total.
    """
    coordinator = 1.0 if coordinator_tokens_per_s is None else coordinator_tokens_per_s / value_tokens_per_s
    share = [coordinator, *_shares(network, value_tokens_per_s)]
    limits = _limits(network, value_tokens_per_s)
    has_hubs = any(junction.is_hub for junction in network.junctions)
    if has_hubs or len(network.arcs) > max_quadratic_links:
        flows = _linear(network, share, limits, value_tokens_per_s)
    else:
        found = _quadratic(network, share, limits) or _successive(network, share, limits)
        flows = _refined(network, share, limits, found)
    return [round(flow / _ROUNDING) * _ROUNDING * value_tokens_per_s for flow in flows]


def _quadratic(network: FlowNetwork, share: Sequence[float], limits: Sequence[float]) -> Sequence[float] | None:
    """Return the share of the flow on each arc; None if HiGHS's quadratic solver fails, which happens occasionally.

    Columns are scaled to equal curvature, which makes the solver more reliable.
    """
    units = [math.sqrt(share[arc.tail] * share[arc.head]) for arc in network.arcs]
    program = solver.Program()
    columns = [program.column(upper=limit / unit, curvature=1.0) for limit, unit in zip(limits, units, strict=True)]
    inbound = _add_conservation(program, network, [[column] for column in columns], units)
    for number in network.node_classes:
        if share[number] < 1.0:
            program.row(inbound[number], upper=share[number])
    try:
        solution = solver.solve(program).optimum("balancing a flow")
    except solver.SolverError:
        return None
    if solution is None:  # by rounding: a flow exists
        return None
    return [value * unit for value, unit in zip(solution.values, units, strict=True)]


def _successive(network: FlowNetwork, share: Sequence[float], limits: Sequence[float]) -> Sequence[float]:
    """Solve the same problem by linear programs with piecewise-linear costs, each over half the range of the last."""
    weights = np.array([share[arc.tail] * share[arc.head] for arc in network.arcs])
    most = np.minimum(limits, 1.0)
    flow, reach = most / 2, 0.5
    for _ in range(_HALVINGS):
        low, high = np.maximum(flow - reach, 0.0), np.minimum(flow + reach, most)
        width = np.maximum(high - low, 0.0) / _PIECES
        program = solver.Program()
        columns = [
            [
                program.column(lower=float(least), upper=float(least)),
                *(
                    program.column(float((least + (piece + 0.5) * step) / weight), upper=float(step))
                    for piece in range(_PIECES)
                ),
            ]
            for least, step, weight in zip(low, width, weights, strict=True)
        ]
        inbound = _add_conservation(program, network, columns, [1.0] * len(columns))
        for number in network.node_classes:
            if share[number] < 1.0:
                program.row(inbound[number], upper=share[number])
        solution = solver.solve(program).optimum("balancing a flow")
        if solution is None:
            break
        flow = np.array([sum(solution.values[column] for column in pieces) for pieces in columns])
        reach /= 2
    return [float(part) for part in flow]


def _refined(
    network: FlowNetwork, share: Sequence[float], limits: Sequence[float], found: Sequence[float]
) -> Sequence[float]:
    """Refine the solver's optimum, which is accurate to about 1e-6, to machine precision.

    Given the active limits (empty links, full links, full nodes), the optimum is a least-norm solution of linear
    equations. Limits that this violates become active, and it is solved again.
    """
    src = np.array([arc.tail for arc in network.arcs])
    dst = np.array([arc.head for arc in network.arcs])
    columns = np.arange(len(src))
    most = np.array(share)
    unit = np.sqrt(most[src] * most[dst])
    into, out = np.zeros((len(share), len(src))), np.zeros((len(share), len(src)))
    into[dst, columns], out[src, columns] = unit, unit
    conserved = np.vstack([into[1:] - out[1:], out[:1]])
    wanted = np.append(np.zeros(len(share) - 1), 1.0)
    flow, upper = np.array(found), np.array(limits)
    full_nodes = np.zeros(len(share), dtype=bool)
    empty, full = np.zeros(len(src), dtype=bool), np.zeros(len(src), dtype=bool)
    for _ in range(_MAX_REFINEMENTS):
        empty |= flow <= _ACTIVE
        full |= flow >= upper - _ACTIVE
        full_nodes[1:] |= (into @ (flow / unit))[1:] >= most[1:] - _ACTIVE
        rows, sums = np.vstack([conserved, into[full_nodes]]), np.concatenate([wanted, most[full_nodes]])
        fixed = np.where(full, upper, 0.0)
        free = ~(empty | full)
        fixed[free] = 0.0
        rest = sums - rows @ (np.where(free, 0.0, fixed) / unit)
        flow = fixed.copy()
        flow[free] = np.linalg.lstsq(rows[:, free], rest, rcond=None)[0] * unit[free]
        worst = max(-flow.min(), (flow - upper).max(), ((into @ (flow / unit)) - most)[1:].max())
        if worst <= _ACTIVE:
            is_near = bool(np.abs(flow - np.array(found)).max() <= _MAX_CORRECTION)
            return [max(share, 0.0) for share in flow.tolist()] if is_near else found
    return found


def _linear(
    network: FlowNetwork, share: Sequence[float], limits: Sequence[float], value_tokens_per_s: float
) -> Sequence[float]:
    """Return the share of the flow on each arc; ``value_tokens_per_s`` is for the message of an error."""
    ties = np.random.default_rng(0).random(len(network.arcs)) * _MAX_TIE_COST
    program = solver.Program()
    columns = [program.column(float(tie), upper=limit) for tie, limit in zip(ties, limits, strict=True)]
    inbound = _add_conservation(program, network, [[column] for column in columns], [1.0] * len(columns))
    for number in network.node_classes:
        pieces = [
            program.column(2 * (piece + 0.5) / _SEGMENTS, 0.0, share[number] / _SEGMENTS) for piece in range(_SEGMENTS)
        ]
        program.row(inbound[number] | dict.fromkeys(pieces, -1.0), 0.0, 0.0)
    solution = solver.solve(program).optimum("balancing a flow")
    if solution is None:
        raise solver.SolverError(f"balancing a max-flow of {value_tokens_per_s:g} tokens/s: reported infeasible")
    return solution.values[: len(columns)]


def _shares(network: FlowNetwork, value_tokens_per_s: float) -> list[float]:
    """Return the capacity of each class of nodes as a share of the total flow, so that coefficients are near one."""
    return [
        network.size(number) * network.node_limit(number)[1] / value_tokens_per_s for number in network.node_classes
    ]


def _limits(network: FlowNetwork, value_tokens_per_s: float) -> list[float]:
    """Return the capacity of each arc as a share of the total flow; infinite if that is 1 or more."""
    limits = [arc.capacity_tokens_per_s / value_tokens_per_s for arc in network.arcs]
    return [limit if limit < 1.0 else solver.INFINITY for limit in limits]


def _add_conservation(
    program: solver.Program, network: FlowNetwork, columns: Sequence[Sequence[int]], units: Sequence[float]
) -> list[dict[int, float]]:
    """Add flow conservation at the coordinator and all other vertices; return the inbound terms of each vertex.

    The flow on an arc is the sum of its columns, times the unit of the arc.
    """
    inbound: list[dict[int, float]] = [{} for _ in range(network.num_vertices)]
    outbound: list[dict[int, float]] = [{} for _ in range(network.num_vertices)]
    for arc, parts, unit in zip(network.arcs, columns, units, strict=True):
        outbound[arc.tail] |= dict.fromkeys(parts, unit)
        inbound[arc.head] |= dict.fromkeys(parts, unit)
    program.row(outbound[COORDINATOR_CLASS], 1.0, 1.0)
    for vertex in range(1, network.num_vertices):
        program.row(inbound[vertex] | {column: -unit for column, unit in outbound[vertex].items()}, 0.0, 0.0)
    return inbound
