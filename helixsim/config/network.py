"""``cluster.network`` -> Network: link classes, exceptions for regions and single links, random differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.links_file import read_links
from helixsim.config.nodes import matching
from helixsim.config.schema import ClusterSection, LinkClassSection
from helixsim.config.source import Source
from helixsim.config.spread import draw_links
from helixsim.config.variation import LinkScaleSection
from helixsim.domain.cluster import COORDINATOR, Cluster, LinkSpec, Network, Node
from helixsim.errors import Problem, unknown_name
from helixsim.hardware import catalog
from helixsim.units import seconds_to_ns
from helixsim.yamlio import KeyPath

Pair = tuple[str, str]

NETWORK: Final[KeyPath] = ("cluster", "network")


def build_cluster(
    section: ClusterSection,
    nodes: tuple[Node, ...],
    source: Source,
    problems: list[Problem],
    *,
    is_part: bool = False,
) -> Cluster:
    """Return the cluster of ``nodes``; faults are added to ``problems`` and the faulty parts skipped.

    ``is_part``: ``nodes`` are part of a larger cluster in the file; regions and links of the others are ignored.
    """
    network, home = section.network, section.coordinator.region
    regions = list(dict.fromkeys([*(node.region for node in nodes), home]))
    intra = _link_class(network.intra_region, (*NETWORK, "intra_region"), source)
    inter = intra
    if network.inter_region is not None:
        inter = _link_class(network.inter_region, (*NETWORK, "inter_region"), source)
    elif len(regions) > 1:
        message = f"required key inter_region is missing: there are several regions ({', '.join(regions)})"
        problems.append(source.problem(NETWORK, message))
    of_absent = [] if is_part else problems
    between = _between_regions(section, regions, source, of_absent)
    nic = section.coordinator.nic
    nic_bps = None if nic is None else units.parse(nic, "bandwidth")
    classes = Cluster(nodes, Network(intra, inter, between, coordinator_nic_bps=nic_bps), home)
    pairs: dict[Pair, LinkSpec] = {}
    if network.spread is not None:
        try:
            pairs = draw_links(classes, network.spread)
        except ValueError as error:
            problems.append(source.problem((*NETWORK, "spread"), str(error)))
    pairs.update(_exceptions(section, [COORDINATOR, *classes.index], source, of_absent))
    full = Cluster(nodes, Network(intra, inter, between, pairs, nic_bps, network.sharing == "shared"), home)
    return full if network.scale is None else _scaled(full, network.scale)


def _scaled(cluster: Cluster, scale: LinkScaleSection) -> Cluster:
    """Return the cluster with scaled links."""

    def times(link: LinkSpec, *, inside: bool) -> LinkSpec:
        factor = scale.intra_region if inside else scale.inter_region
        return LinkSpec(link.bandwidth_bps * factor.bandwidth, round(link.latency_ns * factor.latency))

    network = cluster.network
    ends = {pair: [cluster.region_of(end) for end in pair] for pair in network.pairs}
    return dataclasses.replace(
        cluster,
        network=dataclasses.replace(
            network,
            intra_region=times(network.intra_region, inside=True),
            inter_region=times(network.inter_region, inside=False),
            regions={pair: times(link, inside=pair[0] == pair[1]) for pair, link in network.regions.items()},
            pairs={pair: times(link, inside=len(set(ends[pair])) == 1) for pair, link in network.pairs.items()},
        ),
    )


def nodes_in_service(
    section: ClusterSection, nodes: tuple[Node, ...], source: Source, problems: list[Problem]
) -> tuple[set[str], set[str]]:
    """Return the ids of the nodes in service, and of those out of service that are not given up."""
    ids = {node.id for node in nodes}
    removed = listed(section.removed, ("cluster", "removed"), nodes, source, problems)
    down = listed(section.down, ("cluster", "down"), nodes, source, problems) - removed
    if ids and not ids - removed - down:
        key = "down" if section.down else "removed"
        problems.append(source.problem(("cluster", key), "no node is in service"))
    return ids - removed - down, down


def listed(
    patterns: Sequence[str] | None, at: KeyPath, nodes: tuple[Node, ...], source: Source, problems: list[Problem]
) -> set[str]:
    """Return the ids of the nodes that a list such as ``cluster.down`` names."""
    every = enumerate(patterns or ())
    return {node for number, one in every for node in named(one, (*at, number), nodes, source, problems)}


def named(pattern: str, path: KeyPath, nodes: tuple[Node, ...], source: Source, problems: list[Problem]) -> set[str]:
    """Return the ids of the nodes that an entry of such a list names."""
    kind, colon, name = pattern.partition(":")
    if not colon:
        return set(matching(pattern, [node.id for node in nodes], path, source, problems))
    if kind not in {"region", "site", "gpu"}:
        message = f"{pattern!r}: expected region:NAME (or site:NAME), gpu:NAME, an id or a pattern"
        problems.append(source.problem(path, message))
        return set()
    names = [node.gpu if kind == "gpu" else node.region for node in nodes]
    if name not in names:
        problems.append(source.problem(path, unknown_name(kind, name, dict.fromkeys(names))))
    return {node.id for node, own in zip(nodes, names, strict=True) if own == name}


def _link_class(value: str | LinkClassSection, path: KeyPath, source: Source) -> LinkSpec:
    if isinstance(value, LinkClassSection):
        return _link(value)
    return catalog.load_link(source.file(path, value) if is_file_name(value) else value)


def _link(section: LinkClassSection) -> LinkSpec:
    return LinkSpec(units.parse(section.bandwidth, "bandwidth"), seconds_to_ns(units.parse(section.latency, "time")))


def _between_regions(
    section: ClusterSection, regions: Sequence[str], source: Source, problems: list[Problem]
) -> Mapping[Pair, LinkSpec]:
    between: dict[Pair, LinkSpec] = {}
    for number, entry in enumerate(section.network.regions):
        for key, region in (("from", entry.from_), ("to", entry.to)):
            if region not in regions:
                path = (*NETWORK, "regions", number, key)
                problems.append(source.problem(path, unknown_name("region", region, regions)))
        between[entry.from_, entry.to] = _link(entry)
        if entry.both:
            between[entry.to, entry.from_] = _link(entry)
    return between


def _exceptions(
    section: ClusterSection, ids: Sequence[str], source: Source, problems: list[Problem]
) -> dict[Pair, LinkSpec]:
    """Return the exceptions for single links, from the section or a CSV file."""
    path = (*NETWORK, "links")
    if isinstance(section.network.links, str):
        return read_links(source.file(path, section.network.links), ids, problems)
    pairs: dict[Pair, LinkSpec] = {}
    for number, entry in enumerate(section.network.links):
        ends = [
            _endpoints(value, ids, (*path, number, key), source, problems)
            for key, value in (("from", entry.from_), ("to", entry.to))
        ]
        for pair in _pairs(ends[0], ends[1], both=entry.both):
            pairs[pair] = _link(entry)
    return pairs


def _endpoints(
    value: str | list[str], ids: Sequence[str], path: KeyPath, source: Source, problems: list[Problem]
) -> list[str]:
    if isinstance(value, str):
        return matching(value, ids, path, source, problems)
    return [
        found
        for number, pattern in enumerate(value)
        for found in matching(pattern, ids, (*path, number), source, problems)
    ]


def _pairs(sources: Sequence[str], targets: Sequence[str], *, both: bool) -> Iterator[Pair]:
    for src in sources:
        for dst in targets:
            if src != dst:
                yield src, dst
                if both:
                    yield dst, src
