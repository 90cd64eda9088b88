"""Roles of parts of machines, as of nodes whose links and cards are shared, and of chains through unlike nodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import helixsim
from helixsim.datafiles import data_path
from helixsim.domain.placement import LayerRange, Placement
from helixsim.engine.kernel import Kernel
from helixsim.engine.kv_network import KvFabric, KvMessage
from helixsim.engine.network import NetworkFabric
from helixsim.errors import InfeasibleError
from helixsim.flow.role_program import best_roles, replica_classes
from helixsim.metrics.score import score_of
from helixsim.placement.base import Contender
from helixsim.study.placing import assembled, place_system, placement_problem
from helixsim.study.role_entries import RoleEntries
from helixsim.study.systems import operating_load, simulate_system

EXPERIMENT = """\
schema: 1
model: llama-3.1-8b
cluster:
  nodes: [{gpu: h100, gpus: 4, count: 1, nic: 100 Gbit/s}]
  network: {intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}}
workload:
  lengths: {distribution: fixed, prompt_tokens: 3000, output_tokens: 30}
  arrivals: {process: poisson, rate: 20 /s}
  warmup: 2 s
  duration: 8 s
engine: vllm-1
systems: [{name: helix, placement: helix, routing: earliest_finish}]
slo: {ttft: 2 s, tpot: 8 ms}
"""
HALVES = {"h100x4-0.0": "prefill", "h100x4-0.1": "decode"}


def loaded(folder: Path, *edits: str):
    path = folder / "parts.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return helixsim.load_experiment(path, list(edits))


def fixed(folder: Path, layers: dict, *edits: str, **more):
    """Return the experiment with a placement of a file, and its system placed."""
    file = folder / "plan.json"
    file.write_text(json.dumps({"layers": layers, **more}))
    placement = f"systems.0.placement={{strategy: fixed, file: {file}}}"
    experiment = loaded(folder, *edits, placement)
    return experiment, place_system(experiment, experiment.systems[0])


def entries_of(experiment) -> RoleEntries:
    system = experiment.systems[0]
    return RoleEntries(experiment, system, placement_problem(experiment, system))


def whole(nodes) -> dict[str, list[int]]:
    return {node: [0, 32] for node in nodes}


def test_parts_with_roles_are_as_nodes_with_the_interconnect_between_them(tmp_path):
    unlimited = "cluster.nodes.0.nic=null"
    parts = fixed(tmp_path, whole(HALVES), unlimited, widths={"h100x4-0": 2}, roles=HALVES)
    peer = parts[1].system.fleet.cluster.link(*HALVES)
    nodes = {"h100x2-0": "prefill", "h100x2-1": "decode"}
    edits = ["cluster.nodes.0.gpus=2", "cluster.nodes.0.count=2", unlimited]
    experiment, placed = fixed(tmp_path, whole(nodes), *edits, roles=nodes)
    ends, fleet = tuple(nodes), placed.system.fleet
    network = replace(fleet.cluster.network, pairs={ends: peer, ends[::-1]: peer})
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    alone = experiment, replace(placed, system=replace(placed.system, fleet=fleet))
    first, second = (simulate_system(*one, check=True) for one in (parts, alone))
    assert (first.requests.transfer_ns > 0).any()
    assert (first.requests.finish_ns == second.requests.finish_ns).all()


def sent(folder: Path, pairs, sizes, *edits: str):
    """Return when KV messages arrive that are sent at once between parts of machines [ns], and their channels."""
    fleet = loaded(folder, "cluster.nodes.0.count=2", *edits).fleet
    fleet = fleet.divided(dict.fromkeys(fleet.cluster.index, 2))
    kernel, arrived = Kernel(), {}
    transfer = replace(loaded(folder).systems[0].disaggregation.transfer, latency_ns=0, efficiency=1.0)
    fabric = KvFabric(NetworkFabric(kernel, fleet.cluster, 8192, is_one_by_one=False), transfer, None)
    for pair, size in zip(pairs, sizes, strict=True):
        channel = fabric.channel(*pair)
        channel.send(KvMessage(size, 1, lambda _, pair=pair: arrived.setdefault(pair, kernel.now_ns)))
    kernel.run()
    return arrived, fabric.channels, kernel.now_ns


@pytest.mark.parametrize("nic", ["null", "5 Gbit/s"])
def test_caches_of_parts_share_the_link_between_their_machines_or_their_cards(tmp_path, nic):
    pairs = [("h100x4-0.0", "h100x4-1.0"), ("h100x4-0.1", "h100x4-1.1")]
    arrived, channels, end_ns = sent(tmp_path, pairs, [10**9, 10**9], f"cluster.nodes.0.nic={nic}")
    one_ns = 8e9 / (10e9 if nic == "null" else 5e9) * 1e9
    assert [arrived[pair] for pair in pairs] == pytest.approx([one_ns + 1e6, 2 * one_ns + 1e6], rel=1e-6)
    assert not any(channels[pair].takes_bookings for pair in pairs)
    for now_ns in range(0, int(end_ns), int(end_ns) // 7):  # a link is busy with one of them at a time
        assert sum(channels[pair].busy_until(now_ns) for pair in pairs) <= now_ns
    assert sum(channels[pair].busy_until(end_ns) for pair in pairs) == 2 * 8e9 / 10e9 * 1e9
    assert sum(channels[pair].bytes_until(end_ns) for pair in pairs) == 2 * 10**9


def test_caches_inside_a_machine_take_neither_its_links_nor_its_cards(tmp_path):
    inside, out = ("h100x4-0.0", "h100x4-0.1"), ("h100x4-0.0", "h100x4-1.0")
    sizes = [10**9, 10**9]
    alone = sent(tmp_path, [inside], sizes[:1], "cluster.nodes.0.nic=1 Gbit/s")[0]
    beside = sent(tmp_path, [out, inside], sizes, "cluster.nodes.0.nic=1 Gbit/s")[0]
    assert beside[inside] == alone[inside] < 1e9
    assert beside[out] > 8e9


def test_a_replica_on_parts_of_several_machines_has_no_role(tmp_path):
    layers = {"h100x4-0.0": [0, 16], "h100x4-1.0": [16, 32], "h100x4-0.1": [0, 32]}
    roles = {"h100x4-0.0": "prefill", "h100x4-1.0": "prefill", "h100x4-0.1": "decode"}
    with pytest.raises(InfeasibleError, match=r"parts of several machines \(got h100x4-0\.0, h100x4-1\.0\)"):
        fixed(tmp_path, layers, "cluster.nodes.0.count=2", widths={"h100x4-0": 2, "h100x4-1": 2}, roles=roles)


def test_the_planner_gives_roles_to_parts_of_a_machine(tmp_path):
    """A single machine has no nodes to share out; its parts have."""
    experiment = loaded(tmp_path)
    entries = entries_of(experiment)
    assert {one.placement.widths.get("h100x4-0", 4) for one in entries._replicated} == {1, 2}
    offered = entries.contenders()
    assert offered
    for one in offered:
        assert one.placement.widths
        assert one.name.startswith("h100x4 as ")
        placed = assembled(experiment, experiment.systems[0], one.placement)
        assert {node.machine for node in placed.system.fleet.cluster.nodes} == {"h100x4-0"}
        run = simulate_system(experiment, placed, check=True)
        assert (run.requests.transfer_ns > 0).any()
    assert entries.top.roles.requests_per_s == max(one.roles.requests_per_s for one in entries._replicated)


def test_limits_of_a_leg_are_those_of_the_parts_that_get_its_role(tmp_path):
    experiment = loaded(tmp_path, "systems.0.disaggregation.decode.max_num_seqs=4")
    ranges = dict.fromkeys(HALVES, LayerRange(0, 32))
    parts = Placement("by hand", 32, ranges, widths={"h100x4-0": 2}, roles=HALVES)
    parts = replace(parts, pipelines={node: number for number, node in enumerate(HALVES)})
    fleet = assembled(experiment, experiment.systems[0], parts).system.fleet
    most = {node.role: fleet.profile(node.id).limits[-1].max_decode_seqs for node in fleet.cluster.nodes}
    assert most["decode"] == 4 < most["prefill"]


@pytest.mark.parametrize("kinds", [("l40s", "l4"), ("l4", "l40s")])
def test_chains_through_unlike_nodes_have_roles(tmp_path, kinds):
    """No two equal nodes hold the model, but two chains of unlike ones do, in either order of the cluster."""
    nodes = ", ".join(f"{{gpu: {kind}, count: 2}}" for kind in kinds)
    large = ("model=qwen3-32b", "precision=fp8", "slo={ttft: 20 s, tpot: 1 s}", "workload.arrivals.rate=1")
    experiment = loaded(tmp_path, f"cluster.nodes=[{nodes}]", *large)
    held = {"l40s": LayerRange(0, 50), "l4": LayerRange(50, 64)}
    chains = {node.id: held[node.gpu] for node in experiment.fleet.cluster.nodes}
    placement = Placement("chains", 64, chains, pipelines={node: int(node[-1]) for node in chains})
    entries = entries_of(experiment)
    beside = entries.beside([Contender("chains", placement)])
    named = [one for one in beside._replicated if one.name == "chains"]
    assert [(len(one.classes), sum(map(len, one.classes))) for one in named] == [(1, 2)]
    choice = beside._roles(named[0].fleet, named[0].classes, ("prefill", "decode"))
    assert named[0].named(choice) == "chains: prefill 1 l40s+l4, decode 1 l40s+l4"
    placed = assembled(experiment, experiment.systems[0], replace(placement, roles=choice.roles))
    run = simulate_system(experiment, placed, check=True)
    assert (run.requests.transfer_ns > 0).any()


@pytest.mark.parametrize(
    ("ranges", "pipelines", "is_replicas"),
    [
        ({"l4-0": (0, 40), "l4-1": (40, 64)}, {"l4-0": 3, "l4-1": 3}, True),
        ({"l4-0": (0, 64), "l4-1": (0, 64)}, {}, True),
        ({"l4-0": (0, 40), "l4-1": (40, 64)}, {}, True),
        ({"l4-0": (0, 40), "l4-1": (40, 60)}, {"l4-0": 0, "l4-1": 0}, False),
        ({"l4-0": (0, 40), "l4-1": (30, 64)}, {"l4-0": 0, "l4-1": 0}, False),
        ({"l4-0": (0, 40), "l4-1": (40, 64), "l4-2": (40, 64)}, dict.fromkeys(("l4-0", "l4-1", "l4-2"), 0), False),
    ],
)
def test_only_chains_through_all_layers_are_replicas(tmp_path, ranges, pipelines, is_replicas):
    nodes = "cluster.nodes=[{gpu: l4, count: 3}]"
    experiment = loaded(tmp_path, nodes, "model=qwen3-32b", "precision=fp8", "slo={tpot: 1 s}")
    placement = Placement("found", 64, {node: LayerRange(*held) for node, held in ranges.items()}, pipelines=pipelines)
    known = entries_of(experiment).beside([Contender("found", placement)])._placements
    assert ("found" in known) is is_replicas


def test_the_card_of_a_machine_limits_what_leaves_it_alone(tmp_path):
    """Roles inside one machine send nothing through its card; between machines the card binds."""

    def served(*edits: str, count: int, widths: bool) -> float:
        experiment = loaded(tmp_path, f"cluster.nodes.0.count={count}", *edits)
        system = experiment.systems[0]
        fleet = system.fleet.divided(dict.fromkeys(system.fleet.cluster.index, 2)) if widths else system.fleet
        ranges = dict.fromkeys(fleet.cluster.index, LayerRange(0, 32))
        placement = Placement("by hand", 32, ranges, pipelines={node: n for n, node in enumerate(ranges)})
        load = operating_load(experiment, system)
        classes = replica_classes(fleet, placement, load)
        transfer = system.disaggregation.transfer
        found = best_roles(fleet, classes, load, transfer, tpot_s=0.008, allowed=("prefill", "decode"))
        assert found.requests_per_s <= found.bound_per_s * (1 + 1e-6)
        return found.requests_per_s

    fast, slow = "cluster.nodes.0.nic=null", "cluster.nodes.0.nic=100 Mbit/s"
    network = "cluster.network.intra_region.bandwidth=1000 Gbit/s"
    assert served(slow, network, count=1, widths=True) == pytest.approx(served(fast, network, count=1, widths=True))
    assert served(slow, network, count=2, widths=False) < 0.1 * served(fast, network, count=2, widths=False)
    between = served(slow, network, count=2, widths=True)
    assert served(slow, network, count=1, widths=True) * 2 == pytest.approx(between, rel=0.01)  # each machine by itself


@pytest.mark.slow
def test_roles_inside_machines_keep_an_objective_that_no_width_keeps(tmp_path):
    path = data_path("experiments", "roles", "parts-of-machines.yaml")
    experiment = helixsim.load_experiment(path, ["workload.warmup=20 s", "workload.duration=60 s"])
    scores = []
    for system in experiment.systems[:2]:
        placed = place_system(experiment, system)
        run = simulate_system(experiment, placed, check=True)
        scores.append(score_of(run, experiment.slo, placed.system.fleet, placed.placement))
    with_roles, without = scores
    assert with_roles.share_exceeds(without)
