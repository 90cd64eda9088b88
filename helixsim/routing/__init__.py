"""Routing policies.

base        interface of policies
graph       routing graph of a placement
walk        search of a route through the layers
times       step times, links and limits of a placement, for policies that compute what a request takes
registry    policies by name
functions   ``@helixsim.routing("name")``: functions of the user's own
"""

import sys

from helixsim.decorators import DecoratorModule

sys.modules[__name__].__class__ = DecoratorModule
