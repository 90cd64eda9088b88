"""One run from start to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from helixsim.domain.request import FeedMode
from helixsim.domain.result import LinkStats, NodeStats, RunResult
from helixsim.engine.fabric import fabric_of
from helixsim.engine.fault_driver import FaultDriver
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.invariants import check_invariants, check_state, raise_if_broken
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.leg_system import LegSystem
from helixsim.engine.node_system import NodeSystem
from helixsim.engine.recorder import Recorder
from helixsim.engine.replacing import ReplacingSystem
from helixsim.engine.replica_system import ReplicaSystem, has_replicas
from helixsim.engine.scaled_system import ScaledSystem
from helixsim.engine.spot_system import SpotSystem
from helixsim.engine.system import NodeLoad, System
from helixsim.errors import SimulationError
from helixsim.units import NS_PER_S

SAMPLES_PER_WINDOW = 120
"""Intervals of the time series inside a window of stated length."""

OPEN_END_SAMPLE_NS = 5 * NS_PER_S
"""First interval of the time series when the run ends with its last request; doubled as the run grows."""

MAX_OPEN_END_SAMPLES = 2_000


Progress = Callable[[int, int, int], None]
"""Called at every sample with (simulated time [ns], requests finished, requests arrived)."""


def simulate(inputs: SimulationInputs, progress: Progress | None = None) -> RunResult:
    """Run the simulation and return what it leaves.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls with requests neither finished nor able to go on.
    """
    return _Run(inputs, progress).execute()


def system_kind(inputs: SimulationInputs) -> Callable[..., System]:
    """Return what makes the system of a run.

    Raises
    ------
    SimulationError
        If nodes have roles, or their number is to follow the load, but they are no replicas of an engine that schedules
        them as wholes; or if nodes can fail, and requests stand ready for ever.
    """
    if inputs.autoscaling is not None and (inputs.legs is not None or not has_replicas(inputs)):
        raise SimulationError(
            "autoscaling needs replicas that share no nodes and serve both phases, of an engine that keeps tokens "
            "inside (engine: vllm-1, sglang or trtllm)"
        )
    if inputs.legs is not None and not has_replicas(inputs):
        raise SimulationError("roles of nodes need replicas that share no nodes, of an engine that keeps tokens inside")
    if inputs.faults is not None:
        if inputs.feed.mode is FeedMode.SATURATE:
            raise SimulationError("faults need open or closed loops")
        return ReplacingSystem
    if inputs.autoscaling is not None:
        return ScaledSystem if inputs.autoscaling.spec.spot is None else SpotSystem
    if inputs.legs is not None:
        return LegSystem
    return ReplicaSystem if has_replicas(inputs) else NodeSystem


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
        kind = system_kind(inputs)
        self.system: System = kind(inputs, self.kernel, fabric_of(inputs, self.kernel), self.recorder)
        self.faults: FaultDriver | None = None
        if isinstance(self.system, ReplacingSystem):
            assert inputs.faults is not None
            self.faults = FaultDriver(
                inputs.faults,
                self.kernel,
                self.system,
                self.system.retries,
                self.system.link_faults,
                self.system.clients,
            )
        self.sample_ns = inputs.sample_ns or (
            max(1, window.duration_ns // SAMPLES_PER_WINDOW) if window.duration_ns is not None else OPEN_END_SAMPLE_NS
        )

    def execute(self) -> RunResult:
        """Run to the end and collect the result."""
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        window = self.inputs.window
        if self.faults is not None:
            self.faults.start()
        self.system.start()
        self.kernel.call_in(0, Priority.SAMPLE, self._sample, None)
        if self.window_end_ns is not None and not window.drain:
            self.kernel.call_in(self.window_end_ns, Priority.SAMPLE, self._end, None)
        self.kernel.run()
        is_drained = self.system.is_drained
        if not is_drained and self.kernel.is_idle:
            self._raise_stalled()
        if self.faults is not None:
            self.faults.end()
        self._take_sample()
        return self._collect(is_drained, time.process_time() - cpu_start, time.perf_counter() - wall_start)

    def _end(self, _event: Call) -> None:
        self.kernel.stop()

    def _sample(self, _event: Call) -> None:
        """Sample, and come back at the next point of a grid that contains the window's start and end."""
        self._take_sample()
        if self.inputs.check:
            raise_if_broken(check_state(self.system, self.kernel.now_ns))
        if self.kernel.is_idle:
            return  # nothing but samples would follow
        if self.faults is not None and self.kernel.scheduled == self.faults.scheduled and self.system.is_drained:
            self.kernel.stop()  # the faults that would follow hurt none
        if self._is_settled():
            self.window_end_ns = self.kernel.now_ns
            self.kernel.stop()
        if self.window_end_ns is None and len(self.recorder.samples.time_ns) >= MAX_OPEN_END_SAMPLES:
            self.recorder.samples.thin()
            self.sample_ns *= 2
        self.kernel.call_in(self._next_sample_ns() - self.kernel.now_ns, Priority.SAMPLE, self._sample, None)

    def _is_settled(self) -> bool:
        patience, timeline, now = self.inputs.patience, self.inputs.timeline, self.kernel.now_ns
        if timeline is not None and now >= timeline.end_ns:
            return True
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
        self.recorder.sample(now, self.system.num_waiting, self.system.running, self.system.nodes(now))
        if self.progress is not None:
            self.progress(now, self.recorder.finished, self.recorder.arrived)

    def _raise_stalled(self) -> None:
        raise SimulationError(
            f"the run stalled at {self.kernel.now_ns / NS_PER_S:.3f} s: {self.system.running} requests running and "
            f"{self.system.num_waiting} waiting, but nothing is going to happen{self.system.first_in_line()}"
        )

    def _collect(self, is_drained: bool, cpu_s: float, wall_s: float) -> RunResult:
        recorder, system = self.recorder, self.system
        end_ns = self.kernel.now_ns
        nodes = system.nodes(end_ns)
        for request, status in system.unfinished(end_ns):
            recorder.write(request, status)
        columns, series = recorder.request_columns(), recorder.series()
        invariants = check_invariants(columns, series, system, recorder, nodes, is_drained, end_ns)
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
            routes=system.routes(),
            series=series,
            nodes=self._node_stats(nodes),
            links=self._link_stats(),
            gaps=recorder.gap_histogram(),
            counters={
                "events": self.kernel.calls,
                "batches": sum(node.batches for node in nodes),
                "messages": sum(link.messages for link in system.links()),
                "token_hops": sum(node.prompt_tokens + node.decode_tokens for node in nodes),
                "preemptions": sum(node.preemptions for node in nodes),
                "recomputed_tokens": system.recomputed_tokens,
                "rejected": recorder.rejected,
                "truncated_outputs": system.truncated_outputs,
            },
            invariants=invariants,
            cpu_s=cpu_s,
            wall_s=wall_s,
            classes=recorder.classes,
            transfers=system.transfers(),
            offloading=system.offloading(),
            autoscaling=system.autoscaling(),
            faults=None if self.faults is None else self.faults.stats(),
        )

    def _node_stats(self, nodes: Sequence[NodeLoad]) -> NodeStats:
        def column(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(list(values), dtype=np.int64)

        return NodeStats(
            node_id=tuple(node.node_id for node in nodes),
            node_type=tuple(self.inputs.fleet.cluster.node(node.node_id).node_type for node in nodes),
            start=column(node.range.start for node in nodes),
            end=column(node.range.end for node in nodes),
            kv_blocks=column(node.kv_blocks for node in nodes),
            kv_peak_blocks=column(node.kv_peak_blocks for node in nodes),
            batches=column(node.batches for node in nodes),
            prompt_tokens=column(node.prompt_tokens for node in nodes),
            decode_tokens=column(node.decode_tokens for node in nodes),
            preemptions=column(node.preemptions for node in nodes),
        )

    def _link_stats(self) -> LinkStats:
        channels = self.system.links()
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
