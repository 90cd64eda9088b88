"""The setting of a simulated system: what it is compared with when its model error is estimated."""

from __future__ import annotations

import math

import numpy as np

from helixsim.domain.cluster import Deployment
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

    Parameters
    ----------
    hops
        Mean number of nodes of a request.
    mean_prompt_tokens, mean_output_tokens
        Means of the workload, for a window in which no request finishes [tokens].
    """
    work = _work(run)
    if not work:
        return None
    total = math.fsum(work.values())
    nodes = {node.node_type: node for node in fleet.cluster.nodes}
    sources = {
        profile.compute.source for profile in fleet.profiles if profile.kind in work
    }  # those of idle nodes decide nothing
    finished = finished_in_window(run)
    if finished.size:
        mean_prompt_tokens = float(run.requests.prompt_tokens[finished].mean())
        mean_output_tokens = float(run.requests.output_tokens[finished].mean())
    copies = sum(held.layers for held in placement.ranges.values()) / placement.num_layers
    running = run.series.running[window_samples(run)]
    return SettingFigures(
        nodes=tuple(
            GpuShare(nodes[kind].gpu, nodes[kind].gpus, significant(done / total))
            for kind, done in sorted(work.items())
        ),
        engine=engine.name,
        family=family(fleet.model),
        weights=fleet.model.precision,
        timings=tuple(sorted(sources)),
        stages=hops,
        batch=float(running.mean()) / copies if running.size else 0.0,
        context_tokens=mean_prompt_tokens + mean_output_tokens / 2,
        unsupported=unsupported,
        crosses_regions=any(len({fleet.cluster.region_of(node) for node, _ in route.hops}) > 1 for route in run.routes),
    )


def _work(run: RunResult) -> dict[str, float]:
    """Return layers times tokens that were computed, by kind of node."""
    nodes = run.nodes
    done = (nodes.end - nodes.start) * (nodes.prompt_tokens + nodes.decode_tokens)
    kinds = np.array(nodes.node_type)
    found = {str(kind): float(done[kinds == kind].sum()) for kind in np.unique(kinds)}
    return {kind: value for kind, value in found.items() if value}
