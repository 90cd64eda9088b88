"""The figures of one simulated system, part by part of its summary (``domain.summary``); times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from helixsim.domain.request import FeedMode

Figure = float | None
"""A number that may not exist."""


class Limits(NamedTuple):
    """A 95 % confidence interval, in the unit of the figure it belongs to."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Distribution of a latency in the measurement window [s]; ``mean_interval_s`` None: too few values."""

    mean_s: Figure
    median_s: Figure
    std_s: Figure
    p50_s: Figure
    p75_s: Figure
    p90_s: Figure
    p95_s: Figure
    p99_s: Figure
    mean_interval_s: Limits | None = None


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """The measurement window in simulated time [s], after a warm-up of ``warmup_s``."""

    start_s: float
    end_s: float
    warmup_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """The load, and whether the system is stable under it.

    Parameters
    ----------
    offered_per_s
        Requests/s of the workload; None for closed loops.
    arrived_per_s
        Requests/s that arrived in the window.
    stationarity
        ``"steady"``, ``"not steady: ..."`` or ``"unknown: ..."`` (``metrics.stationarity``).
    saturation
        ``STABLE``, ``BACKLOGGED`` or ``OVERLOADED`` (``metrics.saturation``).
    """

    feed: FeedMode
    seed: int
    stationarity: str
    saturation: str
    offered_per_s: Figure
    arrived_per_s: Figure


@dataclass(frozen=True, slots=True)
class ThroughputFigures:
    """Counts and rates of the window.

    Parameters
    ----------
    completed, failed
        Requests that finished in the window; requests that arrived in it and were rejected.
    requests_per_s, output_tokens_per_s, total_tokens_per_s
        None for an empty window; total counts prompt and output tokens.
    goodput_per_s, slo_attainment
        Requests/s within all objectives, and their share of the requests with a known outcome; None without objectives.
    prefix_hit_tokens, prefix_hit_rate
        Prompt tokens that were found in prefix caches instead of computed, and their share of the prompt tokens.
    output_interval
        95 % interval of ``output_tokens_per_s``; None for windows that are too short.
    attainment_interval
        The same of ``slo_attainment``.
    undecided
        Requests that were not finished at the end of the window and had not missed an objective, which
        ``slo_attainment`` leaves out; None without objectives, and in documents of older versions.
    """

    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    requests_per_s: Figure
    goodput_per_s: Figure
    output_tokens_per_s: Figure
    total_tokens_per_s: Figure
    slo_attainment: Figure
    output_interval: Limits | None
    prefix_hit_tokens: Figure = None
    prefix_hit_rate: Figure = None
    attainment_interval: Limits | None = None
    undecided: Figure = None


@dataclass(frozen=True, slots=True)
class ObjectiveFigures:
    """One service-level objective and what was reached.

    Parameters
    ----------
    limit_s
        The objective [s].
    reached_s
        Percentile ``percentile`` of the latency of the requests with a known outcome [s]; None: beyond the window, or
        no such request.
    within
        Share of these requests within the objective; None: no such request.
    """

    limit_s: float
    percentile: float
    reached_s: Figure
    within: Figure

    @property
    def is_met(self) -> bool | None:
        """Whether the percentile is within the objective; None: no request has this latency."""
        return None if self.within is None else self.reached_s is not None and self.reached_s <= self.limit_s


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Figures of the requests of a class in the window; their meaning is that of ``ThroughputFigures``."""

    completed: int
    failed: int
    requests_per_s: Figure
    goodput_per_s: Figure
    slo_attainment: Figure
    ttft: Latency
    tpot: Latency
    e2el: Latency
    output_tokens_per_s: Figure = None
    """None in documents of older versions."""


@dataclass(frozen=True, slots=True)
class FlowFigures:
    """The placement and its max-flow, which counts prompt and output tokens.

    Parameters
    ----------
    max_flow_tokens_per_s
        Max-flow estimate; not a bound, as node capacities assume a fixed KV occupancy.
    upper_bound_tokens_per_s, gap
        Bound on the max-flow of any placement, and the share by which this one stays below it; None if unknown.
    max_flow_requests_per_s, max_flow_output_tokens_per_s
        The max-flow estimate at the mean lengths of the workload.
    attainment
        Measured total throughput over the max-flow estimate; may exceed 1.
    mean_hops, max_hops, measured_mean_hops
        Nodes per request: planned mean, maximum, and measured mean.
    kv_limited_tokens_per_s, kv_limited_attainment
        KV-limited throughput estimate (``flow.operating``) and measured total throughput over it; None: not computed.
    """

    strategy: str
    placement_status: str
    max_flow_tokens_per_s: float
    upper_bound_tokens_per_s: Figure
    gap: Figure
    max_flow_requests_per_s: Figure
    max_flow_output_tokens_per_s: Figure
    attainment: Figure
    mean_hops: Figure
    max_hops: int
    measured_mean_hops: Figure
    kv_limited_tokens_per_s: Figure
    kv_limited_attainment: Figure


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """Figures of the nodes.

    Parameters
    ----------
    bottleneck
        Sentences on what limits the throughput of the system.
    limited_by, limiting_node
        What limits it (``metrics.bottleneck.LIMITS``), and the node where that is one node; empty in documents of older
        versions.
    utilisation
        Share of the window in which nodes compute, by node type.
    kv_peak, kv_mean
        Share of KV blocks in use: peak of the fullest node, and mean.
    kv_tokens
        Capacity of the KV memory of each node [tokens].
    queue_mean
        Mean number of requests waiting for a batch, summed over nodes.
    gpus
        GPUs of the cluster, those of unused nodes included; None in documents of older versions.
    """

    bottleneck: str
    utilisation: Mapping[str, float]
    kv_peak: float
    kv_mean: Figure
    kv_tokens: Mapping[str, int]
    queue_mean: float
    limited_by: str = ""
    limiting_node: str = ""
    gpus: Figure = None


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Figures of the nodes with one role.

    Parameters
    ----------
    nodes, gpus
        All of them, those without layers included.
    busy_share
        Share of the window in which they compute, 0..1.
    kv_mean, kv_peak
        Share of KV blocks in use: mean, and peak of the fullest node.
    prompt_tokens, decode_tokens
        What they computed over the whole run: prompts, and one decode for each sequence and step.
    """

    nodes: int
    gpus: int
    busy_share: float
    kv_mean: Figure
    kv_peak: float
    prompt_tokens: int
    decode_tokens: int


@dataclass(frozen=True, slots=True)
class DisaggregationFigures:
    """Figures of a system that prefills and decodes on different nodes.

    Parameters
    ----------
    pools
        By role.
    transfers, transfer_bytes
        KV caches that have been sent over the whole run, and their size [B].
    transfer_p50_s, transfer_p99_s
        Time from the first message of a transfer to the last [s].
    exposed_p50_s, exposed_p99_s
        What of it requests that finished in the window waited for after their prompts were computed [s].
    local_prompts
        Requests of the whole run whose prompts are computed where they are decoded; None in older documents.
    busiest_link_share
        Largest share of the run for which a link carries KV caches, 0..1; None in older documents.
    """

    pools: Mapping[str, PoolFigures]
    transfers: int
    transfer_bytes: int
    transfer_p50_s: Figure
    transfer_p99_s: Figure
    exposed_p50_s: Figure
    exposed_p99_s: Figure
    local_prompts: Figure = None
    busiest_link_share: Figure = None


@dataclass(frozen=True, slots=True)
class CostFigures:
    """Cost and energy of all nodes, including those without layers; "per Mtok" refers to output tokens."""

    usd_per_hour: float
    usd_per_mtok: Figure
    usd_per_total_mtok: Figure
    power_w: float
    energy_wh_per_mtok: Figure


@dataclass(frozen=True, slots=True)
class RankingFigures:
    """What systems are ranked by, in equal parts of the window (``metrics.score``).

    Parameters
    ----------
    good, decided
        Requests that met all objectives, and all with a known outcome, by the part in which they arrived.
    log_latency
        Pseudo-values of the logarithm of the latency [s]; None where nothing was measured.
    output_tokens
        Output tokens delivered in each part.
    usd_per_hour, nodes
        Price and number of the nodes with layers.
    cost_first
        Whether the plan was asked for by cost, so that the price decides before the latency.
    """

    good: tuple[float, ...]
    decided: tuple[float, ...]
    log_latency: tuple[Figure, ...]
    output_tokens: tuple[float, ...]
    usd_per_hour: float
    nodes: int
    cost_first: bool = False


@dataclass(frozen=True, slots=True)
class IntegrityFigures:
    """Counts of the whole run that show its soundness.

    Parameters
    ----------
    conservation
        Number of requests that arrived, and in each state at the end.
    invariants_broken
        One sentence per violated invariant.
    recomputed_tokens
        Tokens computed again after a preemption, without those that a prefix cache still held.
    """

    preemptions: int
    rejected: int
    truncated_outputs: int
    conservation: Mapping[str, int]
    invariants_broken: tuple[str, ...]
    simulated_s: float
    events: int
    recomputed_tokens: Figure = None


@dataclass(frozen=True, slots=True)
class GpuShare:
    """GPUs of one kind of node in a system, and the share of the work that they do."""

    gpu: str
    gpus: int
    """GPUs of a node, which is one tensor-parallel instance of the engine."""
    share: float


@dataclass(frozen=True, slots=True)
class SettingFigures:
    """What is served by what under which load: where measured points have to lie to say how far off the figures are.

    Parameters
    ----------
    nodes
        Kinds of nodes that computed; shares of the layers times tokens that they computed.
    engine, family, weights
        Engine profile, family of the model (``domain.family``), and number format of its weights.
    timings
        Where step times come from: ``roofline``, ``operators``, ``fitted`` ... (``ComputeProfile.source``).
    stages
        Nodes per request, the measured mean.
    batch
        Mean number of running requests for each copy of the model.
    is_disaggregated
        Whether prefill and decode are on different nodes; ``nodes`` and ``batch`` are then those that decode, and
        kinds of GPUs that only prefill.
    context_tokens
        Mean context of a request: its prompt and half of its output [tokens].
    crosses_regions
        Whether routes pass links between regions.
    unsupported
        What of it the models do not represent, as sentences.
    """

    nodes: tuple[GpuShare, ...]
    engine: str
    family: str
    weights: str
    timings: tuple[str, ...]
    stages: float
    batch: float
    context_tokens: float
    crosses_regions: bool = False
    unsupported: tuple[str, ...] = ()
    is_disaggregated: bool = False
