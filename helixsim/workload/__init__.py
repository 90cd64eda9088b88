"""The load: traces, length distributions and arrival processes, and the feed of requests generated from them.

spec        specification of a load
readers     readers of published trace formats;  writers: the same formats;  info: statistics of a trace
lengths     joint distributions of prompt and output lengths
arrivals    arrival processes
transforms  cutting, filtering and rescaling of recorded requests
feed        make_feed(spec, seed, num_nodes) -> Feed;  workload_stats(spec, seed) -> WorkloadStats
"""
