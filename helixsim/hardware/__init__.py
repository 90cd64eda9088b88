"""GPUs, links and models as data, and how long and how much memory layers take on them.

profiles      all of it joined: NodeProfile of each kind of node for one model (the door)
catalog       find and load profiles/: GPUs, links, models, and other names for them
models        layers of a model from its profile or Hugging Face config.json, in the formats of its checkpoint
kv_memory     KV blocks left beside the weights
measured      per-layer timing and limit tables (CSV)
fit           timing tables -> compact profile with residuals
compute_file  profiles/compute: fitted profiles as YAML
roofline      time of a layer from datasheet figures
tensor_parallel  nodes of several GPUs from the timings of one, all-reduces
"""
