"""Accuracy: measured runs simulated as they were measured, and the errors.

page               the HTML page;  point_charts, replay_charts  its charts;  prototype  its section on the prototype
errors             errors of points, and their summaries
replays            measured runs request by request: latencies and time series
measured_requests  latencies of measured requests;  measured_series  time series of servers
"""
