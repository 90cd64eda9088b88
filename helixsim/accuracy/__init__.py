"""Accuracy: measured runs simulated as they were measured, and the errors.

points             public measured points;  express  a point as an experiment;  run  their predictions, kept by content
cells              errors of groups of points, and the table that the package has;  errors  errors of single points
page, markdown     the HTML page, and its tables for documents;  point_charts, replay_charts, prototype  parts of it
replays            measured runs request by request: latencies and time series
measured_requests  latencies of measured requests;  measured_series  time series of servers
"""
