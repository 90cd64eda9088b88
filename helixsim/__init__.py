"""helixsim: simulate and plan LLM serving on clusters of mixed GPUs.

>>> import helixsim as hx
>>> experiment = hx.load("experiments/quickstart.yaml").with_(seed=1)  # doctest: +SKIP
>>> runs = experiment.run()  # doctest: +SKIP
>>> runs["helix"].summary.ttft.p99_s  # doctest: +SKIP

The same from the command line: ``python -m helixsim run experiments/quickstart.yaml``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helixsim.api import (
        Cluster,
        Edit,
        Experiment,
        Placed,
        ResolvedExperiment,
        Slo,
        SystemSpec,
        TenantRuns,
        capacity,
        closed_loop,
        constant,
        fleet,
        gamma,
        load,
        load_experiment,
        place,
        poisson,
        problem,
        read,
        run_tenants,
        saturate,
        simulate,
        sweep,
        trace,
    )
    from helixsim.autoscaling.functions import register as autoscaling
    from helixsim.batching.functions import register as batching
    from helixsim.placement.functions import register as placement
    from helixsim.routing.functions import register as routing

__version__ = "0.1.0"

__all__ = [
    "Cluster",
    "Edit",
    "Experiment",
    "Placed",
    "ResolvedExperiment",
    "Slo",
    "SystemSpec",
    "TenantRuns",
    "__version__",
    "autoscaling",
    "batching",
    "capacity",
    "closed_loop",
    "constant",
    "fleet",
    "gamma",
    "load",
    "load_experiment",
    "place",
    "placement",
    "poisson",
    "problem",
    "read",
    "routing",
    "run_tenants",
    "saturate",
    "simulate",
    "sweep",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Return what is imported when it is first used, so that ``import helixsim`` stays fast."""
    if name in ("autoscaling", "batching", "placement", "routing"):  # rooms that are decorators, too
        return importlib.import_module(f"helixsim.{name}")
    if name in __all__:
        return getattr(importlib.import_module("helixsim.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
