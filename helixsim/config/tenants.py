"""``tenants`` of exp.yaml -> an experiment for each tenant, and the nodes that are stated for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from helixsim.config.choices import unknown_names
from helixsim.config.edit import Edit, edits_of
from helixsim.config.network import listed, nodes_in_service
from helixsim.config.nodes import build_nodes, load_gpus
from helixsim.config.schema import ClusterSection
from helixsim.config.source import Source
from helixsim.config.tenant_faults import with_own_faults
from helixsim.config.tenants_schema import EXPERIMENT_KEYS, TenantSection, TenantsSection
from helixsim.domain.cluster import Node
from helixsim.errors import ConfigError, Problem, unknown_name
from helixsim.validation import problems_of
from helixsim.yamlio import KeyPath

_NOT_WITH_TENANTS = {
    "whatif": "variants belong into experiments without tenants",
    "slo_targets": "further targets belong into experiments without tenants",
    "baseline": "each tenant has one system",
}

_BLOCK_TOKENS = 16
"""Only names and types of nodes are asked for here; their KV blocks belong to the experiments."""


OF_A_GUEST = ("name", "with", "weight", "priority", "workload", "slo")
"""Keys of a tenant that another one serves as well."""

_OF_A_STREAM = ("lengths", "arrivals", "limits")
"""Keys of a workload that each tenant has of its own where several share nodes."""


@dataclass(frozen=True)
class TenantEntry:
    """Tenants that are served together, mostly one, as written.

    ``source`` is their experiment on all nodes, ``nodes`` the ids of their own (None: to be planned). ``members`` has
    the name, the weight and the priority of each.
    """

    members: tuple[tuple[str, float, int], ...]
    source: Source
    nodes: tuple[str, ...] | None


@dataclass(frozen=True)
class TenantEntries:
    """All tenants of a file; ``nodes`` are those in service, undivided. ``division``: see ``TenantsSection``."""

    name: str
    tenants: tuple[TenantEntry, ...]
    nodes: tuple[Node, ...]
    division: str


def has_tenants(source: Source) -> bool:
    """Whether a file describes several tenants instead of one experiment."""
    return "tenants" in source.data


def refuse_tenants(source: Source, expected: str) -> None:
    """Refuse a file with tenants where another one is expected.

    Raises
    ------
    ConfigError
        If it has any.
    """
    if has_tenants(source):
        raise ConfigError([source.problem(("tenants",), f"this file describes tenants, expected {expected}")])


def entries_of(source: Source) -> TenantEntries:
    """Return the tenants of a file; their experiments are checked when they are resolved.

    Raises
    ------
    ConfigError
        With all faults of the tenants and the division.
    """
    if not has_tenants(source):
        raise ConfigError([source.problem((), "this experiment has no tenants")])
    source = source.completed()
    problems: list[Problem] = []
    try:
        section = TenantsSection.model_validate(source.data)
    except ValidationError as error:
        problems = [_explained(one) for one in problems_of(error, source, TenantsSection)]
        raise ConfigError([*source.problems, *problems]) from error
    problems += _names_twice(section.tenants, source)
    problems += _number_of_systems(section.tenants, source)
    problems += _faulty_guests(section.tenants, source)
    if problems:
        raise ConfigError([*source.problems, *problems])
    nodes = _nodes(source)
    if "division" in section.model_fields_set and any(one.nodes is not None for one in section.tenants):
        problems.append(source.problem(("division",), "the nodes of the tenants are stated: remove them, or division"))
    hosts = {number: one for number, one in enumerate(section.tenants) if one.with_ is None}
    stated = _stated(hosts, nodes, source, problems)
    tenants = []
    for (number, host), found in zip(hosts.items(), stated, strict=True):
        guests = [at for at, one in enumerate(section.tenants) if one.with_ == host.name]
        members = [section.tenants[at] for at in (number, *guests)]
        experiment = _experiment(source, number, host)
        if guests:
            experiment = _shared(experiment, source, (number, *guests), members, problems)
        at: KeyPath = ("tenants", number, "faults") if host.faults is not None else ("faults",)
        experiment = with_own_faults(experiment, found, nodes, at, source, problems)
        terms = tuple((one.name, one.weight, one.priority) for one in members)
        tenants.append(TenantEntry(terms, experiment, found))
    if problems:
        raise ConfigError(list(dict.fromkeys([*source.problems, *problems])))
    return TenantEntries(section.name or source.path.stem, tuple(tenants), nodes, section.division)


def _explained(problem: Problem) -> Problem:
    """Return a fault with the reason why a key of experiments is none of tenants."""
    key = problem.path.rpartition(".")[2]
    return (
        replace(problem, message=f"not with tenants: {_NOT_WITH_TENANTS[key]}") if key in _NOT_WITH_TENANTS else problem
    )


def _names_twice(tenants: Sequence[TenantSection], source: Source) -> Iterator[Problem]:
    names = [one.name for one in tenants]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield source.problem(("tenants", number, "name"), f"the name {name!r} is already used")


def _number_of_systems(tenants: Sequence[TenantSection], source: Source) -> Iterator[Problem]:
    """Yield the tenants that have more than one system."""
    for number, one in enumerate(tenants):
        path: KeyPath = ("systems",) if one.systems is None else ("tenants", number, "systems")
        systems = source.data.get("systems") if one.systems is None else one.systems
        if isinstance(systems, list) and len(systems) > 1:
            yield source.problem(path, f"{len(systems)} systems for tenant {one.name}, expected one")


def _faulty_guests(tenants: Sequence[TenantSection], source: Source) -> Iterator[Problem]:
    """Yield what keeps tenants from being served by others."""
    hosts = [one.name for one in tenants if one.with_ is None]
    for number, one in enumerate(tenants):
        if one.with_ is None:
            continue
        at: KeyPath = ("tenants", number)
        if one.with_ not in hosts:
            known = {other.name: other.with_ for other in tenants}
            message = unknown_name("tenant", one.with_, hosts)
            if known.get(one.with_) is not None and one.with_ != one.name:
                message = f"{one.with_} is served with {known[one.with_]} itself: name that"
            yield source.problem((*at, "with"), message)
        for key in source.data["tenants"][number]:
            if key not in OF_A_GUEST:
                why = "two models on one node are not simulated" if key == "model" else f"it has that of {one.with_}"
                message = f"not for a tenant that is served with {one.with_}: {why}"
                yield Problem(source.key_where((*at, key)), f"tenants.{number}.{key}", message)


def _shared(
    experiment: Source,
    source: Source,
    numbers: Sequence[int],
    members: Sequence[TenantSection],
    problems: list[Problem],
) -> Source:
    """Return the experiment of the first member with the loads of all, each a class of requests by its name."""
    classes: dict[str, Any] = {}
    objectives: dict[str, Any] = {}
    window: dict[str, Any] = {}
    for number, one in zip(numbers, members, strict=True):
        at: KeyPath = ("tenants", number)
        load = source.data.get("workload") if one.workload is None else one.workload
        slo = source.data.get("slo") if one.slo is None else one.slo
        for key, value in (("workload", load), ("slo", slo)):
            if isinstance(value, dict) and "classes" in value:
                problems.append(source.problem((*at, key), "classes are not allowed where tenants are served together"))
        if not isinstance(load, dict):
            problems.append(source.problem(at, f"tenant {one.name} has no workload"))
            continue
        own = {key: value for key, value in load.items() if key not in _OF_A_STREAM}
        if number == numbers[0]:
            window = own
        for key, value in own.items():
            if window.get(key) != value:
                message = f"{key} must be that of {members[0].name}, {window.get(key)!r}: they are served together"
                problems.append(source.problem((*at, "workload", key), message))
        classes[one.name] = {key: load[key] for key in _OF_A_STREAM if key in load} | {"priority": one.priority}
        if slo:
            objectives[one.name] = slo
    origin = source.where(("tenants", numbers[-1]))
    changes: dict[str, Any] = {
        "name": "+".join(one.name for one in members),
        "workload": {**window, "classes": classes},
        "slo": {"classes": objectives} if objectives else {},
    }
    engine = experiment.data.get("engine")
    is_stated = isinstance(engine, dict) and "scheduling_policy" in engine
    if len({one.priority for one in members}) > 1 and not is_stated:
        changes["engine.scheduling_policy"] = "priority"
    return experiment.edited(*edits_of(changes, origin, source.path.parent))


def _experiment(source: Source, number: int, tenant: TenantSection) -> Source:
    """Return the experiment of a tenant on all nodes: its own keys, and those of the file that it does not state."""
    at: KeyPath = ("tenants", number)
    own = set(source.data["tenants"][number])
    keys: dict[str, KeyPath] = {"schema": ("schema",), "name": (*at, "name")}
    for key in ("seed", "cluster", *EXPERIMENT_KEYS):
        if key in own:
            keys[key] = (*at, key)
        elif key in source.data:
            keys[key] = (key,)
    found = source.composed(at, keys)
    engine = source.data.get("engine")
    if "engine" in own and isinstance(engine, dict) and "allow_unsupported" in engine:  # a switch of the command line
        found = found.edited(Edit.of("engine.allow_unsupported", engine["allow_unsupported"]))
    return found


def _nodes(source: Source) -> tuple[Node, ...]:
    """Return the nodes in service.

    Raises
    ------
    ConfigError
        With all faults of the nodes: nodes that a tenant states may be missing for these alone.
    """
    at: KeyPath = ("cluster",)
    problems = [*source.problems, *unknown_names(source, at)]
    try:
        cluster = ClusterSection.model_validate(source.data["cluster"])
    except ValidationError as error:
        raise ConfigError([*problems, *problems_of(error, source, ClusterSection, at)]) from error
    if problems:
        raise ConfigError(problems)
    nodes = build_nodes(cluster.nodes, load_gpus(cluster.nodes, source), _BLOCK_TOKENS, source, problems)
    kept, _ = nodes_in_service(cluster, nodes, source, problems)
    if problems:
        raise ConfigError(problems)
    return tuple(node for node in nodes if node.id in kept)


def _stated(
    tenants: Mapping[int, TenantSection], nodes: tuple[Node, ...], source: Source, problems: list[Problem]
) -> list[tuple[str, ...] | None]:
    """Return the ids of the nodes that are stated for each tenant, in the order of the cluster; None: none are."""
    stating = [one.name for one in tenants.values() if one.nodes is not None]
    if not stating:
        return [tuple(node.id for node in nodes)] if len(tenants) == 1 else [None] * len(tenants)
    owners: dict[str, str] = {}
    found: list[tuple[str, ...] | None] = []
    for number, one in tenants.items():
        at: KeyPath = ("tenants", number, "nodes")
        if one.nodes is None:
            message = f"tenant {one.name} states no nodes, but {', '.join(stating)} does: state them for all or none"
            problems.append(source.problem(at[:2], message))
            found.append(None)
            continue
        before = len(problems)
        if isinstance(one.nodes, dict):
            own = _counted(one.nodes, at, nodes, owners, source, problems)
        else:
            own = listed(one.nodes, at, nodes, source, problems)
        taken = [node.id for node in nodes if node.id in own and node.id in owners]
        if taken:
            message = f"node {taken[0]} belongs to tenant {owners[taken[0]]} already"
            problems.append(source.problem(at, message))
        if not own and len(problems) == before:
            problems.append(source.problem(at, f"tenant {one.name} has no nodes"))
        owners |= dict.fromkeys(own, one.name)
        found.append(tuple(node.id for node in nodes if node.id in own))
    return found


def _counted(
    counts: Mapping[str, int],
    at: KeyPath,
    nodes: Sequence[Node],
    owners: Mapping[str, str],
    source: Source,
    problems: list[Problem],
) -> set[str]:
    """Return the first free nodes of each type, as many as stated."""
    types = dict.fromkeys(node.node_type for node in nodes)
    own: set[str] = set()
    for kind, count in counts.items():
        if kind not in types:
            problems.append(source.problem((*at, kind), unknown_name("node type", kind, types)))
            continue
        free = [node.id for node in nodes if node.node_type == kind and node.id not in owners]
        if count > len(free):
            message = f"{count} nodes of {kind}, but {len(free)} are left"
            problems.append(source.problem((*at, kind), message))
        own.update(free[:count])
    return own
