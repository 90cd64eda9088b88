"""An even spread of a max-flow: of all flows of the same value, the one closest to proportional to capacity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

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

_ATTEMPTS = tuple(itertools.product((True, False), (True, False), (1, -1)))
"""Ways to put the quadratic program: scaled or not, presolved or not, links in order or in reverse. HiGHS fails at one
in a hundred, and which ones these are depends on all of that and on its version."""


def balance(
    network: FlowNetwork, value_tokens_per_s: float, *, most_quadratic_links: int = _MOST_QUADRATIC_LINKS
) -> list[float]:
    """Return the flow on each link [tokens/s] that carries ``value_tokens_per_s`` in all.

    It minimises sum f(i, j)^2 / (c(i) c(j)) with c the capacity of a node. Where a group of nodes feeds another freely,
    the optimum is f(i, j) ~ c(i) c(j): every node in proportion to its capacity and every link in proportion to both.
    The optimum is unique, whatever finds it, and prefers short routes. With very many links, or where the quadratic
    solver gives up, only the nodes are balanced, by linear pieces of the same cost.
    """
    shares: Sequence[float] | None = None
    attempts = _ATTEMPTS if len(network.links) <= most_quadratic_links else ()
    for is_scaled, presolve, order in attempts:
        turned = replace(network, links=network.links[::order])
        shares = _quadratic(turned, value_tokens_per_s, is_scaled=is_scaled, presolve=presolve)
        if shares is not None:
            shares = shares[::order]
            break
    else:
        shares = _linear(network, value_tokens_per_s)
    return [round(share / _GRAIN) * _GRAIN * value_tokens_per_s for share in shares]


def _quadratic(
    network: FlowNetwork, value_tokens_per_s: float, *, is_scaled: bool, presolve: bool
) -> Sequence[float] | None:
    """Return the share of the flow on each link; None where HiGHS's quadratic solver fails.

    ``is_scaled``: the columns are scaled so that all have the same curvature.
    """
    share = _shares(network, value_tokens_per_s)
    weights = [share[link.src] * share[link.dst] for link in network.links]
    units = [math.sqrt(weight) if is_scaled else 1.0 for weight in weights]
    program = solver.Program()
    columns = [
        program.column(upper=limit / unit, curvature=unit * unit / weight)
        for limit, weight, unit in zip(_limits(network, value_tokens_per_s), weights, units, strict=True)
    ]
    inbound = _add_conservation(program, network, columns, units)
    for node in network.nodes:
        if share[node] < 1.0:
            program.row(inbound[node], upper=share[node])
    try:
        solution = solver.solve(program, presolve=presolve).optimum("balancing a flow")
    except solver.SolverError:
        return None
    if solution is None:  # by rounding: there is a flow
        return None
    return _refined(
        network,
        share,
        _limits(network, value_tokens_per_s),
        [v * u for v, u in zip(solution.values, units, strict=True)],
    )


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
        flow[free] = np.linalg.lstsq(rows[:, free], rest)[0] * unit[free]
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
    inbound = _add_conservation(program, network, columns, [1.0] * len(columns))
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
    program: solver.Program, network: FlowNetwork, columns: Sequence[int], units: Sequence[float]
) -> dict[str, dict[int, float]]:
    """Let all of the flow leave the coordinator and each node pass on what it gets; return the links into each node."""
    inbound: dict[str, dict[int, float]] = {node: {} for node in (COORDINATOR, *network.nodes)}
    outbound: dict[str, dict[int, float]] = {node: {} for node in (COORDINATOR, *network.nodes)}
    for link, column, unit in zip(network.links, columns, units, strict=True):
        outbound[link.src][column] = unit
        inbound[link.dst][column] = unit
    program.row(outbound[COORDINATOR], 1.0, 1.0)
    for node in network.nodes:
        program.row(inbound[node] | {column: -unit for column, unit in outbound[node].items()}, 0.0, 0.0)
    return inbound
