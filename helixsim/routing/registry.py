"""Routing policies by name."""

from __future__ import annotations

from typing import Any

from helixsim.plugins import lookup

POLICIES: dict[str, str] = {
    "flow_weighted": "helixsim.routing.flow_weighted:FlowWeighted",
    "swarm": "helixsim.routing.swarm:Swarm",
    "random": "helixsim.routing.baselines:Random",
    "shortest_queue": "helixsim.routing.baselines:ShortestQueue",
    "least_loaded": "helixsim.routing.baselines:LeastLoaded",
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
    return lookup("routing policy", name, POLICIES, ("summary", "Options", "route"))
