"""Machines of several GPUs as several nodes: the width of tensor parallelism as a candidate of the race."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helixsim import load_experiment
from helixsim.config.experiment import ResolvedExperiment
from helixsim.deploy import registry
from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.engine.kernel import Kernel
from helixsim.engine.network import NetworkFabric
from helixsim.engine.state import Message
from helixsim.errors import ConfigError, DataError
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.placement.divisions import divisions_of
from helixsim.placement.fixed import FixedOptions
from helixsim.planning.losses import Losses, losses_of
from helixsim.results.placement_json import placement_document
from helixsim.study.placing import assembled, place_system
from helixsim.study.systems import PlacedSystem, simulate_system
from helixsim.study.whatif import keep_placement

EXPERIMENT = """\
schema: 1
model: llama-3-8b
cluster:
  nodes: [{gpu: h100, gpus: 4, count: 1, nic: 100 Gbit/s}]
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
workload:
  lengths: azure-conversation
  arrivals: {process: poisson, rate: 5 /s}
  warmup: 10 s
  duration: 40 s
engine: {name: vllm-1}
slo: {ttft: 1 s, tpot: 40 ms}
systems: [{placement: {strategy: helix, disaggregate: never}}]
"""

PAIR = {0: (0, 16), 1: (16, 32)}
"""Layers of the two parts of a machine that are a pipeline."""


def loaded(folder: Path, *edits: str) -> ResolvedExperiment:
    path = folder / "widths.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return load_experiment(path, list(edits))


def placed(folder: Path, *edits: str) -> PlacedSystem:
    experiment = loaded(folder, *edits)
    return place_system(experiment, experiment.systems[0])


@pytest.fixture(scope="module")
def heavy(tmp_path_factory) -> tuple[ResolvedExperiment, PlacedSystem]:
    """A load for which one H100 a replica is best: all-reduces cost more than they bring."""
    experiment = loaded(tmp_path_factory.mktemp("heavy"), "workload.arrivals.rate=80 /s")
    return experiment, place_system(experiment, experiment.systems[0])


def two_machines(folder: Path) -> Deployment:
    fleet = loaded(folder, "cluster.nodes.0.count=2").fleet
    return fleet.divided(dict.fromkeys(fleet.cluster.index, 2))


# --- dividing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_a_divided_fleet_has_the_same_gpus_price_power_and_memory(tmp_path, gpus):
    fleet = loaded(tmp_path, "cluster.nodes.0.count=3").fleet
    divided = fleet.divided(dict.fromkeys(fleet.cluster.index, gpus))
    used = Counter(
        (node.machine or node.id, number)
        for node in divided.cluster.nodes
        for number in range(node.first_gpu, node.first_gpu + node.gpus)
    )
    assert used == Counter((machine, number) for machine in fleet.cluster.index for number in range(4))
    assert divided.cluster.cost_usd_per_hour == pytest.approx(fleet.cluster.cost_usd_per_hour)
    whole, parts = fleet.cluster.nodes, divided.cluster.nodes
    assert sum(node.tdp_w for node in parts) == pytest.approx(sum(node.tdp_w for node in whole))

    def free_bytes(nodes: Deployment) -> float:
        """KV memory when all nodes hold the whole model, with the weights, in bytes."""
        layers = nodes.model.num_layers
        weights = layers * nodes.model.weight_bytes_per_layer
        return sum(one.kv_blocks[-1] * layers * one.block_bytes + weights for one in nodes.profiles)

    # The activations of a step are those of each part; nothing appears from nowhere.
    assert free_bytes(divided) <= free_bytes(fleet) * 1.02


def test_parts_are_as_nodes_of_so_many_gpus(tmp_path):
    fleet = loaded(tmp_path).fleet
    (stated,) = loaded(tmp_path, "cluster.nodes.0.gpus=2").fleet.profiles
    assert set(fleet.divided({"h100x4-0": 2}).profiles) == {stated}


def test_every_division_is_offered_once_and_by_its_widths(tmp_path):
    fleet = loaded(tmp_path, "cluster.nodes.0.gpus=8", "cluster.nodes.0.count=2").fleet
    assert divisions_of(fleet) == {
        f"h100x8 as {8 // gpus} h100{'' if gpus == 1 else f'x{gpus}'}": {"h100x8-0": gpus, "h100x8-1": gpus}
        for gpus in (4, 2, 1)
    }


def test_a_width_that_leaves_no_room_for_the_model_is_not_offered(tmp_path):
    fleet = loaded(tmp_path, "model=llama-3-70b", "cluster.nodes.0.gpu=rtx-4090", "cluster.nodes.0.gpus=8").fleet
    for widths in divisions_of(fleet).values():
        assert sum(one.max_layers for one in fleet.divided(widths).profiles) >= 80


# --- the network of a machine is shared ------------------------------------------------------------------------------


class _Ends:
    """Takes in messages and notes when they arrive."""

    ends_ns = -1

    def __init__(self) -> None:
        self.arrived_ns: list[int] = []

    def receive(self, parcel) -> None:
        self.arrived_ns.append(parcel.arrived_ns)


def arrivals_ns(fleet: Deployment, pairs: list[tuple[str, str]], tokens: int) -> list[int]:
    kernel = Kernel()
    fabric = NetworkFabric(kernel, fleet.cluster, 8192, is_one_by_one=False)
    end = _Ends()
    fabric.receivers = dict.fromkeys([*fleet.cluster.index, COORDINATOR], end)
    for src, dst in pairs:
        fabric.channel(src, dst).send(Message(kernel.env), tokens)
    kernel.run()
    return sorted(end.arrived_ns)


def test_parts_share_the_link_between_their_machines(tmp_path):
    fleet, tokens = two_machines(tmp_path), 1000
    one_ns = 8 * tokens * 8194 / 10e9 * 1e9
    pairs = [("h100x4-0.0", "h100x4-1.0"), ("h100x4-0.1", "h100x4-1.1")]
    assert arrivals_ns(fleet, pairs, tokens) == pytest.approx([one_ns + 1e6, 2 * one_ns + 1e6], rel=1e-6)


def test_parts_of_a_machine_meet_on_its_own_interconnect(tmp_path):
    fleet, tokens = two_machines(tmp_path), 1000
    peer = fleet.cluster.link("h100x4-0.0", "h100x4-0.1")
    assert peer.bandwidth_bps == 8 * 450e9
    took_ns = 8 * tokens * 8194 / peer.bandwidth_bps * 1e9 + peer.latency_ns
    both = [("h100x4-0.0", "h100x4-0.1"), ("h100x4-0.1", "h100x4-0.0")]
    assert arrivals_ns(fleet, both, tokens) == pytest.approx([took_ns] * 2, rel=1e-3)


@pytest.mark.parametrize("nic_bps", [None, 1e9])
def test_no_flow_takes_more_than_the_links_and_cards_of_machines_carry(tmp_path, nic_bps):
    edits = [] if nic_bps is None else ["cluster.nodes.0.nic=1 Gbit/s"]
    fleet = loaded(tmp_path, "cluster.nodes.0.count=2", "cluster.network.intra_region.bandwidth=2 Gbit/s", *edits).fleet
    fleet = fleet.divided(dict.fromkeys(fleet.cluster.index, 2))
    layers = {"h100x4-0.0": (0, 16), "h100x4-0.1": (0, 16), "h100x4-1.0": (16, 32), "h100x4-1.1": (16, 32)}
    placement = Placement("by hand", 32, {node: LayerRange(*pair) for node, pair in layers.items()})
    table = CapacityTable({"h100x2": (1e9,) * 32}, dict.fromkeys(fleet.cluster.index, "h100x2"))
    plan = max_flow(fleet, placement, table)
    carried_bps = 8 * (fleet.model.activation_bytes_per_token + 2) * plan.max_flow_tokens_per_s
    limit_bps = 2e9 if nic_bps is None else min(2e9, nic_bps)
    assert carried_bps == pytest.approx(limit_bps)


# --- the race chooses the width --------------------------------------------------------------------------------------


def test_one_request_at_a_time_is_served_by_all_gpus_and_many_by_each(tmp_path, heavy):
    light = placed(tmp_path, "workload.arrivals.rate=1 /s")
    assert light.placement.widths == {}
    assert heavy[1].placement.widths == {"h100x4-0": 1}
    assert [node.node_type for node in heavy[1].system.fleet.cluster.nodes] == ["h100"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("rate", [2, 50])
def test_a_free_width_is_never_worse_than_a_fixed_one(tmp_path, rate):
    def share_and_tokens(*edits: str) -> tuple[float, float]:
        experiment = loaded(tmp_path, f"workload.arrivals.rate={rate} /s", *edits)
        system = experiment.systems[0]
        one = place_system(experiment, system)
        score = next(
            entry
            for entry in one.placement.notes["race"]
            if entry["name"] == one.placement.notes["chosen"]
            and entry["round"] == max(other["round"] for other in one.placement.notes["race"])
        )
        return score["share"], score["latency_s"]

    free_share, free_s = share_and_tokens()
    for gpus in (1, 2, 4):
        share, latency_s = share_and_tokens(f"cluster.nodes.0.tp={gpus}")
        assert free_share >= share - 0.02
        if math.isclose(free_share, share, abs_tol=0.02):
            assert free_s <= latency_s * 1.06


def test_the_bound_holds_for_every_width_that_was_tried(heavy):
    placement = heavy[1].placement
    bounds = placement.notes["bounds_by_width"]
    assert list(bounds) == ["", "h100x4 as 2 h100x2", "h100x4 as 4 h100"]
    assert placement.upper_bound_tokens_per_s == max(bounds.values())
    for candidate in placement.notes["candidates"]:
        division = candidate["name"].partition(": ")[0] if ": " in candidate["name"] else ""
        assert candidate["max_flow_tokens_per_s"] <= bounds[division] * (1 + 1e-9)


@pytest.mark.parametrize("gpus", [*(pytest.param(one, marks=pytest.mark.slow) for one in (1, 2)), 4])
def test_a_stated_width_stays(tmp_path, gpus):
    one = placed(tmp_path, f"cluster.nodes.0.tp={gpus}", "workload.arrivals.rate=80 /s")
    assert {node.gpus for node in one.system.fleet.cluster.nodes} == {gpus}
    assert one.placement.widths == {}
    assert "bounds_by_width" not in one.placement.notes


def test_a_stated_width_and_the_same_one_chosen_are_simulated_alike(tmp_path, heavy):
    experiment, chosen = heavy
    stated = loaded(tmp_path, "workload.arrivals.rate=80 /s", "cluster.nodes.0.tp=1")
    same = Placement(
        "by hand", 32, chosen.placement.ranges, pipelines=chosen.placement.pipelines, notes=chosen.placement.notes
    )
    one = simulate_system(experiment, chosen)
    other = simulate_system(stated, assembled(stated, stated.systems[0], same))
    assert (one.requests.finish_ns == other.requests.finish_ns).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("cluster.nodes.0.tp=3", "3 does not divide the 4 GPUs"),
        ("cluster.nodes.0.tp=8", "8 does not divide the 4 GPUs"),
        ("cluster.nodes.0.gpus=24", "24 GPUs cannot share the 32 attention heads"),
    ],
)
def test_a_width_that_cannot_be_is_an_error_with_its_place(tmp_path, edit, message):
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, edit)


def test_a_node_with_limits_of_its_own_is_not_divided(tmp_path):
    assert divisions_of(loaded(tmp_path, "cluster.nodes.0.kv_tokens=100000").fleet) == {}
    assert divisions_of(loaded(tmp_path, "cluster.nodes.0.max_requests=100").fleet) == {}
    assert divisions_of(loaded(tmp_path, "engine.data_parallel_size=2").fleet) == {}


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_placement_file_is_read_back_with_its_widths(tmp_path, heavy):
    chosen = heavy[1]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(placement_document(chosen.placement, chosen.plan, chosen.system.fleet)))
    again = loaded(tmp_path, "workload.arrivals.rate=80 /s", f"systems.0.placement={{strategy: fixed, file: {file}}}")
    one = place_system(again, again.systems[0])
    assert (one.placement.ranges, one.placement.widths) == (chosen.placement.ranges, chosen.placement.widths)
    assert one.plan.max_flow_tokens_per_s == pytest.approx(chosen.plan.max_flow_tokens_per_s)


@pytest.mark.parametrize(
    ("widths", "message"),
    [({"h100x4-0": 3}, "widths.h100x4-0 is 3; allowed: 2, 1"), ({"gone": 1}, "widths.gone is 1"), ([1], "must map")],
)
def test_a_placement_file_with_impossible_widths_is_refused(tmp_path, widths, message):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"layers": {"h100x4-0": [0, 32]}, "widths": widths}))
    (fault,) = FixedOptions(file).faults(loaded(tmp_path).fleet)
    assert message in fault[1]


def test_the_running_placement_of_another_width_is_an_error(tmp_path, heavy):
    chosen = heavy[1]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(placement_document(chosen.placement, chosen.plan, chosen.system.fleet)))
    with pytest.raises(DataError, match="divides h100x4-0 into parts of 1 GPUs: set tp: 1"):
        placed(tmp_path, f"systems.0.placement={{strategy: helix, previous: {file}}}")


def test_the_script_starts_a_server_for_each_part_on_gpus_of_its_own(heavy):
    experiment, chosen = heavy
    script = registry.text("vllm", experiment, chosen.system, chosen.placement, chosen.plan)
    (body,) = re.findall(r"^h100x4-0\)(.*?)\n  ;;", script, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(one) for one in body.replace("\\\n", " ").splitlines() if "vllm serve" in one]
    devices = [dict(word.partition("=")[::2] for word in one)["CUDA_VISIBLE_DEVICES"] for one in commands]
    ports = [dict(word.partition("=")[::2] for word in one).get("--port", "8000") for one in commands]
    assert sorted(devices) == ["0", "1", "2", "3"]
    assert len(set(ports)) == 4
    assert all("--tensor-parallel-size=1" in one and one[-1] == "&" for one in commands)


@pytest.mark.parametrize("target", ["kubernetes", "llm-d"])
def test_each_pod_of_a_machine_takes_the_gpus_of_a_part(heavy, target):
    experiment, chosen = heavy
    text = registry.text(target, experiment, chosen.system, chosen.placement, chosen.plan)
    pods = [one["spec"]["template"]["spec"] for one in yaml.safe_load_all(text) if one and one["kind"] == "Deployment"]
    assert [pod["nodeSelector"]["kubernetes.io/hostname"] for pod in pods] == ["h100x4-0"] * 4
    assert [pod["containers"][0]["resources"]["limits"] for pod in pods] == [{"nvidia.com/gpu": "1"}] * 4


def test_stages_on_one_machine_are_one_process_group(tmp_path):
    file = tmp_path / "plan.json"
    layers = {"h100x4-0.0": [0, 10], "h100x4-0.1": [10, 32]}
    file.write_text(json.dumps({"layers": layers, "widths": {"h100x4-0": 2}}))
    experiment = loaded(tmp_path, f"systems.0.placement={{strategy: fixed, file: {file}}}")
    one = place_system(experiment, experiment.systems[0])

    def text(target: str) -> str:
        return registry.text(target, experiment, one.system, one.placement, one.plan)

    assert "CUDA_VISIBLE_DEVICES=0,1,2,3" in text("vllm")
    assert "VLLM_PP_LAYER_PARTITION=10,22" in text("vllm")
    assert "--nnodes" not in text("vllm")
    (pod,) = (d for d in yaml.safe_load_all(text("kubernetes")) if d["kind"] == "Deployment")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert {"--tensor-parallel-size=2", "--pipeline-parallel-size=2"} <= set(container["args"])
    (application,) = yaml.safe_load(text("ray"))["applications"]
    (llm,) = application["args"]["llm_configs"]
    assert llm["placement_group_config"]["bundles"] == [{"GPU": 4, "CPU": 1, "h100x2": 2}]
    worker = yaml.safe_load(text("dynamo"))["spec"]["components"][1]
    assert "multinode" not in worker


def test_stages_that_vllm_would_assign_to_other_machines_are_refused(tmp_path):
    file = tmp_path / "plan.json"
    layers = {"h100x4-0.0": [0, 10], "h100x4-1.0": [10, 20], "h100x4-0.1": [20, 32]}
    file.write_text(json.dumps({"layers": layers, "widths": {"h100x4-0": 2, "h100x4-1": 2}}))
    experiment = loaded(tmp_path, "cluster.nodes.0.count=2", f"systems.0.placement={{strategy: fixed, file: {file}}}")
    one = place_system(experiment, experiment.systems[0])
    with pytest.raises(ConfigError, match="stages on the parts of several machines"):
        registry.text("vllm", experiment, one.system, one.placement, one.plan)


@pytest.mark.slow
def test_a_machine_is_lost_with_all_its_parts(tmp_path):
    experiment = loaded(tmp_path, "cluster.nodes.0.count=2", "workload.arrivals.rate=160 /s")
    one = place_system(experiment, experiment.systems[0])
    assert set(one.placement.widths) == {"h100x4-0", "h100x4-1"}
    (loss,) = losses_of(Losses(("any-node",), replan=False), one)
    assert (loss.nodes, loss.alike) == ({"h100x4-0"}, 2)
    (named,) = losses_of(Losses(("h100x4-1",)), one)
    assert named.nodes == {"h100x4-1"}
    fleet = experiment.fleet.without({"h100x4-0"}, paid={"h100x4-0"})
    kept = keep_placement(experiment, replace(experiment.systems[0], fleet=fleet), one.placement)
    assert set(kept.placement.ranges) == {f"h100x4-1.{number}" for number in range(4)}


def test_a_kept_placement_shares_requests_among_what_is_left(tmp_path):
    experiment = loaded(tmp_path, "cluster.nodes.0.count=2")
    layers = {f"h100x4-{machine}.{part}": LayerRange(*held) for machine in (0, 1) for part, held in PAIR.items()}
    numbers = {node: int(node[7]) for node in layers}
    first = {"h100x4-0.0": 1.0, "h100x4-1.0": 3.0}
    routing = {"policy": "flow_weighted", "options": {"shares": {COORDINATOR: first}}}
    before = Placement(
        "by hand", 32, layers, pipelines=numbers, notes={"routing": routing}, widths={"h100x4-0": 2, "h100x4-1": 2}
    )
    fleet = experiment.fleet.without({"h100x4-1"}, paid={"h100x4-1"})
    kept = keep_placement(experiment, replace(experiment.systems[0], fleet=fleet), before)
    assert kept.system.routing_options.shares == {COORDINATOR: {"h100x4-0.0": 1.0}}
    assert simulate_system(experiment, kept).requests.finish_ns.size
