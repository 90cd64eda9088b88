"""Clock and event order, on SimPy.

The clock counts integer nanoseconds, so that ties are exact and the same on every machine. What happens at one
instant follows ``Priority``: first everything arrives, then the coordinator acts, then batches form. Without that
order the first of many messages of one instant would start a batch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush
from typing import Any

import simpy


class Priority(IntEnum):
    """Order of events within one instant."""

    DELIVER = 1
    """A message reaches its destination, a request arrives."""
    FINISH = 2
    """A batch ends."""
    FAULT = 3
    """A node fails or is back, or the coordinator learns of it."""
    COORDINATE = 4
    """The coordinator handles all that has reached it: tokens, admission, next steps."""
    DISPATCH = 5
    """A node forms its next batch from all that has reached it."""
    REFILL = 6
    """The coordinator submits requests for which new steps have left room (saturation)."""
    SAMPLE = 9
    """Time series are sampled; the run ends."""


class Call(simpy.Event):
    """An event that calls one function with itself; ``argument`` is what it is about."""

    def __init__(self, env: simpy.Environment, function: Callable[[Call], None], argument: Any) -> None:
        self.env = env
        self.callbacks = [function]
        self._value = None
        self._ok = True
        self.argument = argument


class Timer(simpy.Event):
    """An event that calls one function whenever it is due, which costs a quarter of a new event each time."""

    def __init__(self, kernel: Kernel, priority: Priority, function: Callable[[Any], None]) -> None:
        self.env = kernel.env
        self._value = None
        self._ok = True
        self.callbacks = [function]
        self._kernel = kernel
        self._priority = priority

    def arm(self, delay_ns: int) -> None:
        """Let it be due after ``delay_ns``, besides when it is due already."""
        self._kernel.schedule(self, self._priority, delay_ns)


class Kernel:
    """The event queue of one run, and its clock: ``now_ns`` [ns].

    ``dispatched_ns`` is the last instant in which events of the priority ``DISPATCH``, or behind it, have happened.
    """

    __slots__ = ("_numbers", "_queue", "calls", "dispatched_ns", "env", "now_ns")

    def __init__(self, env: simpy.Environment | None = None) -> None:
        self.env = simpy.Environment(0) if env is None else env
        self.now_ns = int(self.env.now)
        self.calls = 0
        self.dispatched_ns = -1
        self._queue: list[Any] = self.env._queue
        self._numbers = self.env._eid

    def call_in(self, delay_ns: int, priority: Priority, function: Callable[[Call], None], argument: Any) -> None:
        """Call ``function`` after ``delay_ns``; its argument is the event, which carries ``argument``."""
        self.schedule(Call(self.env, function, argument), priority, delay_ns)

    def schedule(self, event: simpy.Event, priority: Priority, delay_ns: int) -> None:
        """Let an event that has its callbacks happen after ``delay_ns``.

        Raises
        ------
        ValueError
            If the delay is negative: SimPy would let the clock run backwards without a word.
        """
        if delay_ns < 0:
            raise ValueError(f"an event cannot lie {-delay_ns} ns in the past")
        self.calls += 1
        heappush(self._queue, (self.now_ns + delay_ns, priority, next(self._numbers), event))  # as env.schedule does

    @property
    def scheduled(self) -> int:
        """Number of events that are scheduled."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is scheduled."""
        return not self._queue

    @property
    def is_instant_over(self) -> bool:
        """Whether nothing else is scheduled for this instant, so that what waits for its end may go ahead."""
        queue = self._queue
        return not queue or queue[0][0] > self.now_ns

    def pass_on(self, priority: Priority) -> None:
        """Take note that this instant has come to a priority without an event of it."""
        if priority >= Priority.DISPATCH:
            self.dispatched_ns = self.now_ns

    def run(self) -> None:
        """Run until nothing is scheduled or ``stop`` is called: as ``env.run`` does, without a call for each event."""
        env, queue, dispatch = self.env, self._queue, int(Priority.DISPATCH)
        try:
            while queue:
                self.now_ns, priority, _, event = heappop(queue)
                env._now = self.now_ns
                if priority >= dispatch:
                    self.dispatched_ns = self.now_ns
                for function in event.callbacks:
                    function(event)
        except simpy.core.StopSimulation:
            pass

    def stop(self) -> None:
        """End the run after the present event."""
        raise simpy.core.StopSimulation(None)
