"""Functions of the user's own as policies of spot machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from helixsim.autoscaling.spot_base import Mix, SpotState
from helixsim.autoscaling.spot_registry import REGISTRY
from helixsim.decorators import Function, options_of, registering, stand_for, summary_of


def register(name: str) -> Callable[[Function], Function]:
    """Return the decorator that makes a function a policy of spot machines, ``@helixsim.autoscaling.spot(name)``.

    The function has the argument of ``spot_base.SpotPolicy.mix`` and returns a ``Mix``, or replicas on spot machines
    and on demand as two numbers. Keyword-only parameters become options.
    """
    return registering(REGISTRY, name, attach)


def attach(name: str, function: Callable[..., Any]) -> None:
    """Make the class that calls a function whenever the mixture is decided."""
    what = f"spot policy {name!r}"

    class Policy:
        """Decides by the function."""

        summary: ClassVar[str] = summary_of(function)
        Options: ClassVar[type[Any]] = options_of(what, function, ("state",))

        def __init__(self, options: Any) -> None:
            self._options = dict(vars(options))

        def mix(self, state: SpotState) -> Any:
            """See ``SpotPolicy.mix``."""
            found = function(state, **self._options)
            return Mix(*found) if isinstance(found, tuple) and len(found) == 2 else found

    stand_for(function, Policy)
