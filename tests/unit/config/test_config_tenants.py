"""``tenants``: experiments on parts of one cluster, and what is refused, with its place."""

from __future__ import annotations

import pytest

from helixsim import Experiment
from helixsim.config.edit import parse_option
from helixsim.errors import ConfigError

TENANTS = """\
schema: 1
name: two
seed: 3
engine: vllm-1
cluster:
  nodes:
    - {gpu: l4, count: 3}
    - {gpu: t4, count: 2}
  network: {intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}}
systems:
  - {placement: replicas}
workload:
  lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 20}
  arrivals: {process: poisson, rate: 1}
  duration: 20 s
tenants:
  - name: chat
    model: llama-3.1-8b
    precision: fp8
    slo: {ttft: 5 s, tpot: 200 ms}
    nodes: [gpu:l4]
  - name: rag
    model: llama-3.2-1b
    workload:
      lengths: {distribution: fixed, prompt_tokens: 500, output_tokens: 5}
      arrivals: {process: poisson, rate: 2}
      duration: 20 s
    slo: {ttft: 2 s}
    nodes: {t4: 2}
"""


def load(tmp_path, text=TENANTS, *options):
    path = tmp_path / "two.yaml"
    path.write_text(text, encoding="utf-8")
    return Experiment.load(path).with_([parse_option(option) for option in options])


def problems(tmp_path, text, *options):
    """All faults as text, of the tenants or else of their experiments."""
    experiment = load(tmp_path, text, *options)

    def resolve():
        found = experiment.tenants()
        for one in found.tenants:
            one.on(one.nodes or (), found.nodes).resolve()

    with pytest.raises(ConfigError) as caught:
        resolve()
    return str(caught.value)


def test_each_tenant_has_the_faults_of_its_nodes(tmp_path):
    faults = """\
faults:
  events:
    - {at: 5 s, nodes: [l4-1, t4-0], for: 2 s}
    - {at: 9 s, kind: slow, factor: 2, nodes: ["gpu:t4"]}
  random: {mtbf: 1 h, mttr: 1 min, nodes: [l4-0]}
  detection: 1 s
"""
    found = load(tmp_path, TENANTS + faults).tenants()
    chat, rag = (one.on(one.nodes, found.nodes).resolve().faults for one in found.tenants)
    assert [(fault.at_ns // 10**9, *fault.nodes) for fault in chat.schedule] == [(5, "l4-1"), (7, "l4-1")]
    assert [(fault.at_ns // 10**9, *fault.nodes) for fault in rag.schedule] == [
        (5, "t4-0"),
        (7, "t4-0"),
        (9, "t4-0", "t4-1"),
    ]
    assert (chat.random.groups, rag.random) == ((("l4-0",),), None)
    assert chat.detection_ns == rag.detection_ns == 10**9


def test_divisions_are_not_planned_with_faults(tmp_path):
    text = TENANTS.replace("    nodes: [gpu:l4]\n", "").replace("    nodes: {t4: 2}\n", "faults: {}\n")
    assert problems(tmp_path, text).count("need tenants whose nodes are stated") == 1


def test_each_tenant_is_an_experiment_on_its_nodes_with_the_keys_of_the_file_it_does_not_state(tmp_path):
    found = load(tmp_path).tenants()
    chat, rag = (one.on(one.nodes, found.nodes).resolve() for one in found.tenants)
    assert [node.id for node in chat.fleet.cluster.nodes] == ["l4-0", "l4-1", "l4-2"]
    assert [node.id for node in rag.fleet.cluster.nodes] == ["t4-0", "t4-1"]
    assert (chat.name, rag.name, chat.seed, rag.seed) == ("chat", "rag", 3, 3)
    assert (chat.fleet.model.name, rag.fleet.model.name) == ("llama-3.1-8b", "llama-3.2-1b")
    assert (chat.workload_stats.offered_rps, rag.workload_stats.offered_rps) == (1, 2)


def test_nodes_that_no_engine_runs_a_format_on_are_nothing_to_tenants_without_them(tmp_path):
    """T4 have no FP8 weights, which chat has; they belong to rag."""
    found = load(tmp_path).tenants()
    assert found.tenants[0].on(["l4-0"], found.nodes).resolve().fleet.model.precision == "fp8"
    with pytest.raises(ConfigError, match="FP8"):
        found.tenants[0].on(["l4-0", "t4-0"], found.nodes).resolve()


def test_edits_reach_tenants_and_what_they_share(tmp_path):
    options = ("tenants.1.workload.arrivals.rate=7", "seed=9", "engine.allow_unsupported=true")
    found = load(tmp_path, TENANTS.replace("    precision: fp8", "    engine: sglang"), *options).tenants()
    chat, rag = (one.experiment.document for one in found.tenants)
    assert (chat["seed"], rag["seed"], rag["workload"]["arrivals"]["rate"]) == (9, 9, 7)
    assert chat["engine"] == {"name": "sglang", "allow_unsupported": True}
    assert rag["engine"]["allow_unsupported"] is True


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("{t4: 2}", "[t4-0, l4-2]", ":29:12", "node l4-2 belongs to tenant chat already"),
        ("[gpu:l4]", "[l4-7]", ":21:13", "'l4-7' matches no node"),
        ("{t4: 2}", "{t4: 3}", ":29:17", "3 nodes of t4, but 2 are left"),
        ("{t4: 2}", "{a100: 1}", ":29:19", "unknown node type 'a100'"),
        ("{t4: 2}", "t4-*", ":29:12", "tenants.1.nodes: must be a list, got 't4-*'"),
        ("    nodes: {t4: 2}\n", "", ":22:5", "tenant rag states no nodes, but chat does: state them for all or none"),
        ("    nodes: {t4: 2}\n", "    nodes: []\n", ":29:12", "tenant rag has no nodes"),
        ("    model: llama-3.2-1b\n", "", ":22:5", "required key is missing"),
        ("name: rag", "name: chat", ":22:11", "the name 'chat' is already used"),
        ("seed: 3\n", "seed: 3\nfaults: {events: [{at: 1 s, nodes: [l5-*]}]}\n", ":4:37", "matches no node"),
        ("seed: 3\n", "seed: 3\nfaults: {random_links: {mtbf: 1 h, mttr: 1 s}}\n", ":4:24", "links that fail"),
        (
            "seed: 3\n",
            "seed: 3\nfaults: {random: {mtbf: 1 h, mttr: 1 s, correlated_by: site}}\n",
            ":4:56",
            "site is not simulated with tenants",
        ),
        ("    slo: {ttft: 2 s}\n", "    slo: {ttft: 2 s}\n    faults: {evens: []}\n", ":29:", "did you mean 'events'"),
        ("seed: 3\n", "seed: 3\nwhatif: []\n", ":4:1", "not with tenants: variants"),
        ("{placement: replicas}", "{placement: replicas}\n  - {placement: helix}", ":11:3", "2 systems for tenant"),
        ("rate: 2}", "rat: 2}", ":26:36", "unknown key 'rat'"),
        ("rate: 2}", "rate: -2}", ":26:42", "rate"),
        ("    slo: {ttft: 2 s}\n", "    slo: {ttft: 2 s}\n    weight: 0\n", ":29:13", "greater than"),
        ("seed: 3\n", "division: joint\n", ":3:11", "the nodes of the tenants are stated: remove them, or division"),
        ("[gpu:l4]", "l4-0", ":21:12", "nodes: must be a list, got 'l4-0'"),
        ("{t4: 2}", "{t4: 0}", ":29:17", "must be greater than or equal to 1"),
        ("count: 2}", "cout: 2}", ":8:", "unknown key 'cout'"),
    ],
)  # fmt: skip
def test_faults_are_refused_with_their_place(tmp_path, old, new, where, message):
    assert old in TENANTS
    found = problems(tmp_path, TENANTS.replace(old, new, 1))
    assert message in found
    assert f"two.yaml{where}" in found


def test_a_wrong_number_of_nodes_is_one_fault(tmp_path):
    """Not also that the mapping is no list, which `nodes` may be as well."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TENANTS.replace("{t4: 2}", "{t4: -1}")).tenants()
    assert [problem.path for problem in caught.value.problems] == ["tenants.1.nodes.t4"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "gpu: l4, count: 3",
            "gpu: l4, cout: 3",
            "7:17: cluster.nodes.0.cout: unknown key 'cout'; did you mean 'count'?",
        ),
        ("gpu: t4", "gpu: T-40", "8:13: cluster.nodes.1.gpu: unknown GPU 'T-40'"),
        ("gpu: t4", "gpu: a100", "8:13: cluster.nodes.1.gpu: unknown GPU 'a100'; did you mean one of 'a100-40g', "),
        ("gpu: t4", "gpu: mine.yaml", "8:13: cluster.nodes.1.gpu: no such file: "),
        ("count: 2}", "count: 2, ids: [t4-0]}", "8:32: cluster.nodes.1.ids: 1 ids for a count of 2"),
    ],
)
def test_a_fault_of_a_node_is_the_only_one(tmp_path, old, new, fault):
    """Not also that nodes which a tenant states do not exist."""
    assert old in TENANTS
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TENANTS.replace(old, new)).tenants()
    (problem,) = caught.value.problems
    assert f"two.yaml:{fault}" in str(problem)


def test_other_commands_are_told_that_these_are_several_experiments(tmp_path):
    with pytest.raises(ConfigError, match=r"two\.yaml: has tenants, which are several experiments"):
        load(tmp_path).resolve()


GUEST = """\
  - name: batch
    with: chat
    priority: 5
    workload:
      lengths: {distribution: fixed, prompt_tokens: 900, output_tokens: 9}
      arrivals: {process: poisson, rate: 3}
      duration: 20 s
    slo: {e2el: 60 s}
"""


def test_a_guest_is_a_class_of_requests_of_its_host(tmp_path):
    found = load(tmp_path, TENANTS + GUEST).tenants()
    assert [one.name for one in found.tenants] == ["chat+batch", "rag"]
    both = found.tenants[0].on(found.tenants[0].nodes, found.nodes).resolve()
    assert both.workload_stats.offered_rps == 4
    assert {one.name: (one.priority, one.arrivals.rate_rps) for one in both.workload.classes} == {
        "chat": (0, 1), "batch": (5, 3),
    }  # fmt: skip
    assert (both.slo.of("chat").ttft_s, both.slo.of("batch").e2el_s) == (5, 60)
    assert both.engine.scheduling_policy == "priority"
    equal = load(tmp_path, TENANTS + GUEST.replace("    priority: 5\n", "")).tenants().tenants[0]
    assert equal.experiment.document["engine"] == "vllm-1"  # nothing to tell apart


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("with: chat", "with: chet", "31:11: tenants.2.with: unknown tenant 'chet'"),
        ("with: chat", "with: batch", "unknown tenant 'batch'"),
        ("    slo: {e2el: 60 s}\n", "    model: llama-3.2-3b\n", "two models on one node are not simulated"),
        (
            "    slo: {e2el: 60 s}\n",
            "    nodes: [l4-0]\n",
            "37:5: tenants.2.nodes: not for a tenant that",
        ),
        ("    slo: {e2el: 60 s}\n", "    engine: sglang\n", "it has that of chat"),
        ("duration: 20 s", "duration: 30 s", "duration must be that of chat, '20 s': they are served together"),
        (
            "    slo: {e2el: 60 s}\n",
            "    slo: {classes: {a: {e2el: 1 s}}}\n",
            "classes are not allowed where tenants are served",
        ),
        ("rate: 3", "rate: -3", "rate -3 is negative"),
    ],
)
def test_faulty_guests_are_refused(tmp_path, old, new, message):
    assert old in GUEST
    assert message in problems(tmp_path, TENANTS + GUEST.replace(old, new))
