"""``tenants`` of exp.yaml -> an experiment for each tenant, and the nodes that are stated for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from helixsim.config.edit import Edit
from helixsim.config.network import listed, nodes_in_service
from helixsim.config.nodes import build_nodes, load_gpus
from helixsim.config.schema import ClusterSection
from helixsim.config.source import Source
from helixsim.config.tenants_schema import EXPERIMENT_KEYS, TenantSection, TenantsSection
from helixsim.domain.cluster import Node
from helixsim.errors import ConfigError, Problem, unknown_name
from helixsim.validation import problems_of
from helixsim.yamlio import KeyPath

_NOT_WITH_TENANTS = {
    "faults": "nodes that fail are not simulated with tenants",
    "whatif": "variants belong into experiments without tenants",
    "slo_targets": "further targets belong into experiments without tenants",
    "baseline": "each tenant has one system",
}

_BLOCK_TOKENS = 16
"""Only names and types of nodes are asked for here; their KV blocks belong to the experiments."""


@dataclass(frozen=True)
class TenantEntry:
    """A tenant as written: its experiment on all nodes, and the ids of its own (None: to be planned)."""

    name: str
    weight: float
    priority: int
    source: Source
    nodes: tuple[str, ...] | None


@dataclass(frozen=True)
class TenantEntries:
    """All tenants of a file; ``nodes`` are those in service, undivided."""

    name: str
    tenants: tuple[TenantEntry, ...]
    nodes: tuple[Node, ...]


def has_tenants(source: Source) -> bool:
    """Whether a file describes several tenants instead of one experiment."""
    return "tenants" in source.data


def entries_of(source: Source) -> TenantEntries:
    """Return the tenants of a file; their experiments are checked when they are resolved.

    Raises
    ------
    ConfigError
        With all faults of the tenants and the division.
    """
    source = source.completed()
    problems: list[Problem] = []
    try:
        section = TenantsSection.model_validate(source.data)
    except ValidationError as error:
        problems = [_explained(one) for one in problems_of(error, source, TenantsSection)]
        raise ConfigError([*source.problems, *problems]) from error
    problems += _names_twice(section.tenants, source)
    problems += _number_of_systems(section.tenants, source)
    if problems:
        raise ConfigError([*source.problems, *problems])
    nodes = _nodes(source, problems)
    stated = _stated(section.tenants, nodes, source, problems)
    if problems:
        raise ConfigError([*source.problems, *problems])
    tenants = tuple(
        TenantEntry(one.name, one.weight, one.priority, _experiment(source, number, one), found)
        for number, (one, found) in enumerate(zip(section.tenants, stated, strict=True))
    )
    return TenantEntries(section.name or source.path.stem, tenants, nodes)


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


def _nodes(source: Source, problems: list[Problem]) -> tuple[Node, ...]:
    """Return the nodes in service."""
    try:
        cluster = ClusterSection.model_validate(source.data["cluster"])
    except ValidationError as error:
        problems += problems_of(error, source, ClusterSection, ("cluster",))
        return ()
    nodes = build_nodes(cluster.nodes, load_gpus(cluster.nodes, source), _BLOCK_TOKENS, source, problems)
    kept, _ = nodes_in_service(cluster, nodes, source, problems)
    return tuple(node for node in nodes if node.id in kept)


def _stated(
    tenants: Sequence[TenantSection], nodes: tuple[Node, ...], source: Source, problems: list[Problem]
) -> list[tuple[str, ...] | None]:
    """Return the ids of the nodes that are stated for each tenant, in the order of the cluster; None: none are."""
    stating = [one.name for one in tenants if one.nodes is not None]
    if not stating:
        return [tuple(node.id for node in nodes)] if len(tenants) == 1 else [None] * len(tenants)
    owners: dict[str, str] = {}
    found: list[tuple[str, ...] | None] = []
    for number, one in enumerate(tenants):
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
