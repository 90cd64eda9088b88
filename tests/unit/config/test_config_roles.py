"""Roles of nodes: by group and by system, with limits of their own; what leaves a phase without nodes is refused."""

from __future__ import annotations

import pytest

from helixsim.errors import ConfigError


@pytest.fixture
def split(sound):
    """The sound experiment with an engine that keeps tokens inside, and roles in its first system."""
    sound["engine"] = "vllm-1"
    sound["systems"][0]["nodes"] = [{"match": "a100-*", "role": "prefill"}, {"match": "*4*", "role": "decode"}]
    return sound


def faults(load, data):
    with pytest.raises(ConfigError) as caught:
        load(data)
    return [problem.message for problem in caught.value.problems]


def test_roles_belong_to_a_system(load, split):
    first, *others = load(split).systems
    assert {node.role for node in first.fleet.cluster.nodes if node.id.startswith("a100")} == {"prefill"}
    assert {node.role for node in first.fleet.cluster.nodes if not node.id.startswith("a100")} == {"decode"}
    assert first.disaggregation is not None
    assert all(system.disaggregation is None for system in others)


def test_roles_of_groups_hold_for_systems_that_state_none(load, sound):
    sound["engine"] = "vllm-1"
    sound["cluster"]["nodes"][0]["role"] = "prefill"
    for system in load(sound).systems:
        assert {node.id[:2] for node in system.fleet.cluster.nodes if node.role == "prefill"} == {"a1"}
        assert system.disaggregation is not None


def test_each_leg_may_have_a_placement_a_routing_and_limits_of_its_own(load, split):
    split["systems"][0]["disaggregation"] = {
        "prefill": {"placement": "petals", "max_num_batched_tokens": 5000},
        "decode": {"routing": {"policy": "random"}, "max_num_seqs": 77},
        "transfer": "layerwise",
        "efficiency": 0.5,
        "latency": "1 ms",
    }
    system = load(split).systems[0]
    legs = system.disaggregation
    assert (legs.prefill.placement, legs.decode.placement) == ("petals", system.placement)
    assert (legs.prefill.routing, legs.decode.routing) == (system.routing, "random")
    assert (legs.transfer.is_layerwise, legs.transfer.efficiency, legs.transfer.latency_ns) == (True, 0.5, 1_000_000)
    limits = {
        node.role: profile.limits[0]
        for node, profile in zip(system.fleet.cluster.nodes, system.fleet.profiles, strict=True)
    }
    assert limits["prefill"].max_prefill_tokens == 5000
    assert limits["decode"].max_decode_seqs == 77
    assert limits["decode"].max_prefill_tokens != 5000


def test_the_document_loads_again(load, split):
    split["systems"][0]["disaggregation"] = {"decode": {"placement": "petals"}, "transfer": "layerwise"}
    once = load(split)
    assert load(dict(once.document)).systems[0].disaggregation == once.systems[0].disaggregation


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_phase_without_nodes_is_refused(load, split, role):
    split["systems"][0]["nodes"] = [{"match": "*", "role": role}]
    missing = {"prefill": "decode", "decode": "prefill"}[role]
    (fault,) = faults(load, split)
    assert f"no node serves {missing}" in fault
    assert f"have the role {role}" in fault


def test_transfers_between_nodes_that_all_serve_both_are_refused(load, sound):
    sound["engine"] = "vllm-1"
    sound["systems"][0]["disaggregation"] = {"transfer": "layerwise"}
    (fault,) = faults(load, sound)
    assert "no node of this system has the role prefill or decode" in fault


def test_engines_whose_tokens_leave_them_are_refused(load, split):
    split["engine"] = "helix-vllm-0.4"
    assert any("roles need an engine with return: engine" in fault for fault in faults(load, split))
    split["engine"] = {"name": "vllm-1", "transfers": "request"}
    assert any("roles need batch" in fault for fault in faults(load, split))


def test_parts_of_machines_are_refused(load, split):
    split["cluster"]["nodes"].append({"gpu": "h100", "gpus": 8, "tp": 2})
    split["systems"][0]["nodes"].append({"match": "h100*", "role": "decode"})
    assert any("roles need whole machines (got tp: 2 on h100x8-0)" in fault for fault in faults(load, split))


def test_fair_links_are_refused(load, split):
    split["cluster"]["network"]["sharing"] = "shared"
    assert any("roles need fifo" in fault for fault in faults(load, split))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("transfer", "sometimes", "layerwise"),
        ("efficiency", 0.0, "greater than or equal to"),
        ("efficiency", 1.5, "less than or equal to 1"),
        ("latency", "-1 ms", "time"),
        ("prefil", {}, "prefill"),
    ],
)
def test_bad_values_say_what_is_allowed(load, split, key, value, allowed):
    split["systems"][0]["disaggregation"] = {key: value}
    assert any(allowed in fault for fault in faults(load, split)), faults(load, split)


def test_links_without_bandwidth_are_refused(load, split):
    link = {"from": "a100-*", "to": "l4-*", "bandwidth": "0 Gbit/s", "latency": "1 ms"}
    split["cluster"]["network"]["links"] = [link]
    assert any("above zero" in fault for fault in faults(load, split))


def test_an_unknown_role_is_refused(load, split):
    split["systems"][0]["nodes"][0]["role"] = "prefil"
    assert any("prefill" in fault for fault in faults(load, split))
