"""Random schedules of faults for small clusters."""

from __future__ import annotations

from hypothesis import strategies as st
from simulating import MS, SECOND

from helixsim.domain.faults import Fault, FaultKind
from helixsim.engine.inputs import FaultPlan

NEVER_NS = 10_000 * SECOND
"""A timeout that no run of the tests reaches."""


def plan_of(*faults, detection_ns=100 * MS, retry_limit=10**6, timeout_ns=NEVER_NS, **more):
    """A plan of (time [ms], kind, nodes) or (time [ms], "slow", nodes, factor)."""
    made = tuple(Fault(round(at * MS), FaultKind(kind), tuple(nodes), *rest) for at, kind, nodes, *rest in faults)
    return FaultPlan(made, detection_ns, retry_limit, timeout_ns, **more)


@st.composite
def plans(draw, nodes, *, end_ms=3000, **more):
    """Failures that end, and slow nodes, at any time and also at one instant or over one another."""
    faults = []
    for _ in range(draw(st.integers(1, 5))):
        chosen = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True))
        at, length = draw(st.integers(0, end_ms)), draw(st.sampled_from([1, 60, 700, 2500]))
        if draw(st.integers(0, 3)):
            faults += [(at, "down", chosen), (at + length, "up", chosen)]
            if draw(st.booleans()):
                faults.append((max(0, at - draw(st.sampled_from([20, 500]))), "notice", chosen))
        else:
            faults += [(at, "slow", chosen, draw(st.sampled_from([0.5, 3.0]))), (at + length, "slow", chosen, 1.0)]
    faults.sort(key=lambda fault: fault[0])
    last = max(at for at, *_ in faults)
    faults.append((last, "up", nodes))  # of failures over one another some may not have ended
    more.setdefault("detection_ns", draw(st.sampled_from([0, 50 * MS, 1000 * MS])))
    return plan_of(*faults, **more)
