"""The pools of a system that prefills and decodes on different nodes, and the transfers between them."""

from __future__ import annotations

import numpy as np

from helixsim.domain.cluster import Deployment
from helixsim.domain.figures import DisaggregationFigures, PoolFigures
from helixsim.domain.placement import ROLES
from helixsim.domain.result import IntArray, RunResult
from helixsim.metrics.latency import finished_in_window
from helixsim.metrics.utilisation import Utilisation
from helixsim.units import NS_PER_S


def disaggregation_figures(run: RunResult, used: Utilisation, fleet: Deployment) -> DisaggregationFigures | None:
    """Return the figures of pools and transfers; None where all nodes serve both phases."""
    sent = run.transfers
    if sent is None:
        return None
    roles = np.array([fleet.cluster.node(node).role for node in run.nodes.node_id])
    pools: dict[str, PoolFigures] = {}
    for role in ROLES:
        own = [node for node in fleet.cluster.nodes if node.role == role]
        if not own:
            continue
        placed = roles == role
        pools[role] = PoolFigures(
            nodes=len(own),
            gpus=sum(node.gpus for node in own),
            busy_share=float(used.busy_share[placed].sum()) / len(own),
            kv_mean=float(used.kv_mean[placed].mean()) if placed.any() else None,
            kv_peak=float(used.kv_peak[placed].max(initial=0.0)),
            prompt_tokens=int(run.nodes.prompt_tokens[placed].sum()),
            decode_tokens=int(run.nodes.decode_tokens[placed].sum()),
        )
    waited = run.requests.transfer_ns[finished_in_window(run)]
    waited = waited[waited > 0]
    return DisaggregationFigures(
        pools=pools,
        transfers=len(sent.bytes),
        transfer_bytes=int(sent.bytes.sum()),
        transfer_p50_s=_percentile_s(sent.duration_ns, 50),
        transfer_p99_s=_percentile_s(sent.duration_ns, 99),
        exposed_p50_s=_percentile_s(waited, 50),
        exposed_p99_s=_percentile_s(waited, 99),
        local_prompts=sent.local_prompts,
        busiest_link_share=0.0 if (found := busiest_link(run)) is None else found[1],
    )


def busiest_link(run: RunResult) -> tuple[str, float] | None:
    """Return the link that carries KV caches for the largest share of the run, and that share; None: none does.

    Links between nodes of two replicas carry nothing else.
    """
    links = run.links
    replica_of: dict[str, int] = {}
    for number, route in enumerate(run.routes):
        replica_of |= {node: number for node, _ in route.hops}
    shares = [
        (busy_ns / run.end_ns if run.end_ns else 0.0, f"from {src} to {dst}")
        for src, dst, busy_ns in zip(links.src, links.dst, links.busy_ns.tolist(), strict=True)
        if src in replica_of and dst in replica_of and replica_of[src] != replica_of[dst]
    ]
    if not shares:
        return None
    share, name = max(shares, key=lambda one: one[0])
    return name, float(share)


def _percentile_s(values_ns: IntArray, percent: float) -> float | None:
    return float(np.percentile(values_ns, percent)) / NS_PER_S if len(values_ns) else None
