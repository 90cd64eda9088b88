"""Placements: the layer range of each node."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["both", "prefill", "decode"]
"""Phases that a node serves."""

ROLES: tuple[Role, ...] = ("prefill", "decode", "both")

BOTH: Role = "both"


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Layers ``start`` .. ``end - 1``."""

    start: int
    end: int

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.end - self.start

    def shared(self, other: LayerRange) -> LayerRange:
        """Return the layers that are in both ranges; without any, an empty range."""
        start = max(self.start, other.start)
        return LayerRange(start, max(start, min(self.end, other.end)))


@dataclass(frozen=True)
class Placement:
    """The layer ranges of the used nodes.

    Parameters
    ----------
    ranges
        Node id -> layer range, in cluster order.
    partial_inference
        Whether a request may enter a node inside its layer range (paper section 5, "partial inference").
    pipelines
        Node id -> number of its pipeline, between which no tokens pass. Empty: one group of nodes.
    objective_tokens_per_s
        Max-flow of the placement [prompt + output tokens/s].
    upper_bound_tokens_per_s
        Bound on the max-flow of any placement [tokens/s]; infinite if unknown.
    status
        ``optimal``, ``feasible`` (stopped by a limit) or ``heuristic``.
    history
        (seconds, objective, bound) at each improvement of the search.
    notes
        Details from the strategy, for example the candidates.
    widths
        Machine id -> GPUs of each of the nodes into which the strategy divides it; their ids are those of ``ranges``.
    roles
        Node id -> phases it serves, where the strategy lets nodes serve one only; others serve both.
    """

    strategy: str
    num_layers: int
    ranges: Mapping[str, LayerRange]
    partial_inference: bool = False
    objective_tokens_per_s: float = math.nan
    upper_bound_tokens_per_s: float = math.inf
    status: str = "heuristic"
    solve_s: float = 0.0
    history: tuple[tuple[float, float, float], ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    pipelines: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, Role] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """Relative distance of the objective from its upper bound; NaN without a bound."""
        if not math.isfinite(self.upper_bound_tokens_per_s) or not self.upper_bound_tokens_per_s:
            return math.nan
        # Rounded, as objective and bound of an optimal placement may differ in the last bits.
        return round(1.0 - self.objective_tokens_per_s / self.upper_bound_tokens_per_s, 9) + 0.0

    def part(self, nodes: Collection[str]) -> Placement:
        """Return the placement of some of its nodes."""
        return replace(
            self,
            ranges={node: held for node, held in self.ranges.items() if node in nodes},
            pipelines={node: number for node, number in self.pipelines.items() if node in nodes},
            roles={node: role for node, role in self.roles.items() if node in nodes},
        )
