"""Requests that wait for a scheduler to admit them, and those that it has not looked at."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import attrgetter

from helixsim.engine.rank_balance import RankBalance
from helixsim.engine.rules import Rules
from helixsim.engine.sequences import Sequence

_priority = attrgetter("request.priority")


class WaitingQueue:
    """Requests in the order of their admission.

    ``waiting`` can be admitted if the queue ``is_open``; ``unread`` have come since the scheduler last looked. It looks
    after ``receive_interval`` decode steps, behind prompts, and when it has nothing else to do (SGLang:
    ``scheduler_recv_interval``, ``SchedulerRecvSkipper``).
    """

    def __init__(self, rules: Rules) -> None:
        self.waiting: deque[Sequence] = deque()
        self.unread: list[Sequence] = []
        self._interval = rules.receive_interval
        self._by_priority = rules.by_priority
        self._balance = None if rules.balance is None else RankBalance(rules.ranks, rules.balance)
        self._steps = 0  # since it last looked; 0: it has just done so

    def __len__(self) -> int:
        return len(self.waiting) + len(self.unread)

    def receive(self, sequence: Sequence) -> bool:
        """Take a request that has come; return whether the steps under way have to be planned anew for it."""
        if self._balance is not None:
            self._balance.receive(sequence)
        if self._interval > 1:
            self.unread.append(sequence)
            return len(self.unread) == 1 or self._balance is not None
        self._put(sequence)
        return len(self.waiting) == 1 or self._by_priority or self._balance is not None

    def put_back(self, sequence: Sequence) -> None:
        """Let a preempted request wait as the first of those of its priority."""
        if self._balance is not None:
            self._balance.wait(sequence)
        self._put(sequence, is_first=True)

    def take(self) -> Sequence:
        """Return the first request that waits, which is admitted."""
        sequence = self.waiting.popleft()
        if self._balance is not None:
            self._balance.admit(sequence)
        return sequence

    def withdraw(self, sequence: Sequence) -> None:
        """Take out a request that waits."""
        (self.unread if sequence in self.unread else self.waiting).remove(sequence)
        if self._balance is not None:
            self._balance.admit(sequence)
            self._balance.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take note that an admitted request runs no longer."""
        if self._balance is not None:
            self._balance.leave(sequence)

    @property
    def is_open(self) -> bool:
        """Whether the step that is being formed may admit requests."""
        return self._balance is None or self._balance.is_open

    def _put(self, sequence: Sequence, is_first: bool = False) -> None:
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
                self._put(sequence)
            self.unread.clear()
        if self._balance is not None:
            self._balance.look()

    def count_step(self, has_prompts: bool) -> None:
        """Take note of a step that was formed."""
        self._steps = self._interval if has_prompts else self._steps + 1
        if self._balance is not None:
            self._balance.count_step()

    def repeat_decodes(self, steps: int) -> None:
        """Take note that the decodes of the last step were computed so many times more."""
        if steps:
            self._steps = (self._steps - 1 + steps) % self._interval + 1
            if self._balance is not None:
                self._balance.repeat_decodes(steps)

    @property
    def steps_until_look(self) -> int | None:
        """Decode steps, the one formed last included, until others may be admitted; None: they do not wait for that."""
        look = max(self._interval - self._steps + 1, 1) if self.unread else None
        opening = None if self._balance is None else self._balance.steps_until_open
        return opening if look is None else min(look, opening or look)
