"""HiGHS's quadratic solver can go round in circles; balancing a flow must end nevertheless."""

from __future__ import annotations

import pytest

from helixsim.domain.cluster import COORDINATOR
from helixsim.flow.balance import balance
from helixsim.flow.network import FlowNetwork, Link

LINKS = [
    (COORDINATOR, "a0", 521.04), ("a0", "b0", 1e6), ("a0", "a1", 1.04), ("a0", "b1", 3.12),
    ("b0", "a1", 1e6), ("b0", "b1", 3.12), ("a1", "b1", 1.04), ("b1", COORDINATOR, 521.04),
]  # fmt: skip


def test_a_program_that_has_the_solver_go_round_in_circles_is_balanced_all_the_same():
    capacity = {"a0": 500.0, "b1": 52.32372225462568, "b0": 296.11324676025805, "a1": 53.10768719791614}
    network = FlowNetwork(("a0", "b0", "a1", "b1"), tuple(Link(*link) for link in LINKS), capacity, {})
    flows = balance(network, 3.12)
    into = {node: sum(f for f, (_, dst, _) in zip(flows, LINKS, strict=True) if dst == node) for node in capacity}
    out = {node: sum(f for f, (src, _, _) in zip(flows, LINKS, strict=True) if src == node) for node in capacity}
    assert into == pytest.approx(out, abs=1e-6)
    assert flows[0] == pytest.approx(3.12, rel=1e-6)
    assert all(flow <= limit + 1e-6 for flow, (_, _, limit) in zip(flows, LINKS, strict=True))
