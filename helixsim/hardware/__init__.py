"""GPUs, links and models as data, and how long and how much memory layers take on them.

catalog     find and load profiles/ and Hugging Face config.json files
roofline    time of a batch from datasheet figures
measured    per-layer timing tables (CSV)
fit         timing tables -> compact profile with residuals
kv_memory   KV blocks left beside the weights
profiles    all of it joined: NodeProfile of each kind of node for one model
"""
