"""Utilisation, KV memory use and queues of the nodes in the window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helixsim.domain.cluster import Deployment
from helixsim.domain.result import FloatArray, RunResult
from helixsim.metrics.window import growth_in_window, window_samples


@dataclass(frozen=True)
class Utilisation:
    """Shares are 0..1. Arrays are aligned with ``RunResult.nodes``."""

    busy_share: FloatArray
    """Share of the window in which each node computed."""
    by_node_type: dict[str, float]
    """Mean utilisation per node type; nodes without layers count as idle."""
    kv_mean: FloatArray
    """Mean share of KV blocks in use, by node."""
    kv_peak: FloatArray
    """Largest share of KV blocks in use over the whole run, by node."""
    queue_mean: FloatArray
    """Mean number of requests that wait for a batch, by node."""


def utilisation(run: RunResult, fleet: Deployment) -> Utilisation:
    """Return utilisation, KV memory use and queues in the window."""
    nodes = run.nodes
    window_ns = max(run.window_end_ns - run.window_start_ns, 1)
    busy_share = growth_in_window(run.series.busy_ns, run) / window_ns
    by_node = dict(zip(nodes.node_id, busy_share.tolist(), strict=True))
    node_types: dict[str, list[float]] = {}
    for node in fleet.cluster.nodes:
        node_types.setdefault(node.node_type, []).append(by_node.get(node.id, 0.0))
    sampled = window_samples(run)
    return Utilisation(
        busy_share=busy_share,
        by_node_type={node_type: sum(shares) / len(shares) for node_type, shares in node_types.items()},
        kv_mean=_mean(run.series.kv_used[sampled]),
        kv_peak=nodes.kv_peak_blocks / np.maximum(nodes.kv_blocks, 1),
        queue_mean=_mean(run.series.queue_length[sampled].astype(np.float64)),
    )


def _mean(samples: FloatArray) -> FloatArray:
    return samples.mean(axis=0) if len(samples) else np.zeros(samples.shape[1])
