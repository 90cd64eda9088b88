"""Results as typed values: computed once, written, read back and shown by everything above.

files           JSON and CSV files
tables          tables of one run (pandas)
placement_json  a placement as JSON
run             one simulated system
runset          the systems of one experiment
capacity        the highest rate of each system within its objectives
fleet           fleets that serve a load
sweep           all points of a sweep, and their means over the seeds
"""
