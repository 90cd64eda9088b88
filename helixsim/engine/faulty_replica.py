"""A replica that can fail, with its nodes.

A replica stops as a whole when one of its nodes does, as an engine does without one of its workers, and works again
when all of its nodes are there. What was sent to it, or computed in it, before that is dropped: each replica counts its
lives, and remembers when it was last found to have stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from helixsim.domain.step_time import StepTime
from helixsim.engine.faults import SlowedTime
from helixsim.engine.kernel import Call, Kernel
from helixsim.engine.replica import Replica
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Stage, Step, Submission


class FaultyStage(Stage):
    """A node of a replica that can stop; it drops what was sent in earlier lives of the replica."""

    owner: FaultyReplica
    usual_time: StepTime
    _due_ns = -1

    def receive(self, arrived: Any) -> None:
        """See ``Stage.receive``."""
        if isinstance(arrived, Submission):
            is_lost = self.owner.is_down or arrived.life != self.owner.losses
        else:
            is_lost = arrived.life != self.owner.life
        if not is_lost:
            super().receive(arrived)

    def take(self, step: Step) -> None:
        """See ``Stage.take``."""
        step.life = self.owner.life
        super().take(step)

    def stop(self) -> None:
        """Stop computing; the step and those that wait are gone."""
        self.step, self.ends_ns, self._due_ns = None, -1, -1
        self._queue.clear()
        if self._started_ns >= 0:
            self.end(self._kernel.now_ns)

    def _start(self, step: Step) -> int:
        duration_ns = super()._start(step)
        self._due_ns = self._started_ns + duration_ns
        return duration_ns

    @property
    def is_due(self) -> bool:
        """Whether its step ends now; else an end that comes now is that of a step that was lost."""
        return self._due_ns == self._kernel.now_ns and self.step is not None

    def _finish(self, event: Call) -> None:
        if self.is_due:
            super()._finish(event)


class FaultyReplica(Replica):
    """A replica that can stop, and begins anew with an empty KV memory.

    ``life`` is the number of times that it has stopped, ``losses`` that of the times that this was found, with which
    what had been sent to it was lost.
    ``leaving`` are the sequences whose clients have given up, ``aborted`` is told of those that have left.
    """

    aborted: Callable[[FaultyReplica, list[Sequence]], None]

    def __init__(self, number: int, kernel: Kernel, stages: list[Stage], *rest: Any, **more: Any) -> None:
        super().__init__(number, kernel, stages, *rest, **more)
        self.is_down = False
        self.life = 0
        self.losses = 0
        self.leaving: list[Sequence] = []
        for stage in stages:
            assert isinstance(stage, FaultyStage)
            stage.usual_time = stage.time

    def arrive(self, sequence: Sequence) -> None:
        """See ``Replica.arrive``."""
        assert not self.is_down, "its stages drop what arrives"
        self.generated += sequence.generated  # elsewhere, before it was lost there
        super().arrive(sequence)
        if sequence in self.leaving:
            self._plan_leaving()

    def abort(self, sequence: Sequence) -> None:
        """Let a sequence leave when it is here and the step under way has ended."""
        self.leaving.append(sequence)
        self._plan_leaving()

    def _plan_leaving(self) -> None:
        if self._plan is None:
            self.wake()
        else:
            self._cut(self._kernel.now_ns)

    def _let_leave(self, now: int) -> None:
        """Take off the sequences that shall leave, as far as they are here and in no step."""
        scheduler = self.scheduler
        gone: list[Sequence] = []
        kept: list[Sequence] = []
        for sequence in self.leaving:
            if scheduler.running.get(sequence.order) is sequence:
                (gone if _take_out(scheduler, sequence, now) else kept).append(sequence)
            elif sequence in scheduler.queue.unread or sequence in scheduler.queue.waiting:
                scheduler.withdraw(sequence)
                sequence.queue_ns += now - sequence.since_ns
                gone.append(sequence)
            elif sequence.path is None:
                kept.append(sequence)  # it is on its way here
        self.leaving = kept
        if gone:
            self.generated -= sum([sequence.generated for sequence in gone])
            self.aborted(self, gone)

    def stop(self) -> None:
        """Stop computing: the tokens of steps that have ended count, everything else is lost."""
        self.book()
        now, before = self._kernel.now_ns, self.scheduler
        self.is_down = True
        self.life += 1
        for sequence in before.running.values():
            _take_off(sequence, now)
        for sequence in chain(before.waiting, before.queue.unread):
            sequence.queue_ns += now - sequence.since_ns
            sequence.since_ns = now
        self.leaving = []
        blocks = before.kv.capacity
        self.scheduler = after = self.scheduler_kind(before.replica, blocks, before.block_tokens, before.rules)
        after.preemptions, after.recomputed_tokens, after.peak = (
            before.preemptions, before.recomputed_tokens, before.peak,
        )  # fmt: skip
        self.in_flight = self.generated = 0
        self._plan, self._ends_ns, self._taken, self._begun = None, [], 0, 0
        for stage in self.stages:
            assert isinstance(stage, FaultyStage)
            stage.stop()

    def slow(self, node_id: str, factor: float) -> None:
        """Let the steps of a node that begin from now on take so many times as long as they should."""
        for stage in self.stages:
            if stage.node_id == node_id:
                assert isinstance(stage, FaultyStage)
                stage.time = stage.usual_time if factor == 1.0 else SlowedTime(stage.usual_time, factor)
        if self._plan is not None:
            self._cut(self._kernel.now_ns)

    def returned(self, step: Step) -> None:
        """See ``Replica.returned``."""
        if step.life == self.life:
            super().returned(step)

    def _form_all(self, scheduler: Scheduler, now: int) -> None:
        if not self.is_down:
            if self.leaving:
                self._let_leave(now)
            super()._form_all(self.scheduler, now)


def _take_out(scheduler: Scheduler, sequence: Sequence, now_ns: int) -> bool:
    """Take a running sequence off a scheduler, with its blocks; False: it is in a step."""
    if sequence.in_flight or sequence.decodes not in (None, scheduler.ready):
        return False
    scheduler.leave(sequence, scheduler.detach(sequence, now_ns), now_ns)
    return True


def _take_off(sequence: Sequence, now_ns: int) -> None:
    """Close the accounts of a running sequence whose KV memory is gone; what it was not computed or sent, it waited."""
    if sequence.decodes is not None:
        sequence.decodes.leave(sequence)
    sequence.queue_ns += now_ns - sequence.since_ns - sequence.compute_ns - sequence.network_ns
    sequence.since_ns = now_ns
    sequence.path = sequence.chain = None
    sequence.computed = sequence.in_flight = sequence.held = sequence.reserved_blocks = 0
    sequence.rank = -1
    sequence.target = sequence.context_tokens
