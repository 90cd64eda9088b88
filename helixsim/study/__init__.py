"""One experiment, from placements to results.

systems      placed systems and their simulation
evaluator    scores of placements by short simulations
race         selection of a placement with its routing by simulations on the same requests
trial_notes  entries and trials of a race, and what they explain
score        when one simulation is better than another
placing      placement of the model for one system
legs         systems whose nodes have roles: a placement for each
placements   cache of placements
whatif       systems of an experiment and of its variants
run          all systems of an experiment, in one process or several -> run directory
finished     finished systems on disk, until their run directory is complete
rundir       configuration and manifest of a run directory
trials       cached simulations of one system at some rate, with verdicts
"""
