"""Which node holds which layers.

base        PlacementProblem in, Placement out
registry    strategies by name
check       the laws every placement obeys, whatever its source
"""
