"""Routing policies by name."""

from __future__ import annotations

from helixsim.plugins import Registry

REGISTRY = Registry(
    "routing policy",
    {
        "auto": "helixsim.routing.auto:Auto",
        "flow_weighted": "helixsim.routing.flow_weighted:FlowWeighted",
        "swarm": "helixsim.routing.swarm:Swarm",
        "parallax": "helixsim.routing.parallax:Parallax",
        "random": "helixsim.routing.baselines:Random",
        "shortest_queue": "helixsim.routing.baselines:ShortestQueue",
        "round_robin": "helixsim.routing.baselines:RoundRobin",
        "least_loaded": "helixsim.routing.baselines:LeastLoaded",
        "earliest_finish": "helixsim.routing.earliest_finish:EarliestFinish",
        "in_time": "helixsim.routing.earliest_finish:InTime",
        "prefix_aware": "helixsim.routing.prefix_aware:PrefixAware",
    },
    ("summary", "Options", "route"),
    "helixsim.routing.functions",
)

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
