"""What a node runs next.

base        what a policy sees and decides
registry    policies by name
"""
