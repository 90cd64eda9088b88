"""What a placement strategy receives and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from helixsim.domain.cluster import Fleet
from helixsim.domain.placement import Placement
from helixsim.flow.capacity import CapacityTable

Progress = Callable[[str, float, float, float], None]
"""Called with (what is being done, seconds, objective so far, upper bound so far) [s, tokens/s, tokens/s]."""

Judge = Callable[[Placement], float]
"""Scores a legal placement by a short simulation of the actual workload; higher is better."""

Estimate = Callable[[Placement], float]
"""Foretells a judge's score within milliseconds, roughly: it decides who goes to the judge."""


def silent(_what: str, _seconds: float, _objective: float, _bound: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class PlacementProblem:
    """One model to be placed on one fleet.

    ``capacity`` gives the tokens/s of each node for each number of layers. ``judge`` is None when nothing can be
    simulated (``place`` without a workload, tests); strategies then choose by max-flow. ``operating`` is a second
    estimate of capacity, which finds other candidates for the judge.
    """

    fleet: Fleet
    capacity: CapacityTable
    seed: int = 0
    judge: Judge | None = None
    progress: Progress = field(default=silent)
    estimate: Estimate | None = None
    operating: CapacityTable | None = None


class Strategy(Protocol):
    """A placement strategy. A user's own class needs these three names and nothing else.

    ``Options`` is a frozen dataclass; its fields become keys of ``placement:`` in exp.yaml, checked with positions.
    ``solve`` raises ``InfeasibleError`` if the model cannot be placed. Its result passes ``placement.check``.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def solve(self, problem: PlacementProblem, options: Any) -> Placement:
        """Return a placement of the model on the fleet."""
        ...
