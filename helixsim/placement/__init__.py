"""Which node holds which layers. The method is described in docs/placement.md.

base        PlacementProblem in, Placement out
registry    strategies by name
check       the conditions that every placement meets
outcome     layer ranges -> checked placement with max-flow and bound

helix       search, then selection by simulation. stages (vocabulary: node groups, segments, stage groups, pipelines),
            clusters (which nodes form a region), column_generation (a pipeline for a target flow) with columns, master
            (how often each stage group is used), pricing (which stage group is worth most) and patterns (first stage
            groups), regions (which regions serve together), swaps (exchanges where links differ), constraints (of the
            user), select (candidates to simulate), bounds (configuration LP), milp (per-node program, small fleets),
            tuning (all constants)
swarm, petals, separate, replicas, homogeneous, fixed     the baselines, and a placement from a file (splits: even
            shares of the layers)
functions   ``@helixsim.placement("name")``: user functions
"""

import sys

from helixsim.decorators import DecoratorModule

sys.modules[__name__].__class__ = DecoratorModule
