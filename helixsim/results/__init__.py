"""Results as typed values, which reports, searches and the Python API share.

files           JSON and CSV files
columns         tables as arrays by column
tables          tables of one run
placement_json  JSON of a placement
run             a simulated system
runset          the systems of one experiment
capacity        results of a capacity search
fleet           results of a fleet search
sweep           results of a sweep and their means over the seeds
"""
