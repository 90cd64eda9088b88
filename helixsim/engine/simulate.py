"""One run from start to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.flowplan import FlowPlan, Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Feed, Window
from helixsim.domain.result import LinkStats, NodeStats, RequestStatus, RunResult
from helixsim.domain.step_time import StepTime
from helixsim.engine.admission import Admission
from helixsim.engine.coordinator import Coordinator
from helixsim.engine.invariants import check_invariants, check_state, raise_if_broken
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.kvcache import KvPool
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.worker import Worker
from helixsim.errors import SimulationError
from helixsim.routing.base import HopObserver, RoutingGraph, RoutingPolicy
from helixsim.units import NS_PER_S

SAMPLES_PER_WINDOW = 120
"""Intervals of the time series inside a window of stated length."""

OPEN_END_SAMPLE_NS = 5 * NS_PER_S
"""First interval of the time series when the run ends with its last request; doubled as the run grows."""

MAX_OPEN_END_SAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Patience:
    """When a run may end before its window does: enough first tokens were late to settle how it would be judged.

    Parameters
    ----------
    ttft_ns
        A first token that takes longer than this is late [ns].
    most_late
        So many may be late in the window; the run ends at the first sample that finds more.
    least_ns
        Measure at least so long [ns]. The window then ends with the run.
    """

    ttft_ns: int
    most_late: int
    least_ns: int


Progress = Callable[[int, int, int], None]
"""Called at every sample with (simulated time [ns], requests finished, requests arrived)."""


@dataclass(frozen=True)
class SimulationInputs:
    """Everything one run needs.

    ``expected_output_tokens`` is what admission assumes of a request whose output length nobody knows.
    ``is_one_by_one``: the requests of a batch travel as a message each, as in Helix's prototype, instead of as one
    message for all that go the same way. ``engine``: its overheads. ``sample_ns`` is the interval of the time series,
    None: chosen from the window. ``check``: test the laws on memory and idle nodes at every sample instead of only at
    the end. ``patience``: end the run early; None: never.
    """

    fleet: Deployment
    placement: Placement
    plan: FlowPlan
    graph: RoutingGraph
    policy: RoutingPolicy
    batching: BatchingPolicy
    feed: Feed
    window: Window
    high_water: float
    expected_output_tokens: float
    seed: int
    is_one_by_one: bool = False
    engine: EngineSpec = IDEAL
    sample_ns: int | None = None
    check: bool = False
    patience: Patience | None = None


def simulate(inputs: SimulationInputs, progress: Progress | None = None) -> RunResult:
    """Run the simulation and return what it leaves.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls with requests neither finished nor able to go on.
    """
    return _Run(inputs, progress).execute()


class _Run:
    """The parts of one run, joined."""

    def __init__(self, inputs: SimulationInputs, progress: Progress | None) -> None:
        self.inputs = inputs
        self.progress = progress
        window = inputs.window
        self.kernel = Kernel()
        self.window_end_ns = None if window.duration_ns is None else window.warmup_ns + window.duration_ns
        patience = inputs.patience
        self.recorder = Recorder(
            window.warmup_ns, self.window_end_ns, late_ns=None if patience is None else patience.ttft_ns
        )
        self.fabric = NetworkFabric(
            self.kernel,
            inputs.fleet.cluster,
            inputs.fleet.model.activation_bytes_per_token,
            inputs.is_one_by_one,
            inputs.engine.message_overhead_ns,
            inputs.engine.loops_inside,
        )
        ids, ranges = inputs.graph.node_ids, inputs.placement.ranges
        hops = [hop for hops in (inputs.graph.first, *inputs.graph.successors) for hop in hops]
        self.entered_inside = {ids[hop.node] for hop in hops if hop.start > ranges[ids[hop.node]].start}
        self.workers = [self._worker(node_id, r) for node_id, r in inputs.placement.ranges.items()]
        self.pools = [self._pool(node_id, r) for node_id, r in inputs.placement.ranges.items()]
        block_tokens = inputs.fleet.profiles[0].block_tokens
        admission = Admission(
            inputs.graph,
            self.pools,
            self.workers,
            block_tokens,
            inputs.high_water,
            inputs.expected_output_tokens,
            inputs.engine.min_free_share,
        )
        self.coordinator = Coordinator(
            self.kernel,
            self.fabric,
            self.workers,
            admission,
            inputs.policy,
            inputs.feed,
            self.recorder,
            inputs.fleet.model.max_context_tokens,
        )
        self.fabric.receivers = {worker.node_id: worker for worker in self.workers}
        self.fabric.receivers[COORDINATOR] = self.coordinator
        self.sample_ns = inputs.sample_ns or (
            max(1, window.duration_ns // SAMPLES_PER_WINDOW) if window.duration_ns is not None else OPEN_END_SAMPLE_NS
        )

    def _worker(self, node_id: str, layer_range: LayerRange) -> Worker:
        profile = self.inputs.fleet.profile(node_id)
        policy = self.inputs.policy
        return Worker(
            node_id,
            layer_range,
            StepTime(profile.compute, self.inputs.engine, layer_range, self.inputs.placement.num_layers),
            profile.limits[layer_range.layers - 1],
            self.inputs.batching,
            self.kernel,
            policy.observe if isinstance(policy, HopObserver) else None,
            node_id in self.entered_inside,
            self.inputs.is_one_by_one,
            self.inputs.is_one_by_one or bool(self.fabric.cards_out),
            self.inputs.engine.gather_ns,
        )

    def _pool(self, node_id: str, layer_range: LayerRange) -> KvPool:
        fleet = self.inputs.fleet
        blocks = fleet.kv_blocks(node_id, layer_range)
        most = fleet.cluster.node(node_id).max_requests
        if self.inputs.engine.loops_inside:  # the scheduler of an engine runs no more sequences than one step can hold
            seqs = fleet.profile(node_id).limits[layer_range.layers - 1].max_decode_seqs
            most = seqs if most is None else min(most, seqs)
        return KvPool(blocks, layer_range.layers, most)

    def execute(self) -> RunResult:
        """Run to the end and collect the result."""
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        window = self.inputs.window
        self.coordinator.start()
        self.kernel.call_in(0, Priority.SAMPLE, self._sample, None)
        if self.window_end_ns is not None and not window.drain:
            self.kernel.call_in(self.window_end_ns, Priority.SAMPLE, self._end, None)
        self.kernel.run()
        coordinator = self.coordinator
        is_drained = not (coordinator.running or coordinator.waiting)
        if not is_drained and self.kernel.is_idle:
            self._raise_stalled()
        self._take_sample()
        return self._collect(is_drained, time.process_time() - cpu_start, time.perf_counter() - wall_start)

    def _end(self, _event: Call) -> None:
        self.kernel.stop()

    def _sample(self, _event: Call) -> None:
        """Sample, and come back at the next point of a grid that contains the window's start and end."""
        self._take_sample()
        if self.inputs.check:
            raise_if_broken(check_state(self.coordinator, self.workers))
        if self.kernel.is_idle:
            return  # nothing but samples would follow
        if self._is_settled():
            self.window_end_ns = self.kernel.now_ns
            self.kernel.stop()
        if self.window_end_ns is None and len(self.recorder.samples.time_ns) >= MAX_OPEN_END_SAMPLES:
            self.recorder.samples.thin()
            self.sample_ns *= 2
        self.kernel.call_in(self._next_sample_ns() - self.kernel.now_ns, Priority.SAMPLE, self._sample, None)

    def _is_settled(self) -> bool:
        patience, now = self.inputs.patience, self.kernel.now_ns
        if patience is None or self.window_end_ns is None or now >= self.window_end_ns:
            return False
        measured_ns = now - self.inputs.window.warmup_ns
        return measured_ns >= patience.least_ns and self.recorder.late > patience.most_late

    def _next_sample_ns(self) -> int:
        now, start, end = self.kernel.now_ns, self.inputs.window.warmup_ns, self.window_end_ns
        following = start + ((now - start) // self.sample_ns + 1) * self.sample_ns
        return end if end is not None and now < end < following else following

    def _take_sample(self) -> None:
        now = self.kernel.now_ns
        self.recorder.sample(
            now,
            self.coordinator.num_waiting,
            self.coordinator.running,
            [worker.busy_until(now) for worker in self.workers],
            [pool.used / pool.capacity if pool.capacity else 0.0 for pool in self.pools],
            [worker.queue_length for worker in self.workers],
        )
        if self.progress is not None:
            self.progress(now, self.recorder.finished, self.recorder.arrived)

    def _raise_stalled(self) -> None:
        coordinator = self.coordinator
        head = coordinator.waiting[0] if coordinator.waiting else None
        first = f"; first in line: {head.context_tokens} tokens of context" if head else ""
        raise SimulationError(
            f"the run stalled at {self.kernel.now_ns / NS_PER_S:.3f} s: {coordinator.running} requests running and "
            f"{len(coordinator.waiting)} waiting, but nothing is going to happen{first}"
        )

    def _collect(self, is_drained: bool, cpu_s: float, wall_s: float) -> RunResult:
        recorder, coordinator = self.recorder, self.coordinator
        end_ns = self.kernel.now_ns
        for request in {id(r): r for pool in self.pools for r in pool.residents.values()}.values():
            recorder.write(request, RequestStatus.RUNNING)
        for request in islice(coordinator.waiting, coordinator.num_waiting):
            recorder.write(request, RequestStatus.WAITING)
        columns, series = recorder.request_columns(), recorder.series()
        invariants = check_invariants(columns, series, coordinator, self.workers, self.fabric, is_drained, end_ns)
        raise_if_broken(invariants)
        window_end_ns = self.window_end_ns
        if window_end_ns is None:
            warmup_ns = self.inputs.window.warmup_ns
            window_end_ns = int(columns.finish_ns.max(initial=0))
            if window_end_ns <= warmup_ns and warmup_ns > 0:
                raise SimulationError(
                    f"the last request finished at {window_end_ns / NS_PER_S:g} s, within the warm-up of "
                    f"{warmup_ns / NS_PER_S:g} s (workload.warmup): nothing was measured"
                )
        return RunResult(
            mode=self.inputs.feed.mode,
            seed=self.inputs.seed,
            window_start_ns=self.inputs.window.warmup_ns,
            window_end_ns=window_end_ns,
            end_ns=end_ns,
            requests=columns,
            routes=self._routes(),
            series=series,
            nodes=self._node_stats(),
            links=self._link_stats(),
            gaps=recorder.gap_histogram(),
            counters={
                "events": self.kernel.calls,
                "batches": sum(worker.batches for worker in self.workers),
                "messages": sum(channel.messages for channel in self.fabric.channels.values()),
                "token_hops": sum(worker.prompt_tokens + worker.decode_tokens for worker in self.workers),
                "preemptions": sum(coordinator.preemptions_by_node),
                "recomputed_tokens": recorder.recomputed_tokens,
                "rejected": recorder.rejected,
                "truncated_outputs": coordinator.truncated_outputs,
            },
            invariants=invariants,
            cpu_s=cpu_s,
            wall_s=wall_s,
        )

    def _routes(self) -> tuple[Route, ...]:
        ids = self.inputs.graph.node_ids
        return tuple(
            Route(tuple((ids[stage.worker], LayerRange(stage.start, stage.end)) for stage in path.stages))
            for path in self.coordinator.paths.values()
        )

    def _node_stats(self) -> NodeStats:
        ranges = [worker.range for worker in self.workers]

        def column(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(values, dtype=np.int64)

        return NodeStats(
            node_id=tuple(worker.node_id for worker in self.workers),
            node_type=tuple(self.inputs.fleet.cluster.node(worker.node_id).node_type for worker in self.workers),
            start=column([r.start for r in ranges]),
            end=column([r.end for r in ranges]),
            kv_blocks=column([pool.capacity // pool.layers for pool in self.pools]),
            kv_peak_blocks=column([-(-pool.peak // pool.layers) for pool in self.pools]),
            batches=column([worker.batches for worker in self.workers]),
            prompt_tokens=column([worker.prompt_tokens for worker in self.workers]),
            decode_tokens=column([worker.decode_tokens for worker in self.workers]),
            preemptions=column(self.coordinator.preemptions_by_node),
        )

    def _link_stats(self) -> LinkStats:
        channels = [self.fabric.channels[key] for key in sorted(self.fabric.channels)]
        end_ns = self.kernel.now_ns

        def column(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(list(values), dtype=np.int64)

        return LinkStats(
            src=tuple(channel.src for channel in channels),
            dst=tuple(channel.dst for channel in channels),
            messages=column(channel.messages for channel in channels),
            bytes=column(channel.bytes_until(end_ns) for channel in channels),
            busy_ns=column(channel.busy_until(end_ns) for channel in channels),
            queue_ns=column(channel.queue_ns for channel in channels),
        )
