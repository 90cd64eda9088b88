# %% A cluster of seven GPUs under a load: which way to use them serves it best?
import helixsim as hx

cluster = hx.Cluster({"a100-40g": 1, "l4": 2, "t4": 4}, link="8 Gbit/s, 1 ms")
exp = hx.Experiment(
    "llama-2-13b",
    cluster,
    load=hx.poisson(3, lengths=(500, 100)),
    window=("20 s", "40 s"),
    slo=hx.Slo(ttft="2 s", tpot="300 ms"),
    systems=["helix", "swarm", "petals"],
    planning={"rate": 3},  # one placement for all rates
    name="tour",
)
runs = exp.run()
print(runs.table()[["output_tokens_per_s", "ttft_p99_s", "tpot_p50_s", "slo_attainment"]])

# %% What limits them, and where the layers are
for name, run in runs.items():
    print(f"{name}: {run.summary.cluster.bottleneck}")
runs.plot.latency().savefig("latency.png")
runs["helix"].placement.plot().savefig("placement.png")

# %% How does latency grow with the load?
points = hx.sweep(exp, {"workload.arrivals.rate": [2, 4, 6]})
print(points.table()[["workload.arrivals.rate", "system", "ttft_p99_s"]])
points.plot.lines("ttft_p99_s").savefig("load.png")

# %% The highest rate within the objectives
found = hx.capacity(exp, seeds=1, tolerance=0.05)
print(found.table()[["system", "requests_per_s"]])


# %% A routing policy of one's own, on the placement of Swarm
@hx.routing("fewest")
def fewest(hops, view):
    """Choose the node with the fewest requests in flight."""
    return min(hops, key=lambda hop: view.in_flight(hop.node))


own = exp.with_(systems=["swarm", {"placement": "swarm", "routing": "fewest", "name": "fewest"}])
print(own.run().table()[["output_tokens_per_s", "ttft_p99_s"]])
