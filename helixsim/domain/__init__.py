"""Frozen value types shared by all packages, without I/O.

model       ModelSpec: a transformer as the simulator sees it
hardware    GpuSpec, Curve, ComputeProfile, BatchLimits, NodeProfile
kernels     Kernels, AllReduce: laws of the kernels of a GPU
cluster     Node, LinkSpec, Network, Cluster, Deployment
placement   LayerRange, Placement
flowplan    FlowEdge, FlowPlan, Route
request     Request, Feed, Window, Slo
result      RunResult: columns and counters of a simulated run
summary     Summary: the figures of a simulated system
engine      EngineSpec: a serving engine, its scheduler and its overheads
speculation Speculation: draft tokens, and how many of them a step accepts
"""
