"""What things are: frozen values shared by every room, without I/O.

model       ModelSpec: a transformer as the simulator sees it
hardware    GpuSpec, Curve, ComputeProfile, BatchLimits, NodeProfile
cluster     Node, LinkSpec, Network, Cluster, Fleet
placement   LayerRange, Placement
flowplan    FlowEdge, FlowPlan, Route
request     Request, Feed, Window, Slo
result      RunResult: what one simulated run leaves
"""
