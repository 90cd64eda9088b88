"""helixsim: simulate and plan LLM serving on clusters of mixed GPUs.

>>> import helixsim as hx
>>> experiment = hx.load("experiments/quickstart.yaml").with_(seed=1)  # doctest: +SKIP
>>> runs = experiment.run()  # doctest: +SKIP
>>> runs["helix"].summary.ttft.p99_s  # doctest: +SKIP

The same from the command line: ``python -m helixsim run experiments/quickstart.yaml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helixsim.api import (
        Cluster,
        Experiment,
        capacity,
        closed_loop,
        constant,
        gamma,
        load,
        load_experiment,
        place,
        poisson,
        run,
        saturate,
        simulate,
        slo,
        sweep,
        trace,
    )

__version__ = "0.1.0"

__all__ = [
    "Cluster",
    "Experiment",
    "__version__",
    "capacity",
    "closed_loop",
    "constant",
    "gamma",
    "load",
    "load_experiment",
    "place",
    "poisson",
    "run",
    "saturate",
    "simulate",
    "slo",
    "sweep",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Return what is imported when it is first used, so that ``import helixsim`` stays fast."""
    if name in __all__:
        from helixsim import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
