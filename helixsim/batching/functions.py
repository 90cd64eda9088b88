"""Functions of the user's own as batching policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from helixsim.batching.registry import REGISTRY
from helixsim.decorators import Function, options_of, registering, stand_for, summary_of
from helixsim.domain.hardware import BatchLimits
from helixsim.errors import PluginError


def register(name: str) -> Callable[[Function], Function]:
    """Return the decorator that makes a function a batching policy, ``@helixsim.batching(name)``.

    The function has the arguments and the result of ``base.BatchingPolicy.plan``. Keyword-only parameters become
    options.
    """
    return registering(REGISTRY, name, attach)


def attach(name: str, function: Callable[..., tuple[int, int]]) -> None:
    """Make the class that calls a function for each batch."""
    what = f"batching policy {name!r}"

    class Policy:
        """Forms each batch by the function."""

        summary: ClassVar[str] = summary_of(function)
        Options: ClassVar[type[Any]] = options_of(what, function, ("prefill_tokens", "decode_seqs", "limits"))

        def __init__(self, options: Any) -> None:
            self._options = dict(vars(options))

        def plan(self, prefill_tokens: Sequence[int], decode_seqs: int, limits: BatchLimits) -> tuple[int, int]:
            """See ``BatchingPolicy.plan``."""
            taken = function(prefill_tokens, decode_seqs, limits, **self._options)
            try:
                prefills, decodes = taken
            except (TypeError, ValueError):
                message = f"{what}: returned {taken!r}, expected two numbers: prefills and decode steps to take"
                raise PluginError(message) from None
            return prefills, decodes

    stand_for(function, Policy)
