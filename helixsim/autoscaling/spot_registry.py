"""Policies of spot machines by name."""

from __future__ import annotations

from helixsim.plugins import Registry

REGISTRY = Registry(
    "spot policy",
    {
        "on_demand": "helixsim.autoscaling.spot_policies:OnDemand",
        "spot_only": "helixsim.autoscaling.spot_policies:SpotOnly",
        "fixed_share": "helixsim.autoscaling.spot_policies:FixedShare",
        "spot_hedge": "helixsim.autoscaling.spot_policies:SpotHedge",
    },
    ("summary", "Options", "mix"),
    "helixsim.autoscaling.spot_functions",
)

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
