"""Which node holds which layers.

base        PlacementProblem in, Placement out
registry    strategies by name
check       the laws every placement obeys, whatever its source
outcome     layer ranges -> checked placement with max-flow and bound

helix       search, then choice by simulation. stages (vocabulary: groups, strands, blocks, chains), clusters (which
            nodes are a region), patterns (first blocks), pricing (which block is worth most), master (how often each is
            used), blocks (a chain for a target flow), regions (which regions serve together), bounds (configuration
            LP), milp (per-node program, small fleets)
swarm, petals, separate, homogeneous, fixed     the baselines, and a user's own file
"""
