"""Several tenants on one cluster: what each gets from its part, files, and the fairness of a division."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim import Experiment
from helixsim.cli.main import main
from helixsim.metrics.tenants import jain, served, value

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
    assert rag["usd_per_hour"] + batch["usd_per_hour"] == pytest.approx(2 * 0.54, rel=0.1)
    tokens = {"rag": 3 * 505, "batch": 4 * 920}
    assert batch["usd_per_hour"] / rag["usd_per_hour"] == pytest.approx(tokens["batch"] / tokens["rag"])
    assert found["totals"]["usd_per_hour"] == pytest.approx(
        sum(one["usd_per_hour"] for one in found["tenants"].values())
    )
    assert set(found["tenants"]) == {"chat", "rag", "batch"}


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
