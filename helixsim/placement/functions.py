"""User functions as placement strategies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from helixsim.decorators import Function, options_of, registering, stand_for, summary_of
from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import PluginError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished
from helixsim.placement.registry import REGISTRY


def register(name: str) -> Callable[[Function], Function]:
    """Return the decorator that makes a function a placement strategy, ``@helixsim.placement(name)``.

    The function is called with a ``base.PlacementProblem`` and returns first layer and layer after the last for each
    node that it uses, ``{"l4-0": (0, 20), "l4-1": (20, 40)}``, or a ``Placement``. Keyword-only parameters become
    options.
    """
    return registering(REGISTRY, name, attach)


def attach(name: str, function: Callable[..., Any]) -> None:
    """Make the class that calls a function to place a model."""
    what = f"placement strategy {name!r}"

    class Strategy:
        """Places the model by the function."""

        summary: ClassVar[str] = summary_of(function)
        Options: ClassVar[type[Any]] = options_of(what, function, ("problem",))

        def solve(self, problem: PlacementProblem, options: Any) -> Placement:
            """See ``Strategy.solve``."""
            started_s = time.perf_counter()
            found = function(problem, **vars(options))
            if isinstance(found, Placement):
                return found
            try:
                pairs = {str(node): (int(start), int(end)) for node, (start, end) in dict(found).items()}
            except (TypeError, ValueError):
                raise PluginError(
                    f"{what}: returned {found!r}, expected a mapping such as {{'l4-0': (0, 20), 'l4-1': (20, 40)}}"
                ) from None
            ranges: Mapping[str, LayerRange] = {node: LayerRange(*pair) for node, pair in pairs.items()}
            return finished(problem, name, ranges, started_s=started_s)

    stand_for(function, Strategy)
