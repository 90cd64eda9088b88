"""One experiment, from its placed systems to its results.

systems      one placed system, and how it is simulated
evaluator    scores placements by short simulations
placing      place the model for one system
placements   placements kept by the hash of their inputs
whatif       systems of an experiment together with those of its variants
run          all systems of an experiment, in one process or several -> run directory
finished     a finished system on disk, until its run directory is complete
rundir       what a run directory holds besides results: configuration and manifest
trials       one system at some rate, judged, and kept by the hash of its inputs
"""
