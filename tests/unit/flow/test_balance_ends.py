"""Balanced flows whatever HiGHS makes of the program: it may go round in circles, fail, or round differently."""

from __future__ import annotations

import builders
import numpy as np
import pytest

from helixsim import solver
from helixsim.domain.cluster import COORDINATOR, LinkSpec
from helixsim.domain.flowplan import Junction, NodeClass
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow import balance as module
from helixsim.flow.balance import balance
from helixsim.flow.maxflow import max_flow
from helixsim.flow.network import FlowNetwork, build_network

LINKS = [
    (COORDINATOR, "a0", 521.04), ("a0", "b0", 1e6), ("a0", "a1", 1.04), ("a0", "b1", 3.12),
    ("b0", "a1", 1e6), ("b0", "b1", 3.12), ("a1", "b1", 1.04), ("b1", COORDINATOR, 521.04),
]  # fmt: skip


def test_a_program_that_has_the_solver_go_round_in_circles_is_balanced_all_the_same():
    capacity = {"a0": 500.0, "b1": 52.32372225462568, "b0": 296.11324676025805, "a1": 53.10768719791614}
    order = ("a0", "b0", "a1", "b1")
    number = {node: at for at, node in enumerate((COORDINATOR, *order))}
    network = FlowNetwork(
        tuple(NodeClass((node,), LayerRange(0, at)) for node, at in number.items()),
        tuple(Junction(number[src], (number[src],), (number[dst],), speed) for src, dst, speed in LINKS),
        (np.inf, *(capacity[node] for node in order)),
        (np.inf,) * len(number),
        order,
    )
    flows = balance(network, 3.12)
    into = {node: sum(f for f, (_, dst, _) in zip(flows, LINKS, strict=True) if dst == node) for node in capacity}
    out = {node: sum(f for f, (src, _, _) in zip(flows, LINKS, strict=True) if src == node) for node in capacity}
    assert into == pytest.approx(out, abs=1e-6)
    assert flows[0] == pytest.approx(3.12, rel=1e-6)
    assert all(flow <= limit + 1e-6 for flow, (_, _, limit) in zip(flows, LINKS, strict=True))


SEEDS = (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12)
"""Seeds whose draws leave a route through all layers."""


def drawn_network(seed: int) -> tuple[FlowNetwork, float]:
    """Some twenty nodes of up to four kinds in two regions, each with some of the layers, and its max-flow."""
    rng = np.random.default_rng(seed)
    num_layers = int(rng.integers(2, 9))
    kinds = [builders.profile(f"k{number}", int(rng.integers(1, num_layers + 1))) for number in range(4)]
    nodes = [kinds[number] for number in rng.integers(4, size=20)]
    speeds = rng.uniform(50, 900, 4)
    fleet = builders.fleet(
        nodes, num_layers=num_layers, regions=[f"r{number}" for number in rng.integers(2, size=20)],
        intra=LinkSpec(8 * 1002 * float(rng.uniform(20, 500)), 1),
        inter=LinkSpec(8 * 1002 * float(rng.uniform(5, 50)), 1),
    )  # fmt: skip
    table = builders.capacity_of(
        fleet,
        {k.kind: [float(v) / n for n in range(1, k.max_layers + 1)] for k, v in zip(kinds, speeds, strict=True)},
    )
    ranges = {}
    for node, kind in zip(fleet.cluster.nodes, nodes, strict=True):
        layers = int(rng.integers(1, kind.max_layers + 1))
        start = int(rng.choice([0, num_layers - layers, rng.integers(num_layers - layers + 1)]))
        ranges[node.id] = LayerRange(start, start + layers)
    placement = Placement("drawn", num_layers, ranges, partial_inference=True)
    return build_network(fleet, placement, table), max_flow(fleet, placement, table).max_flow_tokens_per_s


@pytest.mark.parametrize("seed", SEEDS)
def test_the_flow_does_not_depend_on_what_finds_it(monkeypatch, seed):
    """Versions of HiGHS differ less than a quadratic program and a row of linear ones: what rounding leaves is cut."""
    network, value = drawn_network(seed)
    assert value > 0
    usual = balance(network, value)
    monkeypatch.setattr(module, "_quadratic", lambda *_given: None)
    assert balance(network, value) == usual


@pytest.mark.parametrize("seed", SEEDS)
def test_of_equal_spreads_of_the_linear_program_one_is_chosen(monkeypatch, seed):
    network, value = drawn_network(seed)
    usual = balance(network, value, max_quadratic_links=0)
    solve = solver.solve
    monkeypatch.setattr(solver, "solve", lambda program: solve(program, presolve=False))
    assert balance(network, value, max_quadratic_links=0) == pytest.approx(usual, abs=1e-7 * value)


def test_a_quadratic_program_that_fails_is_solved_by_linear_ones(monkeypatch):
    network, value = drawn_network(1)
    usual = balance(network, value)
    solve, tried = solver.solve, []

    def fail_first(program, **options):
        tried.append(options)
        if len(tried) == 1:
            raise solver.SolverError("HiGHS failed: Solve error")
        return solve(program, **options)

    monkeypatch.setattr(solver, "solve", fail_first)
    assert balance(network, value) == usual
    assert len(tried) > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_no_flow_of_equal_value_costs_less(seed):
    """The optimum, by its definition: a step towards any other max-flow does not lower the cost."""
    network, value = drawn_network(seed)
    flows = np.array(balance(network, value)) / value
    share = [1.0, *(network.size(at) * network.node_limit(at)[1] / value for at in network.node_classes)]
    gradient = flows / np.array([share[arc.tail] * share[arc.head] for arc in network.arcs])
    other = np.array(balance(network, value, max_quadratic_links=0)) / value
    assert gradient @ (other - flows) >= -1e-6
