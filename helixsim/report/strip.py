"""Placements as strips of text: layers from left to right, a letter where the layers of a node begin."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LANES = 4
"""Lanes of all systems together in the short form; each system has one at least."""

_LEAST_CELLS = 20


def letters_of(node_types: Iterable[str]) -> dict[str, str]:
    """Return a capital letter for each node type, if possible one of its name."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(node_types):
        own = [letter for letter in name.upper() if letter in string.ascii_uppercase]
        free = [letter for letter in [*own, *string.ascii_uppercase] if letter not in found.values()]
        found[name] = free[0] if free else "*"
    return found


def strips(
    placements: Mapping[str, Mapping[str, Any]], width: int, *, most_lanes: int | None = None
) -> list[tuple[str, str]]:
    """Return (system or "", text) of each line; the first line names the letters.

    A lane has nodes whose layers do not overlap; equal lanes are one line with their number.

    Parameters
    ----------
    placements
        Documents of ``results.placement_json`` by system.
    width
        Columns for the texts.
    most_lanes
        Lanes shown of each system; None: all.
    """
    types = {node["node"]: node["node_type"] for one in placements.values() for node in one["nodes"]}
    letters = letters_of(types.values())
    counts = [one["num_layers"] for one in placements.values()]
    lanes = {name: _lanes(one, letters) for name, one in placements.items()}
    repeated = [number for held in lanes.values() for number in held.values() if number > 1]
    prefix = len(f"{max(repeated)}× ") if repeated else 0
    shown = {name: dict(list(held.items())[:most_lanes]) for name, held in lanes.items()}
    asides = {
        name: _aside(sum(lanes[name].values()) - sum(shown[name].values()), one) for name, one in placements.items()
    }
    cells = max(_LEAST_CELLS, min(width - prefix, *counts)) if counts else width
    room = width - prefix - max((len(aside) + 2 for aside in asides.values() if aside), default=0)
    if most_lanes is not None and room >= width // 2:
        cells = min(cells, room)  # beside the last lane
    legend = ", ".join(f"{letter} {name}" for name, letter in letters.items())
    span = f"layers 0-{counts[0] - 1}" if len(set(counts)) == 1 else "layers"
    lines = [("", f"{span}: {legend}")]
    for name, one in placements.items():
        texts = []
        for lane, number in shown[name].items():
            times = f"{number}× " if number > 1 else ""
            texts.append(f"{times:>{prefix}}{_drawn(lane, one['num_layers'], cells)}")
        if aside := asides[name]:
            last = f"{texts.pop() if texts else '':{prefix + cells}}"
            texts += [f"{last}  {aside}"] if len(last) + 2 + len(aside) <= width else [last, " " * prefix + aside]
        lines += [(name if number == 0 else "", text.rstrip()) for number, text in enumerate(texts)]
    return lines


def _aside(lanes: int, placement: Mapping[str, Any]) -> str:
    """Return what is not drawn: the number of further lanes, and the nodes without layers."""
    idle = _idle(placement)
    parts = [f"+{lanes} lane{'s' * (lanes > 1)}"] if lanes else []
    return "; ".join([*parts, f"without layers: {idle}"] if idle else parts)


def _idle(placement: Mapping[str, Any]) -> str:
    """Return the nodes without layers by type: ``2 t4, 1 l4``."""
    counts: dict[str, int] = {}
    for node in placement["nodes"]:
        if placement["layers"][node["node"]] is None:
            counts[node["node_type"]] = counts.get(node["node_type"], 0) + 1
    return ", ".join(f"{number} {name}" for name, number in counts.items())


_Lane = tuple[tuple[int, int, str], ...]
"""(First layer, layer after the last, letter) of nodes, ascending."""


def _lanes(placement: Mapping[str, Any], letters: Mapping[str, str]) -> dict[_Lane, int]:
    """Return the lanes of a placement with their numbers, those with most work first; replicas are not mixed."""
    layers, types = placement["layers"], {node["node"]: node["node_type"] for node in placement["nodes"]}
    placed = [node for node, held in layers.items() if held is not None]
    replicas: Sequence[Sequence[str]] = placement.get("replicas") or []
    known = {node for nodes in replicas for node in nodes}
    groups = [*replicas, [node for node in placed if node not in known]]
    flows = {node["node"]: node["flow_tokens_per_s"] for node in placement["nodes"]}
    found: dict[_Lane, int] = {}
    work: dict[_Lane, float] = {}
    for nodes in groups:
        held = sorted((*layers[node], letters[types[node]], flows[node]) for node in nodes if layers.get(node))
        lanes: list[list[tuple[int, int, str, float]]] = []
        for one in held:
            free = next((lane for lane in lanes if lane[-1][1] <= one[0]), None)
            if free is None:
                lanes.append([one])
            else:
                free.append(one)
        for own in lanes:
            lane = tuple(one[:3] for one in own)
            found[lane] = found.get(lane, 0) + 1
            work[lane] = work.get(lane, 0.0) + sum((end - start) * flow for start, end, _, flow in own)
    return {lane: found[lane] for lane in sorted(found, key=lambda lane: (-work[lane], lane))}


def _drawn(lane: _Lane, layers: int, cells: int) -> str:
    """Return a lane as text of ``cells`` columns; each node has one at least."""
    text = [" "] * cells
    for start, end, letter in lane:
        first = min(start * cells // layers, cells - 1)
        last = max(first + 1, end * cells // layers)
        text[first:last] = letter.ljust(last - first, "-")
    return "".join(text).rstrip()
