"""The simulation: the only room with SimPy.

kernel       clock and event order
state        requests in flight, and cohorts of them that travel together
kvcache      KV memory of a node
network      links and network cards
worker       a node: queue, batches
coordinator  arrivals, admission, steps, preemption
frontend, replica, scheduler, stage   replicas of a serving engine behind one coordinator
leg_system, leg_frontend, leg_scheduler, kv_transfer, kv_network   prefill and decode on different replicas
recorder     columns, gaps and samples
invariants   laws checked at the end of every run
simulate     one run from start to end
"""
