"""Prefill and decode on different nodes: checks across keys, and ``disaggregation`` as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from helixsim import units
from helixsim.config.choices import PHASES, Choices
from helixsim.config.experiment import DisaggregationSpec, LegSpec
from helixsim.config.schema import DisaggregationSection, ExperimentSection, LegSection, SystemSection
from helixsim.config.source import Source
from helixsim.domain.cluster import Cluster, Deployment, Node
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import EngineSpec
from helixsim.domain.faults import FaultSpec
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.placement import Role
from helixsim.errors import Problem
from helixsim.hardware.engines import EngineProfile
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.units import seconds_to_ns
from helixsim.yamlio import KeyPath


def check_roles(
    section: ExperimentSection,
    nodes: Sequence[Sequence[Node]],
    engine: EngineProfile,
    choices: Choices,
    faults: FaultSpec | None,
    source: Source,
    *,
    is_part: bool,
) -> Iterator[Problem]:
    """Require nodes for both phases of each system, and an engine and links that keep them apart.

    ``is_part``: the nodes are a part of those of the file; that a phase has none is found when they are placed.
    """
    with_roles = []
    for number, own in enumerate(nodes):
        placement: KeyPath = ("systems", number, "placement")
        is_fixed = choices.documents.get(placement, {}).get("strategy") == "fixed"
        chooses = getattr(choices.options.get(placement), "disaggregate", "auto" if is_fixed else "never")
        has_roles = any(node.role != "both" for node in own)
        if has_roles and not is_part:
            yield from _check_phases(section, number, own, source)
            yield from _check_share(section.systems[number], number, engine.spec, source)
        elif not is_part:
            yield from _check_legs(section.systems[number], number, source, may_choose=chooses != "never")
        if has_roles or chooses == "always":
            yield from _check_engine(section, engine, source)
            if section.systems[number].autoscaling is not None:
                yield source.problem(("systems", number, "autoscaling"), "not simulated with nodes with a role")
            with_roles.append(number)
    if faults is not None and with_roles:
        for key, name in faults.not_with_roles.items():
            yield source.problem(("faults", key), f"nodes with a role are not simulated with {name}")


def _check_legs(system: SystemSection, number: int, source: Source, *, may_choose: bool) -> Iterator[Problem]:
    """Refuse what needs roles in the experiment, where there are none or they come with the placement."""
    path: KeyPath = ("systems", number, "disaggregation")
    if system.disaggregation is None:
        return
    if not may_choose:
        message = "has no effect: no node of this system has the role prefill or decode (nodes: [{match, role}])"
        yield source.problem(path, message)
        return
    if system.disaggregation.prefill_share != 1:
        message = "needs nodes with the role prefill in the experiment: the planner gives roles for whole prompts"
        yield source.problem((*path, "prefill_share"), message)
    for role in PHASES:
        if "placement" in getattr(system.disaggregation, role).model_fields_set:
            message = f"needs nodes with the role {role} in the experiment; here roles come with the placement"
            yield source.problem((*path, role, "placement"), message)


def _check_share(system: SystemSection, number: int, engine: EngineSpec, source: Source) -> Iterator[Problem]:
    """Refuse to leave the rest of prompts to nodes that take prompts as a whole."""
    path: KeyPath = ("systems", number, "disaggregation", "prefill_share")
    if system.disaggregation is not None and system.disaggregation.prefill_share != 1 and not engine.chunks_prompts:
        message = "less than 1 needs engine.enable_chunked_prefill: the rest of a prompt is computed in chunks"
        yield source.problem(path, message)


def _check_phases(section: ExperimentSection, number: int, nodes: Sequence[Node], source: Source) -> Iterator[Problem]:
    system, path = section.systems[number], ("systems", number)
    at: KeyPath = (*path, "nodes") if system.nodes else ("cluster", "nodes")
    for phase in ("prefill", "decode"):
        if nodes and not any(node.role in (phase, "both") for node in nodes):
            counts = f"all {len(nodes)} nodes have the role {nodes[0].role}"
            yield source.problem(at, f"no node serves {phase}: {counts}; give some of them {phase} or both")


def _check_engine(section: ExperimentSection, engine: EngineProfile, source: Source) -> Iterator[Problem]:
    if not engine.spec.loops_inside:
        message = f"roles need an engine with return: engine (here {engine.spec.name} with return: coordinator)"
        yield source.problem(("engine", "name"), message)
    elif engine.transfers == "request":
        yield source.problem(("engine", "transfers"), "roles need batch (got request: one message per request)")
    if section.cluster.network.sharing == "shared":
        message = "roles need fifo (got shared): KV transfers are sent one after the other, behind all else"
        yield source.problem(("cluster", "network", "sharing"), message)


def disaggregation_of(system: SystemSection, number: int, choices: Choices, engine: EngineSpec) -> DisaggregationSpec:
    """Return how the nodes of a system work together where they have roles."""
    section = system.disaggregation
    transfer, most_local_tokens = KvTransfer(), None
    prefill_share: float | None = 1.0
    if section is not None:
        most_local_tokens = section.max_local_prefill_length
        prefill_share = None if section.prefill_share == "auto" else section.prefill_share
        latency_ns = seconds_to_ns(units.parse(section.latency, "time"))
        transfer = KvTransfer(section.transfer == "layerwise", section.efficiency, latency_ns, section.transfer_bits)

    def chosen(role: Role, key: str) -> KeyPath:
        own: KeyPath = ("systems", number, "disaggregation", role, key)
        return own if own in choices.documents else ("systems", number, key)

    def leg(role: Role) -> LegSpec:
        placement, routing = chosen(role, "placement"), chosen(role, "routing")
        caches = None if section is None else section.leg(role).enable_prefix_caching
        return LegSpec(
            choices.documents[placement]["strategy"],
            choices.options[placement],
            choices.documents[routing]["policy"],
            choices.options[routing],
            engine.caches_prefixes if caches is None else caches,
        )

    return DisaggregationSpec(leg("prefill"), leg("decode"), transfer, most_local_tokens, prefill_share)


def fleets_of(
    section: ExperimentSection,
    fleet: Deployment,
    clusters: Sequence[Cluster],
    options: ProfileOptions,
    make: Callable[..., tuple[Deployment, list[str]]],
) -> list[Deployment]:
    """Return the fleet of each system: its nodes, with profiles that have the options of the roles they have or get.

    ``make`` returns a fleet of a cluster whose profiles have other options.
    """
    return [
        _with_legs(system.disaggregation, ("systems", number), replace(fleet, cluster=cluster), options, make)
        for number, (system, cluster) in enumerate(zip(section.systems, clusters, strict=True))
    ]


def _with_legs(
    legs: DisaggregationSection | None,
    path: KeyPath,
    fleet: Deployment,
    options: ProfileOptions,
    make: Callable[..., tuple[Deployment, list[str]]],
) -> Deployment:
    if legs is None:
        return fleet
    cluster, of_role = fleet.cluster, dict[Role, Mapping[str, NodeProfile]]()
    for role in PHASES:
        given = _given(legs.leg(role))
        others = {node.id for node in cluster.nodes if node.role != role} if cluster.is_disaggregated else set()
        if given and len(others) < len(cluster.nodes):
            at = (*path, "disaggregation", role)
            own = make(cluster.without(others, paid=set()), options=replace(options, **given), at=at)[0]
            whole = {node.node_type: one for node, one in zip(own.cluster.nodes, own.profiles, strict=True)}
            kinds = {**own.parts, **whole}
            of_role[role] = {kind: replace(one, kind=f"{one.kind} ({role})") for kind, one in kinds.items()}
    found = replace(fleet, of_role=of_role)
    return replace(found.with_roles({}), of_role={}) if cluster.is_disaggregated else found


def _given(leg: LegSection) -> dict[str, Any]:
    """Return the options of profiles that a leg states."""
    sizes = leg.cuda_graph_sizes
    written: dict[str, Any] = {
        "max_prefill_tokens": leg.max_num_batched_tokens,
        "max_decode_seqs": leg.max_num_seqs,
        "graph_sizes": None if sizes is None else tuple(sorted(set(sizes))),
        "data_parallel_size": leg.data_parallel_size,
        "enable_expert_parallel": leg.enable_expert_parallel,
    }
    return {name: value for name, value in written.items() if value is not None}
