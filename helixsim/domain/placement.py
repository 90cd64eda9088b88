"""Which node holds which layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Layers ``start`` .. ``end - 1``."""

    start: int
    end: int

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.end - self.start


@dataclass(frozen=True)
class Placement:
    """A layer range for each node that is used; nodes that are not used are absent.

    Parameters
    ----------
    ranges
        Node id -> layer range, in cluster order.
    partial_inference
        Whether a request may enter a node in the middle of its range (paper section 5, "partial inference").
    pipelines
        Node id -> number of its pipeline; tokens never pass from one pipeline to another. Empty: all nodes form one.
    objective_tokens_per_s
        Max-flow of the placement [prompt + output tokens/s].
    upper_bound_tokens_per_s
        No placement of this fleet can exceed it [tokens/s]; infinite if unknown.
    status
        ``optimal``, ``feasible`` (stopped by a limit) or ``heuristic``.
    history
        (seconds, objective, bound) at each improvement of the search.
    notes
        What the strategy found worth saying, for example the candidates it compared.
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

    @property
    def gap(self) -> float:
        """Relative distance of the objective from its upper bound; NaN if there is no bound."""
        if not math.isfinite(self.upper_bound_tokens_per_s) or not self.upper_bound_tokens_per_s:
            return math.nan
        # Rounded because objective and bound of an optimal placement differ in the last bits, either way.
        return round(1.0 - self.objective_tokens_per_s / self.upper_bound_tokens_per_s, 9) + 0.0
