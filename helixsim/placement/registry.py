"""Placement strategies by name."""

from __future__ import annotations

from helixsim.plugins import Registry

REGISTRY = Registry(
    "placement strategy",
    {
        "helix": "helixsim.placement.helix:Helix",
        "swarm": "helixsim.placement.swarm:Swarm",
        "petals": "helixsim.placement.petals:Petals",
        "separate": "helixsim.placement.separate:Separate",
        "replicas": "helixsim.placement.replicas:Replicas",
        "homogeneous": "helixsim.placement.homogeneous:Homogeneous",
        "fixed": "helixsim.placement.fixed:Fixed",
    },
    ("summary", "Options", "solve"),
    "helixsim.placement.functions",
)

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
