"""Random schedules of faults for small clusters."""

from __future__ import annotations

from hypothesis import strategies as st
from simulating import MS, SECOND

from helixsim.domain.clients import ClientSpec
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import Fault, FaultKind, LinkFault
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
    if draw(st.booleans()):
        more["links"] = tuple(sorted(draw(st.lists(link_faults(nodes, end_ms), max_size=3)), key=lambda one: one.at_ns))
    return plan_of(*faults, **more)


@st.composite
def clients(draw):
    """Clients whose timeouts some runs of the tests reach."""
    timeout_ns, backoff_ns = draw(st.sampled_from([20, 300, 2000])) * MS, draw(st.sampled_from([0, 10, 400])) * MS
    until = draw(st.sampled_from(["first_token", "end"]))
    return ClientSpec(timeout_ns, until, draw(st.integers(0, 3)), backoff_ns, 600 * MS)


@st.composite
def link_faults(draw, nodes, end_ms):
    """Links between some ends and others, or all others, that are cut or slow for a time; also over one another."""
    ends = [*nodes, COORDINATOR]
    near = frozenset(draw(st.lists(st.sampled_from(ends), min_size=1, max_size=2)))
    far = frozenset(draw(st.lists(st.sampled_from(ends), min_size=1, max_size=2))) if draw(st.booleans()) else None
    at_ns = draw(st.integers(0, end_ms)) * MS
    end_ns = at_ns + draw(st.sampled_from([1, 60, 700, 2500])) * MS
    is_cut = draw(st.booleans())
    factor, extra_ns = (
        (1.0, 0) if is_cut else (draw(st.sampled_from([1.0, 1000.0])), draw(st.sampled_from([0, 30 * MS])))
    )
    return LinkFault(at_ns, end_ns, near, frozenset(ends) - near if far is None else far, is_cut, factor, extra_ns)
