"""What a placed system carries over time, where its nodes fail."""

from __future__ import annotations

from typing import Any

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.reliability import SHARES, Availability, Reliability
from helixsim.flow.availability import flow_availability
from helixsim.flow.losses import Domain
from helixsim.study.placing import as_planned
from helixsim.study.systems import PlacedSystem, capacity_table


def placement_availability(
    experiment: ResolvedExperiment, placed: PlacedSystem, reliability: Reliability, kind: Domain = "host"
) -> Availability:
    """Return the max-flow [tokens/s] over the states of the machines, or regions, of a placement that is kept."""
    table = capacity_table(as_planned(experiment), placed.system)
    return flow_availability(placed.system.fleet, placed.placement, table, reliability, kind)


def availability_notes(
    experiment: ResolvedExperiment, placed: PlacedSystem, reliability: Reliability, kind: Domain
) -> dict[str, Any]:
    """Return the same as plain data: bounds of the mean, and the flow by share of time."""
    found = placement_availability(experiment, placed, reliability, kind)
    return {
        "of": kind,
        "mean_tokens_per_s": list(found.mean),
        "tokens_per_s": {f"{share:g}": found.served(share) for share in SHARES},
        "uncounted_share": found.rest_share,
    }
