"""Replicas of which not all serve all the time, and which can fail (``faulty_pool``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from helixsim.domain.faults import Outage
from helixsim.engine.autoscaler import ScaledPool
from helixsim.engine.faulty_pool import FaultyPool
from helixsim.engine.faulty_replicas import FaultyFrontend, FaultyReplicaSystem, FaultyView
from helixsim.engine.scaled_system import ScaledFrontend, ScaledSystem, ScaledView


class FaultyScaledView(ScaledView, FaultyView):
    """See ``ScaledView`` and ``FaultyView``."""

    def takes_copies(self, number: int) -> bool:
        """See ``kv_copies.View``."""
        return self._serves(number) and super().takes_copies(number)

    def is_leaving(self, number: int) -> bool:
        """See ``kv_copies.View``."""
        place = self.place_of.get(number)
        is_taken = place is not None and isinstance(place[0], FaultyPool) and place[1] in place[0].leaving
        return is_taken or super().is_leaving(number)


class FaultyScaledFrontend(ScaledFrontend, FaultyFrontend):
    """See ``ScaledFrontend`` and ``FaultyFrontend``; ``gives_up``: requests do also while no replica serves."""

    view: FaultyScaledView
    gives_up = True

    def _route(self) -> None:
        super()._route()
        if self.gives_up and self.waiting:
            self.retries.watch()

    def has_room(self) -> None:
        """See ``ScaledFrontend.has_room``."""
        self.try_again()

    @property
    def is_over(self) -> bool:
        """See ``ScaledFrontend.is_over``."""
        is_pausing = self.clients is not None and self.clients.pausing
        return super().is_over and not self.parked and not is_pausing


class FaultyScaledSystem(ScaledSystem, FaultyReplicaSystem):
    """See ``ScaledSystem`` and ``FaultyReplicaSystem``."""

    frontend_kind = FaultyScaledFrontend
    frontend: FaultyScaledFrontend
    view_kind = FaultyScaledView

    def _pool(self, *arguments: Any) -> ScaledPool:
        return FaultyPool(*arguments)

    def lose(self, lost: Outage, known: Outage, by_plan: bool = False) -> None:
        """See ``FaultySystem.lose``; other replicas are started in place of those that are lost."""
        numbers, out = self._numbers(lost), self._numbers(known)
        for pool in self._pools:
            pool.lose(self._in(pool, numbers), frozenset(self._in(pool, out)))
        super().lose(lost, known, by_plan)

    def join(self, nodes: Iterable[str], known: Outage) -> None:
        """See ``FaultySystem.join``; what is started on machines that are back takes its start-up."""
        super().join(nodes, known)
        out = self._numbers(known)
        for pool in self._pools:
            pool.join(frozenset(self._in(pool, out)))

    @property
    def _pools(self) -> list[FaultyPool]:
        return [pool for pool in self.autoscaler.pools if isinstance(pool, FaultyPool)]

    @staticmethod
    def _in(pool: FaultyPool, numbers: frozenset[int]) -> list[int]:
        """Return the numbers in a pool of replicas that are given by their numbers in the system."""
        return [own for own, replica in enumerate(pool.replicas) if replica.number in numbers]
