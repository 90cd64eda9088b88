"""What computing needs besides the computation.

identity  the content key of a result: its inputs and the code that decides it
store     Store(directory, kind, schema, codec): results kept on disk under their content key
manifest  manifest.json of a directory of results: their content key, and a digest of every file
"""
