"""Results of one simulated run: columns and counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.autoscaling import AutoscalingStats
from helixsim.domain.faults import FaultStats
from helixsim.domain.flowplan import Route
from helixsim.domain.request import FeedMode

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class RequestStatus(IntEnum):
    """State of a request at the end of the run."""

    WAITING = 0
    """Arrived, not admitted."""
    RUNNING = 1
    """Admitted, not finished."""
    FINISHED = 2
    REJECTED = 3
    """Longer than the context of the model, or than the KV memory of any route."""
    FAILED = 4
    """Given up because of faults: lost too often, or without a route for too long."""


@dataclass(frozen=True)
class RequestColumns:
    """One entry per request that arrived, in order of arrival; times [ns], -1: did not occur.

    ``output_tokens`` are those delivered. ``queue_ns + compute_ns + network_ns + transfer_ns + load_ns`` is
    ``finish_ns - arrival_ns`` of a finished request; ``queue_ns`` includes waiting at the coordinator, ``transfer_ns``
    is the time that its KV cache took between the end of its prompt and its first decode step, ``load_ns`` that of KV
    blocks from host memory and disk. ``route`` is the index of the last route in ``RunResult.routes``, that which
    decoded it, -1: none. ``cached_tokens`` are those of the prompt that a prefix cache held when the request was first
    admitted, ``host_tokens`` and ``disk_tokens`` those of them on these. ``slo_class`` is the index of its class in
    ``RunResult.classes``, -1: none.
    """

    request_id: IntArray
    status: IntArray
    arrival_ns: IntArray
    admitted_ns: IntArray
    first_token_ns: IntArray
    finish_ns: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    route: IntArray
    preemptions: IntArray
    queue_ns: IntArray
    compute_ns: IntArray
    network_ns: IntArray
    cached_tokens: IntArray
    slo_class: IntArray
    transfer_ns: IntArray
    load_ns: IntArray
    host_tokens: IntArray
    disk_tokens: IntArray


@dataclass(frozen=True)
class Series:
    """Samples at fixed intervals, including the start and the end of the window.

    ``time_ns`` has shape [S]. Cumulative since the start of the run: ``output_tokens``, ``prompt_tokens`` (prefilled),
    ``arrived``, ``finished`` [S]; ``busy_ns``, ``batches``, ``decode_tokens`` [S, N]. Instantaneous: ``waiting``,
    ``running`` [requests, S]; ``kv_used`` (share of the KV blocks of the node), ``queue_length`` [requests, S, N].
    """

    time_ns: IntArray
    output_tokens: IntArray
    prompt_tokens: IntArray
    arrived: IntArray
    finished: IntArray
    waiting: IntArray
    running: IntArray
    busy_ns: IntArray
    kv_used: FloatArray
    queue_length: IntArray
    batches: IntArray
    decode_tokens: IntArray


@dataclass(frozen=True)
class NodeStats:
    """One entry per node with layers, over the whole run; aligned with the node axis of ``Series``."""

    node_id: tuple[str, ...]
    node_type: tuple[str, ...]
    start: IntArray
    end: IntArray
    kv_blocks: IntArray
    kv_peak_blocks: IntArray
    batches: IntArray
    prompt_tokens: IntArray
    decode_tokens: IntArray
    preemptions: IntArray


@dataclass(frozen=True)
class LinkStats:
    """One entry per directed link with traffic, over the whole run.

    ``messages`` counts submitted messages; ``bytes`` and ``busy_ns`` count transmitted ones, without those still
    queued at the end. ``queue_ns`` is the sum of the waiting times of messages.
    """

    src: tuple[str, ...]
    dst: tuple[str, ...]
    messages: IntArray
    bytes: IntArray
    busy_ns: IntArray
    queue_ns: IntArray


@dataclass(frozen=True)
class TransferStats:
    """One entry per KV transfer that has ended, over the whole run, in the order of their ends.

    ``duration_ns`` is from the first message sent to the last one received: with layer-wise transfers most of it lies
    beside the prompt. ``local_prompts`` counts the requests whose prompts are computed where they are decoded.
    """

    duration_ns: IntArray
    bytes: IntArray
    local_prompts: int = 0


@dataclass(frozen=True)
class OffloadStats:
    """KV blocks on host memory and disk over the whole run, of all replicas, by tier [tokens].

    ``capacity`` is what they keep, ``peak`` the sum of the most that each has kept, ``stored`` what came from the tier
    before, ``loaded`` what was sent back to GPUs. ``loads`` counts requests that waited for blocks, again after
    preemptions.
    """

    loads: int
    capacity_tokens: Mapping[str, int]
    peak_tokens: Mapping[str, int]
    stored_tokens: Mapping[str, int]
    loaded_tokens: Mapping[str, int]


@dataclass(frozen=True)
class GapHistogram:
    """Histogram of the inter-token latency in the window.

    ``value_ns`` are the lower edges of bins of width ``resolution_ns``, ``count`` the numbers of values in them.
    ``sum_ns`` and ``sum_squares_ns2`` are exact.
    """

    resolution_ns: int
    value_ns: IntArray
    count: IntArray
    sum_ns: int
    sum_squares_ns2: int


@dataclass(frozen=True, slots=True)
class InvariantCheck:
    """Result of the check of a numbered invariant."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True)
class RunResult:
    """Results of one run.

    ``classes`` are the classes of its requests, in the order of their first arrival. ``transfers``: None: prefill and
    decode share their nodes. ``offloading``: None: KV blocks are on GPUs alone. ``autoscaling``: None: all replicas
    serve all the time. ``faults``: None: no node can fail.

    ``counters`` has at least ``events``, ``batches``, ``messages``, ``preemptions``, ``recomputed_tokens``,
    ``rejected``, ``token_hops``.
    """

    mode: FeedMode
    seed: int
    window_start_ns: int
    window_end_ns: int
    end_ns: int
    requests: RequestColumns
    routes: tuple[Route, ...]
    series: Series
    nodes: NodeStats
    links: LinkStats
    gaps: GapHistogram
    counters: Mapping[str, int]
    invariants: tuple[InvariantCheck, ...]
    cpu_s: float
    wall_s: float
    classes: tuple[str, ...] = ()
    transfers: TransferStats | None = None
    offloading: OffloadStats | None = None
    autoscaling: AutoscalingStats | None = None
    faults: FaultStats | None = None
