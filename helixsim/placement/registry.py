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
        "parallax": "helixsim.placement.parallax:Parallax",
        "exo": "helixsim.placement.exo:Exo",
        "hexgen2": "helixsim.placement.hexgen2:Hexgen2",
        "thunderserve": "helixsim.placement.thunderserve:Thunderserve",
        "cost_milp": "helixsim.placement.cost_milp:CostMilp",
        "fixed": "helixsim.placement.fixed:Fixed",
    },
    ("summary", "Options", "solve"),
    "helixsim.placement.functions",
)

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
