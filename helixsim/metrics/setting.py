"""The setting of a simulated system: what it is compared with when its model error is estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from helixsim.domain.cluster import Cluster, Deployment
from helixsim.domain.engine import EngineSpec
from helixsim.domain.family import family
from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.domain.placement import Placement
from helixsim.domain.result import RunResult
from helixsim.jsonio import significant
from helixsim.metrics.latency import finished_in_window
from helixsim.metrics.window import window_samples


def setting_of(
    run: RunResult,
    fleet: Deployment,
    placement: Placement,
    engine: EngineSpec,
    *,
    hops: float,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
    unsupported: tuple[str, ...] = (),
) -> SettingFigures | None:
    """Return the setting of a run, its load as observed in the window; None if no node has computed anything.

    Of a system whose nodes have roles, nodes that decode make the setting, since they decide its TPOT, and kinds of
    GPUs that only prefill, by an equal share. Each of these systems has requests on two chains of nodes.

    Parameters
    ----------
    hops
        Mean number of nodes of a request.
    mean_prompt_tokens, mean_output_tokens
        Means of the workload, for a window in which no request finishes [tokens].
    """
    is_split = fleet.cluster.is_disaggregated
    work = _work(run)
    if not work:
        return None
    nodes = {node.node_type: node for node in fleet.cluster.nodes}
    deciding = _deciding(work, fleet.cluster) if is_split else work
    total = math.fsum(deciding.values())
    pairs = zip(fleet.cluster.nodes, fleet.profiles, strict=True)
    # those of idle nodes decide nothing
    sources = {profile.compute.source for node, profile in pairs if node.node_type in work}
    finished = finished_in_window(run)
    if finished.size:
        mean_prompt_tokens = float(run.requests.prompt_tokens[finished].mean())
        mean_output_tokens = float(run.requests.output_tokens[finished].mean())
    serving = placement.part(fleet.cluster.serving("decode")) if is_split else placement
    copies = sum(held.layers for held in serving.ranges.values()) / placement.num_layers
    running = run.series.running[window_samples(run)]
    return SettingFigures(
        nodes=tuple(
            GpuShare(nodes[kind].gpu, nodes[kind].gpus, significant(done / total))
            for kind, done in sorted(deciding.items())
        ),
        engine=engine.name,
        family=family(fleet.model),
        weights=fleet.model.precision,
        timings=tuple(sorted(sources)),
        stages=hops,
        batch=float(running.mean()) / copies if running.size else 0.0,
        context_tokens=mean_prompt_tokens + mean_output_tokens / 2,
        unsupported=unsupported,
        is_disaggregated=is_split,
        crosses_regions=any(len({fleet.cluster.region_of(node) for node, _ in route.hops}) > 1 for route in run.routes),
    )


def _deciding(work: Mapping[str, float], cluster: Cluster) -> dict[str, float]:
    """Return the work of the kinds of nodes that decode, and an equal share of it for other GPUs that prefill."""
    decoding = {node.node_type for node in cluster.nodes if node.role != "prefill"}
    found = {kind: done for kind, done in work.items() if kind in decoding}
    gpu_of = {node.node_type: node.gpu for node in cluster.nodes}
    others = [kind for kind in work if gpu_of[kind] not in {gpu_of[one] for one in found}]
    mean = math.fsum(found.values()) / len(found) if found else 1.0
    return found | dict.fromkeys(others, mean)


def _work(run: RunResult) -> dict[str, float]:
    """Return layers times tokens that were computed, by kind of node."""
    nodes = run.nodes
    done = (nodes.end - nodes.start) * (nodes.prompt_tokens + nodes.decode_tokens)
    kinds = np.array(nodes.node_type)
    found = {str(kind): float(done[kinds == kind].sum()) for kind in np.unique(kinds)}
    return {kind: value for kind, value in found.items() if value}
