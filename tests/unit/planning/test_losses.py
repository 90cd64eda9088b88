"""Capacity after losses: equal nodes once, the worst named, nothing saved, and as if the nodes had never been there."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

import helixsim
from helixsim.cli.main import main
from helixsim.planning.losses import Loss, Losses, losses_of, without
from helixsim.study.whatif import keep_placement

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: l4, count: 2, region: a}
    - {gpu: t4, count: 2, region: b}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 10 Gbit/s, latency: 2 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 2 s
  duration: 8 s
systems:
  - {name: replicas, placement: replicas}
slo: {ttft: 400 ms, tpot: 120 ms}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def search(path, capsys, *arguments):
    command = ["capacity", str(path), "--out", str(path.parent / "out"), "--executor", "serial", "--tolerance", "10%",
               "--seeds", "1", "--no-curve", "-q"]  # fmt: skip
    code = main([*command, *arguments])
    return code, capsys.readouterr()


def test_any_node_is_each_class_once_and_the_worst_is_named(path, capsys):
    code, said = search(path, capsys, "--lose", "any-node", "--lose", "site:b", "--json")
    assert code == 0
    document = json.loads(said.out)
    one = document["systems"]["replicas"]
    rates = {loss["lost"]: loss["targets"]["slo"]["requests_per_s"] for loss in one["losses"]}
    assert {loss["lost"]: loss["alike"] for loss in one["losses"]} == {"site:b": 1, "l4-0": 2, "t4-0": 2}
    assert document["replan"] is True
    assert one["worst_loss"]["slo"]["requests_per_s"] == min(rates.values())
    assert rates[one["worst_loss"]["slo"]["lost"]] == min(rates.values())
    whole = one["targets"]["slo"]
    assert all(rate <= whole["requests_per_s"] * 1.1 + 1e-9 for rate in rates.values())
    price = {loss["lost"]: loss["targets"]["slo"]["at_capacity"]["helixsim"]["cost_usd_per_hour"]
             for loss in one["losses"]}  # fmt: skip
    assert set(price.values()) == {whole["at_capacity"]["helixsim"]["cost_usd_per_hour"]}
    assert [purchase["offer"] for purchase in one["purchases"]]
    code, said = search(path, capsys, "--lose", "any-node", "--lose", "site:b")
    assert "Worst loss: " in said.out
    assert "The best next purchase is one more" in said.out
    (page,) = {page for page in path.parent.rglob("report.md") if "Capacity after losses" in page.read_text()}
    assert "(worst)" in page.read_text()


def test_a_loss_equals_a_cluster_in_which_the_nodes_are_down(path, capsys):
    _, said = search(path, capsys, "--lose", "l4-1", "--json")
    (loss,) = json.loads(said.out)["systems"]["replicas"]["losses"]
    _, said = search(path, capsys, "--set", "cluster.down=[l4-1]", "--json")
    down = json.loads(said.out)["systems"]["replicas"]["targets"]["slo"]
    found = loss["targets"]["slo"]
    assert down["requests_per_s"] == pytest.approx(found["requests_per_s"], rel=0.1)
    keys = ("cost_usd_per_hour", "max_flow_tokens_per_s")
    assert [found["at_capacity"]["helixsim"][key] for key in keys] == [
        pytest.approx(down["at_capacity"]["helixsim"][key]) for key in keys
    ]


def test_a_kept_placement_loses_its_chain_and_a_fleet_too_small_has_no_capacity(path, capsys):
    chain = ("--set", "systems=[{placement: {strategy: swarm, stages: 4}}]", "--set", "model=llama-2-13b")
    code, said = search(path, capsys, "--lose", "any-node", "--replan", "false", "--json", *chain)
    assert code == 0
    one = json.loads(said.out)["systems"]["swarm"]
    assert len(one["losses"]) == 4  # each node holds other layers
    assert {loss["targets"]["slo"]["requests_per_s"] for loss in one["losses"]} == {0}
    assert all("does not outlive the change" in loss["targets"]["slo"]["binds"] for loss in one["losses"])
    code, said = search(path, capsys, "--lose", "any-node", "--replan", "false", *chain)
    assert "leaves no capacity" in said.out


def test_nodes_without_layers_are_no_loss(path, capsys):
    idle = ("--set", "systems=[{placement: {strategy: helix, exclude: [t4-*], select: flow}}]")
    code, said = search(path, capsys, "--lose", "gpu:t4", "--lose", "l4-0", "--json", *idle)
    assert code == 0, said.err
    one = json.loads(said.out)["systems"]["helix"]
    idle_loss, real = sorted(one["losses"], key=lambda loss: not loss["is_idle"])
    assert idle_loss["is_idle"]
    assert not real["is_idle"]
    assert idle_loss["targets"]["slo"]["requests_per_s"] == one["targets"]["slo"]["requests_per_s"]
    assert idle_loss["simulations"] == 0 < real["simulations"]


def test_classes_of_a_kept_placement_are_those_of_equal_roles(path):
    experiment = helixsim.load_experiment(path, ["model=llama-2-13b", "systems=[{placement: {strategy: swarm}}]"])
    placed = helixsim.place(experiment, "swarm")
    held = placed.placement.ranges
    for loss in losses_of(Losses(("any-node",), replan=False), placed):
        (node,) = loss.nodes
        type_of = {one.id: one.node_type for one in placed.system.fleet.cluster.nodes}
        equal = [one for one in type_of if type_of[one] == type_of[node] and held.get(one) == held.get(node)]
        assert loss.alike == len(equal)


@pytest.mark.parametrize(("placement", "alike"), [("replicas", [2, 1, 1]), ("separate", [1, 1, 1, 1])])
def test_nodes_of_equal_pipelines_are_one_class_of_a_kept_placement(path, placement, alike):
    """A node of a pipeline is known by all that its pipeline holds."""
    experiment = helixsim.load_experiment(path, [f"systems=[{{placement: {placement}}}]"])
    placed = helixsim.place(experiment, placement)
    assert placed.placement.pipelines
    assert [one.alike for one in losses_of(Losses(("any-node",), replan=False), placed)] == alike


def test_the_routing_that_was_selected_stays_with_a_kept_placement(path):
    experiment = helixsim.load_experiment(path, ["systems.0.routing=auto"])
    placed = helixsim.place(experiment, "replicas")
    notes = {**placed.placement.notes, "routing": {"policy": "least_loaded", "options": {}}}
    before = replace(placed.placement, notes=notes)
    lost, system = without(experiment, experiment.systems[0], Loss("l4-0", frozenset({"l4-0"})))
    assert keep_placement(lost, system, before).system.routing == "least_loaded"


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        ("l4-9", "matches no node; did you mean 'l4-"),
        ("anynode", "did you mean 'any-node'"),
        ("site:c", "unknown site 'c' (known: a, b)"),
        ("gpu:l5", "unknown gpu 'l5'"),
        ("rack:1", "expected any-node, a node or pattern, site:NAME"),
        ("*", "no node is left"),
    ],
)
def test_unknown_losses_say_what_is_known(path, capsys, lose, message):
    code, said = search(path, capsys, "--lose", lose)
    assert code == 2
    assert f"--lose {lose}" in said.err
    assert message in said.err


def test_python_has_losses_too_and_reads_them_back(path):
    found = helixsim.capacity(
        helixsim.load(path), seeds=1, tolerance=0.1, lose="l4-1", replan=False, out=path.parent / "runs", jobs=1
    )
    (loss,) = found.systems[0].losses
    assert (loss.lost, loss.nodes, found.replan) == ("l4-1", ("l4-1",), False)
    assert found.systems[0].worst() == loss
    assert 0 < loss.estimates[0].rate_rps <= found.systems[0].estimates[0].rate_rps * 1.1
    assert found.document()["systems"]["replicas"]["losses"][0]["lost"] == "l4-1"


def test_failures_and_repairs_give_what_is_served_over_time(path, capsys):
    code, said = search(path, capsys, "--mtbf", "9 h", "--mtbf", "t4=4 h", "--mttr", "1 h", "--json")
    assert code == 0
    one = json.loads(said.out)["systems"]["replicas"]
    whole = one["targets"]["slo"]["requests_per_s"]
    assert {loss["lost"]: loss["down_share"] for loss in one["losses"]} == pytest.approx({"l4-0": 0.1, "t4-0": 0.2})
    rates = {loss["lost"]: loss["targets"]["slo"]["requests_per_s"] for loss in one["losses"]}
    nothing = 0.9**2 * 0.8**2
    low = nothing * (whole + 2 * rates["l4-0"] * 0.1 / 0.9 + 2 * rates["t4-0"] * 0.2 / 0.8)
    rest = 1 - nothing * (1 + 2 * 0.1 / 0.9 + 2 * 0.2 / 0.8)
    found = one["availability"]["slo"]
    assert found["mean_requests_per_s"] == pytest.approx([low, low + rest * max(rates.values())], rel=1e-4)
    assert found["uncounted_share"] == pytest.approx(rest, rel=1e-4)
    assert set(found["requests_per_s"].values()) == {0.0}, "more than 1 % of the time two nodes are down"
    _, shown = search(path, capsys, "--mtbf", "9 h", "--mtbf", "t4=4 h", "--mttr", "1 h")
    assert "share of time" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mtbf", "30 d"), "--mtbf and --mttr go together"),
        (("--mtbf", "a100=30 d", "--mttr", "1 h"), "--mtbf a100=30 d: .*a100"),
        (("--mtbf", "t4=30 d", "--mttr", "1 h"), "none for l4"),
        (("--mtbf", "30", "--mttr", "1 h"), "--mtbf 30: "),
        (("--mtbf", "30 d", "--mttr", "0 s"), "--mttr 0 s: expected a time above 0"),
    ],
)
def test_reliability_that_is_incomplete_or_wrong_is_refused(path, capsys, arguments, message):
    code, said = search(path, capsys, *arguments)
    assert code == 2
    assert re.search(message, said.err)
