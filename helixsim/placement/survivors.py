"""Which candidates of a search survive the loss of any one failure domain, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from helixsim.errors import InfeasibleError
from helixsim.placement import tuning
from helixsim.placement.base import PlacementProblem
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.outcome import layers_to_hold
from helixsim.placement.select import Candidate


def with_all_room(problem: PlacementProblem) -> PlacementProblem:
    """Return the problem with as many layers per node as fit beside KV memory.

    To hold each layer twice takes more room than planners usually give to weights.
    """
    fleet = problem.fleet
    profiles = tuple(replace(one, max_layers=len(one.kv_blocks)) for one in fleet.profiles)
    return replace(problem, fleet=replace(fleet, profiles=profiles))


def survivors(
    problem: PlacementProblem,
    options: HelixOptions,
    candidates: Sequence[Candidate],
    bound_tokens_per_s: float,
    time_left_s: Callable[[], float],
) -> tuple[list[Candidate], float]:
    """Return the candidates that keep enough after their worst loss, and a bound of what any placement keeps.

    Enough is ``survive_share`` of the most that any one keeps. ``bound_tokens_per_s``: a bound that is known already.

    Raises
    ------
    InfeasibleError
        If none keeps a route.
    """
    from helixsim.placement.survival import survival_bound  # deferred: loads the solver

    fleet = problem.fleet
    best = max(candidates, key=lambda one: one.kept_tokens_per_s)
    if not best.kept_tokens_per_s:
        kind = options.survive
        lost = best.worst.domain if best.worst is not None else ""
        raise InfeasibleError(
            f"helix: survive: {kind}: each of the {len(candidates)} placements found loses its last route with one "
            f"{kind} ({best.name} without {lost}): add nodes, or leave out survive (layers: {layers_to_hold(fleet)})"
        )
    least = options.survive_share * best.kept_tokens_per_s * (1 - tuning.FLOW_TOLERANCE)
    kept = [one for one in candidates if one.kept_tokens_per_s > 0 and one.kept_tokens_per_s >= least]
    assert options.survive is not None
    bound = survival_bound(problem, options.survive, best.kept_tokens_per_s, time_left_s)
    return kept, max(best.kept_tokens_per_s, min(bound_tokens_per_s, bound))


def survival_notes(
    options: HelixOptions,
    candidates: Sequence[Candidate],
    chosen: str,
    most_tokens_per_s: float,
    bound_tokens_per_s: float,
) -> tuple[dict[str, Any], float | None]:
    """Return notes on what the chosen candidate keeps after its worst loss, and the gap; none if losses do not count.

    ``most_tokens_per_s``: largest max-flow of all placements found, those that keep nothing included; the price is the
    share of it that the chosen one does not carry with all nodes. ``bound_tokens_per_s``: of what any placement keeps.
    """
    one = next((one for one in candidates if one.name == chosen), None)
    if one is None or one.worst is None:
        return {}, None
    kept = one.worst.max_flow_tokens_per_s
    gap = max(0.0, 1.0 - kept / bound_tokens_per_s)
    survival = {
        "of": options.survive,
        "worst_loss": one.worst.domain,
        "kept_tokens_per_s": kept,
        "bound_tokens_per_s": bound_tokens_per_s,
        "gap": gap,
        "most_tokens_per_s": most_tokens_per_s,
        "price": max(0.0, 1.0 - one.flow_tokens_per_s / most_tokens_per_s),
    }
    return {"survival": survival}, gap
