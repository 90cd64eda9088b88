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
    assert first.is_disaggregated
    assert not any(system.is_disaggregated for system in others)


def test_roles_of_groups_hold_for_systems_that_state_none(load, sound):
    sound["engine"] = "vllm-1"
    sound["cluster"]["nodes"][0]["role"] = "prefill"
    for system in load(sound).systems:
        assert {node.id[:2] for node in system.fleet.cluster.nodes if node.role == "prefill"} == {"a1"}
        assert system.is_disaggregated


def test_each_leg_may_have_a_placement_a_routing_and_limits_of_its_own(load, split):
    split["systems"][0]["disaggregation"] = {
        "prefill": {"placement": "petals", "max_num_batched_tokens": 5000},
        "decode": {"routing": {"policy": "random"}, "max_num_seqs": 77, "enable_prefix_caching": False},
        "max_local_prefill_length": 700,
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
    assert (legs.prefill.caches_prefixes, legs.decode.caches_prefixes, legs.most_local_tokens) == (True, False, 700)
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


def test_parts_of_a_machine_have_its_role(load, split):
    split["cluster"]["nodes"].append({"gpu": "h100", "gpus": 8, "tp": 2})
    split["systems"][0]["nodes"].append({"match": "h100*", "role": "decode"})
    nodes = load(split).systems[0].fleet.cluster.nodes
    assert [node.role for node in nodes if node.machine == "h100x8-0"] == ["decode"] * 4


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
        ("max_local_prefill_length", -1, "greater than or equal to 0"),
        ("max_local_prefill_length", "short", "whole number"),
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


def mixture(cluster_nodes, **legs):
    """An experiment with a mixture of experts whose roles have a parallelism of their own."""
    return {
        "schema": 1,
        "model": "gpt-oss-120b",
        "cluster": {
            "nodes": cluster_nodes,
            "network": {"intra_region": {"bandwidth": "100 Gbit/s", "latency": "0.05 ms"}},
        },
        "workload": {
            "lengths": {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 10},
            "limits": {"max_output_tokens": 10},
            "arrivals": {"process": "closed_loop", "concurrency": 1, "num_requests": 4},
        },
        "engine": "trtllm",
        "systems": [{"placement": "petals", "disaggregation": legs}],
    }


NODES = [{"gpu": "b200", "gpus": 2, "role": "prefill"}, {"gpu": "b200", "gpus": 2, "role": "decode"}]


def test_each_role_has_a_parallelism_of_its_own_on_equal_nodes(load):
    decode = {"data_parallel_size": 2, "enable_expert_parallel": True, "cuda_graph_sizes": [8, 4]}
    system = load(mixture(NODES, decode=decode)).systems[0]
    prefill, decoding = system.fleet.profiles
    assert (prefill.compute.ranks, decoding.compute.ranks) == (1, 2)
    assert decoding.limits[0].graph_sizes == (4, 8)
    assert decoding.limits[0].max_decode_seqs == 2 * prefill.limits[0].max_decode_seqs
    assert decoding.compute.experts
    assert not prefill.compute.experts


def test_heads_are_shared_by_the_gpus_of_a_rank_alone(load):
    nodes = [NODES[0], {"gpu": "b200", "gpus": 3, "role": "decode"}]
    (fault,) = faults(load, mixture(nodes))
    assert "3 GPUs cannot share" in fault
    assert load(mixture(nodes, decode={"data_parallel_size": 3})).systems[0].fleet.profiles[1].compute.ranks == 3


def test_a_parallelism_that_does_not_fit_is_told_where_it_stands(load):
    with pytest.raises(ConfigError) as caught:
        load(mixture(NODES, decode={"data_parallel_size": 4}))
    (problem,) = caught.value.problems
    assert "4 attention ranks do not divide the 2 GPUs" in problem.message
    assert "disaggregation.decode.data_parallel_size" in str(problem)


def test_only_nodes_that_prefill_need_a_budget_for_whole_prompts(load):
    data = mixture(
        NODES, prefill={"max_num_batched_tokens": 200}, decode={"max_num_batched_tokens": 32, "max_num_seqs": 32}
    )
    assert load(data).systems[0].fleet.profiles[1].limits[0].max_prefill_tokens == 32
    data["systems"][0]["disaggregation"]["prefill"]["max_num_batched_tokens"] = 50
    (fault,) = faults(load, data)
    assert "whole prompts of up to 50" in fault
