"""exp.yaml <-> ResolvedExperiment.

experiment  the resolved experiment, plain values
resolve     load_experiment(path, overrides, registries=...): the door of this package
source      the file as plain values with positions; --set and the cluster file applied
fields, schema   the file format, in pydantic
faults      what pydantic finds, as problems with positions
choices     names looked up in registries and catalogues, and the options that come with them
variation, whatif   factors, plans, and overlays on an experiment
sweep_schema, sweep_file   sweep.yaml
nodes, network, links_file, spread   the cluster
loads       the workload
checks      what cannot be told from one key alone
reference   JSON Schema and Markdown reference made from the schema
"""
