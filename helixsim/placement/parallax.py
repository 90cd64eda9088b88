"""Parallax's placement: pipelines by dynamic programming, layers by water-filling."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.chains import LayerLimits, chain_ranges, water_fill
from helixsim.placement.outcome import finished, layers_to_hold

MAX_STATES = 200_000
"""States of the dynamic program for one number of pipelines; with more, pipelines are built greedily."""

_POWER_TOKENS = 2048
"""Prompt whose prefill measures the compute power of a node [tokens]: enough for kernels to reach their peak."""


@dataclass(frozen=True, slots=True)
class ParallaxOptions:
    """Options of ``parallax``.

    Parameters
    ----------
    alpha
        Exponent of the number k of pipelines in the objective k^alpha / (stages of all pipelines).
    weight_share
        Share of the memory for weights and KV that weights may take. Parallax: 0.5 and 0.3 of the device.
    power
        Layers of a pipeline in proportion to the speed of prefill (compute) or of decode (memory bandwidth).
    leftover
        Let nodes of no pipeline hold the layers with the least KV memory so far.
    """

    alpha: float = field(default=2.0, metadata={"gt": 0, "le": 10})
    weight_share: float = field(default=0.625, metadata={"gt": 0, "le": 1})
    power: Literal["prefill", "decode"] = "prefill"
    leftover: bool = True


class Parallax:
    """Phase 1 of Parallax (Tong et al., arXiv 2509.26182; github.com/GradientHQ/parallax).

    A dynamic program over the nodes, the largest capacity first, finds the fewest stages s(k) of k complete pipelines;
    the k with the largest k^alpha / s(k) is taken. Within a pipeline layers follow compute power by water-filling, each
    node within its capacity. Nodes that are left over hold layers with the least KV memory. Requests may change
    pipelines where ranges meet; routing policy ``parallax`` selects the route of each.

    Differences: pipelines stay inside a region that holds the model, and the nodes of all other regions are one pool
    (the code has no regions; the paper restricts its search to regions). Equal residuals and equal nodes are one state;
    with more than ``MAX_STATES`` states the greedy allocator of Parallax is used. Capacity keeps KV memory for one
    context, and every node of a pipeline gets a layer. Where ``weight_share`` leaves room for no pipeline at all, nodes
    hold as much as they can. Nothing is rebalanced at run time. Newer versions of the code send requests round robin
    over fixed pipelines by default and leave the left-over nodes idle: ``leftover: false`` with routing
    ``flow_weighted``.
    """

    summary: ClassVar[str] = "pipelines by dynamic programming, layers by water-filling (Parallax)"
    Options: ClassVar[type[ParallaxOptions]] = ParallaxOptions

    def solve(self, problem: PlacementProblem, options: ParallaxOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        InfeasibleError
            If all nodes together cannot hold the model.
        """
        started = time.perf_counter()
        fleet = problem.fleet
        pipelines: list[list[Node]] = []
        searches: list[str] = []
        for share in (options.weight_share, 1.0):
            sizes = LayerLimits(fleet, share)
            known: dict[tuple[Hashable, ...], tuple[list[Node], list[list[Node]], str]] = {}
            for pool in _pools(fleet, sizes):
                kinds = tuple(map(sizes.kind_of, pool))
                if kinds not in known:  # pools of equal nodes have equal pipelines
                    known[kinds] = pool, *_pipelines(pool, sizes, options.alpha)
                like, found, how = known[kinds]
                own = {node.id: mine for node, mine in zip(like, pool, strict=True)}
                pipelines += [[own[node.id] for node in nodes] for nodes in found]
                searches.append(how)
            if pipelines:
                break
        if not pipelines:
            raise InfeasibleError(f"parallax: all nodes together cannot hold {layers_to_hold(fleet)}")
        ranges: dict[str, LayerRange] = {}
        for nodes in pipelines:
            powers = [_power(fleet, node, options.power) for node in nodes]
            layers = water_fill(fleet.model.num_layers, powers, sizes.of_chain(nodes), least=1)
            ranges |= chain_ranges(nodes, layers)
        notes: dict[str, Any] = {
            "pipelines": len(pipelines),
            "stages": sum(map(len, pipelines)),
            "search": sorted(set(searches)),
        }
        if options.leftover:
            notes["leftover"] = _join_leftover(fleet, sizes, ranges)
        return finished(problem, "parallax", ranges, started_s=started, notes=notes)


def _pools(fleet: Deployment, sizes: LayerLimits) -> list[list[Node]]:
    """Return the nodes of each region that holds the model, and those of all others together, the largest first."""
    regions: dict[str, list[Node]] = {}
    for node in fleet.cluster.nodes:
        if sizes.of(node):
            regions.setdefault(node.region, []).append(node)
    pools: list[list[Node]] = []
    rest: list[Node] = []
    for nodes in regions.values():
        nodes.sort(key=lambda node: -sizes.of(node))
        if sum(sizes.of_chain(nodes)) >= fleet.model.num_layers:
            pools.append(nodes)
        else:
            rest += nodes
    rest.sort(key=lambda node: -sizes.of(node))
    return [*pools, rest] if rest and sum(sizes.of_chain(rest)) >= fleet.model.num_layers else pools


def _pipelines(pool: Sequence[Node], sizes: LayerLimits, alpha: float) -> tuple[list[list[Node]], str]:
    """Return pipelines with the largest k^alpha / s(k), and how they were found.

    A node that holds the model is a pipeline of its own: with another node in its place, no pipeline has fewer stages.
    """
    num_layers = sizes.num_layers
    alone = [[node] for node in pool if sizes.of(node, is_first=True, is_last=True) >= num_layers]
    others = [node for node in pool if sizes.of(node, is_first=True, is_last=True) < num_layers]
    most = len(alone) + sum(map(sizes.of, others)) // num_layers
    best: list[list[Node]] = []
    merit = 0.0
    for count in range(1, most + 1):
        found = alone[:count]
        try:
            joined = fewest_stages(others, sizes, count - len(found))
        except _TooManyStatesError:
            return [*alone, *_greedy(others, sizes)], "greedy"
        if joined is None:
            break
        found += joined
        value = count**alpha / sum(map(len, found))
        if value > merit:
            best, merit = found, value
    return best, "dynamic programming"


class _TooManyStatesError(Exception):
    """The dynamic program has more than ``MAX_STATES`` states."""


_State = tuple[tuple[int, ...], int]
"""Layers that open pipelines lack, sorted, and the number of finished pipelines."""


def fewest_stages(pool: Sequence[Node], sizes: LayerLimits, count: int) -> list[list[Node]] | None:
    """Return so many pipelines with the fewest stages in all; None: the nodes, largest first, do not form them."""
    num_layers = sizes.num_layers
    room = [sizes.of(node) for node in pool]
    after = [sum(room[at:]) for at in range(len(pool) + 1)]
    done: _State = ((), count)
    # For each number of nodes that are decided: state -> stages, state before, residual that the node was added to
    # (None: it is skipped; num_layers: it starts a pipeline).
    steps: list[dict[_State, tuple[int, _State, int | None]]] = [{((), 0): (0, ((), 0), None)}]
    states = 1
    for at, node in enumerate(pool):
        found: dict[_State, tuple[int, _State, int | None]] = {}

        def reach(
            state: _State, stages: int, before: _State, added: int | None, at: int = at,
            found: dict[_State, tuple[int, _State, int | None]] = found,
        ) -> None:  # fmt: skip
            lacking, finished = state
            missing = sum(lacking) + (count - finished - len(lacking)) * num_layers
            if after[at + 1] >= missing and (state not in found or stages < found[state][0]):
                found[state] = (stages, before, added)

        first = sizes.of(node, is_first=True)
        last = sizes.of(node, is_last=True)
        for state, (stages, _, _) in steps[-1].items():
            lacking, finished = state
            reach(state, stages, state, None)
            for residual in dict.fromkeys(lacking):
                others = list(lacking)
                others.remove(residual)
                if residual <= last:
                    reach((tuple(others), finished + 1), stages + 1, state, residual)
                else:  # it cannot hold the output head beside all that is lacking
                    others.append(max(1, residual - room[at]))
                    reach((tuple(sorted(others)), finished), stages + 1, state, residual)
            if finished + len(lacking) < count and first:
                opened = max(1, num_layers - first)
                reach((tuple(sorted((*lacking, opened))), finished), stages + 1, state, num_layers)
        states += len(found)
        if states > MAX_STATES:
            raise _TooManyStatesError
        steps.append(found)
    if done not in steps[-1]:
        return None
    return _traced(pool, sizes, steps, done)


def _traced(
    pool: Sequence[Node],
    sizes: LayerLimits,
    steps: Sequence[dict[_State, tuple[int, _State, int | None]]],
    done: _State,
) -> list[list[Node]]:
    """Return the pipelines that lead to a state, from what was done with each node."""
    actions: list[int | None] = []
    state = done
    for found in reversed(steps[1:]):
        _, state, added = found[state]
        actions.append(added)
    pipelines: list[list[Node]] = []
    lacking: dict[int, int] = {}  # open pipeline -> layers that it lacks
    for node, added in zip(pool, reversed(actions), strict=True):
        if added is None:
            continue
        if added == sizes.num_layers:
            lacking[len(pipelines)] = max(1, sizes.num_layers - sizes.of(node, is_first=True))
            pipelines.append([node])
            continue
        number = next(number for number, residual in lacking.items() if residual == added)
        pipelines[number].append(node)
        if added <= sizes.of(node, is_last=True):
            del lacking[number]
        else:
            lacking[number] = max(1, added - sizes.of(node))
    return pipelines


def _greedy(pool: Sequence[Node], sizes: LayerLimits) -> list[list[Node]]:
    """Return pipelines of the largest nodes that are left, one after another."""
    pipelines: list[list[Node]] = []
    current: list[Node] = []
    for node in pool:
        current.append(node)
        if sum(sizes.of_chain(current)) >= sizes.num_layers:
            pipelines.append(current)
            current = []
    return pipelines


def _power(fleet: Deployment, node: Node, power: str) -> float:
    compute = fleet.profile(node.id).compute
    return 1.0 / (compute.prefill(_POWER_TOKENS) if power == "prefill" else compute.decode(1.0))


def _join_leftover(fleet: Deployment, sizes: LayerLimits, ranges: dict[str, LayerRange]) -> list[str]:
    """Give nodes without layers those with the least KV memory so far, from there on as many as they hold."""
    num_layers = sizes.num_layers
    kv_tokens = [0] * num_layers

    def hold(node: Node, held: LayerRange) -> None:
        tokens = fleet.kv_blocks(node.id, held) * fleet.profile(node.id).block_tokens
        for layer in range(held.start, held.end):
            kv_tokens[layer] += tokens

    for node in fleet.cluster.nodes:
        if node.id in ranges:
            hold(node, ranges[node.id])
    joined = []
    for node in sorted(fleet.cluster.nodes, key=lambda node: -sizes.of(node)):
        start = kv_tokens.index(min(kv_tokens))
        if node.id in ranges:
            continue
        end = min(num_layers, start + sizes.of(node, is_first=start == 0))
        if end == num_layers:
            end = min(end, start + sizes.of(node, is_first=start == 0, is_last=True))
        if end > start:
            ranges[node.id] = LayerRange(start, end)
            hold(node, ranges[node.id])
            joined.append(node.id)
    return joined
