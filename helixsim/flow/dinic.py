"""Max-flow by Dinic's algorithm, for real capacities.

The search evaluates thousands of placements; networkx takes 3 to 5 times as long, and scipy accepts integer capacities
only.
"""

from __future__ import annotations

_RELATIVE_ZERO = 1e-11
"""Residual capacities below this share of the largest capacity are zero, so that rounding errors are not augmented."""


class FlowGraph:
    """A directed graph with capacities; arcs are numbered 0, 1, ... in the order they are added."""

    def __init__(self, num_vertices: int) -> None:
        self._out: list[list[int]] = [[] for _ in range(num_vertices)]
        self._head: list[int] = []
        self._residual: list[float] = []
        self._largest = 0.0

    def add(self, tail: int, head: int, capacity: float) -> None:
        """Add an arc; its slot is even, that of its reverse is the next odd number."""
        self._out[tail].append(len(self._head))
        self._out[head].append(len(self._head) + 1)
        self._head += (head, tail)
        self._residual += (capacity, 0.0)
        self._largest = max(self._largest, capacity)

    def flow(self, arc: int) -> float:
        """Return the flow on an arc after ``maximise``."""
        return self._residual[2 * arc + 1]

    def maximise(self, source: int, sink: int) -> float:
        """Find a max-flow and return its value."""
        total = 0.0
        self._zero = self._largest * _RELATIVE_ZERO
        level = self._levels(source)
        while level[sink] >= 0:
            total += self._blocking_flow(source, sink, level)
            level = self._levels(source)
        return total

    def source_side(self, source: int) -> list[bool]:
        """Return which vertices are on the source side of a min cut, after ``maximise``."""
        return [level >= 0 for level in self._levels(source)]

    def crosses(self, arc: int, inside: list[bool]) -> bool:
        """Return whether an arc leads out of a set of vertices."""
        head, tail = self._head[2 * arc : 2 * arc + 2]
        return inside[tail] and not inside[head]

    def _levels(self, source: int) -> list[int]:
        level = [-1] * len(self._out)
        level[source] = 0
        queue = [source]
        for vertex in queue:
            for slot in self._out[vertex]:
                head = self._head[slot]
                if level[head] < 0 and self._residual[slot] > self._zero:
                    level[head] = level[vertex] + 1
                    queue.append(head)
        return level

    def _blocking_flow(self, source: int, sink: int, level: list[int]) -> float:
        out, heads, residual, zero = self._out, self._head, self._residual, self._zero
        next_slot = [0] * len(out)
        path: list[int] = []
        total, vertex = 0.0, source
        while True:
            if vertex == sink:
                pushed = min(residual[slot] for slot in path)
                total += pushed
                cut = -1
                for position, slot in enumerate(path):
                    residual[slot] -= pushed
                    residual[slot ^ 1] += pushed
                    if cut < 0 and residual[slot] <= zero:
                        cut = position
                vertex = heads[path[cut] ^ 1]
                del path[cut:]
                continue
            slots = out[vertex]
            while next_slot[vertex] < len(slots):
                slot = slots[next_slot[vertex]]
                if residual[slot] > zero and level[heads[slot]] == level[vertex] + 1:
                    path.append(slot)
                    vertex = heads[slot]
                    break
                next_slot[vertex] += 1
            else:
                if vertex == source:
                    return total
                vertex = heads[path.pop() ^ 1]
                next_slot[vertex] += 1
