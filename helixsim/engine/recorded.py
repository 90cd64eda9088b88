"""Recording of what nodes and links do, iteration by iteration, for a part of a run.

Nodes, replicas and links of a recorded run are those of this module, which note what has ended and otherwise do what
their base classes do; a run that is not recorded has none of them, and loses no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from helixsim.domain.step_time import BatchShape
from helixsim.domain.timeline import Timeline
from helixsim.engine.faulty_replica import FaultyReplica, FaultyStage
from helixsim.engine.faulty_worker import FaultyWorker
from helixsim.engine.kernel import Call, Timer
from helixsim.engine.kvcache import KvPool
from helixsim.engine.link_faults import FaultyChannel, FaultySharedChannel
from helixsim.engine.network import Channel, SharedChannel
from helixsim.engine.replica import Replica
from helixsim.engine.stage import Stage
from helixsim.engine.state import Message
from helixsim.engine.worker import Worker


class RecordedStage(Stage):
    """A stage of several that notes its steps."""

    __slots__ = ("timeline",)
    timeline: Timeline
    owner: Replica

    def _finish(self, event: Call) -> None:
        step, started_ns, now = self.step, self._started_ns, self._kernel.now_ns
        assert step is not None
        plan, owner = step.plan, self.owner
        chunks = ((sequence.request.id, tokens) for sequence, tokens in plan.chunks)
        if _noted(self.timeline, self.node_id, started_ns, now, plan.shape, chunks):
            waiting = len(owner.scheduler.queue) if self.number == 0 else self.queue_length
            self.timeline.level(self.node_id, now, owner.kv_usage, waiting)
        super()._finish(event)


class RecordedReplica(Replica):
    """A replica that notes the steps of its only stage; several stages note their own."""

    timeline: Timeline

    def _take_steps(self, ended: int, begun: int) -> None:
        plan, taken, ends_ns = self._plan, self._taken, self._ends_ns[:ended]
        started_ns = self._started_ns
        super()._take_steps(ended, begun)
        assert plan is not None
        node = self.stages[0].node_id
        kept = False
        for number in range(taken, ended):
            begin_ns = ends_ns[number - 1] if number else started_ns
            chunks = ((sequence.request.id, tokens) for sequence, tokens in plan.chunks)
            kept = _noted(self.timeline, node, begin_ns, ends_ns[number], plan.shape, chunks) or kept
        if kept:
            self.timeline.level(node, ends_ns[ended - 1], self.kv_usage, len(self.scheduler.queue))


class RecordedWorker(Worker):
    """A node that schedules what reaches it, and notes its batches."""

    __slots__ = ("pool", "timeline")
    timeline: Timeline
    pool: KvPool

    def _finish(self, event: Timer) -> None:
        prefills, decodes = self._batch
        now = self._kernel.now_ns
        chunks = ((parcel.cohorts[0].requests[0].request.id, parcel.tokens) for parcel in prefills)
        prompt_tokens, seqs = sum(parcel.tokens for parcel in prefills), sum(parcel.tokens for parcel in decodes)
        if self.timeline.iteration(self.node_id, self._started_ns, now, prompt_tokens, seqs, chunks):
            pool = self.pool
            used = pool.used / pool.capacity if pool.capacity else 0.0
            self.timeline.level(self.node_id, now, used, self.queue_length)
        super()._finish(event)


class RecordedFaultyStage(RecordedStage, FaultyStage):
    """A stage of several that can stop and notes the steps that have ended."""

    owner: FaultyReplica

    def _finish(self, event: Call) -> None:
        if self.is_due:
            super()._finish(event)


class RecordedFaultyWorker(RecordedWorker, FaultyWorker):
    """A node that schedules what reaches it, can stop, and notes the batches that have ended."""

    def _finish(self, event: Timer) -> None:
        if self.is_due:
            super()._finish(event)


class RecordedChannel(Channel):
    """A link that notes its messages."""

    __slots__ = ("timeline",)
    timeline: Timeline

    def send(self, parcel: Message, tokens: int) -> None:
        """See ``Channel.send``."""
        start_ns = max(self._kernel.now_ns, self.free_at_ns)
        super().send(parcel, tokens)
        arrival_ns = self.free_at_ns + self.latency_ns
        self.timeline.transfer(self.src, self.dst, start_ns, self.free_at_ns, arrival_ns, parcel.size_bytes)


class RecordedSharedChannel(SharedChannel):
    """A link whose messages share it, which notes them; they overlap."""

    __slots__ = ("timeline",)
    timeline: Timeline

    def _sent(self, parcel: Message) -> None:
        super()._sent(parcel)
        self.timeline.transfer(
            self.src, self.dst, parcel.sent_ns, self.free_at_ns, parcel.arrived_ns, parcel.size_bytes
        )


class RecordedFaultyChannel(FaultyChannel):
    """A link that can be cut or slow and notes the messages that have come through."""

    timeline: Timeline

    def _arrive(self, parcel: Message) -> None:
        waited, arrived_ns = id(parcel) in self._flights, parcel.arrived_ns
        super()._arrive(parcel)
        if waited and id(parcel) not in self._flights:
            end_ns = arrived_ns - self.latency_ns
            start_ns = max(end_ns - round(parcel.size_bytes * self.ns_per_byte), parcel.sent_ns)
            self.timeline.transfer(self.src, self.dst, min(start_ns, end_ns), end_ns, arrived_ns, parcel.size_bytes)


class RecordedFaultySharedChannel(RecordedFaultyChannel, FaultySharedChannel):
    """A link whose messages share it, which can be cut or slow and notes them."""


def recorded(kind: type[Any], timeline: Timeline) -> Callable[..., Any]:
    """Return what makes a recorded object in place of one of a class."""
    own = _recorded(kind)

    def made(*arguments: Any, **more: Any) -> Any:
        one = own(*arguments, **more)
        one.timeline = timeline
        return one

    return made


def _recorded(kind: type[Any]) -> type[Any]:
    own = next(own for base, own in _RECORDED.items() if issubclass(kind, base))
    return own if issubclass(own, kind) else type(f"Recorded{kind.__name__}", (own, kind), {})


def _noted(
    timeline: Timeline, node: str, start_ns: int, end_ns: int, shape: BatchShape, chunks: Iterable[tuple[int, int]]
) -> bool:
    return timeline.iteration(node, start_ns, end_ns, int(shape.prefill_tokens), int(shape.decode_seqs), chunks)


_RECORDED: dict[type[Any], type[Any]] = {
    FaultyStage: RecordedFaultyStage,
    Stage: RecordedStage,
    Replica: RecordedReplica,
    FaultyWorker: RecordedFaultyWorker,
    Worker: RecordedWorker,
    FaultySharedChannel: RecordedFaultySharedChannel,
    FaultyChannel: RecordedFaultyChannel,
    SharedChannel: RecordedSharedChannel,
    Channel: RecordedChannel,
}
"""Class -> what records its objects; a class comes in front of those that it derives from."""
