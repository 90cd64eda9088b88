"""Where requests may go while nodes are down and links are cut, on routes that branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import Outage
from helixsim.engine.admission import Admission, widest_route_blocks
from helixsim.engine.kvcache import KvPool
from helixsim.routing.base import Hop, RoutingGraph, RoutingPolicy, RoutingView
from helixsim.routing.walk import walk


class FaultyAdmission(Admission):
    """The cluster as the coordinator knows it, without the nodes that it knows to be down.

    ``live_context_tokens``: the largest context that some route of the others could hold. ``is_reduced``: some are
    known to be down.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._down: Set[int] = frozenset()
        self.cut: Set[int] = frozenset()
        self.is_reduced = False
        self.live_context_tokens = self.largest_context_tokens

    def fits(self, hop: Hop) -> bool:
        """See ``RoutingView.fits``."""
        return hop.node not in self._down and hop.edge not in self.cut and super().fits(hop)

    def without(self, down: Set[int], out: Outage) -> None:
        """Leave nodes and links out from now on; ``down``: the numbers of the nodes."""
        self._down = down
        self.cut = self._cut(out) if out.cuts else frozenset()
        self.is_reduced = bool(down or self.cut)
        left = [KvPool(0, pool.layers, None) if node in down else pool for node, pool in enumerate(self.pools)]
        widest = self._widest(left) if self.cut else widest_route_blocks(self.graph, left)
        self.live_context_tokens = self.block_tokens * widest

    def _cut(self, out: Outage) -> Set[int]:
        """Return the edges that a route cannot take: what leads to the last node needs its link to the coordinator."""
        graph, ids = self.graph, self.graph.node_ids
        ends = {
            node for node, node_id in enumerate(ids) if graph.ends.get(node) == graph.num_layers
            and out.cuts_link(node_id, COORDINATOR)
        }  # fmt: skip
        return {
            hop.edge
            for src, hops in [(COORDINATOR, graph.first), *zip(ids, graph.successors, strict=True)]
            for hop in hops
            if hop.node in ends or out.cuts_link(src, ids[hop.node])
        }

    def _widest(self, pools: Sequence[KvPool]) -> int:
        """Return the largest number of KV blocks that a route over the links that are left can hold."""
        graph, behind = self.graph, [0] * len(pools)

        def width(hops: Iterable[Hop]) -> int:
            return max([own(hop) for hop in hops if hop.edge not in self.cut], default=0)

        def own(hop: Hop) -> int:
            blocks = pools[hop.node].capacity // (hop.end - hop.start)
            return blocks if hop.end == graph.num_layers else min(blocks, behind[hop.node])

        for node in graph.order:
            if graph.ends[node] < graph.num_layers:
                behind[node] = width(graph.successors[node])
        return width(graph.first)


class Detour:
    """A routing policy that finds the best next node for all nodes of a site at once, beside links that are cut.

    Where its route has such a link, or it finds none, the route of the nodes with the fewest requests takes its place.
    """

    def __init__(self, policy: RoutingPolicy, graph: RoutingGraph, cut: Set[int]) -> None:
        self._policy = policy
        self._graph = graph
        self._cut = cut

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        hops = self._policy.route(prompt_tokens, expected_tokens, view)
        if hops is not None and not any(hop.edge in self._cut for hop in hops):
            return hops
        return walk(self._graph, view, lambda options: min(options, key=lambda hop: view.in_flight(hop.node)))
