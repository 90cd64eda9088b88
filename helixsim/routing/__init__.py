"""Routing policies.

base        interface of policies
graph       routing graph of a placement
walk        search of a route through the layers
registry    policies by name
"""
