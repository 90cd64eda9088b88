"""Accuracy: measured runs simulated as they were measured, and the errors.

replays            measured runs request by request: latencies and time series;  replay_charts  their charts
measured_requests  latencies of measured requests;  measured_series  time series of servers
"""
