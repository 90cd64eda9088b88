"""Requests that wait where nodes can fail: in line, or parked until one is back that can hold them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

from helixsim.domain.faults import FailureCause
from helixsim.engine.clients import Clients

WaiterT = TypeVar("WaiterT")


class Parking(ABC, Generic[WaiterT]):
    """What a coordinator and a frontend do alike with requests that wait.

    ``parked``: those that nothing known to work can hold; they wait beside the others, which they do not hold up.
    """

    waiting: deque[WaiterT]
    parked: list[WaiterT]
    clients: Clients | None = None

    def all_waiting(self) -> Iterator[WaiterT]:
        """Return all requests that wait."""
        return chain(self.parked, self.waiting)

    def give_up(self, overdue: list[WaiterT], cause: FailureCause = FailureCause.TIMEOUT) -> None:
        """Let waiting requests fail that have waited for too long, or whose clients have."""
        gone = {id(request) for request in overdue}
        self.parked = [request for request in self.parked if id(request) not in gone]
        self.waiting = deque([request for request in self.waiting if id(request) not in gone])
        for request in overdue:
            self._fail(request, cause)
        self.try_again()

    def withdraw(self, request: WaiterT) -> bool:
        """Let a request fail that waits, as its client has given up; False: it does not wait here."""
        is_here = any(one is request for one in self.all_waiting())
        if is_here:
            self.give_up([request], FailureCause.GIVEN_UP)
        return is_here

    @abstractmethod
    def try_again(self) -> None:
        """Try to send all that waits: other nodes are there than before, or another policy."""

    @abstractmethod
    def _fail(self, request: WaiterT, cause: FailureCause) -> None:
        """Take note that a request has failed."""

    def _unpark(self) -> None:
        """Put the parked requests in front of the others."""
        self.waiting.extendleft(reversed(self.parked))
        self.parked = []

    def _take_all(self) -> list[WaiterT]:
        """Return all requests that wait, which do so no longer."""
        waiting = list(self.all_waiting())
        self.parked, self.waiting = [], deque()
        return waiting
