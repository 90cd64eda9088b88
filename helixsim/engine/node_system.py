"""Nodes that each schedule what reaches them; every step of a request is sent by the coordinator or along its route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from helixsim.domain.autoscaling import AutoscalingStats
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.data_parallel import step_time
from helixsim.domain.flowplan import Route
from helixsim.domain.placement import LayerRange
from helixsim.domain.result import OffloadStats, RequestStatus, TransferStats
from helixsim.engine.admission import Admission
from helixsim.engine.coordinator import Coordinator
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.kvcache import KvPool
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorded import RecordedWorker, recorded
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica_system import scheduler_of
from helixsim.engine.state import ActiveRequest
from helixsim.engine.system import Link, Memory, NodeLoad
from helixsim.engine.token_budget import TokenBudget
from helixsim.engine.worker import Worker
from helixsim.errors import ConfigError, Problem
from helixsim.routing.base import HopObserver


class NodeSystem:
    """Coordinator, nodes and links (a ``System``).

    Raises
    ------
    ConfigError
        If the engine decodes with draft tokens or by priority, which only the scheduler of a replica does.
    """

    worker_kind: type[Worker] = Worker
    coordinator_kind: type[Coordinator] = Coordinator
    admission_kind: type[Admission] = Admission

    def __init__(self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder) -> None:
        for is_chosen, key in (
            (inputs.engine.speculation is not None, "speculative"),
            (inputs.engine.scheduling_policy == "priority", "scheduling_policy"),
        ):
            if is_chosen:
                message = f"{key} needs routes that are chains without common nodes (docs/engine.md)"
                raise ConfigError([Problem("", f"engine.{key}", message)])
        self.inputs = inputs
        self.kernel = kernel
        self.fabric = fabric
        ids, ranges = inputs.graph.node_ids, inputs.placement.ranges
        targets = [target for row in inputs.graph.target_rows for target in row]
        self._entered_inside = {ids[one.node] for one in targets if one.start > ranges[ids[one.node]].start}
        self.workers = [self._worker(node_id, held) for node_id, held in ranges.items()]
        self.pools = [self._pool(node_id, held) for node_id, held in ranges.items()]
        for worker, pool in zip(self.workers, self.pools, strict=True):
            if isinstance(worker, RecordedWorker):
                worker.pool = pool
        admission = self.admission_kind(
            inputs.graph,
            self.pools,
            self.workers,
            inputs.fleet.profiles[0].block_tokens,
            inputs.high_water,
            inputs.expected_output_tokens,
            inputs.engine.min_free_share,
        )
        self.coordinator = self.coordinator_kind(
            kernel,
            fabric,
            self.workers,
            admission,
            inputs.policy,
            inputs.feed,
            recorder,
            inputs.fleet.model.max_context_tokens,
        )
        fabric.receivers = {worker.node_id: worker for worker in self.workers}
        fabric.receivers[COORDINATOR] = self.coordinator

    def _worker(self, node_id: str, held: LayerRange) -> Worker:
        inputs = self.inputs
        profile, policy = inputs.fleet.profile(node_id), inputs.policy
        limits, budget = profile.limits[held.layers - 1], None
        if cuts_prompts(inputs):
            limits = replace(limits, max_decode_seqs=min(limits.max_decode_seqs, limits.max_prefill_tokens))
            budget = TokenBudget(limits, inputs.engine.long_prefill_token_threshold)
        kind = self.worker_kind if inputs.timeline is None else recorded(self.worker_kind, inputs.timeline)
        made: Worker = kind(
            node_id,
            held,
            step_time(profile.compute, inputs.engine, held, inputs.placement.num_layers, limits.graph_sizes),
            limits,
            inputs.batching,
            self.kernel,
            policy.observe if isinstance(policy, HopObserver) else None,
            node_id in self._entered_inside,
            inputs.is_one_by_one,
            inputs.is_one_by_one or bool(self.fabric.cards_out),
            inputs.engine.gather_ns,
            budget,
        )
        return made

    def _pool(self, node_id: str, held: LayerRange) -> KvPool:
        fleet = self.inputs.fleet
        most = fleet.cluster.node(node_id).max_requests
        if self.inputs.engine.loops_inside:  # the scheduler of an engine runs no more sequences than one step can hold
            seqs = fleet.profile(node_id).limits[held.layers - 1].max_decode_seqs
            most = seqs if most is None else min(most, seqs)
        return KvPool(fleet.kv_blocks(node_id, held), held.layers, most)

    @property
    def running(self) -> int:
        """See ``System.running``."""
        return self.coordinator.running

    @property
    def num_waiting(self) -> int:
        """See ``System.num_waiting``."""
        return self.coordinator.num_waiting

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``."""
        return not (self.coordinator.running or self.coordinator.waiting)

    @property
    def recomputed_tokens(self) -> int:
        """See ``System.recomputed_tokens``."""
        return self.coordinator.recorder.recomputed_tokens

    @property
    def truncated_outputs(self) -> int:
        """See ``System.truncated_outputs``."""
        return self.coordinator.truncated_outputs

    def start(self) -> None:
        """See ``System.start``."""
        self.coordinator.start()

    def nodes(self, now_ns: int) -> list[NodeLoad]:
        """See ``System.nodes``."""
        return [
            NodeLoad(
                worker.node_id,
                worker.range,
                worker.busy_until(now_ns),
                pool.used / pool.capacity if pool.capacity else 0.0,
                worker.queue_length,
                pool.capacity // pool.layers,
                -(-pool.peak // pool.layers),
                worker.batches,
                worker.prompt_tokens,
                worker.decode_tokens,
                preemptions,
            )
            for worker, pool, preemptions in zip(
                self.workers, self.pools, self.coordinator.preemptions_by_node, strict=True
            )
        ]

    def _residents(self) -> dict[int, ActiveRequest]:
        return {order: request for pool in self.pools for order, request in pool.residents.items()}

    def unfinished(self, now_ns: int) -> Iterator[tuple[ActiveRequest, RequestStatus]]:
        """See ``System.unfinished``."""
        for request in self._residents().values():
            yield request, RequestStatus.RUNNING
        for request in islice(self.coordinator.waiting, self.coordinator.num_waiting):
            yield request, RequestStatus.WAITING

    def routes(self) -> tuple[Route, ...]:
        """See ``System.routes``."""
        ids = self.inputs.graph.node_ids
        return tuple(
            Route(tuple((ids[stage.worker], LayerRange(stage.start, stage.end)) for stage in path.stages))
            for path in self.coordinator.paths.values()
        )

    def links(self) -> Sequence[Link]:
        """See ``System.links``."""
        return self.fabric.links()

    def transfers(self) -> TransferStats | None:
        """See ``System.transfers``."""
        return None

    def offloading(self) -> OffloadStats | None:
        """See ``System.offloading``: nodes that schedule by themselves have no prefix cache."""
        return None

    def autoscaling(self) -> AutoscalingStats | None:
        """See ``System.autoscaling``."""
        return None

    def memories(self) -> list[Memory]:
        """See ``System.memories``."""
        expected = [0] * len(self.pools)
        for request in self._residents().values():
            for stage in request.path.stages if request.path is not None else ():
                expected[stage.worker] += request.blocks * stage.layers
        return [
            Memory(worker.node_id, pool.used, total, pool.capacity, pool.reserved)
            for worker, pool, total in zip(self.workers, self.pools, expected, strict=True)
        ]

    def idle_with_work(self, now_ns: int) -> list[str]:
        """See ``System.idle_with_work``."""
        return [
            worker.node_id
            for worker in self.workers
            if not (worker.is_busy or worker.is_gathering) and worker.has_ready_work(now_ns)
        ]

    def first_in_line(self) -> str:
        """See ``System.first_in_line``."""
        waiting = self.coordinator.waiting
        return f"; first in line: {waiting[0].context_tokens} tokens of context" if waiting else ""


def cuts_prompts(inputs: SimulationInputs) -> bool:
    """Return whether nodes that schedule what reaches them cut prompts: a batching policy plans whole ones."""
    engine = inputs.engine
    return engine.loops_inside and engine.chunks_prompts and scheduler_of(inputs.batching) == "mixed"
