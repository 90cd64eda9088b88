"""Faults of links in ``faults`` -> LinkFault, checked against the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim import units
from helixsim.config.faults_schema import FaultSection, FaultsSection
from helixsim.config.network import named
from helixsim.config.source import Source
from helixsim.domain.cluster import COORDINATOR, Cluster
from helixsim.domain.faults import LinkFault, RandomLinkFaults
from helixsim.errors import Problem
from helixsim.yamlio import KeyPath


def _ns(text: str) -> int:
    return units.seconds_to_ns(units.parse(text, "time"))


def link_faults(
    event: FaultSection, path: KeyPath, cluster: Cluster, source: Source, problems: list[Problem]
) -> list[LinkFault]:
    """Return an event of links as a fault; nothing where it is wrong, which is added to ``problems``."""
    assert event.links is not None
    is_cut = event.kind == "cut"
    for key in ("factor", "extra_latency", "notice"):
        if getattr(event, key) is not None and (is_cut or key == "notice"):
            problems.append(source.problem((*path, key), f"{event.kind} links have no {key}"))
            return []
    if not is_cut and event.factor is None and event.extra_latency is None:
        problems.append(source.problem((*path, "kind"), "slow links need factor or extra_latency"))
        return []
    at = (*path, "links")
    near = _ends(event.links.from_, (*at, "from"), cluster, source, problems)
    if event.links.to is None:
        far = frozenset({COORDINATOR, *cluster.index}) - near
    else:
        far = _ends(event.links.to, (*at, "to"), cluster, source, problems)
    if not near or not far:
        return []
    if near == far and len(near) == 1:
        problems.append(source.problem(at, "expected two ends at least"))
        return []
    start_ns = _ns(event.at)
    end_ns = None if event.for_ is None else start_ns + _ns(event.for_)
    extra_ns = 0 if event.extra_latency is None else _ns(event.extra_latency)
    return [LinkFault(start_ns, end_ns, near, far, is_cut, event.factor or 1.0, extra_ns)]


def _ends(
    patterns: Sequence[str], path: KeyPath, cluster: Cluster, source: Source, problems: list[Problem]
) -> frozenset[str]:
    """Return the ends that patterns name; a region has the coordinator if that is there."""
    found: set[str] = set()
    for number, pattern in enumerate(patterns):
        kind, _, name = pattern.partition(":")
        if pattern == COORDINATOR or (kind in {"region", "site"} and name == cluster.coordinator_region):
            found.add(COORDINATOR)
            if pattern == COORDINATOR or all(node.region != name for node in cluster.nodes):
                continue
        found |= named(pattern, (*path, number), cluster.nodes, source, problems)
    return frozenset(found)


def random_link_faults(
    section: FaultsSection, cluster: Cluster, source: Source, problems: list[Problem]
) -> RandomLinkFaults | None:
    """Return the cuts between sites that are drawn at random; None: none are."""
    random = section.random_links
    if random is None:
        return None
    sites: dict[str, set[str]] = {cluster.coordinator_region: {COORDINATOR}}
    for node in cluster.nodes:
        sites.setdefault(node.region, set()).add(node.id)
    if len(sites) < 2:
        problems.append(source.problem(("faults", "random_links"), "needs two sites (regions) at least"))
    mtbf_s, mttr_s = units.parse(random.mtbf, "time"), units.parse(random.mttr, "time")
    return RandomLinkFaults(mtbf_s, mttr_s, tuple(map(frozenset, sites.values())))
