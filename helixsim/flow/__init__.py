"""Tokens per second through a placement.

capacity    tokens/s of a node that holds k layers, and bounds that follow from it
network     capacity graph of a cluster with a placement
maxflow     max-flow and min cut of that graph -> FlowPlan
"""
