"""Tokens per second through a placement.

capacity    tokens/s of a node that holds k layers, and bounds that follow from it
network     capacity graph of a cluster with a placement
dinic       max-flow of a graph
balance     the even spread among all flows of the same value
operating   tokens/s at the operating point: KV-limited requests over their round trip
maxflow     max-flow, min cut and routes of a placement -> FlowPlan
"""
