"""From an experiment to its results.

registries   strategies and policies by name
systems      place, route and simulate one system
run          all systems of an experiment, in one process or several -> run directory
rundir       what a run directory holds besides results: configuration and manifest
"""
