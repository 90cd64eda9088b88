"""Joint distributions of prompt and output length.

registry    the distributions by name:  get(name) -> class, names(), build(spec) -> distribution
base        interface, and sampling within limits
parametric  fixed, uniform, lognormal
recorded    lengths of a trace;  histograms fitted to traces (azure-conversation, azure-code, fitted)
fit         fit_lengths(requests, ...): compact histogram of a trace
"""
