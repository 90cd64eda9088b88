"""Placement strategies by name."""

from __future__ import annotations

from typing import Any

from helixsim.plugins import lookup

_STRATEGIES = {
    "helix": "helixsim.placement.helix:Helix",
    "swarm": "helixsim.placement.swarm:Swarm",
    "petals": "helixsim.placement.petals:Petals",
    "separate": "helixsim.placement.separate:Separate",
    "homogeneous": "helixsim.placement.homogeneous:Homogeneous",
    "fixed": "helixsim.placement.fixed:Fixed",
}


def names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(_STRATEGIES)


def get(name: str) -> type[Any]:
    """Return the strategy class of a registered name, or of an import path such as ``mypkg.mod:MyStrategy``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    return lookup("placement strategy", name, _STRATEGIES, ("summary", "Options", "solve"))
