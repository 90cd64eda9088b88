"""Reading, checking and resolving experiments; the entry point is ``helixsim.experiment.Experiment``.

experiment  the resolved experiment, plain values
edit        changes of an experiment: key, value and origin
former      former names of keys
source      plain data with positions, edits and the cluster file
resolve     checks of the source, and construction of the resolved experiment
fields, schema, load_schema   the file format, in pydantic
choices     look-up of names in registries and catalogues, and their options
variation, whatif_schema, whatif   factors on links and traffic, what-if variants
sweep_schema, sweep_file, plan_file   sweep.yaml and plan.yaml
nodes, network, links_file, spread   the cluster
roles       prefill and decode on different nodes
loads       the workload
engine      the engine profile
checks, sizes   checks across several keys, limits of size
reference   JSON Schema and Markdown reference of the file formats
"""
