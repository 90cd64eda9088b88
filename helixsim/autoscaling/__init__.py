"""How many replicas a pool has: what policies see, and policies of the user's own.

base        what a policy sees and decides
registry    policies of the user's own by name; helixsim's are in ``engine.scaling_policies``
functions   ``@helixsim.autoscaling("name")``: functions of the user's own
spot_*      the same for replicas on spot machines and on demand, ``@helixsim.autoscaling.spot("name")``, with
            helixsim's policies
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from helixsim.decorators import DecoratorModule


def spot(name: str) -> Callable[[Any], Any]:
    """Return the decorator that makes a function a policy of spot machines (``spot_functions.register``)."""
    decorator: Callable[[Any], Any] = importlib.import_module(f"{__name__}.spot_functions").register(name)
    return decorator


sys.modules[__name__].__class__ = DecoratorModule
