"""Systems whose nodes have roles: each pool is placed by itself, and the run says what pools and transfers did."""

from __future__ import annotations

import json

import pytest
from tiny import tiny

import helixsim
from helixsim.cli.main import main
from helixsim.domain.summary import Summary
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.metrics.bottleneck import bottleneck
from helixsim.metrics.legs import busiest_link, disaggregation_figures
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.utilisation import utilisation
from helixsim.results.placement_json import placement_document
from helixsim.results.runset import RunSet
from helixsim.study.finished import SimulatedStore, simulated
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system

ROLES = 'nodes: [{match: "t4-*", role: prefill}, {match: "l4-*", role: decode}]'
SPLIT = f"{{name: split, placement: replicas, routing: earliest_finish, {ROLES}}}"
LAYERWISE = f"{{name: layers, placement: replicas, routing: auto, {ROLES}, disaggregation: {{transfer: layerwise}}}}"
OF_THREE = "{strategy: swarm, stages: 3}"
COLOCATED = "{name: colocated, placement: replicas, routing: earliest_finish}"


@pytest.fixture
def load(tmp_path):
    def of(*systems, overrides=("engine=vllm-1",), text=None):
        path = tmp_path / "exp.yaml"
        path.write_text(text or tiny(*systems, warmup_s=0, duration_s=20), encoding="utf-8")
        return helixsim.load_experiment(path, overrides)

    return of


def test_each_pool_is_placed_by_its_own_strategy(load):
    split = f"{{name: s, placement: replicas, {ROLES}, disaggregation: {{prefill: {{placement: {OF_THREE}}}}}}}"
    experiment = load(split)
    placement = place_system(experiment, experiment.systems[0]).placement
    pools = placement.notes["pools"]
    assert {role: one["strategy"] for role, one in pools.items()} == {"prefill": "swarm", "decode": "replicas"}
    numbers = [{placement.pipelines[n] for n in placement.ranges if n.startswith(kind)} for kind in ("t4", "l4")]
    assert not numbers[0] & numbers[1]  # no activations pass between pools


def test_stored_simulations_differ_by_how_caches_are_sent(load, tmp_path):
    experiment = load(SPLIT, LAYERWISE)
    store = SimulatedStore(tmp_path / "kept")
    first, second = (simulated(experiment, place_system(experiment, s), store) for s in experiment.systems)
    assert (first.requests.transfer_ns != second.requests.transfer_ns).any()
    again = simulated(experiment, place_system(experiment, experiment.systems[0]), store)
    assert again.transfers.bytes.tolist() == first.transfers.bytes.tolist()


def test_a_placement_with_roles_is_read_from_its_file(load, tmp_path, capsys):
    """`place --export FILE` of a system without roles, with roles added, simulates as roles in the experiment do."""
    experiment = load(SPLIT, COLOCATED)
    by_config = place_system(experiment, experiment.systems[0])
    exp, file = str(tmp_path / "exp.yaml"), tmp_path / "p.json"
    assert main(["place", exp, "--set", "engine=vllm-1", "--system", "split", "--export", str(file)]) == 0
    document = json.loads(file.read_text())
    assert "roles" not in document  # they are the experiment's
    document["roles"] = {
        n.id: n.role for n in by_config.system.fleet.cluster.nodes if n.id in by_config.placement.ranges
    }
    file.write_text(json.dumps(document))
    fixed = "{name: fixed, placement: {strategy: fixed, file: p.json}, routing: earliest_finish}"
    again = load(fixed)
    from_file = place_system(again, again.systems[0])
    assert from_file.placement.roles == document["roles"]
    first, second = (simulate_system(e, p).requests for e, p in ((experiment, by_config), (again, from_file)))
    assert (first.finish_ns == second.finish_ns).all()
    assert (second.transfer_ns > 0).any()
    written = placement_document(from_file.placement, from_file.plan, from_file.system.fleet)
    assert written["roles"] == document["roles"]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"t4-0": "prefil"}, r"roles\.t4-0 is 'prefil'; allowed: prefill, decode, both"),
        ({"t5-0": "prefill"}, "no node 't5-0' in the cluster"),
        ({"l4-0": "decode", "t4-0": "decode"}, "the nodes that serve prefill hold no whole model"),
    ],
)
def test_roles_in_a_file_that_do_not_fit_are_refused(load, tmp_path, roles, said):
    (tmp_path / "p.json").write_text(json.dumps({
        "layers": {"t4-0": [0, 32], "l4-0": [0, 32]}, "pipelines": {"t4-0": 0, "l4-0": 1}, "roles": roles
    }))  # fmt: skip
    fixed = "{name: fixed, placement: {strategy: fixed, file: p.json}, routing: earliest_finish}"

    def place() -> None:
        experiment = load(fixed)
        place_system(experiment, experiment.systems[0])

    with pytest.raises((ConfigError, InfeasibleError), match=said):
        place()


def test_roles_in_a_file_need_an_engine_that_keeps_tokens_inside(load, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({
        "layers": {"l4-0": [0, 32], "l4-1": [0, 32]}, "pipelines": {"l4-0": 0, "l4-1": 1}, "roles": {"l4-0": "prefill"}
    }))  # fmt: skip
    fixed = "{name: fixed, placement: {strategy: fixed, file: p.json}, routing: earliest_finish}"
    experiment = load(fixed, overrides=("engine=vllm-0.4", "engine.return=coordinator"))
    with pytest.raises(ConfigError, match="roles need an engine with return: engine"):
        place_system(experiment, experiment.systems[0])


def test_all_parts_of_the_latency_add_up(load):
    experiment = load(SPLIT, LAYERWISE)
    for system in experiment.systems:
        rows = simulate_system(experiment, place_system(experiment, system), check=True).requests
        done = rows.finish_ns >= 0
        parts = rows.queue_ns + rows.compute_ns + rows.network_ns + rows.transfer_ns
        assert done.sum() > 10
        assert (parts[done] == (rows.finish_ns - rows.arrival_ns)[done]).all()


def test_a_run_tells_pools_and_transfers(load, tmp_path, capsys):
    load(COLOCATED, SPLIT)
    exp = str(tmp_path / "exp.yaml")
    assert main(["run", exp, "--set", "engine=vllm-1", "--out", str(tmp_path / "runs"), "--jobs", "1", "--json"]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert "disaggregation" not in systems["colocated"]["helixsim"]
    told = systems["split"]["helixsim"]["disaggregation"]
    assert {role: pool["nodes"] for role, pool in told["pools"].items()} == {"prefill": 3, "decode": 2}
    assert told["transfers"] > 0
    assert told["transfer_p50_s"] <= told["transfer_p99_s"]
    assert Summary.from_json(systems["split"]).to_json()["helixsim"]["disaggregation"] == told
    assert main(["run", exp, "--set", "engine=vllm-1", "--out", str(tmp_path / "runs"), "--jobs", "1"]) == 0
    screen = capsys.readouterr().out
    assert "KV transfers" in screen
    assert "3, " in screen
    (directory,) = (path.parent for path in (tmp_path / "runs").rglob("manifest.json"))
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "Prefill and decode" in page
    assert "waiting for the KV transfer" in page
    heads = {
        name: (directory / "requests" / f"{name}.csv").read_text(encoding="utf-8").splitlines()[0]
        for name in ("split", "colocated")
    }
    assert ("transfer_ns" in heads["split"], "transfer_ns" in heads["colocated"]) == (True, False)
    assert RunSet.load(directory)["split"].summary.disaggregation is not None


def test_a_pool_that_cannot_hold_the_model_is_named(load):
    roles = 'nodes: [{match: "*", role: decode}, {match: "t4-0", role: prefill}]'
    experiment = load(f"{{name: s, placement: replicas, {roles}}}", overrides=("engine=vllm-1", "model=llama-2-13b"))
    with pytest.raises(InfeasibleError, match="s: the 1 nodes with the role prefill: "):
        place_system(experiment, experiment.systems[0])


def test_memory_that_holds_no_mean_prompt_is_named(load):
    roles = 'nodes: [{match: "t4-*", role: prefill}, {match: "l4-*", role: decode, kv_tokens: 64}]'
    chain = "disaggregation: {decode: {placement: {strategy: swarm, stages: 2}}}"
    experiment = load(f"{{name: s, placement: replicas, {roles}, {chain}}}")
    with pytest.raises(InfeasibleError, match=r"no replica that serves decode has KV memory .* the largest keeps 64"):
        place_system(experiment, experiment.systems[0])


def test_links_that_carry_no_cache_within_the_run_are_named(load):
    link = "cluster.network.intra_region={bandwidth: 10 kbit/s, latency: 1 ms}"
    experiment = load(SPLIT, COLOCATED, overrides=("engine=vllm-1", link))
    split, colocated = experiment.systems
    with pytest.raises(InfeasibleError, match=r"split: links .* too slow: the KV cache of a mean prompt .*10 kbit/s"):
        place_system(experiment, split)
    assert place_system(experiment, colocated).placement.ranges
    some = SPLIT.replace(", role: decode", ", role: both")  # prompts may stay where they are computed
    experiment = load(some, overrides=("engine=vllm-1", link))
    assert place_system(experiment, experiment.systems[0]).placement.ranges


def test_roles_that_divide_a_replica_are_named(load, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({
        "layers": {"l4-0": [0, 32], "t4-0": [0, 16], "t4-1": [16, 32]}, "pipelines": {"l4-0": 0, "t4-0": 1, "t4-1": 1},
        "roles": {"t4-0": "prefill", "t4-1": "decode"},
    }))  # fmt: skip
    experiment = load("{name: fixed, placement: {strategy: fixed, file: p.json}, routing: earliest_finish}")
    with pytest.raises(InfeasibleError, match="the nodes of a replica have different roles: t4-0 prefill, t4-1 decode"):
        place_system(experiment, experiment.systems[0])


def test_placements_with_branching_routes_are_refused(load):
    roles = 'nodes: [{match: "l4-*", role: decode}]'
    experiment = load(f"{{name: s, placement: {{strategy: swarm, stages: 2}}, {roles}}}")
    with pytest.raises(InfeasibleError, match="need replicas, chains of nodes that share none"):
        place_system(experiment, experiment.systems[0])


def test_policies_that_learn_from_hops_are_refused(load):
    experiment = load(SPLIT.replace("earliest_finish", "swarm"))
    with pytest.raises(ConfigError, match="learns from single hops"):
        simulate_system(experiment, place_system(experiment, experiment.systems[0]))


def test_targets_without_roles_are_refused(load, tmp_path, capsys):
    load(SPLIT, overrides=("engine=vllm-1",))
    exp = str(tmp_path / "exp.yaml")
    assert main(["place", exp, "--set", "engine=vllm-1", "--export", "ray"]) == 2
    assert "the nodes of split have roles, and ray does not send the phases" in capsys.readouterr().err


def test_a_timeline_has_the_steps_of_both_sides_and_the_transfers(load, tmp_path, capsys):
    load(LAYERWISE)
    exp, out = str(tmp_path / "exp.yaml"), tmp_path / "timeline.json"
    assert main(["run", exp, "--set", "engine=vllm-1", "--out", str(tmp_path / "r"), "--timeline", str(out), "-q"]) == 0
    text = out.read_text(encoding="utf-8")
    assert "t4-0 to l4-0" in text or "t4-0 to l4-1" in text


def test_losing_all_nodes_of_a_phase_fails_that_system_alone(load):
    experiment = load(COLOCATED, SPLIT, overrides=("engine=vllm-1", "cluster.down=[l4-*]"))
    colocated, split = experiment.systems
    assert place_system(experiment, colocated).placement.ranges
    with pytest.raises(InfeasibleError, match="the nodes that serve decode hold no whole model"):
        place_system(experiment, split)


@pytest.mark.parametrize(
    ("bandwidth", "rate", "limit"), [("400 Mbit/s", 8, "the link from t4-"), ("40 Gbit/s", 40, None)]
)
def test_the_limit_is_a_link_that_caches_fill_or_a_node_with_its_role(load, bandwidth, rate, limit):
    changes = (f"cluster.network.intra_region.bandwidth={bandwidth}", f"workload.arrivals.rate={rate}")
    experiment = load(SPLIT, overrides=("engine=vllm-1", *changes))
    system = experiment.systems[0]
    placed = place_system(experiment, system)
    run = simulate_system(experiment, placed)
    used = utilisation(run, system.fleet)
    name, share = busiest_link(run)
    told, kind, node = bottleneck(run, placed.plan, system.fleet.cluster, used, 1.0, Saturation.OVERLOADED)
    figures = disaggregation_figures(run, used, system.fleet)
    assert figures.busiest_link_share == share
    if limit is None:
        assert share < 0.5
        assert f"{node} ({system.fleet.cluster.node(node).role}), which computes" in told
    else:
        assert share > 0.9
        assert kind == "network"
        assert f"the link {name}, which carries KV caches" in told
        assert limit in told
