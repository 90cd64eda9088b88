"""Which way a request goes.

base        what a policy sees and decides
registry    policies by name
"""
