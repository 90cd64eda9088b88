"""The pools of a placed system, and how much one of their replicas serves within the objectives."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.autoscaling import AutoscalingSpec, Pool, PoolSpec
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange, Placement
from helixsim.engine.autoscaler import first_number
from helixsim.engine.inputs import Autoscaling
from helixsim.errors import ConfigError
from helixsim.routing.base import RoutingGraph
from helixsim.routing.graph import chains
from helixsim.units import BITS_PER_BYTE, NS_PER_S


def autoscaling_plan(
    experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, graph: RoutingGraph
) -> Autoscaling | None:
    """Return the pools of a placed system; None: all replicas serve all the time.

    Raises
    ------
    ConfigError
        If a pool has no replica, or fewer than it needs, or none of all replicas may serve.
    """
    spec = system.autoscaling
    if spec is None:
        return None
    found = _by_type(system, graph)
    pools = [
        _pool(experiment, system, placement, one, found.get(one.node_type, []), spec)
        for one in spec.pools or [PoolSpec(name) for name in found]
    ]
    most = max((pool.ceiling for pool in pools), default=0)
    if not most and sum(len(pool.nodes) for pool in pools) == len(chains(graph) or []):
        raise ConfigError(
            f"{experiment.source}: {system.name}: autoscaling.pools: got a ceiling of 0 for all replicas of the "
            "placement, of which none could serve"
        )
    for number, entry in enumerate(spec.policy.entries):
        if entry.replicas > most:  # of several pools with one schedule, smaller ones keep to their ceilings
            raise ConfigError(
                f"{experiment.source}: {system.name}: autoscaling.schedule.{number}.replicas: got {entry.replicas}, "
                f"but no pool may have more than {most}"
            )
    return Autoscaling(spec, tuple(pools), experiment.slo)


def _by_type(system: SystemSpec, graph: RoutingGraph) -> dict[str, list[list[str]]]:
    """Return the nodes of each replica by their type; replicas of several types are in none."""
    found: dict[str, list[list[str]]] = {}
    for chain in chains(graph) or []:
        nodes = [graph.node_ids[node] for node in chain]
        types = {system.fleet.cluster.node(node).node_type for node in nodes}
        if len(types) == 1:
            found.setdefault(types.pop(), []).append(nodes)
    return found


def _pool(
    experiment: ResolvedExperiment,
    system: SystemSpec,
    placement: Placement,
    pool: PoolSpec,
    replicas: Sequence[Sequence[str]],
    spec: AutoscalingSpec,
) -> Pool:
    name, count = pool.node_type, len(replicas)
    for key, least in (
        ("floor", pool.floor),
        ("ceiling", 1 if pool.ceiling is None else pool.ceiling),
        ("start", pool.start or 0),
    ):
        if count < least:
            raise ConfigError(
                f"{experiment.source}: {system.name}: autoscaling.pools.{name}.{key}: got {least}, but the placement "
                f"({placement.strategy}) has {count} replicas on nodes of this type alone"
            )
    if not replicas:  # a pool that is not used, of nodes without layers
        return Pool(name, (), 0, 0, 0, 0, 0.0)
    ceiling = count if pool.ceiling is None else pool.ceiling
    nodes = [system.fleet.cluster.node(node) for node in replicas[0]]
    most_bytes = max(_weight_bytes(system.fleet.model, placement.ranges[node.id]) for node in nodes)
    read_s = most_bytes * BITS_PER_BYTE / spec.weights_bps
    return Pool(
        name,
        tuple(replica[0] for replica in replicas),
        pool.floor,
        ceiling,
        first_number(spec, pool.start, pool.floor, ceiling),
        sum(node.gpus for node in nodes),
        sum(node.cost_usd_per_hour for node in nodes),
        round((spec.machine_s + spec.engine_s + read_s) * NS_PER_S),
        target=pool.target,
        zones=_zones(system, spec, replicas),
        activation=pool.activation,
    )


def _zones(system: SystemSpec, spec: AutoscalingSpec, replicas: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Return the zone of each replica: in turn, or by the region of its first node; none without spot machines."""
    if spec.spot is None:
        return ()
    if spec.spot.zones is not None:
        return tuple(number % spec.spot.zones for number in range(len(replicas)))
    regions = [system.fleet.cluster.region_of(replica[0]) for replica in replicas]
    return tuple(list(dict.fromkeys(regions)).index(region) for region in regions)


def _weight_bytes(model: ModelSpec, held: LayerRange) -> float:
    """Return the weights that a node reads [B]: those of its layers, and embedding or output head at the ends."""
    ends = (held.start == 0) + (held.end == model.num_layers and not (held.start == 0 and model.is_tied))
    return sum(layer.weight_bytes for layer in model.layers[held.start : held.end]) + ends * model.vocabulary_bytes
