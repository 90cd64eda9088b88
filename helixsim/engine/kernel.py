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
    COORDINATE = 4
    """The coordinator handles all that has reached it: tokens, admission, next steps."""
    DISPATCH = 5
    """A node forms its next batch from all that has reached it."""
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
    """The event queue of one run."""

    __slots__ = ("calls", "env")

    def __init__(self, env: simpy.Environment | None = None) -> None:
        self.env = simpy.Environment(0) if env is None else env
        self.calls = 0

    @property
    def now_ns(self) -> int:
        """The time [ns]."""
        return self.env._now  # type: ignore[return-value]  # the public property costs twice as much on the hot path

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
        env = self.env
        heappush(env._queue, (env._now + delay_ns, priority, next(env._eid), event))  # type: ignore[misc]  # as env.schedule does, without its call

    @property
    def is_idle(self) -> bool:
        """Whether nothing is scheduled."""
        return not self.env._queue

    @property
    def is_instant_over(self) -> bool:
        """Whether nothing else is scheduled for this instant, so that what waits for its end may go ahead."""
        queue = self.env._queue
        return not queue or queue[0][0] > self.env._now

    def run(self) -> None:
        """Run until nothing is scheduled or ``stop`` is called: as ``env.run`` does, without a call for each event."""
        env = self.env
        queue: list[Any] = env._queue
        try:
            while queue:
                env._now, _, _, event = heappop(queue)
                for function in event.callbacks:
                    function(event)
        except simpy.core.StopSimulation:
            pass

    def stop(self) -> None:
        """End the run after the present event."""
        raise simpy.core.StopSimulation(None)
