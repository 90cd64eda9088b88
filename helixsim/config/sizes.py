"""Limits of the size of an experiment, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from helixsim import units
from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source
from helixsim.errors import Problem
from helixsim.units import NS_PER_S
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec, WorkloadStats
from helixsim.yamlio import KeyPath

MOST_NODES = 10_000
"""Planners use every pair of nodes: 10 000 nodes have 10**8 links."""

MOST_REQUESTS = 10**8
"""A simulated request takes about 1 ms and 100 bytes: 10**8 requests take a day and 10 GB."""

MOST_SAMPLES = 10**8
"""Samples of all nodes in the time series, four values of 8 bytes each."""

MOST_ENTRIES = 1_000
"""Limit of systems and of what-if variants, each of which has its own tables, files and colour."""

MOST_NODE_ENTRIES = 10_000


def check_lists(source: Source) -> Iterator[Problem]:
    """Refuse lists with too many entries, before their entries are checked."""
    for path, most in (
        (("systems",), MOST_ENTRIES), (("whatif",), MOST_ENTRIES), (("cluster", "nodes"), MOST_NODE_ENTRIES),
    ):  # fmt: skip
        found: Any = source.data
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, list) and len(found) > most:
            yield source.problem(path, f"has {len(found)} entries, allowed: up to {most}")


def check_nodes(section: ExperimentSection, source: Source) -> Iterator[Problem]:
    """Refuse clusters with too many nodes for the planners."""
    total = 0
    for number, nodes in enumerate(section.cluster.nodes):
        count = nodes.count or len(nodes.ids or [0])
        total += count
        if total > MOST_NODES:
            path: KeyPath = ("cluster", "nodes", number, *(["count"] if nodes.count else []))
            message = f"the cluster has {total} nodes and {total * total:.2g} links, allowed: up to {MOST_NODES} nodes"
            yield source.problem(path, message)
            return


def check_requests(
    spec: ArrivalsSpec, path: KeyPath, workload: WorkloadSpec, stats: WorkloadStats, source: Source
) -> Iterator[Problem]:
    """Refuse loads with too many requests."""
    if spec.num_requests is not None and spec.num_requests > MOST_REQUESTS:
        yield source.problem((*path, "num_requests"), _too_many(spec.num_requests))
        return
    window, rate_rps = workload.window, spec.rate_rps or stats.offered_rps
    if window.duration_ns is None or rate_rps is None or spec.num_requests is not None:
        return
    expected = rate_rps * (window.warmup_ns + window.duration_ns) / NS_PER_S
    if expected > MOST_REQUESTS:
        key = (*path, "rate") if spec.rate_rps is not None else ("workload", "duration")
        yield source.problem(key, _too_many(expected))


def check_samples(section: ExperimentSection, workload: WorkloadSpec, nodes: int, source: Source) -> Iterator[Problem]:
    """Refuse time series that do not fit into memory."""
    window = workload.window
    if section.report.sample is None or window.duration_ns is None:
        return
    samples = (window.warmup_ns + window.duration_ns) / NS_PER_S / units.parse(section.report.sample, "time")
    if samples * nodes > MOST_SAMPLES:
        message = (
            f"gives {samples:.3g} samples of {nodes} nodes, allowed: up to {MOST_SAMPLES / nodes:.3g} samples; "
            f"increase the interval by a factor of at least {samples * nodes / MOST_SAMPLES:.3g}"
        )
        yield source.problem(("report", "sample"), message)


def _too_many(requests: float) -> str:
    return f"gives {requests:.3g} requests, allowed: up to {MOST_REQUESTS:.0e}"
