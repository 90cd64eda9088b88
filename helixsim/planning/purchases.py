"""What one more node of each kind adds to a capacity, by the estimate of planners."""

from __future__ import annotations

import math

from helixsim.config.experiment import ResolvedExperiment
from helixsim.flow.capacity import best_supply
from helixsim.results.purchases import Purchase, by_value
from helixsim.study.systems import PlacedSystem, capacity_table


def estimated_purchases(
    experiment: ResolvedExperiment, placed: PlacedSystem, capacity_rps: float
) -> tuple[Purchase, ...]:
    """Return one more node of each kind at each site, the best value first; empty for a capacity of 0.

    The estimated supplies of the nodes that hold layers are scaled to the capacity. Of a kind that is not in use one
    more adds nothing.
    """
    if not capacity_rps:
        return ()
    stats, fleet = experiment.workload_stats, placed.system.fleet
    table = capacity_table(experiment, placed.system)
    flow = capacity_rps * (stats.mean_prompt_tokens + stats.mean_output_tokens)
    supply = {node.id: best_supply(tuple(table.of(node.id)), flow) for node in fleet.cluster.nodes}
    held = placed.placement.ranges
    used = math.fsum(gain for node, gain in supply.items() if node in held)
    several = len({node.region for node in fleet.cluster.nodes}) > 1
    found: dict[str, Purchase] = {}
    for node in fleet.cluster.nodes:
        label = f"{node.node_type} in {node.region}" if several else node.node_type
        adds_rps = capacity_rps * supply[node.id] / used if node.id in held and used else 0.0
        if label not in found or adds_rps > found[label].adds_rps:
            found[label] = Purchase(label, node.cost_usd_per_hour, adds_rps)
    return by_value(list(found.values()))
