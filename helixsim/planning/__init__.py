"""From an experiment to its results.

registries   strategies and policies by name
systems      one placed system, and how it is simulated
judge        scores placements by short simulations
placing      place the model for one system
placements   placements kept by the hash of their inputs
whatif       systems of an experiment together with those of its variants
run          all systems of an experiment, in one process or several -> run directory
finished     a finished system on disk, until its run directory is complete
rundir       what a run directory holds besides results: configuration and manifest
trials       one system at some rate, judged, and kept by the hash of its inputs
sweep        many variants of an experiment
capacity     highest rate of a system within its objectives; capacity_run: of all systems, with a report
fleet        cheapest fleet within the objectives, or the best for a budget; fleet_program: its integer programs;
             fleet_bound: what fleets can do at best; fleet_trial: one fleet
"""
