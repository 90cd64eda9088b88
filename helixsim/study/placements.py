"""Placements kept under what they were made from, so that equal inputs are placed once.

A strategy that never asked the evaluator has seen the fleet, the capacities, its options and the seed, nothing else:
such a placement is kept under the key of these alone and serves any load. One that asked is kept under the key of the
load and of all that decides how it is simulated, too. Powers enter no key, prices only that of a strategy that
reads them (``reads_prices``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.placement import registry as placement_registry
from helixsim.placement.helix_options import RACED
from helixsim.runtime.identity import content_key, system_plugins
from helixsim.runtime.store import Codec, Store

SCHEMA = 1

Search = Callable[[], tuple[Placement, bool]]
"""Makes a placement; the second value tells whether the evaluator was asked."""

PlacementStore = Store[Placement]


def placement_store(directory: Path, *, renew: bool = False) -> PlacementStore:
    """Return the placements kept in a folder; ``renew``: search anew and replace them."""
    return Store(directory, "placement", SCHEMA, Codec(asdict, decoded_placement), renew=renew)


def placements_in(out: Path) -> Path:
    """Return where the placements of all runs below ``out`` are kept."""
    return out / ".placements"


def kept_or_searched(
    store: PlacementStore,
    experiment: ResolvedExperiment,
    system: SystemSpec,
    capacities: tuple[object, ...],
    rivals: tuple[SystemSpec, ...],
    by_flow: bool,
    search: Search,
) -> Placement:
    """Return the placement of these inputs; while one process searches, others with the same inputs wait for it.

    ``rivals`` are the systems whose placements it is compared with, ``capacities`` what a strategy knows of the load.
    """
    keys = _keys(experiment, system, capacities, rivals, by_flow)
    with store.exclusive(keys[0]):
        for key in keys:
            if (found := store.get(key)) is not None:
                return found
        placement, asked = search()
        if placement.notes.get("interrupted"):
            return placement
        return store.put(keys[0] if asked else keys[-1], placement)


def _keys(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    capacities: tuple[object, ...],
    rivals: tuple[SystemSpec, ...],
    by_flow: bool,
) -> list[str]:
    """Return the key of a placement that depends on the load, if any may, and that of one that does not."""
    reads_prices = getattr(placement_registry.get(system.placement), "reads_prices", False)
    blind = (
        system.placement, system.placement_options, _priced(system.fleet, prices=reads_prices), capacities,
        experiment.seed,
        experiment.file_hashes,
    )  # fmt: skip
    plugins = system_plugins(system)
    own = [name for name in plugins if name == system.placement]
    if by_flow:
        return [content_key("placement by flow", blind, plugins=own)]
    by_goodput = getattr(system.placement_options, "criterion", None) in RACED
    load = (
        experiment.workload, experiment.workload_stats, experiment.engine, experiment.is_one_by_one,
        experiment.sample_s, experiment.slo if by_goodput else None, system.routing, system.routing_options,
        system.batching, system.batching_options, system.kv, system.arrivals, system.disaggregation,
        [(node.id, node.cost_usd_per_hour) for node in system.fleet.cluster.nodes] if by_goodput else None,
        [
            (one.name, one.placement, one.placement_options, one.routing, one.routing_options, one.disaggregation,
             [node.role for node in one.fleet.cluster.nodes])
            for one in rivals
        ],
    )  # fmt: skip
    plugins = tuple({*plugins, *(name for one in rivals for name in system_plugins(one))})
    return [
        content_key("placement", blind, load, plugins=plugins),
        content_key("placement for any load", blind, plugins=own),
    ]


def _priced(fleet: Deployment, *, prices: bool) -> Deployment:
    """Return a fleet without powers and, unless they are read, without prices."""
    nodes = tuple(
        replace(node, cost_usd_per_hour=node.cost_usd_per_hour if prices else 0.0, tdp_w=0.0)
        for node in fleet.cluster.nodes
    )
    down = fleet.cluster.down_usd_per_hour if prices else 0.0
    return replace(fleet, cluster=replace(fleet.cluster, nodes=nodes, down_usd_per_hour=down))


def decoded_placement(document: dict[str, Any]) -> Placement:
    """Return the placement in JSON values."""
    ranges = {node: LayerRange(held["start"], held["end"]) for node, held in document["ranges"].items()}
    history = tuple((seconds, objective, bound) for seconds, objective, bound in document["history"])
    return Placement(**{**document, "ranges": ranges, "history": history})
