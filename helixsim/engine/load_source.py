"""Where requests come from: arrivals at their times, and requests that wait for nothing but to be asked for."""

from __future__ import annotations

from collections.abc import Callable

from helixsim.domain.request import Feed, Request
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.errors import SimulationError

_MOST_REFUSED = 1000
"""So many requests in a row may fit nowhere; then something is wrong with the load or the cluster."""


class LoadSource:
    """Takes the requests of a feed in order; ``arrive`` is called with each of an open loop at its time."""

    def __init__(self, kernel: Kernel, feed: Feed, arrive: Callable[[Request], object]) -> None:
        self._kernel = kernel
        self._requests = feed.requests
        self._arrive = arrive
        self.is_over = False  # whether none of an open loop will come any more

    def redirect(self, arrive: Callable[[Request], object]) -> None:
        """Call another function with the requests to come."""
        self._arrive = arrive

    def plan_next_arrival(self) -> None:
        """Let the next request arrive at its time, and after it the one behind it.

        Raises
        ------
        SimulationError
            If it arrives before the one in front of it.
        """
        request = next(self._requests, None)
        if request is None:
            self.is_over = True
        else:
            delay = request.arrival_ns - self._kernel.now_ns
            if delay < 0:
                raise SimulationError(f"request {request.id} arrives {-delay} ns before the one in front of it")
            self._kernel.call_in(delay, Priority.DELIVER, self._arrived, request)

    def _arrived(self, event: Call) -> None:
        self._arrive(event.argument)
        self.plan_next_arrival()

    def launch_next(self, enter: Callable[[Request], bool], nowhere: Callable[[], str]) -> None:
        """Let the next request that ``enter`` does not refuse in, if there is one.

        Raises
        ------
        SimulationError
            If it refuses a thousand in a row; ``nowhere`` tells what they do not fit.
        """
        for _ in range(_MOST_REFUSED):
            request = next(self._requests, None)
            if request is None or enter(request):
                return
        raise SimulationError(f"{_MOST_REFUSED} requests in a row {nowhere()}")
