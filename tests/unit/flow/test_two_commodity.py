"""Prefill and decode as two commodities: closed forms, laws, and the bound over all roles and placements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.cluster import Deployment, LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL
from helixsim.domain.placement import ROLES, LayerRange, Placement, Role
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow_value
from helixsim.flow.operating import stations_of
from helixsim.flow.phase_graph import Commodity, KvCaches, PhaseProgram
from helixsim.flow.phase_rates import decode_rates
from helixsim.flow.station import OperatingLoad
from helixsim.flow.two_commodity import two_commodity_flow
from helixsim.placement.phase_bound import phase_rates, two_commodity_bound

ENGINE = replace(IDEAL, loops_inside=True, chunks_prompts=True)
LOAD = OperatingLoad(
    mean_prompt_tokens=100.0, mean_output_tokens=50.0, kv_share=1.0, expected_output_tokens=50.0, engine=ENGINE
)
FREE = KvTransfer(efficiency=math.inf, latency_ns=0)
FAST = LinkSpec(1e18, 0)
EXACT = 1 + 1e-6


def with_roles(fleet: Deployment, roles: Sequence[Role]) -> Deployment:
    nodes = tuple(replace(node, role=role) for node, role in zip(fleet.cluster.nodes, roles, strict=True))
    return replace(fleet, cluster=replace(fleet.cluster, nodes=nodes))


def whole(fleet: Deployment) -> Placement:
    """Every node is a replica."""
    layers = fleet.model.num_layers
    return builders.placement_of(fleet, {node.id: (0, layers) for node in fleet.cluster.nodes})


def flow(fleet: Deployment, placement: Placement, transfer: KvTransfer | None = FREE, **more) -> float:
    return two_commodity_flow(fleet, placement, LOAD, transfer, **more).requests_per_s


def pair(prefill_ns: float = 1000.0, decode_ns: float = 1e5, intra: LinkSpec = FAST, blocks: int = 400) -> Deployment:
    """A fast node ``f-0`` and a slow one ``s-0`` that hold both layers of a model."""
    fast = builders.profile(
        "f", 2, prefill_ns_per_token=prefill_ns, decode_ns=decode_ns, kv_blocks=(2 * blocks, blocks)
    )
    slow = builders.profile("s", 2, prefill_ns_per_token=4 * prefill_ns, decode_ns=decode_ns, kv_blocks=fast.kv_blocks)
    return builders.fleet([fast, slow], num_layers=2, intra=intra)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_a_split_serves_what_the_slower_phase_does() -> None:
    """A prompt takes 2 x 100 us x 4; 38 requests fit (6400 / 168.4 tokens), and each decodes for 50 x 2 x 0.1 ms."""
    fleet = with_roles(pair(), ("decode", "prefill"))
    prompts = 1 / (2 * 100 * 4e-6)
    decodes = 6400 / LOAD.resident_tokens(16) / (50 * 2 * 1e-4)
    assert decodes > prompts
    found = two_commodity_flow(fleet, whole(fleet), LOAD, FREE)
    assert found.requests_per_s == pytest.approx(prompts)
    assert found.prefill_per_s == {"s-0": pytest.approx(prompts)}
    assert found.decode_per_s == {"f-0": pytest.approx(prompts)}
    assert found.binding == ("time for prompts on s-0",)
    fleet = with_roles(pair(decode_ns=1e6), ("decode", "prefill"))
    found = two_commodity_flow(fleet, whole(fleet), LOAD, FREE)
    assert found.requests_per_s == pytest.approx(decodes / 10)
    assert found.binding[0] in {"time on f-0", "KV memory of f-0"}  # a single replica is full when it is always busy


def test_kv_caches_fill_links_and_cards_at_their_efficiency() -> None:
    """The cache of 100 tokens is 2 layers x 2000 B each: 400 kB, or 3.2 Mbit."""
    fleet = with_roles(pair(intra=LinkSpec(1e7, 0)), ("prefill", "decode"))
    found = two_commodity_flow(fleet, whole(fleet), LOAD, KvTransfer(efficiency=0.5, latency_ns=0))
    assert found.requests_per_s == pytest.approx(0.5 * 1e7 / 3.2e6)
    assert found.binding[0] == "links f-0 -> s-0"
    (one,) = found.transfers
    assert (one.src, one.dst, one.layers) == ("f-0", "s-0", LayerRange(0, 2))
    assert one.bytes_per_s == pytest.approx(found.requests_per_s * 4e5)
    cards = replace(fleet, cluster=replace(
        fleet.cluster,
        nodes=tuple(replace(node, nic_bps=2e6) for node in fleet.cluster.nodes),
        network=replace(fleet.cluster.network, intra_region=FAST),
    ))  # fmt: skip
    found = two_commodity_flow(cards, whole(cards), LOAD, KvTransfer(efficiency=0.5, latency_ns=0))
    assert found.requests_per_s == pytest.approx(0.5 * 2e6 / 3.2e6, rel=1e-3)  # beside the ids of tokens
    assert found.binding[0].startswith("NIC of")


def test_a_cache_is_on_the_way_for_as_long_as_the_fastest_link_takes() -> None:
    """The cache of 100 tokens is 3.2 Mbit, of which a link carries half of its bandwidth."""
    profiles = [builders.profile(kind, 2, prefill_ns_per_token=1000.0 * n) for n, kind in enumerate("fgs", 1)]
    fleet = with_roles(builders.fleet(profiles, num_layers=2, intra=LinkSpec(1e8, 0)), ("prefill", "decode", "decode"))
    pairs = {("f-0", "s-0"): LinkSpec(1e7, 0)}
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=replace(fleet.cluster.network, pairs=pairs)))
    base = PhaseProgram(fleet, whole(fleet), LOAD, KvTransfer(efficiency=0.5, latency_ns=10**6), None, False)
    kv = KvCaches(base, Commodity(base, "prefill"), Commodity(base, "decode"))
    number = {one.nodes[0]: at for at, one in enumerate(base.network.classes)}
    assert kv.sent_s(number["f-0"]) == kv.received_s(number["g-0"]) == pytest.approx(1e-3 + 3.2e6 / 0.5e8)
    assert kv.received_s(number["s-0"]) == pytest.approx(1e-3 + 3.2e6 / 0.5e7)
    assert kv.sent_s(number["s-0"]) == kv.received_s(number["f-0"]) == 0.0


def test_a_node_for_both_phases_shares_its_time() -> None:
    fleet = pair(blocks=4000)
    alone = replace(fleet, cluster=replace(fleet.cluster, nodes=fleet.cluster.nodes[:1]), profiles=fleet.profiles[:1])
    most = 64  # sequences of a batch
    prompt_s, decode_s = 2 * 100 * 1e-6, 50 * 2e-4 / most
    assert flow(alone, whole(alone), None) == pytest.approx(1 / (prompt_s + decode_s))


def test_an_objective_for_the_time_per_token_caps_the_batch() -> None:
    """Steps take 0.2 ms whatever the batch: any objective above that binds nothing, none below it can be met."""
    fleet = with_roles(pair(blocks=4000), ("prefill", "decode"))
    free = flow(fleet, whole(fleet))
    assert flow(fleet, whole(fleet), tpot_s=3e-4) == pytest.approx(free)
    assert flow(fleet, whole(fleet), tpot_s=1e-4) == 0.0


def test_nodes_that_decode_beside_prompts_pay_for_an_objective() -> None:
    """A step takes two thirds of the objective, so prompts get a third of the time of nodes that also decode."""
    fleet = pair(blocks=4000)
    colocated = flow(fleet, whole(fleet), None, tpot_s=3e-4)
    prompts = (1 / 3) / (2 * 100 * 1e-6) * (1 + 1 / 4)
    assert colocated == pytest.approx(prompts, rel=0.02)
    assert flow(with_roles(fleet, ("prefill", "decode")), whole(fleet), tpot_s=3e-4) > 2 * colocated


def test_without_nodes_of_a_phase_nothing_is_served() -> None:
    for role in ("prefill", "decode"):
        assert flow(with_roles(pair(), (role, role)), whole(pair())) == 0.0


# --- laws ------------------------------------------------------------------------------------------------------------


@st.composite
def clusters(draw, links: st.SearchStrategy[LinkSpec] | None = None) -> tuple[Deployment, Placement]:
    """Two to five nodes of up to three kinds with ranges of a model of three layers."""
    kinds = [
        builders.profile(
            name, 3,
            prefill_ns_per_token=draw(st.sampled_from((100.0, 1000.0, 5000.0))),
            decode_ns=draw(st.sampled_from((1e5, 1e6, 3e6))),
            kv_blocks=draw(st.sampled_from(((300, 150, 100), (60, 30, 20), (1200, 600, 400)))),
        )
        for name in "abc"
    ]  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=5))
    fleet = builders.fleet(chosen, num_layers=3, intra=FAST if links is None else draw(links))
    ranges = draw(
        st.lists(st.sampled_from(((0, 3), (0, 1), (1, 3), (0, 2), (2, 3))), min_size=len(chosen), max_size=len(chosen))
    )
    return fleet, builders.placement_of(fleet, dict(zip(fleet.cluster.index, ranges, strict=True)))


roles_of_five = st.lists(st.sampled_from(ROLES), min_size=5, max_size=5)
slow_links = st.sampled_from((1e5, 1e7, 1e9)).map(lambda bps: LinkSpec(bps, 1000))


@given(clusters(), roles_of_five)
@settings(deadline=None, max_examples=60)
def test_fast_links_and_free_transfers_leave_two_independent_pools(found, roles) -> None:
    """The value is the lesser of two flows of one commodity, each over the nodes of a phase."""
    fleet, placement = found
    fleet = with_roles(fleet, ["prefill" if role == "both" else role for role in roles[: len(fleet.cluster.nodes)]])
    # A route of one node each, so that residence is that of the node: Dinic's algorithm does not know of routes.
    placement = replace(placement, ranges=dict.fromkeys(placement.ranges, LayerRange(0, 3)))
    stations = stations_of(fleet, placement, LOAD)

    def pool(role: Role) -> float:
        tables = {}
        for node in placement.ranges:
            if role == "prefill":
                kept = LOAD.mean_prompt_tokens * stations[node].prompt_s
                takes_s = max(stations[node].prompt_alone_s(), kept / (fleet.kv_blocks(node, LayerRange(0, 3)) * 16))
            else:
                rates = decode_rates([stations[node]], 0, 0.0, LOAD, None)
                takes_s = max(rates.time_s, rates.residence_s / rates.most_requests)
            tables[node] = (0.0, 0.0, 1 / takes_s)
        return max_flow_value(fleet, placement.part(fleet.cluster.serving(role)), CapacityTable(tables, {}))

    assert flow(fleet, placement) == pytest.approx(min(pool("prefill"), pool("decode")), rel=1e-6)


@given(clusters(), st.sampled_from((None, 5e-3, 2e-2)))
@settings(deadline=None, max_examples=60)
def test_free_transfers_never_serve_less_than_none(found, tpot_s) -> None:
    fleet, placement = found
    colocated = flow(fleet, placement, None, tpot_s=tpot_s)
    assert flow(fleet, placement, FREE, tpot_s=tpot_s, mixed_nodes_send=True) * EXACT >= colocated
    assert flow(fleet, placement, FREE, tpot_s=tpot_s) == pytest.approx(colocated)  # mixed nodes keep their prompts


@given(clusters(slow_links), roles_of_five, st.booleans())
@settings(deadline=None, max_examples=60)
def test_each_commodity_and_its_caches_are_conserved_in_every_layer(found, roles, sends) -> None:
    fleet, placement = found
    fleet = with_roles(fleet, roles[: len(fleet.cluster.nodes)])
    solved = two_commodity_flow(fleet, placement, LOAD, KvTransfer(), mixed_nodes_send=sends)
    value = solved.requests_per_s
    if not value:
        return
    for layer in range(3):
        holders = [node for node, held in placement.ranges.items() if held.start <= layer < held.end]
        for done in (solved.prefill_per_s, solved.decode_per_s):
            assert sum(done.get(node, 0.0) for node in holders) == pytest.approx(value, rel=1e-6)
        kept = sum(
            min(solved.prefill_per_s.get(node, 0.0), solved.decode_per_s.get(node, 0.0))
            for node in holders
        )  # fmt: skip
        sent = sum(one.requests_per_s for one in solved.transfers if one.layers.start <= layer < one.layers.end)
        assert sent + (EXACT - 1) * value >= value - kept  # what is decoded elsewhere has come from elsewhere
        assert sent <= value * EXACT
    for node in fleet.cluster.nodes:
        assert node.role != "decode" or node.id not in solved.prefill_per_s
        assert node.role != "prefill" or node.id not in solved.decode_per_s


@given(clusters(slow_links), roles_of_five, st.sampled_from((None, 5e-3)))
@settings(deadline=None, max_examples=60)
def test_faster_links_never_serve_less(found, roles, tpot_s) -> None:
    fleet, placement = found
    fleet = with_roles(fleet, roles[: len(fleet.cluster.nodes)])
    network = fleet.cluster.network
    faster = replace(network, intra_region=LinkSpec(10 * network.intra_region.bandwidth_bps, 1000))
    value = flow(fleet, placement, KvTransfer(), tpot_s=tpot_s)
    improved = replace(fleet, cluster=replace(fleet.cluster, network=faster))
    assert flow(improved, placement, KvTransfer(), tpot_s=tpot_s) * EXACT >= value


# --- the bound over all roles and placements -------------------------------------------------------------------------


def bound_of(fleet: Deployment, tpot_s: float | None = None) -> float:
    return two_commodity_bound(fleet, phase_rates(fleet, LOAD, tpot_s))


@pytest.mark.parametrize("tpot_s", [None, 1e-3])
def test_the_bound_is_no_less_than_any_split_of_a_tiny_cluster(tpot_s) -> None:
    fleet = builders.fleet(
        [
            builders.profile("f", 2, prefill_ns_per_token=500.0, decode_ns=4e5),
            builders.profile("s", 2, prefill_ns_per_token=4000.0, decode_ns=2e5),
            builders.profile("t", 1, prefill_ns_per_token=4000.0, decode_ns=2e5, kv_blocks=(900,)),
        ],
        num_layers=2, intra=FAST,
    )  # fmt: skip
    bound, best = bound_of(fleet, tpot_s), 0.0
    for roles in product(ROLES, repeat=3):
        own = with_roles(fleet, roles)
        for ranges in product(((0, 2), (0, 1), (1, 2)), ((0, 2), (0, 1), (1, 2)), ((0, 1), (1, 2))):
            placement = builders.placement_of(own, dict(zip(own.cluster.index, ranges, strict=True)))
            value = flow(own, placement, FREE, tpot_s=tpot_s, mixed_nodes_send=True)
            assert value <= bound * EXACT
            best = max(best, value)
    assert best > 0.4 * bound


@given(clusters(), roles_of_five, st.sampled_from((None, 5e-3, 2e-2)), st.booleans())
@settings(deadline=None, max_examples=30)
def test_no_roles_and_placement_exceed_the_bound(found, roles, tpot_s, sends) -> None:
    fleet, placement = found
    bound = bound_of(fleet, tpot_s)
    fleet = with_roles(fleet, roles[: len(fleet.cluster.nodes)])
    assert flow(fleet, placement, FREE, tpot_s=tpot_s, mixed_nodes_send=sends) <= bound * EXACT
    assert flow(with_roles(fleet, ["both"] * len(fleet.cluster.nodes)), placement, None, tpot_s=tpot_s) <= bound * EXACT


def test_the_bound_of_nodes_that_hold_the_model_is_reached_by_their_best_roles() -> None:
    """Four fast nodes compute prompts, four others decode, each as fast as the other phase: no node is shared."""
    prompts = builders.profile("p", 2, prefill_ns_per_token=10.0, decode_ns=1e9)
    decodes = builders.profile("d", 2, prefill_ns_per_token=1e6, decode_ns=1e3)
    fleet = builders.fleet([prompts] * 4 + [decodes] * 4, num_layers=2, intra=FAST)
    split = with_roles(fleet, ["prefill"] * 4 + ["decode"] * 4)
    assert flow(split, whole(split)) == pytest.approx(bound_of(fleet), rel=0.05)
