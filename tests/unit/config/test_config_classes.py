"""``workload.classes`` and ``slo.classes``."""

from __future__ import annotations

import pytest

from helixsim.domain.request import Slo
from helixsim.workload.spec import RequestClass


@pytest.fixture
def mixed(sound):
    sound["workload"]["classes"] = {"chat": {"share": 0.8}, "batch": {"share": 0.2, "priority": 1}}
    sound["slo"] = {"ttft": "5 s", "classes": {"chat": {"ttft": "1 s", "tpot": "50 ms"}}}
    return sound


def test_classes_reach_the_load_and_the_objectives(mixed, load) -> None:
    experiment = load(mixed)
    assert experiment.workload.classes == (RequestClass("chat", 0.8, 0), RequestClass("batch", 0.2, 1))
    assert experiment.slo == Slo(5.0, classes=(("chat", Slo(1.0, 0.05)),))
    again = load(dict(experiment.document))
    assert (again.slo, again.workload.classes, again.config_hash) == (
        experiment.slo, experiment.workload.classes, experiment.config_hash,
    )  # fmt: skip


def test_classes_of_a_trace_need_no_share(mixed, load, tmp_path) -> None:
    rows = "arrival_s,prompt_tokens,output_tokens,slo_class,priority\n0,10,2,chat,\n1,10,2,batch,4\n2,10,2,,\n"
    (tmp_path / "trace.csv").write_text(rows)
    mixed["workload"] = {"trace": {"path": "trace.csv"}, "classes": {"batch": {"priority": 1}}}
    assert load(mixed).workload_stats.classes == ("batch", "chat")


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ("workload.classes.chat.share=0.7", "workload.classes", "must add up to 1, got 0.9"),
        ("workload.classes.chat.share=0", "workload.classes.chat.share", "greater than 0"),
        ("workload.classes.other={}", "workload.classes.other", "required key share is missing"),
        ("workload.classes.chat.weight=2", "workload.classes.chat.weight", "unknown key 'weight'"),
        (
            "slo.classes.chatt={ttft: 1 s}",
            "slo.classes.chatt",
            "no request has the class 'chatt'; did you mean 'chat'?",
        ),
        ("slo.classes.chat.ttft=1", "slo.classes.chat.ttft", "needs a unit"),
        ("slo.classes.chat.classes={}", "slo.classes.chat.classes", "unknown key 'classes'"),
        ("slo_targets={fast: {classes: {nobody: {ttft: 1 s}}}}", "slo_targets.fast.classes.nobody", "no request has"),
    ],
)
def test_faults_of_classes_have_their_place(mixed, faults, change, path, said) -> None:
    found = {problem.path: problem.message for problem in faults(mixed, change)}
    assert said in found[path]
