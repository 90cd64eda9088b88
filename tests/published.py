"""Fleets and placements of the Helix paper's artifact, read from the published tables where they are at hand."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

from helixsim.domain.cluster import COORDINATOR, Cluster, Fleet, LinkSpec, Network, Node
from helixsim.domain.hardware import BatchLimits, ComputeProfile, Curve, NodeProfile
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange

DATA = Path(__file__).parents[1] / "../shared/reference/data"

LAYERS = {"llama30b": 60, "llama70b": 80}
ACTIVATION_BYTES = {"llama30b": 13312, "llama70b": 16384}
TYPICAL = {
    "llama30b": {"A100": 12, "V100": 4, "L4": 8, "L4x2": 14, "T4": 4, "T4x2": 10, "T4x4": 20},
    "llama70b": {"A100": 8, "V100": 3, "L4": 4, "L4x2": 9, "T4": 3, "T4x2": 6, "T4x4": 12},
}
TYPICAL_FULL = {
    "llama30b": {"A100": 18, "V100": 7, "L4": 11, "L4x2": 22, "T4": 7, "T4x2": 15, "T4x4": 30},
    "llama70b": {"A100": 12, "V100": 4, "L4": 7, "L4x2": 14, "T4": 4, "T4x2": 9, "T4x4": 18},
}
INITIAL = {
    "llama30b": {"A100": 48, "V100": 25, "L4": 9, "L4x2": 15, "T4": 8, "T4x2": 15, "T4x4": 23},
    "llama70b": {"A100": 80, "V100": 40, "L4": 20, "L4x2": 30, "T4": 12.5, "T4x2": 20, "T4x4": 30},
}


def is_available() -> bool:
    return (DATA / "profiles.csv").is_file()


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    with (DATA / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def node_profiles(model: str) -> dict[str, NodeProfile]:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows("profiles.csv"):
        if row["model"] == model:
            curves[row["gpu"], row["phase"]].append((float(row["batch_tokens"]), float(row["ms_per_layer"]) * 1e6))
    limits: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows("node_limits.csv"):
        if row["model"] == model:
            limits[row["gpu"]].append(row)

    def curve(gpu: str, phase: str) -> Curve:
        points = sorted(curves[gpu, phase])
        return Curve(tuple(x for x, _ in points), tuple(y for _, y in points))

    return {
        gpu: NodeProfile(
            kind=gpu,
            compute=ComputeProfile(gpu, model, "measured", curve(gpu, "prompt"), curve(gpu, "decode")),
            block_tokens=16,
            kv_blocks=tuple(int(row["kv_tokens_per_layer"]) // 16 for row in held),
            limits=tuple(
                BatchLimits(
                    int(row["prompt_max_requests"]), int(row["prompt_max_tokens"]), int(row["decode_max_tokens"])
                )
                for row in held
            ),
            max_layers=len(held),
            typical_layers=TYPICAL[model][gpu],
            typical_layers_full=TYPICAL_FULL[model][gpu],
            initial_layer_tokens_per_s=INITIAL[model][gpu],
        )
        for gpu, held in limits.items()
    }


def node_id(index: str | int) -> str:
    return f"n{int(index):02d}"


@cache
def fleet(cluster: str, model: str) -> Fleet:
    """Nodes in the artifact's order, called n00, n01, ...; the coordinator is in a region of its own."""
    spec = ModelSpec(
        name=model, num_layers=LAYERS[model], hidden_size=ACTIVATION_BYTES[model] // 2, num_attention_heads=64,
        num_kv_heads=8, head_dim=128, intermediate_size=28672, precision="fp16", kv_precision="fp16",
        weight_bytes_per_layer=1_530_000_000, flops_per_token_per_layer=1.7e9, kv_bytes_per_token_per_layer=4096,
        activation_bytes_per_token=ACTIVATION_BYTES[model], embedding_bytes=0, max_context_tokens=4096,
        source="paper artifact",
    )  # fmt: skip
    found = [row for row in rows("cluster_nodes.csv") if row["cluster"] == cluster]
    nodes = tuple(Node(node_id(row["node"]), row["gpu"], 1, f"r{row['region']}", None, 0.0, 0.0) for row in found)
    pairs: dict[tuple[str, str], LinkSpec] = {}
    for row in rows("cluster_links.csv"):
        if row["cluster"] != cluster:
            continue
        link = LinkSpec(float(row["bandwidth_MBps"]) * 8e6, round(float(row["latency_ms"]) * 1e6))
        a, b = (COORDINATOR if end in ("source", "sink") else node_id(end) for end in (row["a"], row["b"]))
        one_way = COORDINATOR in (row["a"], row["b"])
        pairs[a, b] = link
        if not one_way:
            pairs[b, a] = link
    default = LinkSpec(8e9, 1_000_000)
    network = Network(intra_region=default, inter_region=default, pairs=pairs)
    profiles = node_profiles(model)
    return Fleet(spec, Cluster(nodes, network, "client"), tuple(profiles[row["gpu"]] for row in found))


def stored_ranges(layout: str) -> dict[str, LayerRange]:
    return {
        node_id(row["node_index"]): LayerRange(int(row["start"]), int(row["end"]))
        for row in rows("placements.csv")
        if row["layout"] == layout and int(row["end"]) > int(row["start"])
    }
