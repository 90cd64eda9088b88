"""An even spread of a max-flow: of all flows of the same value, the one closest to proportional to capacity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from helixsim import solver
from helixsim.domain.cluster import COORDINATOR
from helixsim.flow.network import FlowNetwork

_MOST_QUADRATIC_LINKS = 500
"""Above this the quadratic program takes seconds, and a piecewise-linear one with as many segments takes its place."""

_SEGMENTS = 4

_TIE = 1e-3
"""Cost of a link, at most, that chooses among the spreads which the piecewise-linear program takes for equal."""

_GRAIN = 2.0**-26
"""Flows are multiples of this share of the whole, so that the solver's rounding does not change what follows from them.

A few grains are less than what ``maxflow`` takes for zero.
"""

_ACTIVE = 1e-10
"""What is as close as this to a limit, as a share of the whole flow, is at the limit."""

_NEAR = 1e-4
"""A refined flow further from the solver's is not trusted."""

_MOST_REFINEMENTS = 10

_PIECES, _NARROWINGS = 8, 30
"""Pieces of each link's cost in a successive linear program, and how often the range they cover is halved."""


def balance(
    network: FlowNetwork, value_tokens_per_s: float, *, most_quadratic_links: int = _MOST_QUADRATIC_LINKS
) -> list[float]:
    """Return the flow on each link [tokens/s] that carries ``value_tokens_per_s`` in all.

    It minimises sum f(i, j)^2 / (c(i) c(j)) with c the capacity of a node. Where a group of nodes feeds another freely,
    the optimum is f(i, j) ~ c(i) c(j): every node in proportion to its capacity and every link in proportion to both.
    The optimum is unique, whatever finds it, and prefers short routes. With very many links only the nodes are
    balanced, by linear pieces of the same cost.
    """
    if len(network.links) > most_quadratic_links:
        shares = _linear(network, value_tokens_per_s)
    else:
        found = _quadratic(network, value_tokens_per_s) or _successive(network, value_tokens_per_s)
        shares = _refined(network, _shares(network, value_tokens_per_s), _limits(network, value_tokens_per_s), found)
    return [round(share / _GRAIN) * _GRAIN * value_tokens_per_s for share in shares]


def _quadratic(network: FlowNetwork, value_tokens_per_s: float) -> Sequence[float] | None:
    """Return the share of the flow on each link; None where HiGHS's quadratic solver fails, as it now and then does.

    The columns are scaled so that all have the same curvature, of which it makes more.
    """
    share = _shares(network, value_tokens_per_s)
    units = [math.sqrt(share[link.src] * share[link.dst]) for link in network.links]
    program = solver.Program()
    columns = [
        program.column(upper=limit / unit, curvature=1.0)
        for limit, unit in zip(_limits(network, value_tokens_per_s), units, strict=True)
    ]
    inbound = _add_conservation(program, network, [[column] for column in columns], units)
    for node in network.nodes:
        if share[node] < 1.0:
            program.row(inbound[node], upper=share[node])
    try:
        solution = solver.solve(program).optimum("balancing a flow")
    except solver.SolverError:
        return None
    if solution is None:  # by rounding: there is a flow
        return None
    return [value * unit for value, unit in zip(solution.values, units, strict=True)]


def _successive(network: FlowNetwork, value_tokens_per_s: float) -> Sequence[float]:
    """Return the same by linear programs: each has the costs of links in pieces, in ranges half as wide as the last."""
    share = _shares(network, value_tokens_per_s)
    weights = np.array([share[link.src] * share[link.dst] for link in network.links])
    most = np.minimum(_limits(network, value_tokens_per_s), 1.0)
    flow, reach = most / 2, 0.5
    for _ in range(_NARROWINGS):
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
        for node in network.nodes:
            if share[node] < 1.0:
                program.row(inbound[node], upper=share[node])
        solution = solver.solve(program).optimum("balancing a flow")
        if solution is None:
            break
        flow = np.array([sum(solution.values[column] for column in pieces) for pieces in columns])
        reach /= 2
    return [float(part) for part in flow]


def _refined(
    network: FlowNetwork, share: Mapping[str, float], limits: Sequence[float], found: Sequence[float]
) -> Sequence[float]:
    """Return the optimum that the solver has found to its tolerance (1e-6, say) to machine precision.

    Once the links without flow, the full links and the full nodes are known, what is left is a least-norm solution of
    linear equations. Whatever that would fill too much or too little becomes full or empty, and it is solved again.
    """
    position = {node: number for number, node in enumerate((COORDINATOR, *network.nodes))}
    src = np.array([position[link.src] for link in network.links])
    dst = np.array([position[link.dst] for link in network.links])
    columns = np.arange(len(src))
    most = np.array([share[node] for node in position])
    unit = np.sqrt(most[src] * most[dst])
    into, out = np.zeros((len(position), len(src))), np.zeros((len(position), len(src)))
    into[dst, columns], out[src, columns] = unit, unit
    conserved = np.vstack([into[1:] - out[1:], out[:1]])
    wanted = np.append(np.zeros(len(position) - 1), 1.0)
    flow, upper = np.array(found), np.array(limits)
    full_nodes = np.zeros(len(position), dtype=bool)
    empty, full = np.zeros(len(src), dtype=bool), np.zeros(len(src), dtype=bool)
    for _ in range(_MOST_REFINEMENTS):
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
            is_near = bool(np.abs(flow - np.array(found)).max() <= _NEAR)
            return [max(share, 0.0) for share in flow.tolist()] if is_near else found
    return found


def _linear(network: FlowNetwork, value_tokens_per_s: float) -> Sequence[float]:
    share = _shares(network, value_tokens_per_s)
    ties = np.random.default_rng(0).random(len(network.links)) * _TIE
    program = solver.Program()
    columns = [
        program.column(float(tie), upper=limit)
        for tie, limit in zip(ties, _limits(network, value_tokens_per_s), strict=True)
    ]
    inbound = _add_conservation(program, network, [[column] for column in columns], [1.0] * len(columns))
    for node in network.nodes:
        pieces = [
            program.column(2 * (piece + 0.5) / _SEGMENTS, 0.0, share[node] / _SEGMENTS) for piece in range(_SEGMENTS)
        ]
        program.row(inbound[node] | dict.fromkeys(pieces, -1.0), 0.0, 0.0)
    solution = solver.solve(program).optimum("balancing a flow")
    if solution is None:
        raise solver.SolverError(f"balancing a max-flow of {value_tokens_per_s:g} tokens/s: found infeasible")
    return solution.values[: len(columns)]


def _shares(network: FlowNetwork, value_tokens_per_s: float) -> dict[str, float]:
    """Return the capacity of each node as a share of the whole flow, which keeps coefficients near one."""
    share = {node: network.node_limit(node)[1] / value_tokens_per_s for node in network.nodes}
    return {COORDINATOR: 1.0, **share}


def _limits(network: FlowNetwork, value_tokens_per_s: float) -> list[float]:
    """Return the limit of each link as a share of the whole flow, where it is one."""
    limits = [link.capacity_tokens_per_s / value_tokens_per_s for link in network.links]
    return [limit if limit < 1.0 else solver.INFINITY for limit in limits]


def _add_conservation(
    program: solver.Program, network: FlowNetwork, columns: Sequence[Sequence[int]], units: Sequence[float]
) -> dict[str, dict[int, float]]:
    """Let all of the flow leave the coordinator and each node pass on what it gets; return what enters each.

    A link is the sum of some columns, in a unit of its own.
    """
    inbound: dict[str, dict[int, float]] = {node: {} for node in (COORDINATOR, *network.nodes)}
    outbound: dict[str, dict[int, float]] = {node: {} for node in (COORDINATOR, *network.nodes)}
    for link, parts, unit in zip(network.links, columns, units, strict=True):
        outbound[link.src] |= dict.fromkeys(parts, unit)
        inbound[link.dst] |= dict.fromkeys(parts, unit)
    program.row(outbound[COORDINATOR], 1.0, 1.0)
    for node in network.nodes:
        program.row(inbound[node] | {column: -unit for column, unit in outbound[node].items()}, 0.0, 0.0)
    return inbound
