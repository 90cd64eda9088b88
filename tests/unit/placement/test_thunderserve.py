"""ThunderServe's tabu search: optimal on tiny fleets, better the longer it searches, valid, and the same each time."""

from __future__ import annotations

import math
from dataclasses import replace

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL
from helixsim.errors import InfeasibleError
from helixsim.flow.role_program import best_roles, replica_classes
from helixsim.flow.station import OperatingLoad
from helixsim.placement import registry
from helixsim.placement.base import Phases, PlacementProblem
from helixsim.placement.check import check

ENGINE = replace(IDEAL, loops_inside=True, chunks_prompts=True)
LOAD = OperatingLoad(
    mean_prompt_tokens=100.0, mean_output_tokens=50.0, kv_share=1.0, expected_output_tokens=50.0, engine=ENGINE
)
FREE, FAST = KvTransfer(efficiency=math.inf, latency_ns=0), LinkSpec(1e18, 0)


def kind(name: str, layers: int = 2, prefill_ns: float = 1000.0, decode_ns: float = 1e5):
    blocks = tuple(4000 for _ in range(layers))
    return builders.profile(name, layers, prefill_ns_per_token=prefill_ns, decode_ns=decode_ns, kv_blocks=blocks)


PROMPTS, DECODES = kind("p", prefill_ns=500.0, decode_ns=1e6), kind("d", prefill_ns=8000.0)
HALF = kind("h", layers=1)


def posed(kinds, *, tpot_s=None, intra=FAST, transfer=FREE) -> PlacementProblem:
    fleet = builders.fleet(kinds, num_layers=2, intra=intra)
    fleet = replace(fleet, model=replace(fleet.model, max_context_tokens=16))
    tables = {one.kind: [100.0 / k for k in range(1, 1 + one.max_layers)] for one in fleet.profiles}
    phases = Phases(LOAD, transfer, tpot_s)
    return PlacementProblem(fleet, builders.capacity_of(fleet, tables), phases=phases)


def solved(problem: PlacementProblem, **options):
    strategy = registry.get("thunderserve")()
    return strategy.solve(problem, strategy.Options(**options))


def best_by_program(fleet: Deployment, placement, tpot_s=None) -> float:
    classes = replica_classes(fleet, placement, LOAD)
    return best_roles(fleet, classes, LOAD, FREE, tpot_s=tpot_s, allowed=("prefill", "decode")).requests_per_s


@pytest.mark.parametrize("kinds", [[PROMPTS] * 2 + [DECODES] * 3, [PROMPTS, DECODES], [kind("a")] * 7])
def test_whole_replicas_get_the_best_phases(kinds) -> None:
    """Where each node holds the model, an integer program finds the best of all phases."""
    problem = posed(kinds)
    found = solved(problem)
    alone = replace(found, ranges=dict(found.ranges), pipelines={node: n for n, node in enumerate(found.ranges)})
    assert len(found.ranges) == len(kinds)
    assert found.notes["requests_per_s"] >= 0.999 * best_by_program(problem.fleet, alone)
    for node in problem.fleet.cluster.nodes:
        if len(set(kinds)) > 1:
            assert found.roles[node.id] == ("prefill" if node.id.startswith("p") else "decode")


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from([PROMPTS, DECODES, HALF]), min_size=2, max_size=7), st.sampled_from([None, 4e-4]),
    st.integers(0, 5),
)  # fmt: skip
def test_placements_are_valid_the_same_each_time_and_no_worse_by_more_search(kinds, tpot_s, seed) -> None:
    problem = replace(posed(kinds, tpot_s=tpot_s), seed=seed)
    try:
        first = solved(problem, iterations=60)
    except InfeasibleError:
        wholes = sum(one is not HALF for one in kinds) + sum(one is HALF for one in kinds) // 2
        assert wholes < 2 or tpot_s is not None
        return
    check(problem.fleet, first)
    assert set(first.roles) == set(first.ranges)
    assert set(first.roles.values()) == {"prefill", "decode"}
    again = solved(problem, iterations=60)
    assert (again.ranges, again.roles, again.pipelines) == (first.ranges, first.roles, first.pipelines)
    try:
        few = solved(problem, iterations=5).notes["estimated_per_s"]
    except InfeasibleError:
        few = 0.0
    assert first.notes["estimated_per_s"] >= few * (1 - 1e-9)
    for pipeline in set(first.pipelines.values()):
        assert len({first.roles[node] for node, one in first.pipelines.items() if one == pipeline}) == 1


def test_caches_of_four_bits_pay_where_links_are_slow() -> None:
    """Requests are as many as caches pass: nearly four times as many of a quarter of the size."""
    slow = LinkSpec(1e6, 0)
    full, small = (
        solved(posed([PROMPTS, DECODES], intra=slow, transfer=KvTransfer(latency_ns=0, bits=bits))).notes
        for bits in (None, 4)
    )
    assert small["requests_per_s"] == pytest.approx(4 * full["requests_per_s"], rel=0.01)


@pytest.mark.parametrize(
    ("kinds", "more", "said"),
    [
        ([HALF], {}, "no group of nodes holds the 2 layers of tiny"),
        ([PROMPTS, DECODES], {"tpot_s": 1e-5}, "no two groups of nodes prefill and decode within the objective"),
        ([PROMPTS], {}, "no two groups of nodes prefill and decode within the objective"),
    ],
)
def test_fleets_that_cannot_have_phases_are_an_error(kinds, more, said) -> None:
    with pytest.raises(InfeasibleError, match=said):
        solved(posed(kinds, **more))


def test_nodes_that_cannot_have_roles_are_an_error() -> None:
    with pytest.raises(InfeasibleError, match="nodes of this engine and network cannot have roles"):
        solved(replace(posed([PROMPTS, DECODES]), phases=None))
