"""Searches over many experiments.

sweep        many variants of an experiment
capacity     highest rate of a system within its objectives; capacity_run: of all systems, with a report
fleet        cheapest fleet within the objectives, or the best for a budget; fleet_program: its integer programs;
             fleet_bound: what fleets can do at best; fleet_trial: one fleet
calibrate    host times and shares of a GPU's peaks that meet measured points best; calibrate_points: the points
             simulated; calibrate_fit: least squares
replay       measured points simulated: an experiment under the loads of benchmarks
"""
