"""The load: traces, length distributions and arrival processes, turned into a feed of requests.

spec        what an experiment asks for
readers     traces as published, streamed;  writers: the same formats written;  info: what a trace holds
lengths     joint prompt and output length distributions
arrivals    arrival processes
transforms  cutting, limiting and stretching recorded requests
feed        make_feed(spec, seed, num_nodes) -> Feed;  workload_stats(spec, seed) -> WorkloadStats
"""
