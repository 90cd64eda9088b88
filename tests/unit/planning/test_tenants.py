"""Several tenants on one cluster: what each gets from its part, files, and the fairness of a division."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helixsim
from helixsim import Experiment
from helixsim.cli.main import main
from helixsim.errors import ConfigError
from helixsim.metrics.tenants import jain, served, value
from helixsim.metrics.throughput import delivered_tokens
from helixsim.report.tenant_files import headline
from helixsim.results.tenants import Division, NodeKind, Part, TenantResults

FILE = """\
schema: 1
name: two
cluster:
  nodes:
    - {gpu: l4, count: 3}
    - {gpu: t4, count: 2}
  network: {intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}}
engine: vllm-1
systems:
  - {placement: replicas, routing: least_loaded}
tenants:
  - name: chat
    model: llama-3.1-8b
    precision: fp8
    workload: &chat
      lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 20}
      arrivals: {process: poisson, rate: 2}
      duration: 10 s
    slo: {ttft: 5 s, tpot: 200 ms}
    nodes: [gpu:l4]
  - name: rag
    model: llama-3.2-1b
    workload:
      lengths: {distribution: fixed, prompt_tokens: 500, output_tokens: 5}
      arrivals: {process: poisson, rate: 3}
      duration: 10 s
    slo: {ttft: 2 s}
    nodes: [gpu:t4]
""".replace(" &chat", "")

WEIGHTED = st.lists(
    st.tuples(st.floats(0, 1).map(lambda x: round(x, 3)), st.floats(0.1, 10)), min_size=1, max_size=6
)  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The results of the file, and the folder of all runs."""
    out = tmp_path_factory.mktemp("tenants")
    path = out / "two.yaml"
    path.write_text(FILE, encoding="utf-8")
    assert main(["run", str(path), "--out", str(out), "--jobs", "1", "-q"]) == 0
    (directory,) = (out / "tenants" / "two").iterdir()
    return out, directory, json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def test_the_run_of_a_tenant_is_that_of_its_experiment_alone(two):
    """Chat with the nodes of rag taken out of the file has the same figures."""
    out, _, found = two
    lines = FILE.replace("    - {gpu: t4, count: 2}\n", "").splitlines()
    chat = [line[4:] for line in lines[lines.index("  - name: chat") + 1 : lines.index("  - name: rag") - 1]]
    text = "\n".join(["schema: 1", "name: chat", *lines[2 : lines.index("tenants:")], *chat])
    path = out / "chat.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["run", str(path), "--out", str(out / "alone"), "--jobs", "1", "-q"]) == 0
    (directory,) = (out / "alone" / "chat").iterdir()
    for name in ("summary.json", "requests/replicas.csv", "nodes.csv"):
        assert (directory / name).read_bytes() == (out / found["tenants"]["chat"]["run"] / name).read_bytes()


def test_a_single_tenant_is_the_plain_experiment(tmp_path):
    alone = Experiment.from_data({**DATA, "model": "llama-3.2-1b", "name": "rag"})
    tenants = Experiment.from_data({**DATA, "tenants": [{"name": "rag", "model": "llama-3.2-1b"}]}).tenants()
    (rag,) = tenants.tenants
    assert rag.on(rag.nodes, tenants.nodes).resolve().config_hash == alone.resolve().config_hash


DATA = {
    "schema": 1,
    "cluster": {
        "nodes": [{"gpu": "l4", "count": 2}],
        "network": {"intra_region": {"bandwidth": "10 Gbit/s", "latency": "1 ms"}},
    },
    "systems": [{"placement": "replicas"}],
    "workload": {"arrivals": {"process": "poisson", "rate": 1}, "duration": "10 s"},
}


def test_each_node_belongs_to_one_tenant_and_totals_are_sums(two):
    _, directory, found = two
    tenants = found["tenants"]
    nodes = [node for one in tenants.values() for node in one["nodes"]]
    assert sorted(nodes) == ["l4-0", "l4-1", "l4-2", "t4-0", "t4-1"]
    for total, key in (("usd_per_hour", "usd_per_hour"), ("gpus", "gpus"), ("request_goodput", "request_goodput"),
                       ("output_throughput", "output_throughput")):  # fmt: skip
        assert found["totals"][total] == pytest.approx(sum(one[key] for one in tenants.values()))
    assert found["totals"]["value"] == pytest.approx(sum(served(one["slo_attainment"]) for one in tenants.values()) / 2)
    assert (directory / "tenants.csv").read_text(encoding="utf-8").startswith("tenant,model,weight")
    assert "requests within the objectives, %" in (directory / "report.html").read_text(encoding="utf-8")


def test_a_second_run_finds_the_first_and_prints_the_same(two, capsys):
    out, _, found = two
    assert main(["run", str(out / "two.yaml"), "--out", str(out), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["run", str(out / "two.yaml"), "--out", str(out), "-v", "-q"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{one['run']}\nVerdict" in shown for one in found["tenants"].values())


def test_commands_on_one_run_name_those_of_the_tenants(two, capsys):
    _, directory, found = two
    assert main(["report", str(directory)]) == 3
    assert found["tenants"]["rag"]["run"] in capsys.readouterr().err


def test_validate_shows_every_tenant(two, capsys):
    out = two[0]
    assert main(["validate", str(out / "two.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: one["model"]["name"] for name, one in found["tenants"].items()} == {
        "chat": "llama-3.1-8b", "rag": "llama-3.2-1b",
    }  # fmt: skip


def test_stated_nodes_that_cannot_hold_the_model_are_an_error(two, capsys):
    out = two[0]
    options = ["--set", "tenants.1.model=llama-3.1-70b", "--out", str(out), "--jobs", "1", "-q"]
    assert main(["run", str(out / "two.yaml"), *options]) == 4
    assert "tenant rag: llama-3.1-70b does not fit" in capsys.readouterr().err


def test_a_rule_divides_without_a_search(tmp_path, capsys):
    path = tmp_path / "two.yaml"
    path.write_text(FILE.replace("    nodes: [gpu:l4]\n", "").replace("    nodes: [gpu:t4]\n", ""), encoding="utf-8")
    options = ["--set", "division=equal", "--out", str(tmp_path), "--jobs", "1", "-q", "--json"]
    assert main(["run", str(path), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "by_hand" not in found
    assert [one["kinds"] for one in found["tenants"].values()] == [{"l4": 2}, {"l4": 1, "t4": 1}]


GUEST = """\
  - name: batch
    with: rag
    priority: 1
    workload:
      lengths: {distribution: fixed, prompt_tokens: 900, output_tokens: 20}
      arrivals: {process: poisson, rate: 4}
      duration: 10 s
    slo: {e2el: 20 s}
"""


def test_tenants_that_share_nodes_are_classes_of_one_run(tmp_path):
    path = tmp_path / "three.yaml"
    path.write_text(FILE + GUEST, encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path), "--jobs", "1", "-q"]) == 0
    (directory,) = (tmp_path / "tenants" / "two").iterdir()
    found = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    rag, batch = found["tenants"]["rag"], found["tenants"]["batch"]
    assert (rag["nodes"], rag["run"]) == (batch["nodes"], batch["run"])
    assert rag["shares_nodes_with"] == ["batch"]
    run = json.loads((tmp_path / rag["run"] / "summary.json").read_text(encoding="utf-8"))["systems"]["replicas"]
    assert rag["request_goodput"] + batch["request_goodput"] == pytest.approx(run["request_goodput"])
    assert rag["output_throughput"] + batch["output_throughput"] == pytest.approx(run["output_throughput"], rel=0.02)
    assert rag["usd_per_hour"] + batch["usd_per_hour"] == pytest.approx(2 * 0.54, rel=0.1)
    tokens = {"rag": 3 * 505, "batch": 4 * 920}
    assert batch["usd_per_hour"] / rag["usd_per_hour"] == pytest.approx(tokens["batch"] / tokens["rag"])
    assert found["totals"]["usd_per_hour"] == pytest.approx(
        sum(one["usd_per_hour"] for one in found["tenants"].values())
    )
    assert set(found["tenants"]) == {"chat", "rag", "batch"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_tokens_come_evenly_between_the_first_one_and_the_last(requests):
    """Windows that follow one another share the tokens of all requests among them."""
    first, length, tokens = (np.array(one) for one in zip(*requests, strict=True))
    columns = SimpleNamespace(first_token_ns=first, finish_ns=first + length, output_tokens=tokens)
    series = SimpleNamespace(time_ns=np.array([0, 40]))

    def within(start_ns, end_ns):
        return delivered_tokens(SimpleNamespace(
            requests=columns, window_start_ns=start_ns, window_end_ns=end_ns, series=series,
        ))  # fmt: skip

    assert within(-9, 4) + within(4, 7) + within(7, 40) == pytest.approx(tokens.sum())
    if length[0] > 1:
        middle = first[0] + length[0] // 2
        columns = SimpleNamespace(first_token_ns=first[:1], finish_ns=first[:1] + length[:1], output_tokens=tokens[:1])
        expected = 1 + (tokens[0] - 1) * (middle - first[0]) / length[0]
        assert within(first[0] - 1, middle) == pytest.approx(expected)


def test_a_tenant_without_requests_counts_in_no_mean(tmp_path, capsys):
    path = tmp_path / "two.yaml"
    path.write_text(FILE, encoding="utf-8")
    idle = "tenants.1.workload.arrivals={process: poisson, rate: 0.0001}"
    assert main(["run", str(path), "--set", idle, "--out", str(tmp_path), "--jobs", "1", "-q", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tenants"]["rag"]["slo_attainment"] is None
    assert found["totals"]["value"] == served(found["tenants"]["chat"]["slo_attainment"]) == 1.0
    assert found["totals"]["jain_index"] == 1.0
    assert "rag: no request has a known outcome; it counts in no mean." in headline(found)


def test_replicas_that_come_and_go_are_paid_as_long_as_they_are_there():
    """A pool of three nodes of 2 $/h of which half was paid for, beside two nodes without a pool."""
    kinds = (NodeKind("l4", ("a", "b", "c"), 1, 2.0), NodeKind("t4", ("d", "e"), 1, 1.0))

    def part(autoscaling, usd_per_hour):
        summary = SimpleNamespace(autoscaling=autoscaling, cost=SimpleNamespace(usd_per_hour=usd_per_hour))
        return Part("run", summary, is_met=True)

    division = Division("", ((3, 0), (0, 2)), (part(object(), 3.0), part(None, 99.0)))
    results = TenantResults("both", (), kinds, (("a", "b", "c"), ("d", "e")), division)
    assert [results.paid(*pair) for pair in zip(division.parts, division.counts, strict=True)] == [3.0, 2.0]
    assert results.price_of(division) == 5.0


def test_python_runs_tenants_as_the_command_does(two, tmp_path):
    out, directory, found = two
    experiment = helixsim.load(out / "two.yaml")
    runs = helixsim.run_tenants(experiment, out=out, jobs=1)
    assert (runs.directory, runs.document) == (directory, found)
    assert list(runs) == ["chat", "rag"]
    assert runs["chat"]["replicas"].summary.throughput.goodput_per_s == found["tenants"]["chat"]["request_goodput"]
    assert runs.table().loc["rag", "gpus"] == 2
    assert helixsim.read(directory).document == found
    with pytest.raises(ConfigError, match="run_tenants"):
        experiment.run(out)
    with pytest.raises(ConfigError, match="has no tenants"):
        helixsim.run_tenants(Experiment.from_data(DATA))


def test_a_sweep_has_a_row_for_each_tenant(two):
    out, _, found = two
    axes = {"tenants.0.workload.arrivals.rate": [2, 1]}
    rows = helixsim.sweep(helixsim.load(out / "two.yaml"), axes, out=out, jobs=1).rows
    assert [(row["tenants.0.workload.arrivals.rate"], row["system"]) for row in rows] == [
        (2, "chat"), (2, "rag"), (1, "chat"), (1, "rag"),
    ]  # fmt: skip
    assert rows[0]["run"] == str(out / found["tenants"]["chat"]["run"])
    assert rows[0]["goodput_per_s"] == found["tenants"]["chat"]["request_goodput"]
    same = ("seed", "run", "system", "goodput_per_s", "output_tokens_per_s")
    assert {key: rows[1][key] for key in same} == {key: rows[3][key] for key in same}


def test_the_capacity_of_a_tenant_is_that_of_its_experiment_alone(tmp_path, capsys):
    both = [tmp_path / "one.yaml", tmp_path / "tenants.yaml"]
    slo = {"ttft": "300 ms"}
    for path, more in zip(both, ({"slo": slo}, {"tenants": [{"name": "tiny", "slo": slo}]}), strict=True):
        path.write_text(json.dumps({**DATA, "name": "tiny", "model": "llama-3.2-1b", **more}), encoding="utf-8")
    shown = []
    for path in both:
        options = [
            "--seeds",
            "1",
            "--no-curve",
            "--tolerance",
            "50%",
            "--jobs",
            "1",
            "--out",
            str(tmp_path),
            "-q",
            "--json",
        ]
        assert main(["capacity", str(path), *options]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[1] == {"tenants": {"tiny": shown[0]}}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sweep", "tenants: this file describes tenants, expected a sweep with base: two.yaml and axes"),
        ("fleet", "tenants: this file describes tenants, expected a plan with offers"),
        ("place", "the commands run, validate, capacity and sweep take them"),
        ("capacity", "tenant chat states no nodes"),
    ],
)
def test_commands_say_in_one_sentence_what_they_take(tmp_path, capsys, command, message):
    path = tmp_path / "two.yaml"
    path.write_text(FILE.replace("    nodes: [gpu:l4]\n", "").replace("    nodes: [gpu:t4]\n", ""), encoding="utf-8")
    assert main([command, str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("helixsim: error") == 1


@settings(max_examples=25, deadline=None)
@given(WEIGHTED)
def test_jain_is_between_the_least_weight_and_one(pairs):
    shares, weights = zip(*pairs, strict=True)
    found = jain(shares, weights)
    if not any(shares):
        assert found is None
        return
    assert min(weights) / sum(weights) <= found * (1 + 1e-9)
    assert found <= 1 + 1e-9
    equal = jain(shares, [1.0] * len(shares))
    assert 1 / len(shares) <= equal * (1 + 1e-9)
    assert jain([2 * share for share in shares], weights) == pytest.approx(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_jain_of_k_equal_shares_among_n_is_k_over_n(k, more):
    n = k + more
    assert jain([0.7] * k + [0.0] * more, [1.0] * n) == pytest.approx(k / n)
    assert jain([0.7, 0.0], [float(k), float(more)]) == pytest.approx(k / n)  # a weight counts as so many tenants


@settings(max_examples=25, deadline=None)
@given(WEIGHTED, st.data())
def test_value_sums_to_the_weighted_mean_whatever_the_priorities(pairs, data):
    shares, weights = zip(*pairs, strict=True)
    priorities = data.draw(st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)))
    whole = sum(w * served(x) for w, x in zip(weights, shares, strict=True)) / sum(weights)
    assert sum(value(shares, weights, priorities)) == pytest.approx(whole)
    assert len(value(shares, weights, priorities)) == len(set(priorities))
