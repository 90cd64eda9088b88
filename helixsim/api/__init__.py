"""The public API: experiments built, run and searched from Python; the command line does the same from files.

building     clusters, loads, objectives
experiment   experiments: changed by ``with_``, run by ``run``
functions    load, place, problem, simulate, run_tenants, capacity, sweep, fleet, read
results      runs, capacities, sweeps and fleets with tables and figures
placements   placements with tables and figures
tenants      runs of several tenants

Functions of the user's own become policies by ``@helixsim.routing(name)``, ``@helixsim.placement(name)`` and
``@helixsim.batching(name)``: modules ``functions`` of those rooms.

>>> import helixsim as hx
>>> cluster = hx.Cluster({"a100-40g": 4, "l4": 8, "t4": 12}, link="8 Gbit/s, 1 ms")
>>> exp = hx.Experiment(
...     "llama-2-70b", cluster, load=hx.poisson(1.3, "azure-conversation"), window=("10 min", "10 min"),
...     slo=hx.Slo(ttft="10 s", tpot="2 s"), systems=["helix", "swarm"],
... )
>>> runs = exp.run()  # doctest: +SKIP
>>> runs.table()[["output_tokens_per_s", "ttft_p99_s"]]  # doctest: +SKIP

Everything is checked when an experiment is resolved, placed or run, with the errors of the command line
(``helixsim.errors``).
"""

from helixsim.api.building import Cluster, Slo, closed_loop, constant, gamma, poisson, saturate, trace
from helixsim.api.experiment import Experiment
from helixsim.api.functions import (
    capacity,
    fleet,
    load,
    load_experiment,
    place,
    problem,
    read,
    run_tenants,
    simulate,
    sweep,
)
from helixsim.api.placements import Placed
from helixsim.api.tenants import TenantRuns
from helixsim.config.edit import Edit
from helixsim.config.experiment import ResolvedExperiment, SystemSpec

__all__ = [
    "Cluster",
    "Edit",
    "Experiment",
    "Placed",
    "ResolvedExperiment",
    "Slo",
    "SystemSpec",
    "TenantRuns",
    "capacity",
    "closed_loop",
    "constant",
    "fleet",
    "gamma",
    "load",
    "load_experiment",
    "place",
    "poisson",
    "problem",
    "read",
    "run_tenants",
    "saturate",
    "simulate",
    "sweep",
    "trace",
]
