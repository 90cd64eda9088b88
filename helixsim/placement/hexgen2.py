"""HexGen-2's placement: graph partition, exchanges of nodes guided by max-flow, and groups for each phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import ClassVar

import numpy as np

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.base import PlacementProblem
from helixsim.placement.chains import (
    LayerLimits,
    balanced_split,
    chain_flow,
    chain_ranges,
    in_order,
    node_memory_bytes,
    split_chain,
)
from helixsim.placement.outcome import finished, layers_to_hold
from helixsim.placement.replicas import equal_nodes

WEAKEST = 4
"""Groups with the least flow per memory whose exchanges with all others are tried."""

_GAIN = 1e-6
"""Least relative gain in flow of an exchange, above rounding."""


@dataclass(frozen=True, slots=True)
class Hexgen2Options:
    """Options of ``hexgen2``.

    Parameters
    ----------
    groups
        Number of groups. None: the number with the largest flow, of those from as many as have memory for the weights
        down to one, each a fifth smaller than the one before.
    max_exchanges
        Most exchanges and moves of nodes between groups.
    disaggregate
        Let each group prefill or decode alone, as HexGen-2 does. False: all groups do both.
    """

    groups: int | None = field(default=None, metadata={"ge": 1})
    max_exchanges: int = field(default=200, metadata={"ge": 0, "le": 100_000})
    disaggregate: bool = False


class Hexgen2:
    """The placement of HexGen-2 (Jiang, Yan and Yuan, ICLR 2025, arXiv 2502.07903).

    1. Graph partition: nodes are split by the spectrum of the graph of their bandwidths into groups of about equal
       memory with slow links between them, and pairs are exchanged as long as less bandwidth is cut (Kernighan, Lin).
    2. Each group serves the model by itself. Its layers are split so that its flow is largest; the flow of all is that
       of a coordinator to all groups.
    3. Iterative refinement: nodes are exchanged between groups, or moved from one to another, as long as the max-flow
       grows, for the groups with the least flow per memory.

    4. With ``disaggregate``, each group prefills or decodes, so that the flow of requests through both phases and of
       KV caches between them is largest.

    Differences: the fourth step is an integer program (``flow.role_program``), once after the exchanges, in place of a
    second partition with a max-flow and exchanges of its own. Tensor parallelism is that of the nodes; a group is a
    pipeline of them. Equal nodes are interchangeable, so one of each class is tried. Capacities are the KV-limited
    estimates where the load is known. The number of groups is found by trying several.
    """

    summary: ClassVar[str] = "graph partition by bandwidth, refined by max-flow (HexGen-2)"
    Options: ClassVar[type[Hexgen2Options]] = Hexgen2Options

    def solve(self, problem: PlacementProblem, options: Hexgen2Options) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If no group holds the model.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        able = [node for node in fleet.cluster.nodes if fleet.profile(node.id).kv_blocks]
        flows = GroupFlows(fleet, problem.capacity if problem.operating is None else problem.operating)
        best: tuple[float, float, int, list[list[Node]]] = (0.0, 0.0, 0, [])
        for count in group_counts(fleet, able) if options.groups is None else [min(options.groups, len(able))]:
            groups = partitioned(fleet, able, count)
            first = sum(map(flows.of, groups))
            exchanges = _refine(groups, flows, options.max_exchanges)
            best = max(best, (sum(map(flows.of, groups)), first, exchanges, groups), key=lambda one: one[0])
        refined, first, exchanges, groups = best
        if not refined:
            raise InfeasibleError(f"hexgen2: no group of nodes holds {layers_to_hold(fleet)}")
        ranges: dict[str, LayerRange] = {}
        pipelines: dict[str, int] = {}
        serving = [group for group in groups if flows.of(group)]
        for number, group in enumerate(serving):
            found = chain_ranges(*flows.layers(group))
            ranges |= found
            pipelines |= dict.fromkeys(found, number)
        idle = [node.id for node in fleet.cluster.nodes if node.id not in ranges]
        notes = {
            "idle": dict.fromkeys(idle, "its group has no layers for it, or does not hold the model"),
            "groups": len(groups), "serving": len(serving), "exchanges": exchanges,
            "partition_tokens_per_s": first, "refined_tokens_per_s": refined,
        }  # fmt: skip
        made = finished(problem, "hexgen2", ranges, started_s=started, pipelines=pipelines, notes=notes)
        return _in_phases(problem, made) if options.disaggregate else made


def _in_phases(problem: PlacementProblem, placement: Placement) -> Placement:
    """Return the placement whose groups prefill or decode alone."""
    phases = problem.phases
    if phases is None:
        raise InfeasibleError("hexgen2: disaggregate: nodes of this engine and network cannot have roles")
    from helixsim.flow.role_program import best_roles, replica_classes  # deferred: loads the solver

    classes = replica_classes(problem.fleet, placement, phases.load)
    found = best_roles(
        problem.fleet, classes, phases.load, phases.transfer, tpot_s=phases.tpot_s, allowed=("prefill", "decode")
    )
    if not found.requests_per_s:
        raise InfeasibleError(
            f"hexgen2: disaggregate: {sum(map(len, classes))} groups cannot both prefill and decode within the "
            "objective"
        )
    notes = {**placement.notes, "requests_per_s": found.requests_per_s, "bound_per_s": found.bound_per_s}
    return replace(placement, roles=found.roles, notes=notes)


class GroupFlows:
    """Flow of groups of nodes; groups of equal nodes in equal regions are computed once."""

    def __init__(self, fleet: Deployment, capacity: CapacityTable) -> None:
        self.fleet = fleet
        self._capacity = capacity
        self._limits = LayerLimits(fleet)
        self._known: dict[tuple[int, ...], float] = {}
        self._kinds = {node.id: kind for kind, nodes in enumerate(equal_nodes(fleet)) for node in nodes}

    def kind_of(self, node: Node) -> int:
        """Return the number of the class of equal nodes."""
        return self._kinds[node.id]

    def layers(self, group: Sequence[Node]) -> tuple[list[Node], list[int]]:
        """Return the nodes that get layers, in the order of the pipeline, and their layers; empty if they cannot."""
        tables = {node.id: self._capacity.of(node.id) for node in group}

        def split(nodes: Sequence[Node], most: Sequence[int]) -> list[int]:
            return balanced_split(self.fleet.model.num_layers, [tables[node.id] for node in nodes], most)[0]

        return split_chain(self._limits, in_order(group, self.fleet), split)

    def of(self, group: Sequence[Node]) -> float:
        """Return the tokens/s of a group; 0 if it does not hold the model."""
        key = tuple(sorted(map(self.kind_of, group)))
        if key not in self._known:
            self._known[key] = chain_flow(self.fleet, *self.layers(group), self._capacity)
        return self._known[key]


def group_counts(fleet: Deployment, nodes: Sequence[Node]) -> list[int]:
    """Return numbers of groups, from as many as have memory for the weights down to one, a fifth apart."""
    model = fleet.model
    weights = model.num_layers * model.weight_bytes_per_layer + model.embedding_bytes
    counts = [min(len(nodes), max(1, int(sum(node_memory_bytes(fleet, node) for node in nodes) / weights)))]
    while counts[-1] > 1:
        counts.append(min(counts[-1] - 1, counts[-1] * 4 // 5))
    return counts


def partitioned(fleet: Deployment, nodes: Sequence[Node], count: int) -> list[list[Node]]:
    """Return groups of about equal memory with little bandwidth between them.

    The nodes are halved again and again along the second eigenvector of the Laplacian of their bandwidths (Fiedler
    vector), each part in proportion to the groups that it becomes; then pairs are exchanged.
    """
    if count <= 1 or len(nodes) <= 1:
        return [list(nodes)]
    left_groups = count // 2
    bandwidth = _bandwidths(fleet, nodes)
    memory = np.array([node_memory_bytes(fleet, node) for node in nodes])
    order = np.lexsort((np.arange(len(nodes)), np.round(_fiedler(bandwidth), 9)))
    filled = np.cumsum(memory[order]) - memory[order] / 2
    size = int(np.clip((filled < memory.sum() * left_groups / count).sum(), 1, len(nodes) - 1))
    is_left = np.zeros(len(nodes), dtype=bool)
    is_left[order[:size]] = True
    _exchange_pairs(bandwidth, memory, is_left)
    left = [node for node, chosen in zip(nodes, is_left, strict=True) if chosen]
    right = [node for node, chosen in zip(nodes, is_left, strict=True) if not chosen]
    return [*partitioned(fleet, left, left_groups), *partitioned(fleet, right, count - left_groups)]


def _bandwidths(fleet: Deployment, nodes: Sequence[Node]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the mean bandwidth of each pair, both ways, relative to the fastest."""
    found = np.zeros((len(nodes), len(nodes)))
    for (row, one), (column, other) in combinations(enumerate(nodes), 2):
        both = [fleet.cluster.link(*ends).bandwidth_bps for ends in ((one.id, other.id), (other.id, one.id))]
        nics = [nic for nic in (one.nic_bps, other.nic_bps) if nic is not None]
        found[row, column] = found[column, row] = min([sum(both) / 2, *nics])
    return found / max(1e-300, float(found.max()))


def _fiedler(
    bandwidth: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the second eigenvector of the Laplacian, with the sign that its largest entry is positive."""
    laplacian = np.diag(bandwidth.sum(axis=1)) - bandwidth
    vector = np.linalg.eigh(laplacian)[1][:, 1]
    return np.asarray(vector * np.sign(vector[int(np.argmax(np.abs(np.round(vector, 9))))]))


def _exchange_pairs(
    bandwidth: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    memory: np.ndarray[tuple[int], np.dtype[np.float64]],
    is_left: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> None:
    """Exchange the pair that lowers the cut most, of about equal memory, until none does."""
    allowed = 0.25 * float(memory.mean())
    for _ in range(len(memory)):
        to_left = bandwidth[:, is_left].sum(axis=1)
        to_right = bandwidth[:, ~is_left].sum(axis=1)
        gain = np.where(is_left, to_right - to_left, to_left - to_right)
        left, right = np.flatnonzero(is_left), np.flatnonzero(~is_left)
        total = gain[left][:, None] + gain[right][None, :] - 2 * bandwidth[np.ix_(left, right)]
        total[np.abs(memory[left][:, None] - memory[right][None, :]) > allowed] = -np.inf
        best = np.unravel_index(int(np.argmax(total)), total.shape)
        if total[best] <= 1e-9:
            return
        is_left[left[best[0]]], is_left[right[best[1]]] = False, True


def _refine(groups: list[list[Node]], flows: GroupFlows, most: int) -> int:
    """Exchange and move nodes between groups while the total flow grows; return how often."""
    memory = {node.id: node_memory_bytes(flows.fleet, node) for group in groups for node in group}
    for number in range(most):

        def need(group: list[Node]) -> float:
            return flows.of(group) / sum(memory[node.id] for node in group)

        groups.sort(key=need)
        for one, other in ((a, b) for a in range(min(WEAKEST, len(groups))) for b in range(len(groups)) if a != b):
            before = flows.of(groups[one]) + flows.of(groups[other])
            better = [
                pair
                for pair in _variants(groups[one], groups[other], flows)
                if sum(map(flows.of, pair)) > before * (1 + _GAIN)
            ]
            if better:
                groups[one], groups[other] = max(better, key=lambda pair: sum(map(flows.of, pair)))
                break
        else:
            return number
    return most


def _variants(one: list[Node], other: list[Node], flows: GroupFlows) -> Iterator[tuple[list[Node], list[Node]]]:
    """Yield two groups after an exchange or a move of one node, each class of equal nodes once."""
    mine = list({flows.kind_of(node): node for node in one}.values())
    theirs = list({flows.kind_of(node): node for node in other}.values())
    for coming in theirs:
        if len(other) > 1:
            yield [*one, coming], [node for node in other if node is not coming]
        for going in mine:
            if flows.kind_of(going) != flows.kind_of(coming):
                yield (
                    [*(node for node in one if node is not going), coming],
                    [*(node for node in other if node is not coming), going],
                )
