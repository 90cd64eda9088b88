"""KV memory of one node, counted in layer-blocks."""

from __future__ import annotations

from helixsim.engine.state import ActiveRequest


class KvPool:
    """The KV cache of a node that holds ``layers`` layers.

    A layer-block keeps the keys and values of one block of tokens in one layer. A request that runs ``l`` of the
    node's layers takes ``l`` layer-blocks per block of context, so partial inference is charged for what it uses.

    ``used`` is what requests hold now, ``reserved`` what they are expected to hold in the end, never less.
    ``residents`` maps admission order to request, oldest first.
    """

    __slots__ = ("capacity", "layers", "max_requests", "peak", "reserved", "residents", "used")

    def __init__(self, kv_blocks: int, layers: int, max_requests: int | None) -> None:
        self.layers = layers
        self.capacity = kv_blocks * layers
        self.max_requests = max_requests
        self.used = 0
        self.reserved = 0
        self.peak = 0
        self.residents: dict[int, ActiveRequest] = {}

    def take(self, request: ActiveRequest, layers: int) -> None:
        """Give a newly admitted request the blocks it starts with, and reserve what it is expected to need."""
        self.used += request.blocks * layers
        self.reserved += request.reserved_blocks * layers
        self.peak = max(self.peak, self.used)
        self.residents[request.order] = request

    def extend(self, layers: int, exceeds_reservation: bool) -> None:
        """Give a request one more block."""
        self.used += layers
        if exceeds_reservation:
            self.reserved += layers
        self.peak = max(self.peak, self.used)

    def release(self, request: ActiveRequest, layers: int) -> None:
        """Take back all blocks of a request."""
        self.used -= request.blocks * layers
        self.reserved -= request.reserved_blocks * layers
        del self.residents[request.order]

    def youngest(self) -> ActiveRequest:
        """Return the resident admitted last: the first to be preempted, as in vLLM."""
        return self.residents[next(reversed(self.residents))]
