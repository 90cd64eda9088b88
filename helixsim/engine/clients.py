"""Clients that give up waiting, and send their requests again after a while (docs/faults.md).

Each attempt is a request of its own to the system. One that its client has given up is aborted: its KV memory is
free from the next step on, as in vLLM, whose frontend aborts a request when its connection is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from helixsim.domain.clients import ClientSpec, ClientStats
from helixsim.domain.request import Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.recorder import Recorder
from helixsim.rng import stream


class Clients:
    """The clients of a run.

    ``abort`` takes a request off the system, ``enter`` lets one arrive, ``enter_next`` the next ones of a closed loop
    (``is_loop``), whose place a client keeps until it abandons its request.
    """

    abort: Callable[[Any], object]
    enter: Callable[[Request], object]
    enter_next: Callable[[int], None]

    def __init__(self, spec: ClientSpec, kernel: Kernel, recorder: Recorder, seed: int, is_loop: bool) -> None:
        self._spec = spec
        self._is_loop = is_loop
        self._kernel = kernel
        self._recorder = recorder
        self._rng = stream(seed, "clients")
        self._deadlines: deque[tuple[int, int]] = deque()  # with rows
        self._waiters: dict[int, Any] = {}  # by row, until the deadline
        self._attempts: dict[int, int] = {}  # by row, from the second one on
        self._attempt = 0  # of the request that enters now
        self._is_armed = False
        self._pausing = 0
        self._gave_up = self._sent_again = self._abandoned = 0

    @property
    def scheduled(self) -> int:
        """Number of events that are scheduled."""
        return self._is_armed + self._pausing

    @property
    def pausing(self) -> int:
        """Clients that wait before they send a request again."""
        return self._pausing

    def stats(self) -> ClientStats:
        """Return what the clients did."""
        return ClientStats(self._gave_up, self._sent_again, self._abandoned)

    def sent(self, waiter: Any) -> None:
        """Take note that a request has arrived."""
        if self._attempt:
            self._attempts[waiter.row] = self._attempt
        self._waiters[waiter.row] = waiter
        self._deadlines.append((self._kernel.now_ns + self._spec.timeout_ns, waiter.row))
        self._arm()

    def now_is(self, waiter: Any) -> None:
        """Take note that another object stands for a request from now on."""
        if waiter.row in self._waiters:
            self._waiters[waiter.row] = waiter

    def failed(self, waiter: Any) -> bool:
        """Take note that an attempt has failed; return whether the client will send the request again."""
        attempt = self._attempts.pop(waiter.row, 0)
        if attempt >= self._spec.retries:
            self._abandoned += 1
            return False
        self._pausing += 1
        wait_ns = self._spec.wait_ns(attempt, float(self._rng.random()))
        self._kernel.call_in(wait_ns, Priority.DELIVER, self._send_again, (waiter.request, attempt + 1))
        return True

    def _send_again(self, event: Call) -> None:
        request, self._attempt = event.argument
        self._pausing -= 1
        self._sent_again += 1
        self.enter(request)
        self._attempt = 0

    def _arm(self) -> None:
        if not self._is_armed and self._deadlines:
            self._is_armed = True
            self._kernel.call_in(self._deadlines[0][0] - self._kernel.now_ns, Priority.FAULT, self._look, None)

    def _look(self, _event: Call) -> None:
        """Give up the requests whose time is over, if they have not ended or, if that is enough, begun."""
        self._is_armed = False
        now, deadlines, statuses = self._kernel.now_ns, self._deadlines, self._recorder.columns["status"]
        while deadlines and (deadlines[0][0] <= now or statuses[deadlines[0][1]] != RequestStatus.WAITING):
            at_ns, row = deadlines.popleft()
            waiter = self._waiters.pop(row)
            is_served = self._spec.until == "first_token" and 0 <= waiter.first_token_ns <= now
            if at_ns <= now and statuses[row] == RequestStatus.WAITING and not is_served:
                self._gave_up += 1
                self.abort(waiter)
                if not self.failed(waiter) and self._is_loop:
                    self.enter_next(1)
        self._arm()
