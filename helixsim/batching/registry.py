"""Batching policies by name."""

from __future__ import annotations

from helixsim.plugins import Registry

_REGISTRY = Registry(
    "batching policy",
    {
        "continuous": "helixsim.batching.policies:Continuous",
        "prefill_first": "helixsim.batching.policies:PrefillFirst",
    },
    ("summary", "Options", "plan"),
)

names = _REGISTRY.names
get = _REGISTRY.get
