"""Runs made by hand: a FIFO server for prefills, constant decode steps with noise, every token time known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from helixsim.domain.cluster import COORDINATOR, Cluster, Deployment, LinkSpec, Network, Node
from helixsim.domain.curves import Curve
from helixsim.domain.flowplan import CutElement, FlowPlan, Junction, JunctionFlow, NodeClass, Route
from helixsim.domain.hardware import BatchLimits, ComputeProfile, NodeProfile
from helixsim.domain.layers import Attention, Layer, Matrix
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import FeedMode
from helixsim.domain.result import (
    GapHistogram,
    InvariantCheck,
    LinkStats,
    NodeStats,
    RequestColumns,
    RequestStatus,
    RunResult,
    Series,
)

LAYERS = 16
MS = 1_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True)
class FakeRun:
    """A run and the truth behind it: the times of every token of every request [ns]."""

    run: RunResult
    token_times_ns: list[np.ndarray]


def fleet(fast: int = 2, slow: int = 4) -> Deployment:
    """``fast`` A100-like and ``slow`` T4-like nodes, one of the latter never used by ``placement``."""
    layer = Layer(Attention("full", 8, 8, 8, 8, 128), (Matrix("all", 500, 1000, 1_000_000),))
    model = ModelSpec("tiny", (layer,) * LAYERS, 64, 256, 40, False, "fp16", "fp16", 16, 4096, "made up")
    nodes = tuple(Node(f"a100-{i}", "a100", 1, "east", None, 2.0, 400.0) for i in range(fast))
    nodes += tuple(Node(f"t4-{i}", "t4", 2, "west", 1e9, 0.5, 140.0) for i in range(slow))
    profiles = {kind: _profile(kind, blocks) for kind, blocks in (("a100", 400), ("t4x2", 100))}
    link = LinkSpec(1e9, MS)
    cluster = Cluster(nodes, Network(link, link), "east")
    return Deployment(model, cluster, tuple(profiles[node.node_type] for node in nodes))


def _profile(kind: str, blocks: int) -> NodeProfile:
    compute = ComputeProfile(kind, "tiny", "roofline", Curve((1.0,), (1000.0,)), Curve((1.0,), (1000.0,)))
    limits = (BatchLimits(8, 4096, 64),) * LAYERS
    return NodeProfile(kind, compute, 16, tuple(blocks // (k + 1) for k in range(LAYERS)), limits, 8, 4, 6)


def placement(of: Deployment) -> Placement:
    """All nodes but the last, in two stages."""
    half = LAYERS // 2
    ranges = {
        node.id: LayerRange(0, half) if node.gpu == "a100" else LayerRange(half, LAYERS)
        for node in of.cluster.nodes[:-1]
    }
    return Placement("by hand", LAYERS, ranges, False, 4000.0, 5000.0, "feasible", 1.25)


def plan(of: Deployment) -> FlowPlan:
    """Every first-stage node feeds every second-stage node; the slow nodes are the cut."""
    placed = placement(of)
    first = tuple(node for node, held in placed.ranges.items() if held.start == 0)
    second = tuple(node for node, held in placed.ranges.items() if held.start > 0)
    flow, half = 4000.0, LAYERS // 2
    flows = {node: flow / len(first if node in first else second) for node in placed.ranges}
    capacities = {node: flows[node] * (1.5 if node in first else 1.0) for node in placed.ranges}
    return FlowPlan(
        flow,
        (
            NodeClass((COORDINATOR,), LayerRange(0, 0)),
            NodeClass(first, LayerRange(0, half)),
            NodeClass(second, LayerRange(half, LAYERS)),
        ),
        (Junction(0, (0,), (1,), 1e5), Junction(half, (1,), (2,), 1e4), Junction(LAYERS, (2,), (0,), 1e6)),
        (JunctionFlow((flow,), (flow,)),) * 3,
        flows,
        capacities,
        tuple(CutElement("node", node, capacities[node]) for node in second),
        ((Route(((first[0], placed.ranges[first[0]]), (second[0], placed.ranges[second[0]]))), flow),),
    )


def queue_run(
    *,
    seed: int = 0,
    count: int = 400,
    rate_rps: float = 4.0,
    prefill_ms: float = 100.0,
    step_ms: float = 30.0,
    warmup_s: float = 10.0,
    until_s: float = 90.0,
    resolution_ns: int = 100_000,
    mode: FeedMode = FeedMode.OPEN,
) -> FakeRun:
    """Poisson arrivals, one prefill at a time, then decode steps with 20 % noise; some are rejected or unfinished."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(SECOND / rate_rps, count)).astype(np.int64)
    prompts = rng.integers(10, 500, count)
    outputs = rng.integers(1, 60, count)
    rejected = rng.random(count) < 0.02
    end_ns = int(until_s * SECOND)
    free = 0
    tokens: list[np.ndarray] = []
    admitted = np.full(count, -1, dtype=np.int64)
    for i in range(count):
        if rejected[i] or arrival[i] > end_ns:
            tokens.append(np.empty(0, dtype=np.int64))
            continue
        start = max(free, int(arrival[i]))
        free = start + int(prefill_ms * MS * rng.uniform(0.5, 1.5))
        steps = (step_ms * MS * rng.uniform(0.8, 1.2, outputs[i] - 1)).astype(np.int64)
        times = free + np.concatenate(([0], np.cumsum(steps)))
        admitted[i] = start if start <= end_ns else -1
        tokens.append(times[times <= end_ns].astype(np.int64))
    here = arrival <= end_ns
    keep = np.flatnonzero(here)
    return _collect(
        arrival[keep], admitted[keep], prompts[keep], outputs[keep], rejected[keep], [tokens[i] for i in keep],
        (int(warmup_s * SECOND), end_ns), resolution_ns, mode, seed,
    )  # fmt: skip


def _collect(arrival, admitted, prompts, outputs, rejected, tokens, window, resolution_ns, mode, seed) -> FakeRun:
    start_ns, end_ns = window
    delivered = np.array([len(times) for times in tokens])
    first = np.array([times[0] if len(times) else -1 for times in tokens], dtype=np.int64)
    done = (delivered == outputs) & ~rejected
    finish = np.array([times[-1] if ok else -1 for times, ok in zip(tokens, done, strict=True)], dtype=np.int64)
    status = np.where(admitted >= 0, int(RequestStatus.RUNNING), int(RequestStatus.WAITING))
    status[done] = RequestStatus.FINISHED
    status[rejected] = RequestStatus.REJECTED
    spent = np.where(done, finish - arrival, 0)
    this_fleet = fleet()
    stages: dict[int, list[tuple[str, LayerRange]]] = {}
    for hop in placement(this_fleet).ranges.items():
        stages.setdefault(hop[1].start, []).append(hop)
    routes = tuple(map(Route, itertools.product(*stages.values())))
    zeros = np.zeros(len(arrival), dtype=np.int64)
    requests = RequestColumns(
        np.arange(len(arrival)), status, arrival, admitted, first, finish, prompts, delivered,
        np.where(admitted >= 0, np.arange(len(arrival)) % len(routes), -1), zeros,
        spent // 4, spent - spent // 4 - spent // 8, spent // 8, prompts // 3, zeros - 1, zeros, zeros, zeros, zeros,
    )  # fmt: skip
    series = _series(requests, tokens, end_ns, len(placement(this_fleet).ranges))
    gaps = [np.diff(times)[(times[1:] > start_ns) & (times[1:] <= end_ns)] for times in tokens]
    return FakeRun(
        RunResult(
            mode, seed, start_ns, end_ns, end_ns, requests, routes, series, _nodes(this_fleet), _links(this_fleet),
            histogram(np.concatenate(gaps), resolution_ns),
            {"events": 1000, "batches": 300, "messages": 500, "preemptions": 0, "recomputed_tokens": 0,
             "rejected": int(rejected.sum()), "token_hops": 2000},
            (InvariantCheck("INV-1 conservation", True, ""),), 0.1, 0.2,
        ),
        tokens,
    )  # fmt: skip


def histogram(gaps_ns: np.ndarray, resolution_ns: int) -> GapHistogram:
    """Bin gaps as the engine does."""
    values, counts = np.unique(gaps_ns // resolution_ns * resolution_ns, return_counts=True)
    squares = int((gaps_ns.astype(object) ** 2).sum()) if len(gaps_ns) else 0
    return GapHistogram(resolution_ns, values, counts, int(gaps_ns.sum()), squares)


def _series(requests: RequestColumns, tokens: list[np.ndarray], end_ns: int, nodes: int) -> Series:
    times = np.arange(0, end_ns + 1, SECOND)

    def so_far(events: np.ndarray) -> np.ndarray:
        events = np.sort(events[events >= 0])
        return np.searchsorted(events, times, side="right")

    firsts = np.argsort(requests.first_token_ns)
    firsts = firsts[requests.first_token_ns[firsts] >= 0]
    prefilled = np.concatenate(([0], np.cumsum(requests.prompt_tokens[firsts])))
    arrived, finished, admitted = (
        so_far(column) for column in (requests.arrival_ns, requests.finish_ns, requests.admitted_ns)
    )
    gone = so_far(requests.arrival_ns[requests.status == RequestStatus.REJECTED])
    running = admitted - finished
    share = np.clip(running / 40, 0, 1)[:, None] * np.linspace(0.5, 1.0, nodes)
    busy = np.outer(times, np.linspace(0.3, 0.9, nodes)).astype(np.int64)
    return Series(
        times, so_far(np.concatenate(tokens)), prefilled[so_far(requests.first_token_ns)], arrived, finished,
        arrived - gone - admitted, running, busy, share, np.tile(running[:, None] // 4, (1, nodes)),
        np.outer(np.arange(len(times)), np.full(nodes, 100)),
        np.outer(np.arange(len(times)), 100 * np.arange(1, nodes + 1)),
    )  # fmt: skip


def _nodes(of: Deployment) -> NodeStats:
    ranges = placement(of).ranges
    start = np.array([held.start for held in ranges.values()])
    end = np.array([held.end for held in ranges.values()])
    blocks = np.array([of.kv_blocks(node, held) for node, held in ranges.items()])
    ones = np.ones(len(ranges), dtype=np.int64)
    kinds = tuple(of.cluster.node(node).node_type for node in ranges)
    return NodeStats(
        tuple(ranges), kinds, start, end, blocks, blocks * 3 // 4, ones * 60, ones * 900, ones * 800, ones * 0
    )


def _links(of: Deployment) -> LinkStats:
    edges = [(edge.src, edge.dst) for edge in plan(of).edges]
    index = np.arange(1, len(edges) + 1)
    return LinkStats(
        tuple(a for a, _ in edges),
        tuple(b for _, b in edges),
        index * 10,
        index * 1_000_000,
        index * SECOND,
        index * MS,
    )
