"""The roles of replicas as an integer program: closed forms, agreement with given roles, and its bound."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL
from helixsim.domain.placement import ROLES, Placement
from helixsim.flow.role_program import GAP, RoleChoice, best_roles, replica_classes
from helixsim.flow.station import OperatingLoad
from helixsim.flow.two_commodity import two_commodity_flow

ENGINE = replace(IDEAL, loops_inside=True, chunks_prompts=True)
LOAD = OperatingLoad(
    mean_prompt_tokens=100.0, mean_output_tokens=50.0, kv_share=1.0, expected_output_tokens=50.0, engine=ENGINE
)
FREE = KvTransfer(efficiency=math.inf, latency_ns=0)
FAST = LinkSpec(1e18, 0)
EXACT = 1 + 1e-6


def placed(kinds, stages: int = 1, intra: LinkSpec = FAST, **more) -> tuple[Deployment, Placement]:
    """Replicas of a model of two layers on nodes of the given kinds, of one or two nodes each."""
    fleet = builders.fleet(kinds, num_layers=2, intra=intra, **more)
    ids = list(fleet.cluster.index)
    ranges = {node: (0, 2) if stages == 1 else ((0, 1), (1, 2))[n % 2] for n, node in enumerate(ids)}
    pipelines = {node: n // stages for n, node in enumerate(ids)}
    return fleet, replace(builders.placement_of(fleet, ranges), pipelines=pipelines)


def chosen(fleet: Deployment, placement: Placement, transfer: KvTransfer = FREE, **more) -> RoleChoice:
    return best_roles(fleet, replica_classes(fleet, placement, LOAD), LOAD, transfer, **more)


def given_roles(fleet: Deployment, placement: Placement, roles, transfer: KvTransfer = FREE, tpot_s=None) -> float:
    """Return the requests/s with a role for each pipeline, by the program that takes roles as given."""
    nodes = tuple(replace(node, role=roles[placement.pipelines[node.id]]) for node in fleet.cluster.nodes)
    own = replace(fleet, cluster=replace(fleet.cluster, nodes=nodes))
    return two_commodity_flow(own, placement, LOAD, transfer, tpot_s=tpot_s).requests_per_s


def kind(name: str, prefill_ns: float = 1000.0, decode_ns: float = 1e5, blocks: int = 4000):
    return builders.profile(
        name, 2, prefill_ns_per_token=prefill_ns, decode_ns=decode_ns, kv_blocks=(2 * blocks, blocks)
    )


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_equal_replicas_share_the_phases_by_the_time_of_each() -> None:
    """A prompt takes 0.2 ms; 50 steps of 0.2 ms in batches of 64 take 0.156 ms of a replica for each request."""
    prompt_s, decode_s = 2 * 100 * 1e-6, 50 * 2e-4 / 64
    fleet, placement = placed([kind("a")] * 7)
    found = chosen(fleet, placement, allowed=("prefill", "decode"))
    assert found.bound_per_s == pytest.approx(7 / (prompt_s + decode_s))  # no whole number of replicas each
    assert found.classes[0].worth_per_s == pytest.approx(1 / (prompt_s + decode_s))
    assert found.classes[0].counts == {"prefill": 4, "decode": 3}
    assert found.requests_per_s == pytest.approx(min(4 / prompt_s, 3 / decode_s))
    # Without an objective for the time per token, equal replicas that do both are as good as any roles.
    alike = chosen(fleet, placement)
    assert alike.requests_per_s == pytest.approx(found.bound_per_s)
    assert chosen(fleet, placement, allowed=("both",)).requests_per_s == pytest.approx(found.bound_per_s)


def test_an_objective_for_the_time_per_token_makes_roles_pay_among_equal_replicas() -> None:
    """Steps take two thirds of the objective, so a replica that does both has a third of its time for prompts."""
    fleet, placement = placed([kind("a")] * 6)
    both = chosen(fleet, placement, allowed=("both",), tpot_s=3e-4)
    assert both.requests_per_s == pytest.approx(6 / 3 / (2 * 100 * 1e-6), rel=0.02)
    assert chosen(fleet, placement, tpot_s=3e-4).requests_per_s > 1.6 * both.requests_per_s


def test_prompts_go_where_they_are_fast() -> None:
    fleet, placement = placed([*[kind("p", 1000.0, 1e6)] * 3, *[kind("d", 8000.0, 1e5)] * 3])
    found = chosen(fleet, placement)
    by_kind = {one.replicas[0][0]: one.counts for one in found.classes}
    assert by_kind["p-0"]["decode"] == by_kind["d-0"]["prefill"] == 0
    assert found.requests_per_s > 1.2 * chosen(fleet, placement, allowed=("both",)).requests_per_s
    assert given_roles(fleet, placement, [found.roles[node] for node in fleet.cluster.index]) == pytest.approx(
        found.requests_per_s
    )


def test_no_batch_within_the_objective_serves_nothing() -> None:
    fleet, placement = placed([kind("a")] * 2)
    found = chosen(fleet, placement, tpot_s=1e-4)
    assert found.requests_per_s == found.bound_per_s == 0.0


def test_decode_steps_in_cuda_graphs_need_no_launches() -> None:
    """Launches of 1 ms a layer take ten times as long as its decode; graphs for all batches leave nothing of them."""
    slow = replace(LOAD, engine=replace(ENGINE, layer_launch_ns=1_000_000))
    plain = kind("a")
    in_graphs = replace(plain, limits=tuple(replace(one, graph_sizes=tuple(range(1, 65))) for one in plain.limits))

    def decodes(node, load: OperatingLoad) -> float:
        fleet, placement = placed([node] * 4)
        classes = replica_classes(fleet, placement, load)
        return best_roles(fleet, classes, load, FREE, prefill_replicas=3, allowed=("prefill", "decode")).requests_per_s

    assert decodes(in_graphs, slow) == pytest.approx(decodes(plain, LOAD))
    assert decodes(plain, slow) < 0.2 * decodes(plain, LOAD)


def test_each_role_has_the_profile_that_nodes_take_on_with_it() -> None:
    """Nodes that only decode are twice as fast at it: the program agrees with the one that takes roles as given."""
    plain = kind("a", decode_ns=1e6)
    fleet, placement = placed([plain] * 5)
    limited = replace(fleet, of_role={"decode": {fleet.cluster.nodes[0].node_type: kind("a (decode)", decode_ns=5e5)}})
    found = chosen(limited, placement, allowed=("prefill", "decode"))
    assert found.requests_per_s > 1.2 * chosen(fleet, placement, allowed=("prefill", "decode")).requests_per_s
    own = limited.with_roles(found.roles)
    assert next(own.profile(node).kind for node, role in found.roles.items() if role == "decode") == "a (decode)"
    reached = given_roles(own, placement, [found.roles[node] for node in fleet.cluster.index])
    assert reached == pytest.approx(found.requests_per_s)
    assert chosen(limited, placement, allowed=("both",)) == chosen(fleet, placement, allowed=("both",))


# --- laws ------------------------------------------------------------------------------------------------------------

KINDS = [
    kind(f"{prefill_ns:g}-{decode_ns:g}-{blocks}", prefill_ns, decode_ns, blocks)
    for prefill_ns, decode_ns, blocks in ((200.0, 1e5, 100), (1000.0, 1e5, 4000), (1000.0, 1e6, 400), (5000.0, 3e5, 60))
]
fleets = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=3).map(lambda drawn: sorted(drawn, key=lambda one: one.kind)),
    st.sampled_from((1, 2)),
)
objectives = st.sampled_from((None, 4e-4, 3e-3))


@given(fleets, objectives)
@settings(deadline=None, max_examples=20)
def test_the_best_of_all_roles_is_found_where_links_are_fast(drawn, tpot_s) -> None:
    """Two programs agree, to the gap of the search: the best of all given roles, one by one, and roles as variables."""
    kinds, stages = drawn
    fleet, placement = placed([one for one in kinds for _ in range(stages)], stages)
    found = chosen(fleet, placement, tpot_s=tpot_s)
    best = max(
        given_roles(fleet, placement, roles, tpot_s=tpot_s) for roles in product(ROLES, repeat=len(kinds))
    )  # fmt: skip
    assert best * (1 - GAP) - 1e-9 <= found.requests_per_s <= best * EXACT + 1e-9
    assert found.bound_per_s * EXACT >= best
    if found.requests_per_s:
        reached = given_roles(
            fleet, placement, [found.roles[nodes] for nodes in fleet.cluster.index][::stages], tpot_s=tpot_s
        )
        assert found.requests_per_s <= reached * EXACT + 1e-9
        assert reached <= best * EXACT


@given(fleets, objectives, st.sampled_from((1e6, 1e8, 1e10)), st.sampled_from((None, 1e7)))
@settings(deadline=None, max_examples=20)
def test_no_roles_exceed_the_bound_and_faster_links_never_lower_it(drawn, tpot_s, bps, nic_bps) -> None:
    kinds, stages = drawn
    transfer = KvTransfer()

    def at(factor: float) -> tuple[RoleChoice, float]:
        fleet, placement = placed(
            [one for one in kinds for _ in range(stages)], stages, LinkSpec(factor * bps, 1000), nic_bps=nic_bps
        )
        best = max(
            given_roles(fleet, placement, roles, transfer, tpot_s) for roles in product(ROLES, repeat=len(kinds))
        )  # fmt: skip
        return chosen(fleet, placement, transfer, tpot_s=tpot_s), best

    (found, best), (faster, _) = at(1.0), at(10.0)
    assert best <= found.requests_per_s * EXACT + 1e-9  # links are taken at their best
    assert found.requests_per_s <= found.bound_per_s * EXACT + 1e-9
    assert faster.bound_per_s * EXACT + 1e-9 >= found.bound_per_s
    assert faster.requests_per_s * EXACT + 1e-9 >= found.requests_per_s


@given(fleets, objectives)
@settings(deadline=None, max_examples=20)
def test_roles_never_serve_less_than_none_and_many_replicas_come_near_the_bound(drawn, tpot_s) -> None:
    kinds, stages = drawn
    fleet, placement = placed([one for one in kinds for _ in range(60 * stages)], stages)
    found, none = chosen(fleet, placement, tpot_s=tpot_s), chosen(fleet, placement, tpot_s=tpot_s, allowed=("both",))
    assert none.requests_per_s <= found.requests_per_s * EXACT
    assert found.requests_per_s >= 0.9 * found.bound_per_s
    assert sum(len(one.replicas) * one.worth_per_s for one in found.classes) == pytest.approx(found.bound_per_s)
