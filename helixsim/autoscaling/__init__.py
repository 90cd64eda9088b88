"""How many replicas a pool has: what policies see, and policies of the user's own.

base        what a policy sees and decides
registry    policies of the user's own by name; helixsim's are in ``engine.scaling_policies``
functions   ``@helixsim.autoscaling("name")``: functions of the user's own
"""

import sys

from helixsim.decorators import DecoratorModule

sys.modules[__name__].__class__ = DecoratorModule
