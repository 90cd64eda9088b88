"""A checkpoint's ``config.json``, or a profile with its keys, as layers.

load          files -> ModelSpec (the only entry, through ``catalog.load_model``)
families      the table of what each ``model_type`` is made of
family        an entry of it
hybrid        models of state-space, attention and feed-forward layers in a pattern
attention     grouped, sliding and latent attention
linear        state-space and linear attention
feed_forward  dense and routed feed-forward parts
parts         matrices of one layer in the formats of the checkpoint
quantization  formats that a checkpoint states, module by module
config        keys of ``config.json`` with clear errors
"""
