"""Candidates of a search: their frontier of flow against hops, and the selection of those that are simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.losses import WorstLoss
from helixsim.placement import tuning
from helixsim.placement.base import Estimate, Evaluator
from helixsim.placement.heuristics import routing_of_method


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid placement with its exact max-flow.

    ``is_searched``: by the search, else by a heuristic; ``by_operating``: with ``PlacementProblem.operating``;
    ``moved_bytes``: weights to load, given a running placement [B]; ``worst``: None: losses do not count.
    """

    name: str
    placement: Placement
    max_hops: int
    mean_hops: float
    is_searched: bool
    moved_bytes: int = 0
    by_operating: bool = False
    worst: WorstLoss | None = None

    @property
    def flow_tokens_per_s(self) -> float:
        """Max-flow [tokens/s]."""
        return self.placement.objective_tokens_per_s

    @property
    def kept_tokens_per_s(self) -> float:
        """What max-flow decides by: the flow after the worst loss, or that with all nodes [tokens/s]."""
        return self.flow_tokens_per_s if self.worst is None else self.worst.max_flow_tokens_per_s

    @property
    def left(self) -> Placement:
        """What estimates judge: what the worst loss leaves, or the placement."""
        lost = () if self.worst is None else self.worst.nodes
        return self.placement.part(self.placement.ranges.keys() - lost) if lost else self.placement


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that are not dominated in both flow and hops, the largest flow first."""
    line: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.kept_tokens_per_s, c.max_hops)):
        if not line or candidate.max_hops < line[-1].max_hops:
            line.append(candidate)
    return line


def finalists(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """Return the candidates to simulate: every heuristic, and the frontier of the rest, thinned evenly.

    ``limit`` is exceeded only where heuristics would leave the searched ones less than half of it.
    """
    heuristics = [c for c in candidates if not c.is_searched]
    heuristics.sort(key=lambda c: (-c.flow_tokens_per_s, c.mean_hops))
    searched = frontier([c for c in candidates if c.is_searched])
    room = max(limit - len(heuristics), limit - limit // 2)
    if len(searched) > room:
        steps = max(1, room - 1)
        searched = [searched[number * (len(searched) - 1) // steps] for number in range(room)]
    return heuristics + searched


def promising(candidates: Sequence[Candidate], estimates: Mapping[str, float], limit: int) -> list[Candidate]:
    """Return the candidates to simulate: every heuristic, then searched ones, the highest estimates first.

    Candidates far below the best estimate and duplicates are dropped. ``limit`` is exceeded only where heuristics would
    leave the searched ones less than half of it. Estimates are biased towards candidates that were searched with the
    same estimate of capacity, so these and the other searched ones alternate.
    """
    ranked = sorted(candidates, key=lambda c: (-estimates[c.name], c.max_hops))
    top = estimates[ranked[0].name] if ranked else 0.0
    distinct: dict[tuple[tuple[tuple[str, LayerRange], ...], tuple[tuple[str, int], ...]], Candidate] = {}
    for candidate in ranked:
        if top <= 0 or estimates[candidate.name] >= tuning.MIN_ESTIMATE_SHARE * top:
            layout = candidate.placement
            distinct.setdefault((tuple(layout.ranges.items()), tuple(layout.pipelines.items())), candidate)
    heuristics = [candidate for candidate in distinct.values() if not candidate.is_searched]
    both = [[c for c in distinct.values() if c.is_searched and c.by_operating is by] for by in (False, True)]
    searched = [candidate for pair in zip_longest(*both) for candidate in pair if candidate is not None]
    return heuristics + searched[: max(limit - len(heuristics), limit - limit // 2)]


def contenders(candidates: Sequence[Candidate], estimates: Mapping[str, float], limit: int) -> list[Candidate]:
    """Return the candidates of a race: of each kind of routes the ``limit`` with the highest estimates.

    Kinds are kept apart, as the estimate is biased alike for placements of a kind only: chains that share no node,
    routes that branch, and both beside each other. So are those that divide machines, of which each division has one
    place with replicas of one node and one with others, and a placement on many nodes by a method with a routing of its
    own, with which it may be three times as fast as by its max-flow. Equal placements are kept once, by the name of the
    first. Those far from the offered load (``FAR_BELOW``) are left out if any estimate reaches it.
    """
    distinct: dict[tuple[object, ...], Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.is_searched):
        distinct.setdefault(layout_of(candidate.placement), candidate)
    best_first = sorted(distinct.values(), key=lambda c: (-estimates[c.name], c.max_hops))
    if best_first and estimates[best_first[0].name] > 0:
        best_first = [candidate for candidate in best_first if estimates[candidate.name] > tuning.FAR_BELOW]
    found: dict[tuple[object, ...], list[Candidate]] = {}
    taken: set[tuple[object, ...]] = set()
    for candidate in best_first:
        widths = tuple(candidate.placement.widths.items())
        own_routing = routing_of_method(candidate.name, candidate.placement)
        is_of_one = bool(widths) and candidate.max_hops == 1
        kind = (routes_of(candidate.placement), bool(widths), is_of_one, own_routing)
        if (*kind, widths) not in taken:
            found.setdefault(kind, []).append(candidate)
        if widths:
            taken.add((*kind, widths))
    return [candidate for kind in found.values() for candidate in kind[:limit]]


def layout_of(placement: Placement) -> tuple[object, ...]:
    """Return what two equal placements have in common; a node that holds the whole model is in no pipeline."""
    partly = {node for node, held in placement.ranges.items() if held.layers < placement.num_layers}
    partial = placement.partial_inference and bool(partly)
    groups: dict[int, set[str]] = {}
    for node, number in placement.pipelines.items():
        if partial or node in partly:
            groups.setdefault(number, set()).add(node)
    apart = frozenset(map(frozenset, groups.values()))  # numbers of pipelines are names only
    return tuple(placement.ranges.items()), apart, partial, tuple(placement.widths.items())


def routes_of(placement: Placement) -> tuple[bool, bool]:
    """Return whether any pipeline is a chain, and whether any one branches."""
    pipelines: dict[int, list[LayerRange]] = {}
    for node, held in placement.ranges.items():
        pipelines.setdefault(placement.pipelines.get(node, -1), []).append(held)
    are_chains = set()
    for ranges in pipelines.values():
        in_order = sorted(ranges, key=lambda held: (held.start, held.end))
        are_chains.add(all(a.end == b.start for a, b in pairwise(in_order)) and not placement.partial_inference)
    return True in are_chains, False in are_chains


def scored(
    candidates: Sequence[Candidate],
    evaluator: Evaluator,
    estimate: Estimate | None,
    limit: int,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Return the scores of the finalists by simulation, then of the neighbours of the best."""
    if estimate is None:
        waiting = finalists(candidates, limit - limit // 3)
        limit = max(limit, len(waiting))
    else:
        waiting = promising(candidates, {one.name: estimate(one.left) for one in candidates}, limit)
        limit = len(waiting)
    scores: dict[str, float] = {}
    while waiting and len(scores) < limit:
        candidate = waiting.pop(0)
        scores[candidate.name] = evaluator(candidate.placement)
        report(f"simulated {candidate.name}")
        waiting = waiting or neighbours(candidates, scores)
    return scores


def neighbours(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> list[Candidate]:
    """Return the neighbours without a score of the best-scored candidate on the frontier of the searched ones."""
    line = frontier([c for c in candidates if c.is_searched])
    scored = [at for at, candidate in enumerate(line) if candidate.name in scores]
    if not scored:
        return []
    top = max(scored, key=lambda at: scores[line[at].name])
    return [line[at] for at in (top - 1, top + 1) if 0 <= at < len(line) and line[at].name not in scores]


def best(candidates: Sequence[Candidate], scores: Mapping[str, float], tolerance: float) -> Candidate:
    """Return the best by score, flow, then few hops; or the one within ``tolerance`` of it that moves fewest bytes."""

    def merit(candidate: Candidate) -> tuple[float, ...]:
        score = scores.get(candidate.name, float("-inf"))
        return (score, candidate.kept_tokens_per_s, candidate.flow_tokens_per_s, -candidate.mean_hops)

    chosen = max(candidates, key=merit)
    if chosen.moved_bytes == 0:
        return chosen
    value = scores.get(chosen.name)

    def is_near(candidate: Candidate) -> bool:
        mine = candidate.kept_tokens_per_s if value is None else scores.get(candidate.name, float("-inf"))
        top = chosen.kept_tokens_per_s if value is None else value
        return mine >= top - tolerance * abs(top)

    return min((c for c in candidates if is_near(c)), key=lambda c: c.moved_bytes)


def distinct_name(name: str, candidates: Sequence[Candidate]) -> str:
    """Return a name with a number, if there are candidates of that name: estimates and scores are by name."""
    taken = sum(one.name == name or one.name.startswith(f"{name} (") for one in candidates)
    return f"{name} ({taken + 1})" if taken else name


def listed(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the candidates and their frontier as plain data for the notes of a placement."""
    return {
        "candidates": [
            {
                "name": candidate.name,
                "hops": candidate.max_hops,
                "max_flow_tokens_per_s": candidate.flow_tokens_per_s,
                "score": scores.get(candidate.name),
            }
            for candidate in candidates
        ],
        "frontier": [
            {"hops": candidate.max_hops, "max_flow_tokens_per_s": candidate.flow_tokens_per_s}
            for candidate in frontier(candidates)
        ],
    }
