"""Placement diagrams and load on links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.report.style import GREY, NODE_TYPE_COLORS, colors_of, new_figure, small_multiples
from helixsim.report.tables import sorted_by_layers
from helixsim.results.columns import Columns, chosen, joined, of_rows, of_system
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINKS_SHOWN = 10
_FAINTEST = 0.25


def placement_diagram(placement: Mapping[str, Any], colors: Mapping[str, str]) -> tuple[Figure, Columns]:
    """Draw the layer range of each node as a bar, sorted by first layer, shaded by planned load.

    Parameters
    ----------
    placement
        The document of ``results.placement_json``.
    colors
        Colour of each node type (``node_type_colors``).
    """
    from matplotlib.patches import Patch

    nodes = sorted_by_layers(placement)
    figure = new_figure(0.21 * len(nodes) + 1.1)
    axis = figure.subplots()
    rows = []
    for y, node in enumerate(nodes):
        held = placement["layers"][node["node"]]
        _draw_node(axis, y, node, held, colors[node["node_type"]])
        start, end = held or (None, None)
        rows.append({**node, "layer_start": start, "layer_end": end})
    axis.set_yticks(range(len(nodes)), [node["node"] for node in nodes], fontsize=7.5)
    axis.set_ylim(len(nodes) - 0.4, -0.6)
    axis.set_xlim(0, placement["num_layers"])
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("layer")
    node_types = {node["node_type"] for node in nodes}
    handles = [Patch(color=color, label=name) for name, color in colors.items() if name in node_types]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure, of_rows(rows)


def frontier_curves(placements: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, Columns]:
    """Draw the max-flow estimate of placements over the maximum nodes on a route, one curve per system.

    Filled dots are on the frontier; hollow dots are other candidates, such as baselines. ``placements``: the document
    of each system (``results.placement_json``).
    """
    from matplotlib.ticker import MaxNLocator

    rows = [
        {"system": name, "on_frontier": True, "score": None, **point}
        for name, placement in placements.items()
        for point in placement["notes"].get("frontier", [])
    ]
    others = [
        {
            "system": name,
            "on_frontier": False,
            **{key: point[key] for key in ("hops", "max_flow_tokens_per_s", "score")},
        }
        for name, placement in placements.items()
        for point in placement["notes"].get("candidates", [])
    ]
    figure = new_figure(2.6)
    axis = figure.subplots()
    colors = colors_of(placements)
    for name in dict.fromkeys(row["system"] for row in rows):
        points = sorted((row["hops"], row["max_flow_tokens_per_s"]) for row in rows if row["system"] == name)
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colors[name], label=name)
        beside = [(row["hops"], row["max_flow_tokens_per_s"]) for row in others if row["system"] == name]
        axis.plot(*zip(*beside, strict=True), "o", markersize=3, color=colors[name], mfc="none", linewidth=0)
        chosen = placements[name]
        axis.plot(
            chosen["max_hops"], chosen["max_flow_tokens_per_s"], "o", markersize=8, color=colors[name], mfc="none"
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("maximum nodes per request")
    axis.set_ylabel("max-flow estimate, tokens/s")
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper right", ncols=4)
    return figure, of_rows(rows + others)


def busiest_links(runs: RunSet) -> tuple[Figure, Columns]:
    """Draw the links with the highest utilisation, one panel per system."""
    names = list(runs)
    figure, axes = small_multiples(names, 0.19 * _LINKS_SHOWN + 0.75, same_y=False)
    busiest = {name: _busiest(runs[name].columns("links")) for name in names}
    table = joined([of_system(name, links) for name, links in busiest.items()])
    largest = 100 * float(table["busy_share"].max(initial=0.0)) if len(table["busy_share"]) else 1.0
    colors = colors_of(names)
    for axis, name in zip(axes, names, strict=True):
        links = busiest[name]
        share = 100 * links["busy_share"]
        y = range(len(share))
        axis.barh(y, share, height=0.65, color=colors[name])
        for position, (value, wait_ns) in enumerate(zip(share, links["mean_wait_ns"], strict=True)):
            axis.text(
                value + 0.015 * largest,
                position,
                f"wait {format_seconds(round(wait_ns) / NS_PER_S)}",
                va="center",
                fontsize=7,
                color=GREY,
            )
        labels = [f"{src} → {dst}" for src, dst in zip(links["src"], links["dst"], strict=True)]
        axis.set_yticks(y, labels, fontsize=7.5)
        axis.set_ylim(_LINKS_SHOWN - 0.4, -0.6)
        axis.set_xlim(0, 1.25 * largest or 1.0)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("utilisation, %")
    return figure, table


def _busiest(links: Columns) -> Columns:
    return chosen(links, np.argsort(-links["busy_share"], kind="stable")[:_LINKS_SHOWN])


def node_type_colors(runs: RunSet) -> dict[str, str]:
    """Return a colour for each node type, the same in all figures of a report."""
    kinds = runs.columns("nodes")["node_type"].tolist()
    for run in runs.values():
        kinds += [node["node_type"] for node in run.placement_document["nodes"]]
    return colors_of(dict.fromkeys(kinds), NODE_TYPE_COLORS)


def _draw_node(axis: Axes, y: int, node: dict[str, Any], held: list[int] | None, color: str) -> None:
    from matplotlib.colors import to_rgb

    if held is None:
        axis.text(0.3, y, "no layers", va="center", fontsize=7, color=GREY)
        return
    capacity = node["capacity_tokens_per_s"]
    load = min(node["flow_tokens_per_s"] / capacity, 1.0) if capacity else 0.0
    strength = _FAINTEST + (1 - _FAINTEST) * load
    face = tuple(1 - strength * (1 - channel) for channel in to_rgb(color))
    axis.barh(y, held[1] - held[0], left=held[0], height=0.8, color=[face], edgecolor=color, linewidth=0.8)
    red, green, blue = face
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
    middle = (held[0] + held[1]) / 2
    ink = "white" if dark else "black"
    axis.text(middle, y, f"{load:.0%}", ha="center", va="center", fontsize=7, color=ink)
