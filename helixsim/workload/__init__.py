"""The load: traces, length distributions and arrival processes, turned into a feed of requests.

spec        what an experiment asks for
readers     traces as published, streamed
lengths     joint prompt and output length distributions
arrivals    arrival processes
feed        make_feed(spec, seed, num_nodes) -> Feed;  stats(spec, seed) -> WorkloadStats
"""
