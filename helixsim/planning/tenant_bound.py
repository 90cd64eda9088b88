"""An upper bound on what any division of the nodes among tenants serves, with any placement.

Layers of the requests within the objectives take time on the nodes: at least that of the best case (``fleet_bound``).
``z_tk`` is the work that nodes of kind k do for tenant t, ``x_tk`` of them, in units of all its layers and requests:

    maximise    sum_t w_t s_t
    subject to  sum_k z_tk >= g_t(s_t),             L_t q_t z_tk <= c_tk x_tk,      sum_t x_tk <= n_k,  x_tk integer
                sum_k d_tk p_tk <= D_t sum_k p_tk,  sum_k p_tk >= s_t - 1 + f,      z_tk >= g_t(p_tk)

If only a share s of the requests is within the objectives, these may be the shortest ones: they bring at least the
share g(s) of the work (``least_work``), a convex function that its tangents stand for. The second line is for each
objective: ``p_tk`` is the share of the layers of requests within it that nodes of kind k compute, ``d`` the least time
of all layers there, ``D`` the objective, and ``f`` the share of the requests that it applies to. The bound holds in the
long run, as the best case does; arrivals in a short window may be fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from helixsim import solver
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.cluster import Deployment
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.result import IntArray
from helixsim.metrics.objectives import Target
from helixsim.metrics.tenants import SERVED
from helixsim.planning.fleet_bound import BestCase, LatencyLimit
from helixsim.planning.fleet_limits import drawn_lengths, latency_limits
from helixsim.results.tenants import Counts
from helixsim.solver import Program

_GRID = 40
"""Shares at which the least work is computed."""


@dataclass(frozen=True, slots=True)
class BestTenant:
    """A tenant in the best case.

    Parameters
    ----------
    part
        Number of its part of the cluster, which it may share with others.
    rate_rps, num_layers
        Its load [requests/s] and the layers of its model.
    ceilings
        Highest speed of a node of each kind [layers x requests/s]; 0 where it cannot use the kind.
    limits
        What its objectives ask for.
    tangents
        (slope, value at 0) of lines that are nowhere above the least work.
    """

    part: int
    rate_rps: float
    num_layers: int
    weight: float
    ceilings: tuple[float, ...]
    limits: tuple[LatencyLimit, ...]
    tangents: tuple[tuple[float, float], ...]


def is_bounded(experiment: ResolvedExperiment) -> bool:
    """Return whether the best case holds: each request computes its whole prompt, and every output token in a step."""
    load = experiment.workload
    shares_prefixes = experiment.engine.caches_prefixes and (
        load.sessions is not None or load.system_prompts is not None or load.trace is not None
    )
    return experiment.engine.speculation is None and not shares_prefixes


def best_tenant(part: int, experiment: ResolvedExperiment, weight: float, nodes: Sequence[str | None]) -> BestTenant:
    """Return a tenant in the best case.

    Parameters
    ----------
    part
        Number of its part of the cluster.
    experiment
        With its requests alone, on all nodes that it can use.
    nodes
        A node of each kind, undivided; None: it cannot use it.
    """
    fleet, stats = experiment.fleet, experiment.workload_stats
    forms = [(kind, *form) for kind, node in enumerate(nodes) if node is not None for form in _forms(fleet, node)]
    best = BestCase(
        [profile for _, _, profile, _ in forms], stats.mean_prompt_tokens, stats.mean_output_tokens,
        fleet.model.num_layers, experiment.engine,
    )  # fmt: skip
    slo = experiment.slo
    if not (experiment.engine.chunks_prompts or experiment.engine.caches_prefixes):
        slo = replace(slo, ttft_s=None)  # the limit is that of all but the longest prompts
    ceilings = [0.0] * len(nodes)
    for at, (kind, count, _, _) in enumerate(forms):
        ceilings[kind] = max(ceilings[kind], count * best.layers_per_s(at))
    limits = []
    for limit in latency_limits(experiment, Target("slo", slo), best, [node for *_, node in forms]):
        layer_s = [math.inf] * len(nodes)
        for (kind, *_), time_s in zip(forms, limit.layer_s, strict=True):
            layer_s[kind] = min(layer_s[kind], time_s)
        limits.append(replace(limit, layer_s=tuple(layer_s)))
    return BestTenant(
        part, stats.offered_rps or 0.0, fleet.model.num_layers, weight, tuple(ceilings), tuple(limits),
        least_work(*drawn_lengths(experiment)),
    )  # fmt: skip


def _forms(fleet: Deployment, node: str) -> list[tuple[int, NodeProfile, str]]:
    """Return (parts, profile of a part, node) for each way in which a machine may be divided."""
    if node not in fleet.cluster.index:  # it is divided as stated
        parts = [one.id for one in fleet.cluster.nodes if one.machine == node]
        return [(len(parts), fleet.profile(parts[0]), parts[0])]
    whole = fleet.cluster.node(node)
    found = [(1, fleet.profile(node), node)]
    for gpus in range(1, whole.gpus):
        parts_of = whole.divided(gpus) if whole.gpus % gpus == 0 else ()
        if parts_of and parts_of[0].node_type in fleet.parts:
            found.append((len(parts_of), fleet.parts[parts_of[0].node_type], node))
    return found


def least_work(prompts: IntArray, outputs: IntArray) -> tuple[tuple[float, float], ...]:
    """Return lines, none of which is above the least share of the work that a share of the requests brings.

    Work is a sum of parts in proportion to prompt tokens, their squares, decode steps, and contexts of decode steps,
    with factors that depend on the node. Some requests bring at least as much of each part as those that have the least
    of it, and of the sum at least the smallest of these shares.
    """
    shares = np.linspace(0.0, 1.0, _GRID + 1)
    steps = np.maximum(outputs - 1, 0).astype(float)
    least = shares.copy()
    for part in (prompts.astype(float), prompts.astype(float) ** 2, steps, steps * (prompts + outputs / 2)):
        if part.sum() > 0:
            sums = np.concatenate([[0.0], np.cumsum(np.sort(part))]) / part.sum()
            least = np.minimum(least, sums[np.floor(shares * len(part)).astype(int)])
    hull: list[int] = []  # lower convex hull, from left to right
    for number in range(len(shares)):
        while len(hull) > 1 and _is_above(shares, least, hull[-2], hull[-1], number):
            hull.pop()
        hull.append(number)
    lines = []
    for left, right in pairwise(hull):
        slope = float((least[right] - least[left]) / (shares[right] - shares[left]))
        lines.append((slope, float(least[left] - slope * shares[left])))
    return tuple(lines)


def _is_above(x: np.ndarray, y: np.ndarray, left: int, middle: int, right: int) -> bool:
    """Return whether a point is on or above the line between its neighbours."""
    straight = (y[right] - y[left]) * (x[middle] - x[left])
    return bool((y[middle] - y[left]) * (x[right] - x[left]) >= straight)


def value_bound(tenants: Sequence[BestTenant], available: Counts) -> float:
    """Return an upper bound on the sum of ``metrics.tenants.value`` over the priorities, 0..1."""
    program = Program(maximise=True)
    whole = math.fsum(one.weight for one in tenants)
    used: dict[tuple[int, int], dict[int, float]] = {}
    for one in tenants:
        demand = one.num_layers * one.rate_rps
        share = program.column(one.weight / whole / SERVED, upper=SERVED)
        work: dict[int, int] = {}
        for kind, ceiling in enumerate(one.ceilings):
            if ceiling > 0:
                work[kind] = program.column()
                used.setdefault((one.part, kind), {})[work[kind]] = demand / ceiling
        for slope, at_0 in one.tangents:
            program.row({**dict.fromkeys(work.values(), 1.0), share: -slope}, at_0)
        for limit in one.limits:
            _limit(program, one, limit, share, work)
    nodes: list[list[int]] = [[] for _ in available]
    for (_, kind), needs in used.items():
        nodes[kind].append(program.column(upper=float(available[kind]), integer=True))
        program.row({**needs, nodes[kind][-1]: -1.0}, upper=0.0)
    for kind, own_nodes in enumerate(nodes):
        program.row(own_nodes, upper=float(available[kind]))
    solution = solver.solve(program).optimum("bounding what tenants are served")
    assert solution is not None
    return min(1.0, max(solution.bound, solution.objective))


def _limit(program: Program, one: BestTenant, limit: LatencyLimit, share: int, work: dict[int, int]) -> None:
    """Require that the requests within an objective pass their layers in time."""
    passed = {kind: program.column() for kind in work if math.isfinite(limit.layer_s[kind])}
    for kind, column in passed.items():
        for slope, at_0 in one.tangents:
            program.row({work[kind]: 1.0, column: -slope}, at_0)
    applies = min(1.0, limit.share / SERVED)
    program.row({**dict.fromkeys(passed.values(), 1.0), share: -1.0}, applies - 1.0)
    late = {column: one.num_layers * limit.layer_s[kind] / limit.most_s - 1.0 for kind, column in passed.items()}
    program.row(late, upper=0.0)
