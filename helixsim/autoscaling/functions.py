"""Functions of the user's own as autoscaling policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from helixsim.autoscaling.base import PoolState
from helixsim.autoscaling.registry import REGISTRY
from helixsim.decorators import Function, options_of, registering, stand_for, summary_of
from helixsim.domain.autoscaling import BUILT_IN
from helixsim.errors import ConfigError


def register(name: str) -> Callable[[Function], Function]:
    """Return the decorator that makes a function an autoscaling policy, ``@helixsim.autoscaling(name)``.

    The function has the argument and the result of ``base.AutoscalingPolicy.decide``. Keyword-only parameters become
    options.
    """
    if name in BUILT_IN:
        raise ConfigError(f"autoscaling policy {name!r} is one of helixsim's own: choose another name")
    return registering(REGISTRY, name, attach)


def attach(name: str, function: Callable[..., int]) -> None:
    """Make the class that calls a function at each look."""
    what = f"autoscaling policy {name!r}"

    class Policy:
        """Decides by the function."""

        summary: ClassVar[str] = summary_of(function)
        Options: ClassVar[type[Any]] = options_of(what, function, ("state",))

        def __init__(self, options: Any) -> None:
            self._options = dict(vars(options))

        def decide(self, state: PoolState) -> int:
            """See ``AutoscalingPolicy.decide``."""
            return function(state, **self._options)

    stand_for(function, Policy)
