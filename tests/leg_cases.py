"""Random clusters of which some replicas prefill, some decode and some do both."""

from __future__ import annotations

from hypothesis import strategies as st
from replica_cases import clusters
from simulating import with_roles

from helixsim.domain.disaggregation import KvTransfer


@st.composite
def cases(draw):
    """Clusters in which each phase has a replica; some replicas serve both."""
    case = draw(clusters(ranks=[1]).filter(lambda case: len(set(case[2].pipelines.values())) > 1))
    pipelines = case[2].pipelines
    rest = draw(st.sampled_from(["prefill", "decode", "both"]))
    roles = {0: draw(st.sampled_from(["prefill", "both"])), 1: draw(st.sampled_from(["decode", "both"])), 2: rest}
    if roles[0] == roles[1] == "both":
        roles[0] = "prefill"
    return with_roles(case, {node: roles[number] for node, number in pipelines.items()})


transfers = st.builds(
    KvTransfer,
    is_layerwise=st.booleans(),
    efficiency=st.sampled_from([1.0, 0.75, 0.3]),
    latency_ns=st.sampled_from([0, 400_000]),
    bits=st.sampled_from([None, 4]),
)
routings = st.sampled_from(
    ["flow_weighted", "least_loaded", "round_robin", "shortest_queue", "random", "earliest_finish"]
)
