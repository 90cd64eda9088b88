"""Regions of the search: sets of nodes between which links do not limit the flow.

The regions named by the user are the starting point. A region is split where links between its parts are much slower
than inside (several sites under one name), and regions are merged if all links between them carry the capacity of any
node (two halls of one site). Moderately uneven links are left to exchanges (``swaps``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from helixsim.domain.cluster import Deployment
from helixsim.flow.capacity import CapacityTable, upper_bound_share
from helixsim.flow.network import link_tokens_per_s
from helixsim.placement import tuning


class LinkSpeeds(NamedTuple):
    """Capacity of the slowest and of the fastest link from a node of one region to a node of another [tokens/s]."""

    slowest: float
    fastest: float


Crossings = Mapping[tuple[str, str], LinkSpeeds]
"""(region, region) -> speeds of the links from the one to the other."""


class _Links(NamedTuple):
    """``num_pairs`` pairs of nodes of two regions, with the capacity of their links in both directions [tokens/s]."""

    regions: tuple[str, str]
    num_pairs: int
    onward_tokens_per_s: float
    back_tokens_per_s: float


def regions_of(fleet: Deployment, capacity: CapacityTable) -> dict[str, str]:
    """Return the region of each node: node id -> name."""
    cluster = fleet.cluster
    fastest = max((max(capacity.of(node.id), default=0.0) for node in cluster.nodes), default=0.0)
    ample = min(fastest, upper_bound_share(fleet, capacity))
    named: dict[str, list[str]] = {}
    for node in cluster.nodes:
        named.setdefault(node.region, []).append(node.id)
    regions: dict[str, str] = {}
    for name, members in named.items():
        parts = _split(fleet, members, ample)
        for number, part in enumerate(parts, start=1):
            regions |= dict.fromkeys(part, name if len(parts) == 1 else f"{name}/{number}")
    return _joined(regions, crossings_tokens_per_s(fleet, regions), ample)


def crossings_tokens_per_s(fleet: Deployment, regions: Mapping[str, str]) -> dict[tuple[str, str], LinkSpeeds]:
    """Return the speeds of links between each two regions, given the region of each node."""
    listed: dict[tuple[str, str], list[float]] = {}
    for links in _links_between(fleet, regions):
        here, there = links.regions
        listed.setdefault((here, there), []).append(links.onward_tokens_per_s)
        listed.setdefault((there, here), []).append(links.back_tokens_per_s)
    return {pair: LinkSpeeds(min(speeds), max(speeds)) for pair, speeds in listed.items()}


def crossing_total_tokens_per_s(fleet: Deployment, regions: Mapping[str, str]) -> float:
    """Return the total capacity of all links between regions [tokens/s].

    A placement uses a link in one direction at most, towards the node that ends at a later layer, so the faster
    direction counts.
    """
    return sum(
        links.num_pairs * max(links.onward_tokens_per_s, links.back_tokens_per_s)
        for links in _links_between(fleet, regions)
    )


def _links_between(fleet: Deployment, regions: Mapping[str, str]) -> list[_Links]:
    """Return the links between nodes of different regions, those without an entry of their own summarised.

    Nodes without a region are ignored.
    """
    order = fleet.cluster.index
    alike: dict[tuple[str, str], list[str]] = {}
    for node in fleet.cluster.nodes:
        if node.id in regions:
            alike.setdefault((regions[node.id], node.region), []).append(node.id)
    pairs = list(itertools.combinations(alike, 2))
    remaining = {pair: len(alike[pair[0]]) * len(alike[pair[1]]) for pair in pairs if pair[0][0] != pair[1][0]}
    single = {
        (src, dst) if order[src] < order[dst] else (dst, src)
        for src, dst in _single_links(fleet)
        if src in regions and dst in regions
    }
    links: list[_Links] = []
    for src, dst in sorted(single, key=lambda pair: (order[pair[0]], order[pair[1]])):
        here, there = ((regions[end], fleet.cluster.region_of(end)) for end in (src, dst))
        if here[0] != there[0]:
            remaining[(here, there) if (here, there) in remaining else (there, here)] -= 1
            speeds = (link_tokens_per_s(fleet, src, dst), link_tokens_per_s(fleet, dst, src))
            links.append(_Links((here[0], there[0]), 1, *speeds))
    for (here, there), count in remaining.items():
        if count:
            ends = itertools.product(alike[here], alike[there])
            src, dst = next(pair for pair in ends if pair not in single and pair[::-1] not in single)
            speeds = (link_tokens_per_s(fleet, src, dst), link_tokens_per_s(fleet, dst, src))
            links.append(_Links((here[0], there[0]), count, *speeds))
    return links


def _single_links(fleet: Deployment) -> list[tuple[str, str]]:
    """Return the pairs of nodes whose link has an entry of its own."""
    index = fleet.cluster.index
    return [pair for pair in fleet.cluster.network.pairs if pair[0] in index and pair[1] in index]


def _split(fleet: Deployment, members: Sequence[str], ample: float) -> list[list[str]]:
    """Split the nodes of one named region where links between the parts are much slower than those inside."""
    inside = set(members)
    irregular = {end for pair in _single_links(fleet) if inside.issuperset(pair) for end in pair}
    if not irregular:
        return [list(members)]
    plain = [node for node in members if node not in irregular]
    items = [[node] for node in members if node in irregular] + ([plain] if plain else [])

    def speed(one: int, two: int) -> float:
        src, dst = items[one][0], items[two][0]
        return min(link_tokens_per_s(fleet, src, dst), link_tokens_per_s(fleet, dst, src))

    # The tree of fastest links (Prim): cutting its slow links leaves the parts that fast ones connect.
    nearest = {item: (speed(0, item), 0) for item in range(1, len(items))}
    tree: list[tuple[float, int, int]] = []
    while nearest:
        item = max(nearest, key=lambda other: nearest[other][0])
        fastest, before = nearest.pop(item)
        tree.append((fastest, before, item))
        for other, (known, _) in nearest.items():
            if (here := speed(item, other)) > known:
                nearest[other] = (here, item)
    speeds = sorted((fastest for fastest, _, _ in tree), reverse=True)
    steps = [
        (fast / slow, slow)
        for fast, slow in itertools.pairwise(speeds)
        if slow < ample and fast >= tuning.SPLIT_RATIO * slow
    ]
    fastest_cut = max(steps)[1] if steps else -1.0
    part = {0: 0}
    for fastest, before, item in tree:
        part[item] = part[before] if fastest > fastest_cut else item
    parts: dict[int, list[str]] = {}
    for item, number in sorted(part.items()):
        parts.setdefault(number, []).extend(items[item])
    if 2 * len(parts) > len(members) > 2:
        return [list(members)]  # fragments, not sites
    order = fleet.cluster.index
    return sorted((sorted(nodes, key=order.__getitem__) for nodes in parts.values()), key=lambda nodes: order[nodes[0]])


def _joined(regions: Mapping[str, str], crossings: Crossings, ample: float) -> dict[str, str]:
    """Merge regions if every link between them carries the capacity of any node."""
    groups: list[list[str]] = []
    for region in dict.fromkeys(regions.values()):
        for group in groups:
            if all(min(crossings[region, other].slowest, crossings[other, region].slowest) >= ample for other in group):
                group.append(region)
                break
        else:
            groups.append([region])
    names = {region: "+".join(group) for group in groups for region in group}
    return {node: names[region] for node, region in regions.items()}
