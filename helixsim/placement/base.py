"""Input and output of placement strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.placement import Placement
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.station import OperatingLoad

Progress = Callable[[str, float, float, float], None]
"""Called with (current step, elapsed time, objective so far, upper bound so far) [-, s, tokens/s, tokens/s]."""

Evaluator = Callable[[Placement], float]
"""Scores a valid placement by a short simulation of the actual workload; higher is better."""

Estimate = Callable[[Placement], float]
"""Predicts an evaluator's score roughly, within milliseconds, to select the candidates that are simulated."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A valid placement that may be selected, by name; ``estimate``: by ``PlacementProblem.estimate``."""

    name: str
    placement: Placement
    estimate: float | None = None


@dataclass(frozen=True, slots=True)
class Phases:
    """What decides the roles of nodes.

    Parameters
    ----------
    load
        Mean lengths, memory and engine.
    transfer
        How KV caches travel between nodes that prefill and nodes that decode.
    tpot_s
        Objective for the time per token [s]; None: not stated.
    """

    load: OperatingLoad
    transfer: KvTransfer
    tpot_s: float | None


Select = Callable[[Sequence[Contender], Callable[[str], None]], Placement]
"""Selects a placement, and the routing with it, by simulations under the load of the experiment. The second argument is
told of progress. The result is one of the contenders', or that of a baseline, with notes on the selection."""


def silent(_step: str, _seconds: float, _objective: float, _bound: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class PlacementProblem:
    """One model to be placed on one fleet.

    Parameters
    ----------
    capacity
        Tokens/s of each node for each number of layers.
    evaluator
        None if nothing can be simulated (``place`` without a workload); strategies then select by max-flow.
    estimate
        None: candidates are selected for simulation by max-flow and hops.
    operating
        A second estimate of capacity, which yields other candidates for the evaluator.
    select
        Selects among all candidates at once, in place of ``evaluator``. None: the load has no rate, or the criterion is
        another than requests within the objectives.
    divide
        Returns the problem with machines divided into nodes of so many GPUs each, by machine; without ``evaluator``,
        ``estimate`` and ``select``. None: nothing can be divided.
    phases
        What decides the roles of nodes; None: all nodes prefill and decode.
    needs_flow
        Whether a strategy states the max-flow of its placement; not, where the caller computes it.
    """

    fleet: Deployment
    capacity: CapacityTable
    seed: int = 0
    evaluator: Evaluator | None = None
    progress: Progress = field(default=silent)
    estimate: Estimate | None = None
    operating: CapacityTable | None = None
    select: Select | None = None
    divide: Callable[[Mapping[str, int]], PlacementProblem] | None = None
    phases: Phases | None = None
    needs_flow: bool = True


class Strategy(Protocol):
    """A placement strategy. A class of the user needs these three attributes.

    ``Options`` is a frozen dataclass; its fields become keys of ``placement:`` in exp.yaml, checked with positions.
    ``solve`` raises ``InfeasibleError`` if the model cannot be placed. Its result passes ``placement.check``.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def solve(self, problem: PlacementProblem, options: Any) -> Placement:
        """Return a placement of the model on the fleet."""
        ...
