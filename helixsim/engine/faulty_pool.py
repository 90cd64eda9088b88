"""A pool of replicas whose machines can fail.

A replica that is lost is removed, and another one is started in its place if a machine is free for it, as a Deployment
of Kubernetes keeps the number of its pods. A machine that is back is free: what is started there takes its start-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from helixsim.domain.autoscaling import PoolStats
from helixsim.engine.autoscaler import ScaledPool, State
from helixsim.engine.faulty_replica import FaultyReplica
from helixsim.engine.kernel import Call


class FaultyPool(ScaledPool):
    """See ``ScaledPool``.

    ``target``: the number that is wanted, which is kept when replicas are lost. ``out``: replicas whose machines are
    known to be down, or to be so soon, on which none is started. ``lost`` counts those that were lost.
    ``leaving``: those whose machines are taken at the end of a notice (``spot_pool``).
    """

    def __init__(self, *arguments: Any) -> None:
        self.target: int = arguments[0].start
        self.out: frozenset[int] = frozenset()
        self.leaving: set[int] = set()
        self.lost = 0
        super().__init__(*arguments)

    def lose(self, lost: Iterable[int], out: frozenset[int]) -> None:
        """Take note that replicas are lost; ``out``: see above, those that still serve are to drain."""
        for number in lost:
            self.lost += self.states[number] is not State.REMOVED
            self.states[number] = State.REMOVED
        for number in out:
            if self.states[number] is State.STARTING:
                self.states[number] = State.REMOVED
            elif self.states[number] is State.SERVING:
                self.states[number] = State.DRAINING
                self.check_empty(number)
        self.join(out)

    def join(self, out: frozenset[int]) -> None:
        """Start what is missing; ``out``: see above."""
        self.out = out
        self._settle()
        self.note()

    def _has(self) -> int:
        return self.target

    def _change(self, want: int) -> None:
        self.target = want
        self._settle()
        self.target = min(want, super()._has() + len(self.out))  # what drains is not started again

    def _settle(self) -> None:
        """Start and give up replicas so that there are as many as are wanted."""
        super()._change(self.target)

    def _can_start(self, number: int) -> bool:
        return number not in self.out and super()._can_start(number)

    def _started(self, event: Call) -> None:
        """See ``ScaledPool``; on a machine that has failed nothing starts, which is found when the failure is."""
        replica = self.replicas[event.argument[0]]
        assert isinstance(replica, FaultyReplica)
        if not replica.is_down:
            super()._started(event)

    def stats(self) -> PoolStats:
        """See ``ScaledPool.stats``."""
        return replace(super().stats(), lost=self.lost)
