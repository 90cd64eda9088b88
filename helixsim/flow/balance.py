"""An even spread of a max-flow: of all flows of the same value, the one closest to proportional to capacity."""

from __future__ import annotations

from helixsim import solver
from helixsim.domain.cluster import COORDINATOR
from helixsim.flow.network import FlowNetwork

_MOST_QUADRATIC_LINKS = 500
"""Above this the quadratic program takes seconds, and a piecewise-linear one with as many segments takes its place."""

_SEGMENTS = 4

_SLACK = 1e-9
"""Share of the max-flow left undecided, so that rounding in its value cannot make the program infeasible."""


def balance(
    network: FlowNetwork, value_tokens_per_s: float, *, most_quadratic_links: int = _MOST_QUADRATIC_LINKS
) -> list[float]:
    """Return the flow on each link [tokens/s] that carries ``value_tokens_per_s`` in all.

    It minimises sum f(i, j)^2 / (c(i) c(j)) with c the capacity of a node. Where a group of nodes feeds another freely,
    the optimum is f(i, j) ~ c(i) c(j): every node in proportion to its capacity and every link in proportion to both.
    The optimum is unique and prefers short routes. With very many links, or where the quadratic solver gives up, only
    the nodes are balanced, by linear pieces of the same cost.
    """
    if len(network.links) <= most_quadratic_links:
        try:
            return _balance(network, value_tokens_per_s, quadratic=True)
        except solver.SolverError:
            pass
    return _balance(network, value_tokens_per_s, quadratic=False)


def _balance(network: FlowNetwork, value_tokens_per_s: float, *, quadratic: bool) -> list[float]:
    # Everything is a share of the whole flow, which keeps coefficients near one.
    share = {node: network.node_limit(node)[1] / value_tokens_per_s for node in network.nodes}
    share[COORDINATOR] = 1.0
    program = solver.Program()
    inbound: dict[str, list[int]] = {node: [] for node in share}
    outbound: dict[str, list[int]] = {node: [] for node in share}
    for link in network.links:
        limit = link.capacity_tokens_per_s / value_tokens_per_s
        column = program.column(
            upper=limit if limit < 1.0 else solver.INFINITY,
            curvature=1.0 / (share[link.src] * share[link.dst]) if quadratic else 0.0,
        )
        outbound[link.src].append(column)
        inbound[link.dst].append(column)
    program.row(outbound[COORDINATOR], 1.0 - _SLACK, 1.0)
    for node in network.nodes:
        program.row(dict.fromkeys(inbound[node], 1.0) | dict.fromkeys(outbound[node], -1.0), 0.0, 0.0)
        if quadratic:
            if share[node] < 1.0:
                program.row(inbound[node], upper=share[node])
        else:
            pieces = [
                program.column(2 * (piece + 0.5) / _SEGMENTS, 0.0, share[node] / _SEGMENTS)
                for piece in range(_SEGMENTS)
            ]
            program.row(dict.fromkeys(inbound[node], 1.0) | dict.fromkeys(pieces, -1.0), 0.0, 0.0)
    solution = solver.solve(program)
    if solution.status is not solver.SolveStatus.OPTIMAL:
        raise solver.SolverError(f"balancing a max-flow of {value_tokens_per_s:g} tokens/s failed: {solution.status}")
    return [flow * value_tokens_per_s for flow in solution.values[: len(network.links)]]
