"""One node of a replica, and what reaches it: requests for its scheduler, and steps to compute."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, Protocol

import simpy

from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.rules import Plan
from helixsim.engine.sequences import Incoming, Sequence
from helixsim.engine.state import Message


class Owner(Protocol):
    """The replica of a stage."""

    def arrive(self, sequence: Sequence) -> None:
        """Take in a request."""


class Submission(Message):
    """A request on its way to its replica.

    Where replicas can fail: ``life`` of the replica it was sent to, and the ``transfer`` that was to bring its KV
    cache.
    """

    life: int
    transfer: Incoming | None

    def __init__(self, env: simpy.Environment, sequence: Sequence) -> None:
        super().__init__(env)
        self.sequence = sequence


class Step(Message):
    """What a replica computes in one pass; as a message, the activations that go to the next stage.

    ``computed``: by chunk, how many tokens of the prompt are computed with it; known where layers are sent on.
    ``life``: that of its replica when the step was formed, where replicas can fail.
    """

    computed: list[int]
    life: int

    def __init__(self, env: simpy.Environment, plan: Plan) -> None:
        super().__init__(env)
        self.plan = plan
        self.compute_ns = 0
        self.network_ns = 0


class Stage:
    """One node of a replica: it computes steps in the order they come, one at a time.

    ``ends_ns`` (see ``network.Receiver``) is the end of the step it computes; the first stage keeps it at -1, because
    its scheduler has to know of each arrival when it comes.
    """

    __slots__ = (
        "_finished",
        "_kernel",
        "_queue",
        "_started_ns",
        "batches",
        "busy_ns",
        "decode_tokens",
        "ends_ns",
        "node_id",
        "number",
        "owner",
        "prompt_tokens",
        "range",
        "send",
        "step",
        "time",
    )  # fmt: skip

    def __init__(self, kernel: Kernel, number: int, node_id: str, held: LayerRange, time: StepTime) -> None:
        self.number = number
        self.node_id = node_id
        self.range = held
        self.time = time
        self.busy_ns = 0
        self.batches = 0
        self.prompt_tokens = 0
        self.decode_tokens = 0
        self.ends_ns = -1
        self.step: Step | None = None
        self.send: Callable[[Step, int], None] | None = None
        self.owner: Owner
        self._kernel = kernel
        self._queue: list[Step] = []
        self._started_ns = -1

    def receive(self, arrived: Any) -> None:
        """Take in a request for the replica, or a step from the stage before."""
        if isinstance(arrived, Submission):
            self.owner.arrive(arrived.sequence)
            return
        arrived.network_ns += arrived.arrived_ns - arrived.sent_ns
        if self.step is None:
            self._start(arrived)
        else:  # what arrives while it computes may lie here before a step that was sent earlier is delivered
            insort(self._queue, arrived, key=lambda step: (step.arrived_ns, step.sent_ns))

    def take(self, step: Step) -> None:
        """Compute a step of the scheduler when those before it are done."""
        if self.step is None:
            self._start(step)
        else:
            self._queue.append(step)

    @property
    def queue_length(self) -> int:
        """Sequences of the steps that wait for this stage."""
        return sum([int(step.plan.shape.decode_seqs + step.plan.shape.prefill_seqs) for step in self._queue])

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent computing up to now [ns], the running step's part included."""
        return self.busy_ns + (now_ns - self._started_ns if self._started_ns >= 0 else 0)

    def count(self, shape: BatchShape, steps: int) -> None:
        """Count steps of a shape."""
        self.batches += steps
        self.prompt_tokens += int(shape.prefill_tokens)
        self.decode_tokens += int(shape.decode_seqs) * steps

    def begin(self, now_ns: int) -> None:
        """Be busy from now on [ns]."""
        self._started_ns = now_ns

    def end(self, now_ns: int) -> None:
        """Be idle from now on [ns]."""
        self.busy_ns += now_ns - self._started_ns
        self._started_ns = -1

    def _start(self, step: Step) -> int:
        """Compute a step; return how long it takes [ns]."""
        self.step = step
        self.begin(self._kernel.now_ns)
        self.count(step.plan.shape, 1)
        duration_ns = round(self.time.ns(step.plan.shape))
        if self.number:
            self.ends_ns = self._started_ns + duration_ns
        self._kernel.call_in(duration_ns, Priority.FINISH, self._finish, None)
        return duration_ns

    def _finish(self, _event: Call) -> None:
        now = self._kernel.now_ns
        step, self.step = self.step, None
        assert step is not None
        assert self.send is not None
        self.ends_ns = -1
        step.compute_ns += now - self._started_ns
        self.end(now)
        self.send(step, step.plan.tokens)
        if self._queue:
            self._start(self._queue.pop(0))


def common_layers(stages: Iterable[Stage], others: Iterable[Stage]) -> Iterator[tuple[Stage, Stage, LayerRange]]:
    """Yield the pairs of stages of two replicas that have layers in common, and these."""
    for stage, other in product(stages, others):
        common = stage.range.shared(other.range)
        if common.layers:
            yield stage, other, common
