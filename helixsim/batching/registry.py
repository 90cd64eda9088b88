"""Batching policies by name."""

from __future__ import annotations

from typing import Any

from helixsim.plugins import lookup

POLICIES: dict[str, str] = {
    "continuous": "helixsim.batching.policies:Continuous",
    "prefill_first": "helixsim.batching.policies:PrefillFirst",
}


def names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(POLICIES)


def get(name: str) -> type[Any]:
    """Return the policy class called ``name`` or imported from ``package.module:Class``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    return lookup("batching policy", name, POLICIES, ("summary", "Options", "plan"))
