"""Plain data of an experiment -> ResolvedExperiment; ``helixsim.experiment.Experiment`` is the door.

experiment  the resolved experiment, plain values
edit        one change: key, value, where it was asked for; the text of --set and back
source      plain data with positions; edits and the cluster file applied
resolve     resolve(source, registries=...): checks and builds
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
