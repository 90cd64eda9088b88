"""``engine``: the profile it names, with what the experiment states of its own."""

from __future__ import annotations

from helixsim import yamlio
from helixsim.hardware import engines


def test_without_a_name_the_engine_is_ideal(sound, load):
    experiment = load(sound)
    assert experiment.engine == engines.load_engine("ideal").spec
    assert not experiment.is_one_by_one
    assert experiment.document["engine"]["memory_fraction"] == 0.9


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
    assert experiment.document["engine"]["memory_fraction"] == named.memory_fraction


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
