"""From an experiment to its results.

registries   strategies and policies by name
systems      one placed system, and how it is simulated
judge        scores placements by short simulations
placing      place the model for one system
run          all systems of an experiment, in one process or several -> run directory
rundir       what a run directory holds besides results: configuration and manifest
"""
