"""``faults`` -> FaultSpec, checked against the nodes, the load and the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from helixsim import units
from helixsim.config.faults_schema import ClientsSection, FaultSection, FaultsSection
from helixsim.config.link_faults import link_faults, random_link_faults
from helixsim.config.network import listed
from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source
from helixsim.domain.clients import ClientSpec
from helixsim.domain.cluster import Cluster, Node
from helixsim.domain.engine import EngineSpec
from helixsim.domain.faults import Fault, FaultKind, FaultSpec, LinkFault, RandomFaults, Reaction, Replication
from helixsim.domain.request import FeedMode
from helixsim.errors import Problem
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import process_of
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec

_MOST_FAILURES = 1_000_000
"""Mean number of random failures of a node in a run: all are drawn before it begins."""

_LEAST_INTERVAL_NS = 1_000_000
"""Least time between two messages of copies: each is an event of the run, whose number should stay below its steps'."""

Placed = tuple[int, Fault]
"""A fault with the number of its event."""


def _ns(text: str) -> int:
    return units.seconds_to_ns(units.parse(text, "time"))


def build_faults(
    experiment: ExperimentSection,
    cluster: Cluster,
    workload: WorkloadSpec | None,
    own_arrivals: Sequence[ArrivalsSpec | None],
    engine: EngineSpec,
    source: Source,
    problems: list[Problem],
) -> FaultSpec | None:
    """Return the faults of an experiment, None without any; what is wrong with them is added to ``problems``.

    ``cluster``: the nodes in service, undivided. ``workload``: None: it is wrong. ``own_arrivals``: of single systems.
    """
    section = experiment.faults
    if section is None or workload is None:
        return None
    nodes = cluster.nodes
    problems += _unsupported_with_autoscaling(experiment, source)
    problems += _unsupported((workload.arrivals, *own_arrivals), engine, source)
    placed: list[Placed] = []
    links: list[LinkFault] = []
    for number, event in enumerate(section.events):
        if not _is_of_one_kind(event, number, source, problems):
            continue
        if event.links is not None:
            links += link_faults(event, ("faults", "events", number), cluster, source, problems)
        else:
            placed += _event(section, number, nodes, source, problems)
    placed.sort(key=lambda one: one[1].at_ns)
    window = workload.window
    end_ns = window.warmup_ns + (window.duration_ns or 0)
    if window.duration_ns is not None:
        for number, event in enumerate(section.events):
            if _ns(event.at) >= end_ns:
                message = f"the run ends at {end_ns / NS_PER_S:g} s (warm-up and duration), got {event.at}"
                problems.append(source.problem(("faults", "events", number, "at"), message))
    for key, random in (("random", section.random), ("random_links", section.random_links)):
        if random is not None and window.duration_ns is None:
            problems.append(source.problem(("faults", key), "needs workload.duration"))
        elif random is not None and end_ns > _MOST_FAILURES * (_ns(random.mtbf) + _ns(random.mttr)):
            message = (
                f"mtbf and mttr together are below {end_ns / _MOST_FAILURES / NS_PER_S:g} s, a millionth of the run"
            )
            problems.append(source.problem(("faults", key, "mtbf"), f"{message}, got {random.mtbf} and {random.mttr}"))
    joining = {number for number, event in enumerate(section.events) if event.kind == "join"}
    absent = tuple(dict.fromkeys(node for number, fault in placed if number in joining for node in fault.nodes))
    if len(absent) == len(nodes):
        path = ("faults", "events", min(joining), "nodes")
        problems.append(source.problem(path, "no node is there at the start: all of them join"))
    problems += _contradictions(placed, absent, source)
    return FaultSpec(
        tuple(fault for _, fault in placed),
        _random(section, nodes, placed, source, problems),
        _ns(section.detection),
        section.retry.limit,
        _ns(section.retry.timeout),
        Reaction(section.reaction),
        _ns(section.reaction_delay),
        units.parse(section.load_rate, "bandwidth"),
        _ns(section.startup),
        _ns(section.horizon),
        tuple(sorted(links, key=lambda one: one.at_ns)),
        random_link_faults(section, cluster, source, problems),
        _clients(section.clients, source, problems),
        _replication(section, experiment, source, problems),
        absent,
    )


def _unsupported_with_autoscaling(experiment: ExperimentSection, source: Source) -> Iterator[Problem]:
    """Refuse what pools that scale have no simulation for."""
    section = experiment.faults
    if section is None or all(system.autoscaling is None for system in experiment.systems):
        return
    if section.reaction == "replace":
        message = "replace is not simulated with autoscaling (static and reroute are)"
        yield source.problem(("faults", "reaction"), message)
    for number, event in enumerate(section.events):
        if event.kind == "join":
            message = "join is not simulated with autoscaling, which starts replicas by itself"
            yield source.problem(("faults", "events", number, "kind"), message)


def _replication(
    section: FaultsSection, experiment: ExperimentSection, source: Source, problems: list[Problem]
) -> Replication | None:
    own = section.replicate
    if own is None:
        return None
    for is_wrong, what in (
        (section.reaction == "replace", "reaction: replace, which stops all engines"),
        (section.random_links is not None or any(one.links for one in section.events), "links that fail"),
        (experiment.cluster.network.sharing == "shared", "cluster.network.sharing: shared (fifo is)"),
    ):
        if is_wrong:
            problems.append(source.problem(("faults", "replicate"), f"copies are not simulated with {what}"))
    if _ns(own.interval) < _LEAST_INTERVAL_NS:
        message = f"must be {_LEAST_INTERVAL_NS / 1e6:g} ms or more, got {own.interval}"
        problems.append(source.problem(("faults", "replicate", "interval"), message))
    announced = [one.notice for one in (*section.events, section.random) if one is not None]
    has_spot = any(one.autoscaling is not None and one.autoscaling.spot is not None for one in experiment.systems)
    if own.when == "notice" and announced and not any(announced) and not has_spot:
        message = "nothing is announced: give events or random a notice, or copy always"
        problems.append(source.problem(("faults", "replicate", "when"), message))
    return Replication(
        own.copies,
        _ns(own.interval),
        None if own.memory is None else int(units.parse(own.memory, "size")),
        units.parse(own.load, "bandwidth"),
        own.when == "notice",
    )


def _clients(section: ClientsSection | None, source: Source, problems: list[Problem]) -> ClientSpec | None:
    if section is None:
        return None
    if _ns(section.backoff) > _ns(section.most_backoff):
        message = f"the first wait is longer than most_backoff ({section.most_backoff}), got {section.backoff}"
        problems.append(source.problem(("faults", "clients", "backoff"), message))
    return ClientSpec(
        _ns(section.timeout),
        section.until,
        section.retries,
        _ns(section.backoff),
        _ns(section.most_backoff),
        section.jitter,
    )


def _is_of_one_kind(event: FaultSection, number: int, source: Source, problems: list[Problem]) -> bool:
    """Return whether an event is one of nodes or one of links, and has the keys of that."""
    path = ("faults", "events", number)
    if (event.nodes is None) == (event.links is None):
        problems.append(source.problem(path, "expected either nodes or links"))
        return False
    wrong = {"down", "up", "join"} if event.links is not None else {"cut"}
    if event.kind in wrong:
        key, other = ("nodes", "links") if event.links is None else ("links", "nodes")
        problems.append(source.problem((*path, key), f"kind: {event.kind} has {other}"))
        return False
    if event.nodes is not None and event.extra_latency is not None:
        problems.append(source.problem((*path, "extra_latency"), "nodes have none (links have)"))
        return False
    return True


def _unsupported(arrivals: Sequence[ArrivalsSpec | None], engine: EngineSpec, source: Source) -> Iterator[Problem]:
    """Refuse what the simulation has no faults for; ``config.roles`` refuses roles."""
    modes = {process_of(one).mode for one in arrivals if one is not None}
    for is_wrong, what in (
        (bool(engine.kv_tiers), "engine.kv_offloading"),
        (FeedMode.SATURATE in modes, "saturate arrivals"),
    ):
        if is_wrong:
            yield source.problem(("faults",), f"faults are not simulated with {what}")


def _event(
    section: FaultsSection, number: int, nodes: tuple[Node, ...], source: Source, problems: list[Problem]
) -> list[Placed]:
    """Return an event as one fault, or as two if it ends."""
    event, path = section.events[number], ("faults", "events", number)
    assert event.nodes is not None
    kind, factor = FaultKind.UP if event.kind == "join" else FaultKind(event.kind), event.factor
    if (kind is FaultKind.SLOW) != (factor is not None):
        message = "slow needs factor" if factor is None else f"{event.kind} has no factor (kind: slow has)"
        problems.append(source.problem((*path, "factor" if factor is not None else "kind"), message))
        return []
    if kind is not FaultKind.DOWN and event.notice is not None:
        problems.append(source.problem((*path, "notice"), f"kind: {event.kind} has no notice (kind: down has)"))
        return []
    if kind is FaultKind.UP and event.for_ is not None:
        message = f"{event.kind} has no end: give a later event with kind: down"
        problems.append(source.problem((*path, "for"), message))
        return []
    chosen = listed(event.nodes, (*path, "nodes"), nodes, source, problems)
    named = tuple(node.id for node in nodes if node.id in chosen)
    at_ns = _ns(event.at)
    found = [Fault(at_ns, kind, named, factor or 1.0)]
    if event.notice is not None:
        if _ns(event.notice) > at_ns:
            message = f"{event.notice} before {event.at} is before the start of the run (at is when the nodes stop)"
            problems.append(source.problem((*path, "notice"), message))
            return []
        found.insert(0, Fault(at_ns - _ns(event.notice), FaultKind.NOTICE, named))
    if event.for_ is not None:
        ended = FaultKind.UP if kind is FaultKind.DOWN else FaultKind.SLOW
        found.append(Fault(at_ns + _ns(event.for_), ended, named))
    return [(number, fault) for fault in found]


def _contradictions(placed: Sequence[Placed], absent: Sequence[str], source: Source) -> Iterator[Problem]:
    """Refuse nodes that fail while they are down, that are back without having failed, and slowness that overlaps.

    ``absent``: those that are down at the start.
    """
    down = set(absent)
    slow: set[str] = set()
    for number, fault in placed:
        for node in fault.nodes:
            wrong = None
            if fault.kind is FaultKind.SLOW:
                wrong = "slow" if fault.factor != 1.0 and node in slow else None
                (slow.add if fault.factor != 1.0 else slow.discard)(node)
            elif fault.kind is FaultKind.NOTICE:
                wrong = "down" if node in down else None
            elif fault.kind is FaultKind.DOWN:
                wrong = "down" if node in down else None
                down.add(node)
            else:
                wrong = None if node in down else "up"
                down.discard(node)
            if wrong is not None:
                message = f"{node} is {wrong} already at {fault.at_ns / NS_PER_S:g} s"
                yield source.problem(("faults", "events", number, "nodes"), message)


def _random(
    section: FaultsSection, nodes: tuple[Node, ...], placed: Sequence[Placed], source: Source, problems: list[Problem]
) -> RandomFaults | None:
    random = section.random
    if random is None:
        return None
    scheduled = {node for _, fault in placed for node in fault.nodes}
    chosen = {node.id for node in nodes} - scheduled
    if random.nodes is not None:
        path = ("faults", "random", "nodes")
        chosen = listed(random.nodes, path, nodes, source, problems)
        if both := sorted(chosen & scheduled):
            problems.append(source.problem(path, f"{', '.join(both)}: named in faults.events, too"))
    groups: dict[str, list[str]] = {}
    for node in nodes:
        if node.id in chosen:
            groups.setdefault(node.region if random.correlated_by == "site" else node.id, []).append(node.id)
    mtbf_s, mttr_s = units.parse(random.mtbf, "time"), units.parse(random.mttr, "time")
    notice_ns = 0 if random.notice is None else _ns(random.notice)
    return RandomFaults(mtbf_s, mttr_s, tuple(map(tuple, groups.values())), notice_ns)
