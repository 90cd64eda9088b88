"""Requests that wait for a scheduler to admit them, and those that it has not looked at."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import attrgetter

from helixsim.engine.sequences import Sequence

_priority = attrgetter("request.priority")


class WaitingQueue:
    """Requests in the order of their admission.

    Parameters
    ----------
    interval
        Decode steps after which the scheduler looks for new requests; it also does behind prompts, and when it has
        nothing else to do (SGLang: ``scheduler_recv_interval``, ``SchedulerRecvSkipper``).
    by_priority
        Lower ``priority`` numbers first.

    Notes
    -----
    ``waiting`` can be admitted; ``unread`` have come since the scheduler last looked.
    """

    def __init__(self, interval: int, by_priority: bool) -> None:
        self.waiting: deque[Sequence] = deque()
        self.unread: list[Sequence] = []
        self._interval = interval
        self._by_priority = by_priority
        self._steps = 0  # since it last looked; 0: it has just done so

    def __len__(self) -> int:
        return len(self.waiting) + len(self.unread)

    def receive(self, sequence: Sequence) -> bool:
        """Take a request that has come; return whether the steps under way have to be planned anew for it."""
        if self._interval > 1:
            self.unread.append(sequence)
            return len(self.unread) == 1
        self.put(sequence)
        return len(self.waiting) == 1 or self._by_priority

    def put(self, sequence: Sequence, is_first: bool = False) -> None:
        """Let a request wait as the last, or the first, of those of its priority."""
        waiting = self.waiting
        if not self._by_priority:
            if is_first:
                waiting.appendleft(sequence)
            else:
                waiting.append(sequence)
            return
        place = bisect_left if is_first else bisect_right
        waiting.insert(place(waiting, sequence.request.priority, key=_priority), sequence)

    def look(self, is_idle: bool) -> None:
        """Let new requests wait for admission if it is time to look for them."""
        if is_idle or not 0 < self._steps < self._interval:
            self._steps = 0
            for sequence in self.unread:
                self.put(sequence)
            self.unread.clear()

    def count_step(self, has_prompts: bool) -> None:
        """Take note of a step that was formed."""
        self._steps = self._interval if has_prompts else self._steps + 1

    def repeat_decodes(self, steps: int) -> None:
        """Take note that the decodes of the last step were computed so many times more."""
        if steps:
            self._steps = (self._steps - 1 + steps) % self._interval + 1

    @property
    def steps_until_look(self) -> int | None:
        """Decode steps, the one formed last included, until new requests are looked at; None: there are none."""
        return max(self._interval - self._steps + 1, 1) if self.unread else None
