"""Joint distributions of prompt and output length.

registry    the distributions by name:  get(name) -> class, names(), build(spec) -> distribution
base        the contract, and sampling within limits
parametric  fixed, uniform, lognormal
recorded    the lengths of a trace;  histograms fitted to traces (azure-conversation, azure-code, fitted)
fit         fit_lengths(requests, ...): the compact histogram of a trace
"""
