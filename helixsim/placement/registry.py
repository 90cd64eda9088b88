"""Placement strategies by name."""

from __future__ import annotations

from helixsim.plugins import Registry

_REGISTRY = Registry(
    "placement strategy",
    {
        "helix": "helixsim.placement.helix:Helix",
        "swarm": "helixsim.placement.swarm:Swarm",
        "petals": "helixsim.placement.petals:Petals",
        "separate": "helixsim.placement.separate:Separate",
        "homogeneous": "helixsim.placement.homogeneous:Homogeneous",
        "fixed": "helixsim.placement.fixed:Fixed",
    },
    ("summary", "Options", "solve"),
)

names = _REGISTRY.names
get = _REGISTRY.get
