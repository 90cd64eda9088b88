"""Candidates of a search: their frontier of flow against hops, and who of them goes to the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from helixsim.domain.placement import LayerRange, Placement
from helixsim.placement import tuning


@dataclass(frozen=True, slots=True)
class Candidate:
    """A legal placement with its exact max-flow.

    ``moved_bytes`` is 0 where nothing is running yet. ``by_operating``: the search saw operating capacities.
    """

    name: str
    placement: Placement
    max_hops: int
    mean_hops: float
    is_searched: bool
    moved_bytes: int = 0
    by_operating: bool = False

    @property
    def flow_tokens_per_s(self) -> float:
        """Max-flow [tokens/s]."""
        return self.placement.objective_tokens_per_s


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both flow and hops, the largest flow first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.flow_tokens_per_s, c.max_hops)):
        if not found or candidate.max_hops < found[-1].max_hops:
            found.append(candidate)
    return found


def finalists(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return the candidates to judge: every heuristic, and the frontier of the rest, thinned evenly.

    ``most`` is exceeded only where heuristics would leave the searched ones less than half of it.
    """
    heuristics = [c for c in candidates if not c.is_searched]
    heuristics.sort(key=lambda c: (-c.flow_tokens_per_s, c.mean_hops))
    searched = frontier([c for c in candidates if c.is_searched])
    room = max(most - len(heuristics), most - most // 2)
    if len(searched) > room:
        steps = max(1, room - 1)
        searched = [searched[number * (len(searched) - 1) // steps] for number in range(room)]
    return heuristics + searched


def promising(candidates: Sequence[Candidate], estimates: Mapping[str, float], most: int) -> list[Candidate]:
    """Return whom to judge: every heuristic, then the searched ones, the highest estimates first.

    None that is far behind the best goes, and equal placements go once. ``most`` is exceeded only where heuristics
    would leave the searched ones less than half of it. Estimates flatter those that were searched by what they estimate
    with, so these and the other searched ones take turns.
    """
    ranked = sorted(candidates, key=lambda c: (-estimates[c.name], c.max_hops))
    top = estimates[ranked[0].name] if ranked else 0.0
    found: dict[tuple[tuple[tuple[str, LayerRange], ...], tuple[tuple[str, int], ...]], Candidate] = {}
    for candidate in ranked:
        if top <= 0 or estimates[candidate.name] >= tuning.MIN_ESTIMATE_SHARE * top:
            layout = candidate.placement
            found.setdefault((tuple(layout.ranges.items()), tuple(layout.pipelines.items())), candidate)
    heuristics = [candidate for candidate in found.values() if not candidate.is_searched]
    both = [[c for c in found.values() if c.is_searched and c.by_operating is kind] for kind in (False, True)]
    turns = zip_longest(*both)
    searched = [candidate for turn in turns for candidate in turn if candidate is not None]
    return heuristics + searched[: max(most - len(heuristics), most - most // 2)]


def neighbours(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> list[Candidate]:
    """Return who stands next to the best-scored candidate on the frontier of those searched and has no score yet."""
    line = frontier([c for c in candidates if c.is_searched])
    scored = [at for at, candidate in enumerate(line) if candidate.name in scores]
    if not scored:
        return []
    top = max(scored, key=lambda at: scores[line[at].name])
    return [line[at] for at in (top - 1, top + 1) if 0 <= at < len(line) and line[at].name not in scores]


def best(candidates: Sequence[Candidate], scores: Mapping[str, float], tolerance: float) -> Candidate:
    """Return the best by score, then flow, then few hops; of those within ``tolerance``, who moves fewest bytes."""

    def merit(candidate: Candidate) -> tuple[float, float, float]:
        score = scores.get(candidate.name, float("-inf"))
        return (score, candidate.flow_tokens_per_s, -candidate.mean_hops)

    chosen = max(candidates, key=merit)
    if chosen.moved_bytes == 0:
        return chosen
    value = scores.get(chosen.name)

    def is_near(candidate: Candidate) -> bool:
        mine = candidate.flow_tokens_per_s if value is None else scores.get(candidate.name, float("-inf"))
        top = chosen.flow_tokens_per_s if value is None else value
        return mine >= top - tolerance * abs(top)

    return min((c for c in candidates if is_near(c)), key=lambda c: c.moved_bytes)


def listed(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the candidates as plain values for a placement's notes."""
    return [
        {
            "name": candidate.name,
            "hops": candidate.max_hops,
            "max_flow_tokens_per_s": candidate.flow_tokens_per_s,
            "score": scores.get(candidate.name),
        }
        for candidate in candidates
    ]
