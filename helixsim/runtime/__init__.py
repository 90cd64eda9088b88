"""Content keys, caches and executors.

identity   content keys of results: inputs, and the code that determines them
pool       executors of tasks: in this process, or in a process pool that survives worker crashes
executors  choice of the executor: one of these, or a dask cluster
store      Store(directory, kind, schema, codec): cache on disk by content key
manifest   manifest.json of a directory of results: content key, and digests of all files
"""
