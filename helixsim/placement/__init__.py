"""Which node holds which layers.

base        PlacementProblem in, Placement out
registry    strategies by name
check       the laws every placement obeys, whatever its source
outcome     layer ranges -> checked placement with max-flow and bound

helix       search, then choice by simulation: stages (vocabulary), patterns (chains of stages for a target flow),
            regions (which regions serve together), milp (per-node program, small fleets), bounds (configuration LP)
swarm, petals, separate, homogeneous, fixed     the baselines, and a user's own file
"""
