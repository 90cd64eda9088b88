"""What is kept of one simulated run: enough to pool parts of a method, to average seeds and to draw every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import helixsim as hx
from helixsim.domain.result import FloatArray, GapHistogram, RunResult
from helixsim.metrics.latency import latency_samples
from helixsim.metrics.saturation import saturation
from helixsim.metrics.stationarity import NOT_STEADY, stationarity
from helixsim.metrics.throughput import output_throughput_interval, throughput
from helixsim.metrics.utilisation import utilisation
from helixsim.metrics.window import duration_s
from helixsim.units import NS_PER_S

POINTS = 200
"""Quantiles kept of a distribution: the 95th percentile of pooled parts is then within half a per cent of rank."""

PERCENTILES = (5, 25, 50, 75, 95)
"""What the paper's box plots show."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies of a window: how many, their mean [s], and equally weighted quantiles [s]."""

    count: int
    mean_s: float
    points_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """One node over the window.

    Parameters
    ----------
    stay_s
        Mean time a request spends at the node on one visit: in its queue (Little's law), in its batch, and waiting for
        the outgoing link.
    busy
        Share of time it computes.
    """

    node: str
    kind: str
    start: int
    end: int
    stay_s: float
    busy: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one system under one seed.

    ``interval`` are the limits of output tokens/s at 95 %, of batch means within the run; None for short windows.
    ``good_rps`` are requests/s within the SLO, None without one. Flows are in prompt + output tokens/s.
    """

    seed: int
    window_s: float
    output_tokens: int
    interval: tuple[float, float] | None
    good_rps: float | None
    prompt: Distribution
    decode: Distribution
    max_flow_tokens_per_s: float
    mean_hops: float
    max_hops: int
    total_tokens_per_s: float
    saturation: str
    steady: str
    nodes: tuple[NodeLoad, ...]

    @property
    def drifts(self) -> bool:
        """Return whether the halves of the window differ by more than chance (``metrics.stationarity``)."""
        return self.steady.startswith(NOT_STEADY)


def take(experiment: hx.ResolvedExperiment, placed: hx.Placed, seed: int) -> Sample:
    """Simulate a placed system under a seed and keep what the figures need."""
    run = hx.simulate(experiment, placed, seed=seed)
    counts = throughput(run, experiment.slo)
    interval = output_throughput_interval(run)
    return Sample(
        seed=seed,
        window_s=duration_s(run),
        output_tokens=counts.output_tokens,
        interval=None if interval is None else (interval.low, interval.high),
        good_rps=None if counts.good_requests is None else counts.rate(counts.good_requests),
        prompt=_of_values(latency_samples(run).ttft_ns / NS_PER_S),
        decode=_of_gaps(run.gaps),
        max_flow_tokens_per_s=placed.plan.max_flow_tokens_per_s,
        mean_hops=placed.plan.mean_hops,
        max_hops=placed.plan.max_hops,
        total_tokens_per_s=counts.rate(counts.prompt_tokens + counts.output_tokens),
        saturation=saturation(run).value,
        steady=stationarity(run),
        nodes=_nodes(run, placed),
    )


def to_json(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON values."""
    return asdict(sample)


def from_json(data: Mapping[str, Any]) -> Sample:
    """Return the sample that ``to_json`` wrote."""
    values = dict(data)
    for key in ("prompt", "decode"):
        values[key] = Distribution(**{**data[key], "points_s": tuple(data[key]["points_s"])})
    values["nodes"] = tuple(NodeLoad(**node) for node in data["nodes"])
    values["interval"] = None if data["interval"] is None else tuple(data["interval"])
    return Sample(**values)


def pooled_quantile(parts: Sequence[Distribution], percent: float) -> float | None:
    """Return a percentile [s] of several distributions together, each weighted by its count; None if all are empty."""
    filled = [part for part in parts if part.count]
    if not filled:
        return None
    values = np.concatenate([part.points_s for part in filled])
    weights = np.concatenate([np.full(len(part.points_s), part.count / len(part.points_s)) for part in filled])
    order = np.argsort(values, kind="stable")
    middle = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return float(np.interp(percent / 100, middle, values[order]))


def pooled_mean(parts: Sequence[Distribution]) -> float | None:
    """Return the mean [s] of several distributions together; None if all are empty."""
    count = sum(part.count for part in parts)
    return sum(part.count * part.mean_s for part in parts if part.count) / count if count else None


def _of_values(values: FloatArray) -> Distribution:
    if not values.size:
        return Distribution(0, 0.0, ())
    points = values if values.size <= POINTS else np.quantile(values, (np.arange(POINTS) + 0.5) / POINTS)
    return Distribution(int(values.size), float(values.mean()), _rounded(np.sort(points)))


def _of_gaps(gaps: GapHistogram) -> Distribution:
    count = int(gaps.count.sum())
    if not count:
        return Distribution(0, 0.0, ())
    ranks = (np.arange(POINTS) + 0.5) / POINTS * count
    bins = np.searchsorted(np.cumsum(gaps.count), ranks, side="left")
    points = (gaps.value_ns[bins] + gaps.resolution_ns / 2) / NS_PER_S
    return Distribution(count, gaps.sum_ns / count / NS_PER_S, _rounded(points))


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _nodes(run: RunResult, placed: hx.Placed) -> tuple[NodeLoad, ...]:
    nodes, links = run.nodes, run.links
    used = utilisation(run, placed.system.fleet)
    busy = used.busy_share
    visits = dict.fromkeys(nodes.node_id, 0)
    waits_ns = dict.fromkeys(nodes.node_id, 0.0)
    sent = dict.fromkeys(nodes.node_id, 0)
    for src, dst, messages, queue_ns in zip(links.src, links.dst, links.messages, links.queue_ns, strict=True):
        if dst in visits:
            visits[dst] += int(messages)
        if src in sent:
            sent[src] += int(messages)
            waits_ns[src] += float(queue_ns)
    run_s = max(run.end_ns, 1) / NS_PER_S
    loads = []
    for position, node in enumerate(nodes.node_id):
        rate_per_s = visits[node] / run_s
        queued_s = float(used.queue_mean[position]) / rate_per_s if rate_per_s else 0.0
        batches = int(nodes.batches[position])
        batch_s = float(busy[position]) * run_s / batches if batches else 0.0
        link_s = waits_ns[node] / sent[node] / NS_PER_S if sent[node] else 0.0
        loads.append(
            NodeLoad(
                node, nodes.node_type[position], int(nodes.start[position]), int(nodes.end[position]),
                float(f"{queued_s + batch_s + link_s:.6g}"), float(f"{busy[position]:.6g}"),
            )
        )  # fmt: skip
    return tuple(loads)
