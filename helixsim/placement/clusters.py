"""Which nodes form a region of the search: those between which links do not count.

The regions that users name are a hint. Nodes of one name whose links fall into fast and much slower ones are split
(several sites under one name, or no names at all), and regions whose links carry whatever a node can pass are joined
(two halls of one site). The rest is left as named: links that are merely uneven are a matter for swaps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from helixsim.domain.cluster import Fleet
from helixsim.flow.capacity import CapacityTable, upper_bound_share
from helixsim.flow.network import link_tokens_per_s
from helixsim.placement import tuning

Speeds = Mapping[tuple[str, str], tuple[float, float]]
"""(region, region) -> tokens/s of the slowest and of the fastest link from a node of the one to a node of the other."""


def regions_of(fleet: Fleet, capacity: CapacityTable) -> dict[str, str]:
    """Return the region of each node: node id -> name."""
    cluster = fleet.cluster
    fastest = max((max(capacity.of(node.id), default=0.0) for node in cluster.nodes), default=0.0)
    ample = min(fastest, upper_bound_share(fleet, capacity))
    named: dict[str, list[str]] = {}
    for node in cluster.nodes:
        named.setdefault(node.region, []).append(node.id)
    found: dict[str, str] = {}
    for name, members in named.items():
        parts = _split(fleet, members, ample)
        for number, part in enumerate(parts, start=1):
            found |= dict.fromkeys(part, name if len(parts) == 1 else f"{name}/{number}")
    return _joined(found, crossings_tokens_per_s(fleet, found), ample)


def crossings_tokens_per_s(fleet: Fleet, regions: Mapping[str, str]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the speeds of links between each two regions, given the region of each node."""
    listed: dict[tuple[str, str], list[float]] = {}
    for (here, there), _, onward, back in _links_between(fleet, regions):
        listed.setdefault((here, there), []).append(onward)
        listed.setdefault((there, here), []).append(back)
    return {names: (min(speeds), max(speeds)) for names, speeds in listed.items()}


def crossing_total_tokens_per_s(fleet: Fleet, regions: Mapping[str, str]) -> float:
    """Return what all links between regions carry together.

    A placement uses a link in one direction at most, towards the node that ends at a later layer; it counts as the
    faster of the two.
    """
    return sum(count * max(onward, back) for _, count, onward, back in _links_between(fleet, regions))


_Links = tuple[tuple[str, str], int, float, float]
"""(region, region), how many pairs of nodes, tokens/s there, and back."""


def _links_between(fleet: Fleet, regions: Mapping[str, str]) -> list[_Links]:
    """Return the links between nodes of different regions, those that are not given one by one as one entry.

    Nodes without a region are left out.
    """
    order = fleet.cluster.index
    alike: dict[tuple[str, str], list[str]] = {}
    for node in fleet.cluster.nodes:
        if node.id in regions:
            alike.setdefault((regions[node.id], node.region), []).append(node.id)
    pairs = list(itertools.combinations(alike, 2))
    left = {pair: len(alike[pair[0]]) * len(alike[pair[1]]) for pair in pairs if pair[0][0] != pair[1][0]}
    single = {
        (src, dst) if order[src] < order[dst] else (dst, src)
        for src, dst in _single_links(fleet)
        if src in regions and dst in regions
    }
    found: list[_Links] = []
    for src, dst in sorted(single, key=lambda pair: (order[pair[0]], order[pair[1]])):
        here, there = ((regions[end], fleet.cluster.region_of(end)) for end in (src, dst))
        if here[0] != there[0]:
            left[(here, there) if (here, there) in left else (there, here)] -= 1
            speeds = (link_tokens_per_s(fleet, src, dst), link_tokens_per_s(fleet, dst, src))
            found.append(((here[0], there[0]), 1, *speeds))
    for (here, there), count in left.items():
        if count:
            ends = itertools.product(alike[here], alike[there])
            src, dst = next(pair for pair in ends if pair not in single and pair[::-1] not in single)
            speeds = (link_tokens_per_s(fleet, src, dst), link_tokens_per_s(fleet, dst, src))
            found.append(((here[0], there[0]), count, *speeds))
    return found


def _single_links(fleet: Fleet) -> list[tuple[str, str]]:
    """Return the links between nodes that are given one by one."""
    index = fleet.cluster.index
    return [pair for pair in fleet.cluster.network.pairs if pair[0] in index and pair[1] in index]


def _split(fleet: Fleet, members: Sequence[str], ample: float) -> list[list[str]]:
    """Split nodes of one name where links between the parts are much slower than those inside."""
    inside = set(members)
    odd = {end for pair in _single_links(fleet) if inside.issuperset(pair) for end in pair}
    if not odd:
        return [list(members)]
    plain = [node for node in members if node not in odd]
    items = [[node] for node in members if node in odd] + ([plain] if plain else [])

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
        return [list(members)]  # crumbs, not sites
    order = fleet.cluster.index
    return sorted((sorted(nodes, key=order.__getitem__) for nodes in parts.values()), key=lambda nodes: order[nodes[0]])


def _joined(found: Mapping[str, str], speeds: Speeds, ample: float) -> dict[str, str]:
    """Join regions between all of which links carry whatever a node can pass."""
    groups: list[list[str]] = []
    for region in dict.fromkeys(found.values()):
        for group in groups:
            if all(min(speeds[region, other][0], speeds[other, region][0]) >= ample for other in group):
                group.append(region)
                break
        else:
            groups.append([region])
    names = {region: "+".join(group) for group in groups for region in group}
    return {node: names[region] for node, region in found.items()}
