"""``engine``: the profile it names, with what the experiment states of its own."""

from __future__ import annotations

import pytest

from helixsim import yamlio
from helixsim.config.engine_schema import SpeculativeSection
from helixsim.domain.engine import KvTier
from helixsim.domain.speculation import Speculation
from helixsim.errors import ConfigError
from helixsim.hardware import engines


def test_without_a_name_the_engine_is_ideal(sound, load):
    experiment = load(sound)
    assert experiment.engine == engines.load_engine("ideal").spec
    assert not experiment.is_one_by_one
    assert experiment.document["engine"]["gpu_memory_utilization"] == 0.9


def test_own_keys_win_over_the_profile(sound, load):
    sound["engine"] = {
        "name": "helix-vllm-0.4",
        "batch_overhead": "5 ms",
        "mixed_batches": "shared",
        "min_free_share": 0.5,
    }
    experiment = load(sound)
    named = engines.load_engine("helix-vllm-0.4")
    assert experiment.engine.batch_overhead_ns == 5_000_000
    assert experiment.engine.shares_weight_reads
    assert experiment.engine.min_free_share == 0.5
    assert experiment.engine.layer_launch_ns == named.spec.layer_launch_ns
    assert experiment.is_one_by_one
    assert experiment.document["engine"]["gpu_memory_utilization"] == named.gpu_memory_utilization


def test_the_resolved_document_loads_to_the_same_engine(sound, load):
    sound["engine"] = {"name": "helix-vllm-0.4", "transfers": "batch", "gather": "3 us"}
    experiment = load(sound)
    again = load(dict(experiment.document))
    assert (again.engine, again.is_one_by_one, again.fleet) == (
        experiment.engine,
        experiment.is_one_by_one,
        experiment.fleet,
    )


def test_an_overhead_changes_the_hash(sound, load):
    assert load(sound).config_hash != load(sound, "engine.batch_overhead=1 ms").config_hash


def test_an_engine_of_the_users_own(sound, load, tmp_path):
    overlay = engines.with_overheads_s(engines.load_engine("ideal"), "mine", {"gather": 0.002}, "made up for a test")
    (tmp_path / "mine.yaml").write_text(yamlio.dump(engines.document(overlay)), encoding="utf-8")
    sound["engine"] = {"name": "mine.yaml"}
    experiment = load(sound)
    assert experiment.engine == overlay.spec
    assert [name for name, _ in experiment.file_hashes] == ["mine.yaml"]


def test_names_are_checked(sound, faults):
    assert "did you mean 'ideal'" in faults(sound, "engine.name=ideel")[0].message
    assert "no such file" in faults(sound, "engine.name=nowhere.yaml")[0].message


def test_fair_sharing_is_selectable_but_not_for_messages_of_one_request(sound, load, faults):
    assert not load(sound).fleet.cluster.network.is_shared
    assert load(sound, "cluster.network.sharing=shared").fleet.cluster.network.is_shared
    found = faults(sound, "cluster.network.sharing=shared", "engine.transfers=request")
    assert [problem.path for problem in found] == ["cluster.network.sharing"]


def test_a_name_alone_is_an_engine(sound, load, faults):
    mapping = load(sound | {"engine": {"name": "vllm-1"}})
    assert load(sound | {"engine": "vllm-1"}).config_hash == mapping.config_hash
    assert load(sound | {"engine": "vllm-1"}, "engine.max_num_seqs=8").engine == mapping.engine
    (problem,) = faults(sound | {"engine": "vllm-2"})
    assert "unknown engine 'vllm-2'" in problem.message
    assert problem.path == "engine"


def test_limits_of_an_engine_are_those_of_each_gpu_unless_stated(sound, load):
    sound["cluster"]["nodes"].append({"gpu": "h100", "region": "us"})
    sound["engine"] = "vllm-1"
    by_kind = {profile.kind: profile.limits[0] for profile in load(sound).fleet.profiles}
    assert (by_kind["h100"].max_decode_seqs, by_kind["l4"].max_decode_seqs) == (1024, 256)
    assert (by_kind["h100"].max_prefill_tokens, by_kind["l4"].max_prefill_tokens) == (8192, 2048)
    own = load(sound, "engine.max_num_batched_tokens=4096", "engine.max_num_seqs=32", "engine.cuda_graph_sizes=[8,1]")
    assert {(p.limits[0].max_prefill_tokens, p.limits[0].max_decode_seqs, p.limits[0].graph_sizes)
            for p in own.fleet.profiles} == {(4096, 32, (1, 8))}  # fmt: skip


def test_keys_of_the_scheduler_reach_the_engine(sound, load):
    plain = load(sound | {"engine": "vllm-1"}).engine
    assert (plain.chunks_prompts, plain.caches_prefixes) == (True, True)
    assert (plain.scheduling_policy, plain.long_prefill_token_threshold, plain.admission) == ("fcfs", 0, "prompt")
    own = load(
        sound | {"engine": "vllm-1"}, "engine.scheduling_policy=priority", "engine.long_prefill_token_threshold=512",
        "engine.enable_prefix_caching=false",
    ).engine  # fmt: skip
    assert own.scheduling_policy == "priority"
    assert own.long_prefill_token_threshold == 512
    assert not own.caches_prefixes


@pytest.mark.parametrize("name", ["vllm-1", "sglang", "trtllm", "trtllm-1.0", "vllm-0.4"])
def test_the_resolved_document_of_todays_engines_loads_to_the_same(sound, load, name):
    sound["workload"]["limits"] = {"max_prompt_tokens": 2048, "max_output_tokens": 1024}
    experiment = load(sound | {"engine": {"name": name, "allow_unsupported": True}}, "engine.max_num_seqs=99")
    again = load(dict(experiment.document))
    assert (again.engine, again.fleet, again.config_hash) == (
        experiment.engine,
        experiment.fleet,
        experiment.config_hash,
    )


def test_capacity_policies_are_rules_of_admission(sound, load):
    sound["workload"]["limits"] = {"max_prompt_tokens": 2048, "max_output_tokens": 1024}
    reserving = load(sound | {"engine": {"name": "trtllm", "allow_unsupported": True}})
    assert reserving.engine.admission == "max_output"
    kv = reserving.systems[0].kv
    assert (kv.max_reserved_share, kv.expected_output_tokens) == (1.0, 1024)
    assert (
        load(sound | {"engine": {"name": "trtllm", "allow_unsupported": True}}, "workload.scale.output_tokens=2")
        .systems[0]
        .kv.expected_output_tokens
        == 2048
    )
    free = load(
        sound | {"engine": {"name": "trtllm", "allow_unsupported": True}}, "engine.capacity_policy=max_utilization"
    )
    assert free.engine.admission == "prompt"
    assert free.systems[0].kv == load(sound | {"engine": "vllm-1"}).systems[0].kv


@pytest.mark.parametrize(
    ("engine", "key", "said"),
    [
        ({"enable_chunked_prefill": True}, "enable_chunked_prefill", "needs an engine with return: engine"),
        ({"scheduling_policy": "priority"}, "scheduling_policy", "needs an engine with return: engine"),
        ({"cuda_graph_sizes": [8]}, "cuda_graph_sizes", "needs an engine with return: engine"),
        ({"speculative": {"k": 2, "acceptance": 0.5}}, "speculative", "needs an engine with return: engine"),
        ({"name": "vllm-1", "return": "coordinator"}, "name", "needs an engine with return: engine"),
        ({"name": "vllm-0.4", "long_prefill_token_threshold": 5}, "long_prefill_token_threshold", "no effect"),
        (
            {"name": "vllm-1", "admission": "prompt", "capacity_policy": "max_utilization"},
            "capacity_policy",
            "not both",
        ),
        (
            {"name": "vllm-1", "max_num_batched_tokens": 64, "max_num_seqs": 65},
            "max_num_batched_tokens",
            "max_num_seqs 65",
        ),
        ({"name": "trtllm"}, "name", "workload.limits.max_output_tokens"),
        ({"name": "vllm-1", "capacity_policy": "guaranteed_no_evict"}, "capacity_policy", "max_output_tokens"),
        ({"name": "vllm-1", "max_num_seqs": 0}, "max_num_seqs", "greater than or equal to 1"),
        ({"name": "vllm-1", "scheduling_policy": "fifo"}, "scheduling_policy", "'fcfs'"),
        (
            {"name": "vllm-0.4", "max_num_batched_tokens": 64, "max_num_seqs": 8},
            "max_num_batched_tokens",
            "prompts of up to 64",
        ),
    ],
)
def test_combinations_without_a_meaning_are_refused(sound, faults, engine, key, said):
    sound["workload"].pop("limits", None)
    found = faults(sound | {"engine": engine})
    path = f"engine.{key}"
    assert path in [problem.path for problem in found]
    assert any(said in problem.message for problem in found if problem.path == path)


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({"k": 3, "acceptance": 0.5}, (0.5, 0.25, 0.125)),
        ({"k": 2, "acceptance": [0.9, 0.6]}, (0.9, 0.6)),
        ({"k": 2, "accepted": [0.1, 0.3, 0.6]}, (0.9, 0.6)),
        ({"k": 0, "acceptance": 0.9}, None),
        ({"k": 0, "accepted": [1.0]}, None),
    ],
)
def test_speculation_is_read_in_each_form(keys, rates):
    found = SpeculativeSection.model_validate(keys | {"draft_cost": 0.1}).speculation()
    assert (None if found is None else found.rates) == (None if rates is None else pytest.approx(rates))
    assert found is None or found.draft_cost == 0.1


def test_a_module_of_the_model_that_drafts_is_read(load, sound):
    keys = {"method": "mtp", "k": 1, "acceptance": 0.9}
    engine = load(sound | {"engine": {"name": "vllm-1", "speculative": keys}}).engine
    assert engine.speculation == Speculation((0.9,), is_mtp=True)
    engine = load(sound | {"engine": {"name": "vllm-1", "speculative": keys | {"overhead": "2 ms"}}}).engine
    assert engine.speculation == Speculation((0.9,), is_mtp=True, overhead_ns=2_000_000)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"k": 2, "acceptance": 0.5, "method": "eagle"}, "'draft_model'"),
        ({"k": 2, "acceptance": 0.5, "overhead": "1 ms"}, "overhead needs method: mtp"),
        ({"k": 2}, "give acceptance or accepted"),
        ({"k": 2, "acceptance": 0.5, "accepted": [1, 0, 0]}, "not both"),
        ({"k": 2, "acceptance": [0.5]}, "one rate for each of k: 2 positions, got 1"),
        ({"k": 2, "acceptance": [0.5, 0.6]}, "must not increase"),
        ({"k": 2, "acceptance": 1.5}, "less than or equal to 1"),
        ({"k": 2, "accepted": [0.5, 0.5]}, "needs 3 shares"),
        ({"k": 2, "accepted": [0.5, 0.4, 0.2]}, "must add up to 1, got 1.1"),
        ({"k": -1, "acceptance": 1}, "greater than or equal to 0"),
        ({"acceptance": 1}, "required key is missing"),
    ],
)
def test_faulty_speculation_is_refused(sound, faults, keys, said):
    found = faults(sound | {"engine": {"name": "vllm-1", "speculative": keys}})
    assert any(said in problem.message for problem in found)
    assert all(problem.path.startswith("engine.speculative") for problem in found)


def test_systems_batch_as_their_engine_does_unless_they_state_otherwise(sound, load):
    sound["workload"]["limits"] = {"max_prompt_tokens": 2048, "max_output_tokens": 1024}
    for name, policy in (("vllm-1", "continuous"), ("sglang", "prefill_first"), ("helix-vllm-0.4", "prefill_first")):
        assert [system.batching for system in load(sound | {"engine": name}).systems] == [policy] * 2
    sound["systems"][0]["batching"] = "continuous"
    found = load(sound | {"engine": {"name": "sglang"}}).systems
    assert [system.batching for system in found] == ["continuous", "prefill_first"]
    assert load(sound).systems[1].batching == "continuous"


def test_an_experiment_that_names_no_engine_is_told_which_it_has(sound, load):
    """Files of the time when there was one engine are read as they were; the sentence says what that means."""
    for section in ({}, {"engine": {"batch_overhead": "1 ms"}}):
        (said,) = [text for text in load(sound | section).assumptions if "engine" in text]
        assert said.startswith("no engine given: ideal, which sends each token through the coordinator")
    for section in ({"engine": "ideal"}, {"engine": {"name": "vllm-1"}}):
        assert not [text for text in load(sound | section).assumptions if "no engine" in text]


HOST = {"size": "2 GiB", "bandwidth": "16 GB/s", "latency": "10 us"}


def test_memory_behind_the_gpus_is_stated_level_by_level(sound, load):
    sound["engine"] = {"name": "vllm-1", "kv_offloading": {"host": HOST, "disk": {"size": "1 TiB"}}}
    experiment = load(sound)
    host, disk = experiment.engine.kv_tiers
    assert host == KvTier("host", 2 * 2**30, 16e9, 10_000)
    assert (disk.name, disk.size_bytes) == ("disk", 2**40)
    assert load(dict(experiment.document)).engine == experiment.engine
    del sound["engine"]["kv_offloading"]
    assert load(sound).engine.kv_tiers == ()


@pytest.mark.parametrize(
    ("section", "where", "allowed"),
    [
        ({"host": {**HOST, "size": "2"}}, "engine.kv_offloading.host.size", "TiB"),
        ({"host": {**HOST, "size": "-2 GiB"}}, "engine.kv_offloading.host.size", "-2 GiB"),
        ({"host": {**HOST, "bandwidth": "0 GB/s"}}, "engine.kv_offloading.host.bandwidth", "above zero"),
        ({"host": {**HOST, "latency": "10"}}, "engine.kv_offloading.host.latency", "no unit"),
        ({"disk": {"size": "1 TiB"}}, "engine.kv_offloading.host", "missing"),
        ({"host": HOST, "tape": {"size": "1 TiB"}}, "engine.kv_offloading.tape", "disk"),
    ],
)
def test_bad_levels_are_refused(sound, load, section, where, allowed):
    sound["engine"] = {"name": "vllm-1", "kv_offloading": section}
    with pytest.raises(ConfigError) as caught:
        load(sound)
    (fault,) = caught.value.problems
    assert where in str(caught.value)
    assert allowed in fault.message


@pytest.mark.parametrize(
    "engine",
    [
        {"name": "helix-vllm-0.4"},
        {"name": "vllm-1", "enable_prefix_caching": False},
        {"name": "vllm-1", "enable_chunked_prefill": False, "max_num_batched_tokens": 4096},
    ],
)
def test_levels_need_an_engine_that_keeps_blocks(sound, load, engine):
    sound["engine"] = {**engine, "kv_offloading": {"host": HOST}}
    with pytest.raises(ConfigError, match=r"needs an engine with return: engine, enable_prefix_caching: true and"):
        load(sound)
