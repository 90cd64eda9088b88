"""Metrics of a simulated run: definitions, computation and confidence intervals.

window       events and samples of the measurement window
stats        percentiles, Student t, batch-means confidence intervals
latency      TTFT, TPOT, ITL, E2EL
throughput   tokens/s, requests/s, goodput, SLO attainment
stationarity test of the window for drift
saturation   STABLE, BACKLOGGED or OVERLOADED
utilisation  utilisation of nodes, KV memory use, queues
legs         pools that prefill and decode, and transfers between them
energy_cost  $ and Wh per million tokens
bottleneck   sentences on what limits the throughput
objectives   verdicts on service-level objectives
criteria     criteria by which systems are ranked
verdict      objectives met or missed, the best system, doubts, next step; verdict_text: in sentences
compare      ratios to a baseline, paired requests
measured_run errors of simulated runs against measured ones
summary      all metrics as a ``Summary``
"""
