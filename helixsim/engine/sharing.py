"""A link whose bandwidth is shared evenly by all messages in flight, as TCP flows would (processor sharing).

With n messages under way each gets an n-th of the bandwidth. The messages are kept by the amount of service, counted
per message, at which they end: it only grows, so that an arrival or an end moves nothing but the next event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from helixsim.engine.kernel import Call, Kernel, Priority


class FairLink:
    """One direction of a link under fair sharing; ``finished`` is called with each message when it has been sent."""

    __slots__ = (
        "_busy_ns",
        "_count",
        "_epoch",
        "_flights",
        "_kernel",
        "_ns_per_byte",
        "_served_bytes",
        "_since_ns",
        "finished",
    )

    def __init__(self, kernel: Kernel, ns_per_byte: float, finished: Callable[[Any], None]) -> None:
        self._kernel = kernel
        self._ns_per_byte = ns_per_byte
        self.finished = finished
        self._flights: list[tuple[float, int, Any]] = []
        self._served_bytes = 0.0
        self._since_ns = 0
        self._busy_ns = 0
        self._count = 0
        self._epoch = 0

    def send(self, size_bytes: int, message: Any) -> None:
        """Start sending a message now."""
        self._serve()
        self._count += 1
        heapq.heappush(self._flights, (self._served_bytes + size_bytes, self._count, message))
        self._plan()

    def change(self, ns_per_byte: float) -> None:
        """Let the link be faster or slower from now on; infinite: nothing is served."""
        self._serve()
        self._ns_per_byte = ns_per_byte
        self._plan()

    def clear(self) -> None:
        """Drop all messages."""
        self._serve()
        self._flights.clear()
        self._plan()

    def busy_until(self, now_ns: int) -> int:
        """Return the time in which at least one message was under way, up to now [ns]."""
        return self._busy_ns + (now_ns - self._since_ns if self._flights else 0)

    def _serve(self) -> None:
        """Book the service each message got since the last time."""
        now = self._kernel.now_ns
        if self._flights:
            self._busy_ns += now - self._since_ns
            self._served_bytes += (now - self._since_ns) / (self._ns_per_byte * len(self._flights))
        self._since_ns = now

    def _plan(self) -> None:
        """Come back when the first message ends; an earlier appointment is void."""
        self._epoch += 1
        if self._flights and self._ns_per_byte < math.inf:
            left_bytes = max(self._flights[0][0] - self._served_bytes, 0.0)
            delay_ns = round(left_bytes * self._ns_per_byte * len(self._flights))
            self._kernel.call_in(delay_ns, Priority.DELIVER, self._end_first, self._epoch)

    def _end_first(self, event: Call) -> None:
        if event.argument != self._epoch:
            return
        self._serve()
        end_bytes, _, message = heapq.heappop(self._flights)
        self._served_bytes = max(self._served_bytes, end_bytes)  # the appointment was rounded to whole nanoseconds
        self._plan()
        self.finished(message)
