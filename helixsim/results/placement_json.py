"""JSON of a placement and its flow, as in ``placements/<system>.json`` of a run."""

from __future__ import annotations

from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.flowplan import FlowPlan, Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.maxflow import max_flow_without_network
from helixsim.jsonio import json_values


def placement_document(placement: Placement, plan: FlowPlan, fleet: Deployment) -> dict[str, Any]:
    """Return a placement as JSON values, which the ``fixed`` strategy reads.

    ``layers`` maps each node to its half-open layer range or None. ``routes`` lead from one class of equal nodes to the
    next, by the first node of each; ``equal_nodes`` are the classes of several nodes. ``min_cut`` counts equal links.
    ``widths`` are the GPUs of each of the nodes into which the placement divides a machine, ``roles`` the phases of
    nodes to which it gives one.
    The search time is left out.
    """
    layers: dict[str, list[int] | None] = {}
    nodes = []
    for node in fleet.cluster.nodes:
        held = placement.ranges.get(node.id)
        layers[node.id] = None if held is None else [held.start, held.end]
        nodes.append(
            {
                "node": node.id,
                "node_type": node.node_type,
                **({} if node.machine is None else {"machine": node.machine, "first_gpu": node.first_gpu}),
                "gpus": node.gpus,
                "region": node.region,
                "kv_tokens": None
                if held is None
                else fleet.kv_blocks(node.id, held) * fleet.profile(node.id).block_tokens,
                "flow_tokens_per_s": plan.node_flow_tokens_per_s.get(node.id, 0.0),
                "capacity_tokens_per_s": plan.node_capacity_tokens_per_s.get(node.id),
            }
        )
    document = {
        "strategy": placement.strategy,
        "status": placement.status,
        "num_layers": placement.num_layers,
        "objective_tokens_per_s": placement.objective_tokens_per_s,
        "upper_bound_tokens_per_s": placement.upper_bound_tokens_per_s,
        "gap": placement.gap,
        "max_flow_tokens_per_s": plan.max_flow_tokens_per_s,
        "max_flow_without_network_tokens_per_s": max_flow_without_network(plan),
        "mean_hops": plan.mean_hops,
        "max_hops": plan.max_hops,
        "replicas": [list(nodes) for nodes in plan.replicas],
        "partial_inference": placement.partial_inference,
        **({"pipelines": dict(placement.pipelines)} if placement.pipelines else {}),
        **({"widths": dict(placement.widths)} if placement.widths else {}),
        **({"roles": dict(placement.roles)} if placement.roles else {}),
        "layers": layers,
        "nodes": nodes,
        "min_cut": [
            {
                "kind": cut.kind,
                "name": cut.name,
                "count": cut.count,
                "capacity_tokens_per_s": cut.capacity_tokens_per_s,
            }
            for cut in plan.min_cut
        ],
        "equal_nodes": [list(one.nodes) for one in plan.classes if len(one.nodes) > 1],
        "routes": [{"route": route_text(route), "flow_tokens_per_s": flow} for route, flow in plan.routes],
        "notes": dict(placement.notes),
        "vllm": _vllm_partitions(placement),
    }
    values: dict[str, Any] = json_values(document)
    return values


def _vllm_partitions(placement: Placement) -> list[dict[str, Any]]:
    """Return the pipelines that vLLM can serve, with their partitions for VLLM_PP_LAYER_PARTITION.

    These are pipelines whose nodes share no layers with other nodes, since vLLM does not replicate single stages.
    """
    lanes: dict[int | None, list[tuple[LayerRange, str]]] = {}
    for node, held in placement.ranges.items():
        lanes.setdefault(placement.pipelines.get(node), []).append((held, node))
    found = []
    for lane in lanes.values():
        lane.sort()
        ends = [0, *(held.end for held, _ in lane)]
        if ends[-1] == placement.num_layers and all(
            held.start == end for (held, _), end in zip(lane, ends, strict=False)
        ):
            partition = ",".join(str(held.layers) for held, _ in lane)
            found.append({"nodes": [node for _, node in lane], "VLLM_PP_LAYER_PARTITION": partition})
    return found


def route_text(route: Route) -> str:
    """Return for example ``a100-0[0:20] l4-3[20:40]``, layers half-open."""
    return " ".join(f"{node}[{held.start}:{held.end}]" for node, held in route.hops)
