"""Tokens per second through a placement.

capacity       tokens/s of a node that holds k layers, and upper bounds of the flow
network        capacity graph of a cluster with a placement
dinic          max-flow of a graph
balance        the most even of all flows of the same value
operating      KV-limited throughput estimate: requests in flight over their round trip
cohorts        round trips where requests that meet at a node go on together
two_commodity  prompts and decodes through nodes with given roles
role_program   the roles of replicas that serve the most of both
latency_split  shares of pipelines at which tokens take the least time
maxflow        max-flow, min cut and routes of a placement -> FlowPlan
"""
