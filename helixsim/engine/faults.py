"""Faults during a run: when they happen, when they are known, and which requests give up (docs/faults.md).

A run without faults has none of this: nodes, replicas and coordinators that can fail are classes of their own
(``faulty_nodes``, ``faulty_replicas``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.faults import CopyStats, FailureCause, Outage
from helixsim.domain.request import Request
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.engine.clients import Clients
from helixsim.engine.inputs import FaultPlan, Legs, SimulationInputs
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.load_source import LoadSource
from helixsim.engine.recorder import Recorder
from helixsim.routing.base import RoutingPolicy


class FaultySystem(Protocol):
    """A system whose nodes can fail; nodes are given by their ids, those without layers are ignored."""

    def stop(self, nodes: Iterable[str]) -> None:
        """Let nodes stop at once; nothing else knows of it yet."""
        ...

    def lose(self, lost: Outage, known: Outage) -> None:
        """Let the coordinator learn that nodes have stopped or links are cut; ``known``: all that it routes around."""
        ...

    def join(self, nodes: Iterable[str], known: Outage) -> None:
        """Let nodes, or links, work again, which is known at once; ``known``: what is still routed around."""
        ...

    def slow(self, nodes: Iterable[str], factor: float) -> None:
        """Let the steps of nodes that begin from now on take so many times as long as they should."""
        ...

    def reroute(self, policy: RoutingPolicy | Legs) -> None:
        """Route requests by another policy from now on, or by one for each leg."""
        ...

    def copied(self) -> CopyStats | None:
        """Return what was copied of KV memory; None: it is not."""
        ...

    def pause(self) -> None:
        """Stop all nodes; their requests wait."""
        ...

    def resume(self, inputs: SimulationInputs) -> None:
        """Let the requests that wait, and those to come, be served by another placement."""
        ...


class Gate(Protocol):
    """Where requests enter a system, and wait. ``clients``: None: they never give up."""

    clients: Clients | None

    def take_source(self, source: LoadSource) -> None:
        """Let the requests to come of a load enter here."""
        ...

    def enter_next(self, count: int) -> None:
        """Let the next requests of a closed loop in."""
        ...

    def enter(self, request: Request) -> object:
        """Let a request arrive now."""
        ...

    def abort(self, request: Any) -> bool:
        """Take a request off whose client has given up; False: it is not here."""
        ...

    def adopt(self, requests: list[Any]) -> None:
        """Let requests wait here that have waited at another gate, in their order."""
        ...


class Waiter(Protocol):
    """A request that may lose its KV memory."""

    row: int
    arrival_ns: int
    admitted_ns: int

    @property
    def context_tokens(self) -> int:
        """Prompt and all tokens generated so far."""
        ...


class Retries:
    """How often requests have lost their KV memory, and when those that wait at the coordinator give up.

    ``give_up`` lets those of the ``waiting`` fail that it is given as overdue. ``is_armed``: a look is scheduled.
    """

    def __init__(self, plan: FaultPlan, kernel: Kernel, recorder: Recorder) -> None:
        self._plan = plan
        self._kernel = kernel
        self._recorder = recorder
        self._lost_ns: dict[int, int] = {}  # by row, while it waits to be sent again
        self._held_ns: dict[int, int] = {}
        self._planned: dict[int, int] = {}
        self.is_armed = False
        self.losses: dict[int, int] = {}
        self.causes: dict[int, FailureCause] = {}
        self.retried = 0
        self.recomputed_tokens = 0
        self.waiting: Callable[[], Iterable[Any]]
        self.give_up: Callable[[list[Any]], None]

    def lose(self, request: Waiter, by_plan: bool = False) -> bool:
        """Take note that a request has lost its KV memory; return whether it may be sent again.

        ``by_plan``: its nodes were stopped to place the model anew, which the limit does not count.
        """
        row = request.row
        self.losses[row] = count = self.losses.get(row, 0) + 1
        self._planned[row] = planned = self._planned.get(row, 0) + by_plan
        if count - planned > self._plan.retry_limit:
            return False
        self._lost_ns[row] = self._kernel.now_ns
        return True

    def sent(self, request: Waiter, kept_tokens: int = 0) -> None:
        """Take note that a request leaves the coordinator, for the first time or again.

        ``kept_tokens``: those that are copied to where it goes on.
        """
        self._held_ns.pop(request.row, None)
        if self._lost_ns.pop(request.row, None) is not None:
            self.retried += 1
            self.recomputed_tokens += request.context_tokens - kept_tokens

    def hold(self, request: Waiter) -> None:
        """Take note that a request waits at the coordinator, while a replica keeps its KV memory."""
        self._held_ns.setdefault(request.row, self._kernel.now_ns)

    def fail(self, request: Waiter, cause: FailureCause) -> None:
        """Take note that a request has failed."""
        self.causes[request.row] = cause
        self._lost_ns.pop(request.row, None)
        self._held_ns.pop(request.row, None)
        self._recorder.failed += 1

    def watch(self) -> None:
        """Let the requests that wait give up when it is time, if they still wait then."""
        if not self.is_armed and (ends_ns := self._ends_ns()):
            self.is_armed = True
            self._kernel.call_in(min(ends_ns) - self._kernel.now_ns, Priority.FAULT, self._look, None)

    def _end_ns(self, request: Waiter) -> int | None:
        """Return when a waiting request gives up; None: never, as it has been preempted and goes first anyway."""
        since_ns = self._lost_ns.get(request.row, self._held_ns.get(request.row))
        if since_ns is None:
            if request.admitted_ns >= 0:
                return None
            since_ns = request.arrival_ns
        return since_ns + self._plan.timeout_ns

    def _ends_ns(self) -> list[int]:
        return [end_ns for one in self.waiting() if (end_ns := self._end_ns(one)) is not None]

    def _look(self, _event: Call) -> None:
        self.is_armed = False
        now = self._kernel.now_ns
        overdue = [one for one in self.waiting() if (end_ns := self._end_ns(one)) is not None and end_ns <= now]
        if overdue:
            self.give_up(overdue)
        self.watch()


class SlowedTime(StepTime):
    """Step times of a slow node: so many times those of another object."""

    def __init__(self, usual: StepTime, factor: float) -> None:
        self._usual = usual
        self._factor = factor

    def ns(self, shape: BatchShape, start: int | None = None) -> float:
        """See ``StepTime.ns``."""
        return self._factor * self._usual.ns(shape, start)

    def decode_ns(self, seqs: float, context: float, start: int | None = None) -> float:
        """See ``StepTime.decode_ns``."""
        return self._factor * self._usual.decode_ns(seqs, context, start)

    def ns_of_entries(self, entries: Sequence[tuple[int, BatchShape]]) -> float:
        """See ``StepTime.ns_of_entries``."""
        return self._factor * self._usual.ns_of_entries(entries)

    def decode_ns_series(self, seqs: int, context: int, steps: int) -> NDArray[np.float64]:
        """See ``StepTime.decode_ns_series``."""
        return self._factor * self._usual.decode_ns_series(seqs, context, steps)
