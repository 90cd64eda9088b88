"""exp.yaml <-> ResolvedExperiment.

experiment  the resolved experiment, plain values
schema      the file format, in pydantic
resolve     schema -> resolved experiment: profiles, cluster, workload
reference   JSON Schema and Markdown reference made from the schema
"""
