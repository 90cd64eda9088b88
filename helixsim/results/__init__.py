"""Results as typed values: computed once, written, read back and shown by everything above.

files           JSON and CSV files
tables          tables of one run (pandas)
placement_json  a placement as JSON
run             one simulated system
runset          the systems of one experiment
"""
