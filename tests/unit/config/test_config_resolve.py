"""A sound experiment becomes what it says; --set, shorthands, files and hashes do what the reference promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helixsim import yamlio
from helixsim.config.edit import parse_option
from helixsim.config.source import Source
from helixsim.errors import ConfigError
from helixsim.units import NS_PER_S


def test_defaults_and_shorthands(load, sound):
    experiment = load(sound)
    assert [system.name for system in experiment.systems] == ["helix", "swarm"]
    assert experiment.baseline == "swarm"
    assert experiment.name == "exp"
    assert experiment.systems[0].routing == "auto"  # of helix; of others, flow_weighted
    assert experiment.systems[1].placement_options.depth == 3
    assert not experiment.workload.window.drain
    assert experiment.workload.window.duration_ns == 600 * NS_PER_S


def test_the_document_loads_again_to_the_same_experiment(load, sound):
    first = load(sound)
    again = load(yamlio.dump(dict(first.document)))
    assert again.document == first.document
    assert again.config_hash == first.config_hash
    assert json.loads(json.dumps(first.document, allow_nan=False)) == first.document


@pytest.mark.parametrize(
    "override",
    ["seed=1", "workload.arrivals.rate=3", "systems.0.placement.depth=4", "cluster.nodes.0.cost=9 $/h", "name=other"],
)
def test_whatever_is_changed_changes_the_hash(load, sound, override):
    assert load(sound, override).config_hash != load(sound).config_hash


def test_comments_and_order_of_keys_do_not_change_the_hash(load, sound):
    text = "# a comment\n" + yamlio.dump(dict(reversed(sound.items())))
    assert load(text).config_hash == load(sound).config_hash


def test_the_contents_of_named_files_enter_the_hash(load, sound, tmp_path):
    sound["workload"] = {"trace": {"path": "t.csv"}}
    hashes = set()
    for output_tokens in (5, 6):
        text = f"arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,10,{output_tokens}\n"
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        experiment = load(sound)
        assert [name for name, _ in experiment.file_hashes] == ["t.csv"]
        hashes.add(experiment.config_hash)
    assert len(hashes) == 2
    assert experiment.workload.arrivals.process == "trace"


def test_set_goes_into_a_shorthand_a_list_and_a_missing_mapping(load, sound):
    experiment = load(sound, "systems.0.placement.depth=7", "slo.ttft=5 s", "cluster.nodes.1.count=3")
    assert experiment.systems[0].placement == "helix"
    assert experiment.systems[0].placement_options.depth == 7
    assert experiment.slo.ttft_s == 5
    assert len(experiment.fleet.cluster.nodes) == 9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("systems.5.name=x", r"no entry '5' in the list systems \(entries: 0 to 1\)"),
        ("model.size=3", "has no key 'size'"),
        ("noequals", "expected key.path=value"),
        ("seed=[1", "unreadable YAML"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'"),
        ("foo.bar=1", "unknown key 'foo'"),
    ],
)
def test_a_wrong_override_is_named(load, sound, override, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load(sound, override)
    assert all(problem.where.startswith(f"--set {override}") for problem in caught.value.problems)


def test_a_cluster_file_is_read_in_with_its_own_positions(load, faults, sound, tmp_path):
    (tmp_path / "parts").mkdir()
    cluster = tmp_path / "parts" / "cluster.yaml"
    cluster.write_text(yamlio.dump(sound["cluster"]), encoding="utf-8")
    inline = load(sound)
    sound["cluster"] = "parts/cluster.yaml"
    assert load(sound).config_hash == inline.config_hash
    assert len(load(sound, "cluster.nodes.0.count=5").fleet.cluster.nodes) == 9
    cluster.write_text(cluster.read_text(encoding="utf-8").replace("count: 4", "count: 0"), encoding="utf-8")
    (problem,) = faults(sound)
    assert problem.where.startswith(f"{cluster}:")


def test_relative_names_count_from_their_file_and_those_of_overrides_from_the_working_directory(sound, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cluster.yaml").write_text(yamlio.dump(sound["cluster"]), encoding="utf-8")
    sound["cluster"] = "parts/cluster.yaml"
    (tmp_path / "exp.yaml").write_text(yamlio.dump(sound), encoding="utf-8")
    source = Source.read(tmp_path / "exp.yaml").edited(parse_option("cluster.network.links=links.csv"))
    assert source.file(("cluster", "nodes", 0, "gpu"), "x") == tmp_path / "parts" / "x"
    assert source.file(("model",), "x") == tmp_path / "x"
    assert source.file(("cluster", "network", "links"), "x") == Path("x")


def test_options_that_are_files_are_found_and_hashed(load, sound, tmp_path):
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    sound["systems"][0]["placement"] = {"strategy": sound["systems"][0]["placement"], "file": "plan.json"}
    experiment = load(sound, "systems.0.placement.kinds=[l4]")
    assert experiment.systems[0].placement_options.file == tmp_path / "plan.json"
    assert experiment.systems[0].placement_options.kinds == ("l4",)
    assert experiment.file_hashes[0][0] == "plan.json"
    assert experiment.document["systems"][0]["placement"]["file"] == "plan.json"


def test_limits_of_nodes_belong_to_one_system(load, sound):
    sound["systems"][0]["nodes"] = [{"match": "a100-*", "kv_tokens": 1000}, {"match": "a100-3", "max_requests": 2}]
    first, second = load(sound).systems
    assert [node.kv_blocks for node in first.fleet.cluster.nodes[:5]] == [62, 62, 62, 62, None]
    assert [node.max_requests for node in first.fleet.cluster.nodes[2:5]] == [None, 2, None]
    assert all(node.kv_blocks is None for node in second.fleet.cluster.nodes)
    assert first.fleet.profiles is second.fleet.profiles
