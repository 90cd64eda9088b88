"""Batching policies by name."""

from __future__ import annotations

from helixsim.plugins import Registry

REGISTRY = Registry(
    "batching policy",
    {
        "continuous": "helixsim.batching.policies:Continuous",
        "prefill_first": "helixsim.batching.policies:PrefillFirst",
    },
    ("summary", "Options", "plan"),
    "helixsim.batching.functions",
)

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
