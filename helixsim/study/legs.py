"""Systems whose nodes have roles: a placement for the nodes of each role, and the replicas of both legs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from helixsim.config.experiment import LegSpec, ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Cluster
from helixsim.domain.disaggregation import KvSizes
from helixsim.domain.placement import BOTH, ROLES, LayerRange, Placement, Role
from helixsim.domain.request import Slo
from helixsim.engine.inputs import Leg, Legs
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.base import HopObserver, RoutingGraph, RoutingPolicy
from helixsim.routing.graph import chains, routing_graph
from helixsim.routing.times import RoutingTimes
from helixsim.units import BITS_PER_BYTE, NS_PER_S, format_bandwidth, format_bytes, format_seconds


def pool_systems(system: SystemSpec) -> dict[Role, SystemSpec]:
    """Return the nodes of each role that there are, as systems that serve both phases."""
    legs, cluster = system.disaggregation, system.fleet.cluster
    found: dict[Role, SystemSpec] = {}
    for role in ROLES:
        others = {node.id for node in cluster.nodes if node.role != role}
        if len(others) == len(cluster.nodes):
            continue
        fleet = system.fleet.without(others, paid=set())
        pool = replace(system, fleet=fleet.with_roles(dict.fromkeys(fleet.cluster.index, BOTH)))
        if role != "both":
            leg = legs.leg(role)
            pool = replace(pool, placement=leg.placement, placement_options=leg.placement_options)
        found[role] = pool
    return found


def place_pools(system: SystemSpec, place: Callable[[SystemSpec], Placement]) -> Placement:
    """Return the placement of a system whose nodes have roles: those of its pools, which ``place`` makes.

    Raises
    ------
    InfeasibleError
        If the nodes of a role cannot be placed.
    """
    placements: dict[Role, Placement] = {}
    for role, pool in pool_systems(system).items():
        try:
            placements[role] = place(pool)
        except InfeasibleError as error:
            count = len(pool.fleet.cluster.nodes)
            raise InfeasibleError(f"{system.name}: the {count} nodes with the role {role}: {error}") from error
    ranges: dict[str, LayerRange] = {}
    pipelines: dict[str, int] = {}
    for one in placements.values():
        first = 1 + max(pipelines.values(), default=-1)
        ranges |= one.ranges
        pipelines |= {node: first + one.pipelines.get(node, 0) for node in one.ranges}
    order = [node.id for node in system.fleet.cluster.nodes if node.id in ranges]
    strategies = dict.fromkeys(one.strategy for one in placements.values())
    return Placement(
        strategy=" + ".join(strategies),
        num_layers=system.fleet.model.num_layers,
        ranges={node: ranges[node] for node in order},
        partial_inference=any(one.partial_inference for one in placements.values()),
        pipelines={node: pipelines[node] for node in order},
        solve_s=sum(one.solve_s for one in placements.values()),
        notes={"pools": {role: {"strategy": one.strategy, **one.notes} for role, one in placements.items()}},
    )


def roles_fault(experiment: ResolvedExperiment, system: SystemSpec) -> str | None:
    """Return why nodes of a system cannot have roles; None: they can."""
    engine, cluster = experiment.engine, system.fleet.cluster
    if system.autoscaling is not None:
        return "roles are not simulated with autoscaling"
    if experiment.faults is not None and (names := experiment.faults.not_with_roles):
        return f"roles are not simulated with {next(iter(names.values()))}"
    if not engine.loops_inside:
        return f"roles need an engine with return: engine (here {engine.name} with return: coordinator)"
    if experiment.is_one_by_one:
        return "roles need engine.transfers batch (got request: one message per request)"
    if cluster.network.is_shared:
        return (
            "roles need network.sharing fifo (got shared): KV transfers are sent one after the other, behind all else"
        )
    if engine.attention_balance is not None:
        return "roles need attention_dp_config without enable_balance"
    return None


def can_have_role(cluster: Cluster, chain: Sequence[str]) -> bool:
    """Return whether a replica may have a role: not if parts of several machines compute it.

    Its activations would share links with KV caches, which the class of these does not know (``engine.kv_network``).
    """
    machines = {cluster.node(node).machine or node for node in chain}
    return len(machines) == 1 or all(cluster.node(node).machine is None for node in chain)


def check_pools(experiment: ResolvedExperiment, system: SystemSpec, graph: RoutingGraph) -> None:
    """Require replicas of both phases, each with KV memory for a mean prompt.

    Raises
    ------
    ConfigError
        If nodes of the experiment cannot have roles.
    InfeasibleError
        If there are none.
    """
    if fault := roles_fault(experiment, system):
        raise ConfigError(f"{system.name}: {fault}")
    found, cluster = chains(graph), system.fleet.cluster
    ids = graph.node_ids
    if found is None:
        raise InfeasibleError(
            f"{system.name}: nodes with roles need replicas, chains of nodes that share none; this placement has "
            "routes that branch or enter a node in the middle of its layers (placement replicas makes replicas)"
        )
    prompt = round(experiment.workload_stats.mean_prompt_tokens)
    if mixed := next((chain for chain in found if not can_have_role(cluster, [ids[node] for node in chain])), None):
        told = ", ".join(ids[node] for node in mixed)
        raise InfeasibleError(
            f"{system.name}: a replica with a role must not be on parts of several machines (got {told}): activations "
            "and KV caches would share the links between these"
        )
    for phase in ("prefill", "decode"):
        serving = [chain for chain in found if cluster.node(ids[chain[0]]).role in (phase, "both")]
        if not serving:
            raise InfeasibleError(f"{system.name}: the nodes that serve {phase} hold no whole model")
        assert graph.times is not None
        nodes = graph.times.nodes
        most = max(min(nodes[node].kv_tokens for node in chain) for chain in serving)
        if prompt + 1 > most:
            raise InfeasibleError(
                f"{system.name}: no replica that serves {phase} has KV memory for a mean prompt of {prompt} tokens and "
                f"one more: the largest keeps {most}"
            )
    _check_links(experiment, system, [[ids[node] for node in chain] for chain in found], graph)


def _check_links(
    experiment: ResolvedExperiment, system: SystemSpec, replicas: Sequence[Sequence[str]], graph: RoutingGraph
) -> None:
    """Require equal roles in a replica, and a link that carries a KV cache before the end of the run.

    Only where no replica does both phases, as these need no link.
    """
    fleet, window = system.fleet, experiment.workload.window
    cluster, number = fleet.cluster, {node: at for at, node in enumerate(graph.node_ids)}
    kinds: dict[Role, dict[tuple[object, ...], Sequence[str]]] = {role: {} for role in ROLES}
    for nodes in replicas:
        roles = {cluster.node(node).role for node in nodes}
        if len(roles) > 1:
            told = ", ".join(f"{node} {cluster.node(node).role}" for node in nodes)
            raise InfeasibleError(f"{system.name}: the nodes of a replica have different roles: {told}")
        key = tuple((cluster.sites[node], cluster.node(node).gpus, graph.ends[number[node]]) for node in nodes)
        kinds[roles.pop()].setdefault(key, nodes)
    if kinds["both"] or window.duration_ns is None:
        return
    sizes, tokens = (
        KvSizes(fleet.model, system.disaggregation.transfer.bits),
        round(experiment.workload_stats.mean_prompt_tokens),
    )
    everything = LayerRange(0, fleet.model.num_layers)
    fastest_bps = max(
        max(cluster.link(src, dst).bandwidth_bps for src in sender for dst in receiver)
        for sender in kinds["prefill"].values()
        for receiver in kinds["decode"].values()
    )
    size = sizes.of(everything, 0, tokens, tokens, 1) / max(map(len, replicas))
    takes_s = size * BITS_PER_BYTE / (system.disaggregation.transfer.efficiency * fastest_bps)
    run_s = (window.warmup_ns + window.duration_ns) / NS_PER_S
    if takes_s > run_s:
        raise InfeasibleError(
            f"{system.name}: links from nodes that prefill to nodes that decode are too slow: the KV cache of a "
            f"mean prompt ({format_bytes(size)} a link) takes {format_seconds(takes_s)} over the fastest "
            f"({format_bandwidth(fastest_bps)}), longer than the run ({format_seconds(run_s)})"
        )


def legs_of(
    experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, capacity: CapacityTable, seed: int
) -> Legs:
    """Return the replicas of both legs of a placed system, and the policies that route them."""
    spec, fleet, stats = system.disaggregation, system.fleet, experiment.workload_stats

    def leg(phase: Role, one: LegSpec) -> Leg:
        part = placement.part(fleet.cluster.serving(phase))
        output = 1.0 if phase == "prefill" else stats.mean_output_tokens
        # A leg is judged by the objective that it decides.
        slo, computes = experiment.slo, phase == "prefill"
        own = Slo(ttft_s=slo.ttft_s) if computes else Slo(tpot_s=slo.tpot_s)
        times = RoutingTimes(fleet, part, experiment.engine, output, own, computes_prompts=computes)
        graph = routing_graph(part, max_flow(fleet, part, capacity), times)
        return Leg(graph, policy_of_leg(system, phase, graph, seed), one.caches_prefixes)

    own = leg("prefill", spec.prefill), leg("decode", spec.decode)
    return Legs(*own, spec.transfer, spec.most_local_tokens, spec.prefill_share)


def policy_of_leg(system: SystemSpec, phase: Role, graph: RoutingGraph, seed: int) -> RoutingPolicy:
    """Return the policy that routes a leg.

    Raises
    ------
    ConfigError
        If it selects nodes one by one by the times of hops, which replicas do not tell.
    """
    spec = system.disaggregation.leg(phase)
    name = "earliest_finish" if spec.routing == "auto" else spec.routing
    kind = routing_registry.get(name)
    options = kind.Options() if spec.routing == "auto" else spec.routing_options
    policy: RoutingPolicy = kind(
        graph, options, stream(seed, "routing" if phase == "prefill" else "routing of decodes")
    )
    if isinstance(policy, HopObserver):
        raise ConfigError(f"{system.name}: routing {name} learns from single hops, which nodes with roles do not tell")
    return policy
