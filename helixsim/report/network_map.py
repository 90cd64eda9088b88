"""The network map of a report: sites, the nodes in them by layer, and what they send to each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helixsim.results.run import Run
from helixsim.units import NS_PER_S, format_seconds, number, percent

MOST_PLACES = 48
"""Nodes drawn one by one; in larger clusters, equal nodes of a site are one box, then all of a site and type."""

MOST_LINKS = 300
"""Links drawn, those with the most bytes."""

BUSIEST = 12
"""Links in the table."""

_COORDINATOR = "coordinator"
_LETTER, _STEP_Y, _HEAD, _PAD, _HEIGHT = 6.3, 34.0, 26.0, 14.0, 22.0
_FEW_COLUMNS, _WIDE, _NARROW = 12, 34.0, 16.0
"""Stages up to which the space between them is wide."""

_MEDIUM, _HIGH = 0.3, 0.7
"""Utilisation from which a link is drawn as used and as busy."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node, or equal nodes, at (x, y) of the map, with the size and text of its box."""

    name: str
    text: str
    kind: str
    x: float
    y: float
    width: float
    tip: str


@dataclass(frozen=True, slots=True)
class Site:
    """The box of a site."""

    name: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class DrawnLink:
    """A link as a curve; ``level``: CSS class by utilisation."""

    source: str
    target: str
    path: str
    width: float
    level: str
    tip: str


@dataclass(frozen=True, slots=True)
class NetworkMap:
    """The map of one system, the traffic between sites, and its busiest links, as texts of table cells."""

    system: str
    width: float
    height: float
    box_height: float
    sites: tuple[Site, ...]
    places: tuple[Place, ...]
    links: tuple[DrawnLink, ...]
    about: str
    left_out: str
    between_sites: tuple[tuple[str, ...], ...]
    busiest: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class _Flow:
    """Traffic from one place to another; ``busy`` and ``wait_ns`` are those of the busiest link."""

    bytes: float = 0.0
    bps: float = 0.0
    links: int = 0
    busy: float = 0.0
    wait_ns: float = 0.0
    bandwidth_bps: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        self.bytes += row["bytes"]
        self.bps += row["mean_bps"]
        self.links += 1
        self.bandwidth_bps += row["bandwidth_bps"]
        if row["busy_share"] >= self.busy:
            self.busy, self.wait_ns = row["busy_share"], row["mean_wait_ns"]


def network_map(run: Run, kinds: Mapping[str, str]) -> NetworkMap:
    """Return the map of a system; ``kinds``: CSS class of each node type."""
    document = run.placement_document
    nodes = {node["node"]: node for node in document["nodes"]}
    table = run.columns("links")
    rows = [
        dict(zip(table, row, strict=True)) for row in zip(*(values.tolist() for values in table.values()), strict=True)
    ]
    place_of = _grouped(document, nodes)
    flows: dict[tuple[str, str], _Flow] = defaultdict(_Flow)
    between: dict[tuple[str, str], _Flow] = defaultdict(_Flow)
    for row in rows:
        ends = place_of.get(row["src"], _COORDINATOR), place_of.get(row["dst"], _COORDINATOR)
        flows[ends].add(row)
        between[_site(nodes, row["src"]), _site(nodes, row["dst"])].add(row)
    places, sites, width, height = _laid_out(document, nodes, place_of, kinds, flows)
    at = {place.name: place for place in places}
    drawn = sorted(flows.items(), key=lambda pair: -pair[1].bytes)[:MOST_LINKS]
    most = max((flow.bytes for _, flow in drawn), default=1.0) or 1.0
    links = tuple(
        DrawnLink(
            source, target, _curve(at[source], at[target]), round(0.8 + 4.2 * (flow.bytes / most) ** 0.5, 1),
            "high" if flow.busy >= _HIGH else "medium" if flow.busy >= _MEDIUM else "low",
            _link_text(at[source].text, at[target].text, flow),
        )
        for (source, target), flow in drawn
    )  # fmt: skip
    hidden = len(flows) - len(links)
    busiest = sorted(rows, key=lambda row: -row["busy_share"])[:BUSIEST]
    grouped = "" if len(place_of) == len(set(place_of.values())) else " Equal nodes of a site are one box."
    return NetworkMap(
        run.name, width, height, _HEIGHT, sites, tuple(places), links,
        f"{len(rows)} directed links with traffic between {len(place_of)} nodes in {len(sites)} "
        f"site{'' if len(sites) == 1 else 's'} and the coordinator. "
        + (f"Busiest: {busiest[0]['src']} to {busiest[0]['dst']}, {percent(busiest[0]['busy_share'])} % of the run."
           if busiest else "No traffic.") + grouped,
        f"{hidden} flows with fewer bytes are not drawn; all are in links.csv." if hidden else "",
        tuple(_row(source, target, flow) for (source, target), flow in sorted(between.items())),
        tuple(_busy_row(row) for row in busiest),
    )  # fmt: skip


def _grouped(document: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, str]:
    """Return the place of each node with layers: itself, or one that stands for equal nodes."""
    held = {node: layers for node, layers in document["layers"].items() if layers is not None}
    if len(held) <= MOST_PLACES:
        return {node: node for node in held}
    by_layers = {
        node: f"{nodes[node]['node_type']} {start}–{end - 1} in {nodes[node]['region']}"
        for node, (start, end) in held.items()
    }
    if len(set(by_layers.values())) <= MOST_PLACES:
        return by_layers
    return {node: f"{nodes[node]['node_type']} in {nodes[node]['region']}" for node in held}


def _site(nodes: Mapping[str, Any], node: str) -> str:
    return str(nodes[node]["region"]) if node in nodes else _COORDINATOR


def _laid_out(
    document: Mapping[str, Any], nodes: Mapping[str, Any], place_of: Mapping[str, str], kinds: Mapping[str, str],
    flows: Mapping[tuple[str, str], _Flow],
) -> tuple[list[Place], tuple[Site, ...], float, float]:  # fmt: skip
    """Return the boxes: a site below the other, in each a column for each first layer."""
    members: dict[str, list[str]] = defaultdict(list)
    for node, place in place_of.items():
        members[place].append(node)
    texts = {place: _place_text(place, own, nodes) for place, own in members.items()}
    box = max([len(text) for text in texts.values()] or [8]) * _LETTER + 12
    starts = {place: min(document["layers"][node][0] for node in own) for place, own in members.items()}
    by_site: dict[str, list[str]] = defaultdict(list)
    for place, own in members.items():
        by_site[_site(nodes, own[0])].append(place)
    lanes = _lanes(document, place_of)
    places, sites = [], []
    left, y, widest = len(_COORDINATOR) * _LETTER + 12 + 60, _PAD, 0.0
    for site, own_places in by_site.items():
        bottom = y + _HEAD
        by_lane: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for place in sorted(own_places, key=lambda place: (starts[place], place)):
            by_lane[lanes[place]][starts[place]].append(place)
        for _, columns in sorted(by_lane.items()):
            rows = max(map(len, columns.values()))
            gap = _WIDE if len(columns) <= _FEW_COLUMNS else _NARROW
            for column, (_, stage) in enumerate(sorted(columns.items())):
                shift = (rows - len(stage)) * _STEP_Y / 2
                for row, place in enumerate(stage):
                    own = members[place]
                    x = left + _PAD + column * (box + gap)
                    places.append(
                        Place(place, texts[place], kinds[nodes[own[0]]["node_type"]], round(x, 1),
                              round(bottom + shift + row * _STEP_Y, 1), box, _tip(place, own, document, nodes, flows))
                    )  # fmt: skip
                    widest = max(widest, x + box + _PAD)
            bottom += rows * _STEP_Y
        sites.append(Site(site, y, bottom - y + _PAD / 2))
        y = bottom + 1.5 * _PAD
    width = len(_COORDINATOR) * _LETTER + 12
    sent = [f"sends {number(flow.bps / 1e6)} Mbit/s to {target}" for (source, target), flow in flows.items()
            if source == _COORDINATOR][:BUSIEST]  # fmt: skip
    places.append(Place(_COORDINATOR, _COORDINATOR, "", 6.0, round(y / 2 - _HEIGHT / 2, 1), width,
                        "\n".join(["coordinator: requests enter and tokens leave here", *sent])))  # fmt: skip
    return places, tuple(sites), max(widest + 10, 480.0), y


def _lanes(document: Mapping[str, Any], place_of: Mapping[str, str]) -> dict[str, int]:
    """Return the number of the pipeline graph of each place; these stand below each other, the largest first."""
    lanes: dict[str, int] = {}
    for number_, replica in enumerate(sorted(document.get("replicas", []), key=len, reverse=True)):
        for node in replica:
            if node in place_of:
                lanes.setdefault(place_of[node], number_)
    return {place: lanes.get(place, len(lanes)) for place in place_of.values()}


def _place_text(place: str, own: list[str], nodes: Mapping[str, Any]) -> str:
    return place if own == [place] else f"{len(own)} × {nodes[own[0]]['node_type']}"


def _tip(
    place: str, own: list[str], document: Mapping[str, Any], nodes: Mapping[str, Any],
    flows: Mapping[tuple[str, str], _Flow],
) -> str:  # fmt: skip
    held = sorted({tuple(document["layers"][node]) for node in own})
    layers = ", ".join(f"{start}–{end - 1}" for start, end in held[:3]) + (" …" if len(held) > 3 else "")
    node = nodes[own[0]]
    head = f"{place}: {len(own)} × {node['node_type']} in {node['region']}, layers {layers}"
    sent = sorted(
        ((target, flow) for (source, target), flow in flows.items() if source == place), key=lambda pair: -pair[1].bytes
    )
    lines = [f"sends {number(flow.bps / 1e6)} Mbit/s to {target}, busy {percent(flow.busy)} %" for target, flow in sent]
    more = [f"and to {len(lines) - 6} others"] if len(lines) > 6 else []
    return "\n".join([head, *lines[:6], *more])


def _curve(source: Place, target: Place) -> str:
    """Return a curve from the right edge of a box to the left edge of another, or back below both."""
    y1, y2 = source.y + _HEIGHT / 2, target.y + _HEIGHT / 2
    if source.x + source.width <= target.x:
        x1, x2 = source.x + source.width, target.x
        bend = (x2 - x1) / 2
        return f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
    x1, x2 = source.x + source.width / 2, target.x + target.width / 2
    low = max(source.y, target.y) + _HEIGHT + 9
    return f"M{x1:g} {source.y + _HEIGHT:g}C{x1:g} {low:g} {x2:g} {low:g} {x2:g} {target.y + _HEIGHT:g}"


def _link_text(source: str, target: str, flow: _Flow) -> str:
    count = "" if flow.links == 1 else f" over {flow.links} links"
    return (
        f"{source} → {target}: {number(flow.bps / 1e6)} Mbit/s{count}\n"
        f"transmitting {percent(flow.busy)} % of the run, mean wait {_wait(flow.wait_ns)}"
    )


def _row(source: str, target: str, flow: _Flow) -> tuple[str, ...]:
    return (
        source, target, str(flow.links), number(flow.bandwidth_bps / flow.links / 1e9), number(flow.bps / 1e6),
        number(flow.bytes / 1e9), percent(flow.busy), _wait(flow.wait_ns),
    )  # fmt: skip


def _busy_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["src"], row["dst"], number(row["bandwidth_bps"] / 1e9), number(row["mean_bps"] / 1e6),
        number(row["messages"]), percent(row["busy_share"]), _wait(row["mean_wait_ns"]),
    )  # fmt: skip


def _wait(wait_ns: float) -> str:
    return format_seconds(round(wait_ns) / NS_PER_S)
