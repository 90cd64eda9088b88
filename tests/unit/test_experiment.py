"""Experiments as data: immutable, picklable, the same from a file and from Python, changed in one way only."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import helixsim
from helixsim import Experiment, yamlio
from helixsim.errors import ConfigError
from tests.unit.config.conftest import SOUND


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(yamlio.dump(SOUND | {"systems": [{"placement": "swarm"}, {"placement": "helix"}]}), "utf-8")
    return path


def test_a_file_and_its_data_make_the_same_experiment(path):
    loaded = Experiment.load(path).with_(name="x")
    built = Experiment.from_data(loaded.document)
    assert built.resolve().config_hash == loaded.resolve().config_hash
    assert built.resolve().document == loaded.resolve().document


def test_changing_an_experiment_leaves_it_as_it_was(path):
    base = Experiment.load(path)
    before = base.document
    busier = base.with_({"workload.arrivals.rate": 2, "systems.0.routing": "random"}, seed=3)
    assert base.document == before
    assert base.edits == ()
    resolved = busier.resolve()
    assert (resolved.workload.arrivals.rate_rps, resolved.systems[0].routing, resolved.seed) == (2, "random", 3)
    assert busier.resolve() is resolved
    busier.document["seed"] = 4  # a copy
    assert busier.with_(name="x").resolve().seed == 3
    as_told = [edit.text for edit in busier.edits]
    assert helixsim.load_experiment(path, as_told).config_hash == resolved.config_hash


def test_what_a_caller_does_to_his_data_later_changes_nothing(path):
    data = Experiment.load(path).document
    built = Experiment.from_data(data)
    data["seed"] = "nonsense"
    nodes = [{"gpu": "a100-40g", "count": 8, "region": "eu"}]
    changed = built.with_({"cluster.nodes": nodes})
    nodes.append("nonsense")
    assert len(changed.resolve().fleet.cluster.nodes) == 8


def test_an_experiment_travels_to_other_processes_without_its_files(path, tmp_path):
    (tmp_path / "cluster.yaml").write_text(yamlio.dump(SOUND["cluster"]), "utf-8")
    experiment = Experiment.load(path).with_({"cluster": tmp_path / "cluster.yaml", "cluster.nodes.0.count": 5})
    resolved = experiment.resolve()
    sent = pickle.dumps(experiment)
    path.unlink()
    (tmp_path / "cluster.yaml").unlink()
    received = pickle.loads(sent)
    assert received.resolve() == resolved
    assert received.edits == experiment.edits
    with pytest.raises(ConfigError, match=r"^with_: model\.x: model is 'llama-2-70b' and has no key 'x'"):
        received.with_({"model.x": 1})


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"systems.5.name": "x"}, "with_: systems.5.name", r"no entry '5' in the list systems \(entries: 0 to 1\)"),
        ({"sed": 1}, "with_: sed", "unknown key 'sed'; did you mean 'seed'"),
        ({("workload", "duration"): "fast"}, "with_: workload.duration", "workload.duration"),
        ({"systems.0.placement": "swrm"}, "with_: systems.0.placement", "did you mean 'swarm'"),
        ({"slo.ttft": object()}, "with_: slo.ttft", "expected plain data"),
    ],
)
def test_faults_name_the_change_that_brought_them(path, changes, where, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Experiment.load(path).with_(changes).resolve()
    assert {problem.where for problem in caught.value.problems} == {where}


def test_faults_of_data_are_told_by_their_keys(path):
    data = Experiment.load(path).document
    del data["model"]
    data["cluster"]["nodes"][0]["count"] = 0
    with pytest.raises(ConfigError) as caught:
        Experiment.from_data(data).resolve()
    assert sorted(problem.path for problem in caught.value.problems) == ["cluster.nodes.0.count", "model"]


def test_a_change_of_a_change_and_of_what_was_missing(path):
    first = Experiment.load(path).with_({"slo": {"ttft": "5 s"}, "systems.1.placement.select": "flow"})
    both = first.with_({"slo.tpot": "1 s"}).resolve()
    assert (both.slo.ttft_s, both.slo.tpot_s) == (5, 1)
    assert first.resolve().slo.tpot_s is None
    assert both.systems[1].placement_options.select == "flow"


def test_relative_files_of_data_count_from_their_folder_and_those_of_changes_from_here(path, tmp_path, monkeypatch):
    text = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,10,5\n"
    (tmp_path / "t.csv").write_text(text, "utf-8")
    data = Experiment.load(path).document
    data["workload"] = {"trace": {"path": "t.csv"}}
    assert Experiment.from_data(data, directory=tmp_path).resolve().file_hashes[0][0] == "t.csv"
    monkeypatch.chdir(tmp_path)
    elsewhere = Experiment.load(path.resolve()).with_({"workload": {"trace": {"path": Path("t.csv")}}})
    assert elsewhere.resolve().workload.arrivals.process == "trace"
