"""Searches over many experiments.

sweep        many variants of an experiment
capacity     highest rate of a system within its objectives; capacity_run: of all systems, with a report
fleet        cheapest fleet within the objectives, or the best for a budget; fleet_program: its integer programs;
             fleet_bound: what fleets can do at best; fleet_trial: one fleet
calibrate    engine overheads that meet a measured run best
"""
