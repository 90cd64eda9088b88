"""What a node runs next.

base        what a policy sees and decides
registry    policies by name
functions   ``@helixsim.batching("name")``: functions of the user's own
"""

import sys

from helixsim.decorators import DecoratorModule

sys.modules[__name__].__class__ = DecoratorModule
