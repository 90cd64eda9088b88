"""Placement diagrams of a report: a table of bars, equal nodes and equal replicas together, unused nodes below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helixsim.results.run import Run
from helixsim.units import number, percent

MOST_BARS = 80
"""Bars of one system; the rest is counted."""

_FEWEST_BARS = 12
"""Bars of a group of pipelines that is shown at all, if it has so many."""

_NAMES = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """Nodes of one type that hold the same layers.

    ``left`` and ``width`` are in % of the layers. ``load`` is the share of time in which the nodes compute, mean; None:
    not simulated. ``planned`` is planned flow over capacity.
    """

    label: str
    names: str
    kind: str
    node_type: str
    layers: str
    left: float
    width: float
    load: float | None
    planned: float | None
    kv_tokens: str

    @property
    def tip(self) -> str:
        """What the page shows of the bar under the pointer."""
        lines = [f"{self.label}: layers {self.layers}", self.names]
        lines += [f"computing {percent(self.load)} % of the run"] if self.load is not None else []
        lines += [f"planned load {percent(self.planned)} %"] if self.planned is not None else []
        return "\n".join([*lines, f"KV memory of each: {self.kv_tokens} tokens"])


@dataclass(frozen=True, slots=True)
class PipelineGroup:
    """A pipeline graph whose nodes share no layers with others, or several equal ones."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class PlacementView:
    """The diagram of one system; ``unused``: (node type, number, names, reason)."""

    system: str
    about: str
    num_layers: int
    groups: tuple[PipelineGroup, ...]
    unused: tuple[tuple[str, int, str, str], ...]
    left_out: str


def placement_view(run: Run, kinds: Mapping[str, str]) -> PlacementView:
    """Return the diagram of the placement of a system; ``kinds``: CSS class of each node type."""
    document = run.placement_document
    nodes = {node["node"]: node for node in document["nodes"]}
    layers: Mapping[str, list[int] | None] = document["layers"]
    held = run.columns("nodes")
    busy = dict(zip(held["node"].tolist(), held["busy_share"].tolist(), strict=True))
    groups = []
    replicas = _replicas(document)
    for equal in _equal(replicas, nodes, layers):
        members = [node for replica in equal for node in replica]
        bars = _bars(members, nodes, layers, busy, document["num_layers"], kinds)
        size = len(equal[0])
        title = f"{len(equal)} equal pipelines of {_count(size, 'node')} each" if len(equal) > 1 else (
            f"pipeline of {_count(size, 'node')}" if len(replicas) > 1 else ""
        )  # fmt: skip
        groups.append(PipelineGroup(title, bars))
    shown, hidden = _cut(groups)
    return PlacementView(
        run.name, _about(document), document["num_layers"], tuple(shown), _unused(document, nodes), hidden
    )


def _about(document: Mapping[str, Any]) -> str:
    held = sum(1 for layers in document["layers"].values() if layers is not None)
    hops = f"{number(document['mean_hops'])} nodes per request on average, {document['max_hops']} at most"
    return (
        f"{document['strategy']} ({document['status']}): {held} of {_count(len(document['layers']), 'node')} hold "
        f"layers; max-flow estimate {number(document['max_flow_tokens_per_s'])} prompt + output tokens/s over {hops}."
    )


def _replicas(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the pipeline graphs of a placement, and the nodes with layers that are in none of them."""
    layers = document["layers"]
    replicas = [[node for node in replica if layers.get(node)] for replica in document.get("replicas", [])]
    known = {node for replica in replicas for node in replica}
    rest = [node for node, held in layers.items() if held is not None and node not in known]
    return [replica for replica in [*replicas, rest] if replica]


def _equal(replicas: Sequence[list[str]], nodes: Mapping[str, Any], layers: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return replicas of the same node types and layers together, the largest first."""
    found: dict[tuple[Any, ...], list[list[str]]] = defaultdict(list)
    for replica in replicas:
        found[tuple(sorted((*layers[node], nodes[node]["node_type"]) for node in replica))].append(replica)
    return sorted(found.values(), key=lambda equal: -len(equal[0]) * len(equal))


def _bars(
    members: Sequence[str], nodes: Mapping[str, Any], layers: Mapping[str, Any], busy: Mapping[str, float],
    num_layers: int, kinds: Mapping[str, str],
) -> tuple[Bar, ...]:  # fmt: skip
    alike: dict[tuple[int, int, str], list[str]] = defaultdict(list)
    for node in members:
        start, end = layers[node]
        alike[start, end, nodes[node]["node_type"]].append(node)
    bars = []
    for (start, end, node_type), own in sorted(alike.items()):
        loads = [busy[node] for node in own if node in busy]
        planned = [nodes[node]["flow_tokens_per_s"] / capacity for node in own
                   if (capacity := nodes[node]["capacity_tokens_per_s"])]  # fmt: skip
        kv_tokens = dict.fromkeys(nodes[node]["kv_tokens"] for node in own)
        bars.append(
            Bar(
                own[0] if len(own) == 1 else f"{len(own)} × {node_type}",
                short_names(own),
                kinds[node_type],
                node_type,
                f"{start}–{end - 1}",
                100 * start / num_layers,
                100 * (end - start) / num_layers,
                sum(loads) / len(loads) if loads else None,
                sum(planned) / len(planned) if planned else None,
                " / ".join(number(tokens) for tokens in kv_tokens),
            )
        )
    return tuple(bars)


def _cut(groups: Sequence[PipelineGroup]) -> tuple[list[PipelineGroup], str]:
    """Return groups with at most ``MOST_BARS`` bars, each with its share of them, and a sentence on the others."""
    largest = groups[: MOST_BARS // _FEWEST_BARS]
    most = MOST_BARS // max(1, len(largest)) if sum(len(group.bars) for group in groups) > MOST_BARS else MOST_BARS
    shown = [PipelineGroup(group.title, group.bars[:most]) for group in largest]
    rest = sum(len(group.bars) for group in groups) - sum(len(group.bars) for group in shown)
    return shown, f"{rest} further groups of equal nodes are in placements/ and nodes.csv." if rest > 0 else ""


def _unused(document: Mapping[str, Any], nodes: Mapping[str, Any]) -> tuple[tuple[str, int, str, str], ...]:
    reasons = document["notes"].get("idle", {})
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node, held in document["layers"].items():
        if held is None:
            found[nodes[node]["node_type"], str(reasons.get(node, "holds no layers"))].append(node)
    return tuple((kind, len(own), short_names(own), reason) for (kind, reason), own in found.items())


def short_names(names: Sequence[str]) -> str:
    """Return a few names, and how many others there are."""
    shown = ", ".join(names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} others"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
