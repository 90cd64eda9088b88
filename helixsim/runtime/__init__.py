"""What computing needs besides the computation.

identity   the content key of a result: its inputs and the code that decides it
pool       executors of tasks: in this process, or in a process pool that survives worker crashes
executors  the executor of every study: one of these, or a dask cluster
store      Store(directory, kind, schema, codec): results kept on disk under their content key
manifest   manifest.json of a directory of results: their content key, and a digest of every file
"""
