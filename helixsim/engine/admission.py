"""Who may enter: KV memory rules at admission, the same for every routing policy.

A request is admitted when, on every node of its route,
- the blocks it needs now are free, and the engine's watermark stays so,
- what all admitted requests are expected to need stays below the high-water mark, and
- the node's cap on resident requests is not reached.
A node without residents takes any request that fits it at all, so that nothing waits for ever for an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.engine.kvcache import KvPool
from helixsim.engine.state import ActiveRequest
from helixsim.engine.worker import Worker
from helixsim.errors import SimulationError
from helixsim.routing.base import Hop, RoutingGraph, Target


class Admission:
    """The cluster as routing policies see it (a ``RoutingView``), for one request at a time."""

    def __init__(
        self,
        graph: RoutingGraph,
        pools: Sequence[KvPool],
        workers: Sequence[Worker],
        block_tokens: int,
        high_water: float,
        expected_output_tokens: float,
        watermark: float = 0.0,
    ) -> None:
        self.graph = graph
        self.pools = pools
        self.workers = workers
        self.block_tokens = block_tokens
        self.expected_output_tokens = expected_output_tokens
        self.marks = [int(high_water * pool.capacity) for pool in pools]
        self.reserves = [int(watermark * pool.capacity) for pool in pools]
        self.largest_context_tokens = block_tokens * widest_route_blocks(graph, pools)
        self._holders = _holders(pools, workers)
        self._hops = {-1: frozenset(graph.first)}
        self._blocks_now = 0
        self._blocks_expected = 0

    def blocks(self, tokens: int) -> int:
        """Return the KV blocks that ``tokens`` tokens fill."""
        return -(-tokens // self.block_tokens)

    def consider(self, request: ActiveRequest) -> int:
        """Make ``request`` the one the view is about; return its expected context [tokens]."""
        context = request.context_tokens
        expected = max(request.prompt_tokens + round(self.expected_output_tokens), context + 1)
        self._blocks_now = self.blocks(context + 1)
        self._blocks_expected = self.blocks(expected)
        return expected

    def fits(self, hop: Hop) -> bool:
        """See ``RoutingView.fits``."""
        pool = self.pools[hop.node]
        layers = hop.end - hop.start
        if pool.used + self._blocks_now * layers > pool.capacity:
            return False
        if not pool.residents:
            return True
        if pool.used + self._blocks_now * layers > pool.capacity - self.reserves[hop.node]:
            return False
        if pool.max_requests is not None and len(pool.residents) >= pool.max_requests:
            return False
        return pool.reserved + self._blocks_expected * layers <= self.marks[hop.node]

    def expected_use(self) -> float:
        """Return the share of KV memory that admitted requests are expected to fill, of the scarcest layer, 0..1.

        Rounded to 1e-9, so that a limit met exactly does not depend on the order of summation. A layer without any KV
        memory is full.
        """
        return round(max(map(_expected_share, self._holders)), 9)

    def queue_length(self, node: int) -> int:
        """See ``RoutingView.queue_length``."""
        return self.workers[node].queue_length

    def prompt_backlog(self, node: int) -> int:
        """See ``RoutingView.prompt_backlog``: of the prompts and chunks that have come and wait for a batch."""
        return self.workers[node].prompt_backlog

    def in_flight(self, node: int) -> int:
        """See ``RoutingView.in_flight``."""
        return len(self.pools[node].residents)

    def in_flight_tokens(self, node: int) -> int:
        """See ``RoutingView.in_flight_tokens``."""
        pool = self.pools[node]
        return pool.reserved * self.block_tokens // pool.layers

    def transfer_ns(self, node: int) -> float:
        """See ``RoutingView.transfer_ns``."""
        return 0.0

    def kv_usage(self, node: int) -> float:
        """See ``RoutingView.kv_usage``; a node without KV memory is full."""
        pool = self.pools[node]
        return pool.used / pool.capacity if pool.capacity else 1.0

    def cached_tokens(self, node: int) -> int:
        """See ``RoutingView.cached_tokens``: nodes that schedule by themselves have no prefix cache."""
        return 0

    def verify(self, hops: Sequence[Hop], policy: str) -> None:
        """Refuse a route that a policy made up.

        Raises
        ------
        SimulationError
            If the hops leave a gap, overlap, do not fit or are not those of the graph.
        """
        layer, before = 0, -1
        for hop in hops:
            if hop.start != layer or hop.end <= layer or not self.fits(hop):
                raise SimulationError(
                    f"routing policy {policy} returned a broken route: layers {hop.start}..{hop.end} on "
                    f"{self.graph.node_ids[hop.node]} after layer {layer}, fits = {self.fits(hop)}"
                )
            if hop not in self._hops_after(before):
                raise SimulationError(f"routing policy {policy} returned {hop}, which is not in its graph")
            layer, before = hop.end, hop.node
        if layer != self.graph.num_layers:
            raise SimulationError(f"routing policy {policy} returned a route that ends at layer {layer}")

    def _hops_after(self, node: int) -> frozenset[Hop]:
        """Return the hops after a node; -1: from the coordinator."""
        found = self._hops.get(node)
        if found is None:
            found = self._hops[node] = frozenset(self.graph.successors[node])
        return found


def _holders(pools: Sequence[KvPool], workers: Sequence[Worker]) -> list[list[KvPool]]:
    """Return the different sets of pools that hold some layer together."""
    bounds = sorted({bound for worker in workers for bound in (worker.range.start, worker.range.end)})
    return [
        [pool for pool, worker in zip(pools, workers, strict=True) if worker.range.start <= layer < worker.range.end]
        for layer in bounds[:-1]
    ]


def _expected_share(pools: Sequence[KvPool]) -> float:
    """Return the share of these pools' blocks that admitted requests are expected to fill; 1 where there are none."""
    capacity = sum(pool.capacity / pool.layers for pool in pools)
    return sum(pool.reserved / pool.layers for pool in pools) / capacity if capacity else 1.0


def widest_route_blocks(graph: RoutingGraph, pools: Sequence[KvPool]) -> int:
    """Return the largest number of KV blocks any route can hold for one request (widest path)."""
    behind = [0] * len(pools)

    def width(target: Target | Hop) -> int:
        own = pools[target.node].capacity // (target.end - target.start)
        return own if target.end == graph.num_layers else min(own, behind[target.node])

    known: dict[int, int] = {}
    for node in sorted(graph.ends, key=lambda n: (-graph.ends[n], n)):
        row = graph.targets[node]
        if id(row) not in known:
            known[id(row)] = max(map(width, row), default=0)
        behind[node] = known[id(row)]
    return max(map(width, graph.first), default=0)
