"""Faults of nodes during a run: when they happen, when they are known, and which requests give up (docs/faults.md).

A run without faults has none of this: nodes, replicas and coordinators that can fail are classes of their own
(``faulty_nodes``, ``faulty_replicas``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.faults import USUAL_SPEED, FailureCause, Fault, FaultKind, FaultStats
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.engine.inputs import FaultPlan, SimulationInputs
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.load_source import LoadSource
from helixsim.engine.recorder import Recorder
from helixsim.routing.base import RoutingPolicy


class FaultySystem(Protocol):
    """A system whose nodes can fail; nodes are given by their ids, those without layers are ignored."""

    def stop(self, nodes: Iterable[str]) -> None:
        """Let nodes stop at once; nothing else knows of it yet."""
        ...

    def lose(self, nodes: Iterable[str], known: frozenset[str]) -> None:
        """Let the coordinator learn that nodes have stopped; ``known``: all that it sends no requests to."""
        ...

    def join(self, nodes: Iterable[str], known: frozenset[str]) -> None:
        """Let nodes work again, of which the coordinator learns at once; ``known``: those still without requests."""
        ...

    def slow(self, nodes: Iterable[str], factor: float) -> None:
        """Let the steps of nodes that begin from now on take so many times as long as they should."""
        ...

    def reroute(self, policy: RoutingPolicy) -> None:
        """Route requests by another policy from now on."""
        ...

    def pause(self) -> None:
        """Stop all nodes; their requests wait."""
        ...

    def resume(self, inputs: SimulationInputs) -> None:
        """Let the requests that wait, and those to come, be served by another placement."""
        ...


class Gate(Protocol):
    """Where requests enter a system, and wait."""

    def take_source(self, source: LoadSource) -> None:
        """Let the requests to come of a load enter here."""
        ...

    def enter_next(self, count: int) -> None:
        """Let the next requests of a closed loop in."""
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

    def sent(self, request: Waiter) -> None:
        """Take note that a request leaves the coordinator, for the first time or again."""
        if self._lost_ns.pop(request.row, None) is not None:
            self.retried += 1
            self.recomputed_tokens += request.context_tokens

    def fail(self, request: Waiter, cause: FailureCause) -> None:
        """Take note that a request has failed."""
        self.causes[request.row] = cause
        self._lost_ns.pop(request.row, None)
        self._recorder.failed += 1

    def watch(self) -> None:
        """Let the requests that wait give up when it is time, if they still wait then."""
        if not self.is_armed and (ends_ns := self._ends_ns()):
            self.is_armed = True
            self._kernel.call_in(min(ends_ns) - self._kernel.now_ns, Priority.FAULT, self._look, None)

    def _end_ns(self, request: Waiter) -> int | None:
        """Return when a waiting request gives up; None: never, as it has been preempted and goes first anyway."""
        since_ns = self._lost_ns.get(request.row)
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


class FaultDriver:
    """Lets the faults of a run happen to its system, and lets the coordinator learn of them."""

    def __init__(self, plan: FaultPlan, kernel: Kernel, system: FaultySystem, retries: Retries) -> None:
        self._plan = plan
        self._kernel = kernel
        self._system = system
        self._retries = retries
        self._faults = iter(plan.faults)
        self._down: dict[str, int] = {}  # node -> number of its failure
        self._failures = 0
        self._scheduled = 0
        self._known: frozenset[str] = frozenset()
        self._announced: frozenset[str] = frozenset()
        self._routed: frozenset[str] | None = frozenset()
        self._slow: dict[str, float] = {}
        self._loads = 0
        self._events: list[tuple[int, str, tuple[str, ...]]] = []

    def start(self) -> None:
        """Let the first fault happen at its time, and after it those behind it."""
        self._plan_next()

    @property
    def scheduled(self) -> int:
        """Number of events that are scheduled for faults, for what follows from them and for requests that give up."""
        return self._scheduled + self._retries.is_armed

    def stats(self) -> FaultStats:
        """Return what happened."""
        retries = self._retries
        rows = sorted(retries.losses.keys() | retries.causes.keys())
        return FaultStats(
            tuple(self._events),
            np.array(rows, dtype=np.int64),
            np.array([retries.losses.get(row, 0) for row in rows], dtype=np.int64),
            dict(sorted(retries.causes.items())),
            retries.retried,
            retries.recomputed_tokens,
        )

    def _plan_next(self) -> None:
        fault = next(self._faults, None)
        if fault is not None:
            self._call_in(fault.at_ns - self._kernel.now_ns, self._happen, fault)

    def _call_in(self, delay_ns: int, function: Callable[[Any], None], argument: object) -> None:
        """Call a function after a delay."""

        def called(_event: Call) -> None:
            self._scheduled -= 1
            function(argument)

        self._scheduled += 1
        self._kernel.call_in(delay_ns, Priority.FAULT, called, None)

    def _happen(self, fault: Fault) -> None:
        if fault.kind is FaultKind.DOWN:
            self._fail([node for node in fault.nodes if node not in self._down])
        elif fault.kind is FaultKind.UP:
            self._repair([node for node in fault.nodes if node in self._down])
        elif fault.kind is FaultKind.NOTICE:
            self._announce([node for node in fault.nodes if node not in self._down])
        else:
            self._note(USUAL_SPEED if fault.factor == 1.0 else fault.kind.value, fault.nodes)
            self._slow |= dict.fromkeys(fault.nodes, fault.factor)
            self._system.slow(fault.nodes, fault.factor)
        self._plan_next()

    def _fail(self, nodes: Sequence[str]) -> None:
        if not nodes:
            return
        self._failures += 1
        self._down |= dict.fromkeys(nodes, self._failures)
        self._note(FaultKind.DOWN.value, nodes)
        self._system.stop(nodes)
        self._learn([node for node in nodes if node in self._announced])
        self._call_in(self._plan.detection_ns, self._detect, (nodes, self._failures))

    def _detect(self, failure: tuple[Sequence[str], int]) -> None:
        """Let the coordinator learn of the failure of nodes that have not been back since."""
        nodes, number = failure
        self._learn([node for node in nodes if self._down.get(node) == number and node not in self._known])

    def _learn(self, nodes: Sequence[str]) -> None:
        if nodes:
            self._known |= set(nodes)
            self._note("detected", nodes)
            self._system.lose(nodes, self._out)
            self._plan_routing()

    def _repair(self, nodes: Sequence[str]) -> None:
        """Let nodes be back; where that is sooner than their failure is detected, it shows the failure."""
        if not nodes:
            return
        self._learn([node for node in nodes if node not in self._known])
        for node in nodes:
            del self._down[node]
        self._known -= set(nodes)
        self._announced -= set(nodes)
        self._note(FaultKind.UP.value, nodes)
        self._system.join(nodes, self._out)
        self._plan_routing()

    @property
    def _out(self) -> frozenset[str]:
        """Nodes that are known to be down, or to be so soon."""
        return self._known | self._announced

    def _announce(self, nodes: Sequence[str]) -> None:
        """Let nodes finish what they have; they get no other requests."""
        if nodes:
            self._announced |= set(nodes)
            self._note(FaultKind.NOTICE.value, nodes)
            self._system.lose([], self._out)
            self._plan_routing()

    def _plan_routing(self) -> None:
        if self._plan.reroute is not None:
            self._call_in(self._plan.delay_ns, self._reroute, None)
        if self._plan.replace is not None:
            self._call_in(self._plan.delay_ns, self._replace, None)

    def _reroute(self, _argument: None) -> None:
        assert self._plan.reroute is not None
        out = self._out
        if out == self._routed:
            return
        policy = self._plan.reroute(out)
        if policy is not None:
            self._routed = out
            self._note("rerouted", sorted(out))
            self._system.reroute(policy)

    def _replace(self, _argument: None) -> None:
        """Stop all nodes and load another placement, unless there is none, or it is there already."""
        assert self._plan.replace is not None
        out = self._out
        found = None if out == self._routed else self._plan.replace(out)
        if found is None:
            return
        self._routed = out
        self._loads += 1
        self._note("stopped to load", sorted(found.inputs.placement.ranges))
        self._system.pause()
        self._call_in(found.load_ns, self._resume, (self._loads, found.inputs))

    def _resume(self, load: tuple[int, SimulationInputs]) -> None:
        """Let a placement serve that has been loaded, unless another one is to be, or a node has failed meanwhile."""
        number, inputs = load
        if number != self._loads:
            return
        nodes = list(inputs.placement.ranges)
        if any(node in self._down for node in nodes):
            self._routed = None  # once its failure is known, there will be another placement
            return
        self._note("replaced", nodes)
        self._system.resume(inputs)
        if not self._out.isdisjoint(nodes):
            self._system.lose([], self._out)
        for node, factor in self._slow.items():
            if factor != 1.0:
                self._system.slow([node], factor)

    def _note(self, what: str, nodes: Iterable[str]) -> None:
        self._events.append((self._kernel.now_ns, what, tuple(nodes)))


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
