"""Functions of the user's own as routing policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from helixsim.decorators import Function, options_of, registering, stand_for, summary_of
from helixsim.errors import PluginError
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.registry import REGISTRY
from helixsim.routing.walk import walk


def register(name: str) -> Callable[[Function], Function]:
    """Return the decorator that makes a function a routing policy, ``@helixsim.routing(name)``.

    The function is called with the next hops that fit, and with the state of the cluster (``base.RoutingView``); it
    returns one of the hops. It must depend on nothing else. Keyword-only parameters become options.
    """
    return registering(REGISTRY, name, attach)


def attach(name: str, function: Callable[..., Hop]) -> None:
    """Make the class that calls a function for each step of a request's route."""
    what = f"routing policy {name!r}"

    class Policy:
        """Walks through the layers, choosing each hop by the function."""

        summary: ClassVar[str] = summary_of(function)
        Options: ClassVar[type[Any]] = options_of(what, function, ("hops", "view"))

        def __init__(self, graph: RoutingGraph, options: Any, rng: np.random.Generator) -> None:
            self._graph = graph
            self._options = dict(vars(options))

        def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
            """See ``RoutingPolicy.route``."""

            def pick(hops: Sequence[Hop]) -> Hop:
                chosen = function(hops, view, **self._options)
                if not any(chosen is hop for hop in hops):
                    raise PluginError(f"{what}: returned {chosen!r}, expected one of the hops that it was given")
                return chosen

            return walk(self._graph, view, pick)

    stand_for(function, Policy)
