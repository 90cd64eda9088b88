"""Numbers of a simulated run, each with its definition and, where it is an estimate, an interval.

window       which events belong to the measurement window
stats        percentiles, Student t, batch-means confidence intervals
latency      TTFT, TPOT, ITL, E2EL
throughput   tokens/s, requests/s, goodput, SLO attainment
stationarity whether the window is stationary
saturation   STABLE, BACKLOGGED or OVERLOADED
utilisation  busy shares, KV memory, queues
energy_cost  dollars and watt-hours per million tokens
bottleneck   sentences on what limits the throughput
compare      ratios to a baseline, requests paired across systems
summary      all of it as the dictionary that becomes ``summary.json``
"""
