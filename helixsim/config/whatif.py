"""``whatif:`` blocks: named variants of an experiment, each resolved separately."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from helixsim import units
from helixsim.config.edit import Edit, edits_of
from helixsim.config.experiment import ResolvedExperiment
from helixsim.config.source import Source
from helixsim.config.whatif_schema import WhatifSection
from helixsim.domain.cluster import LinkSpec
from helixsim.errors import ConfigError, Problem, unknown_name
from helixsim.yamlio import KeyPath

NOT_CHANGED = ("schema", "name", "systems", "whatif", "baseline")
"""Keys that define the comparison, which variants cannot change."""


def overlay(source: Source, number: int, what: WhatifSection, names: list[str]) -> Source:
    """Return the source of a variant; ``names`` are those of the systems of the experiment.

    Raises
    ------
    ConfigError
        If a system, key or GPU is invalid.
    """
    at: KeyPath = ("whatif", number)
    origin, directory, data = source.where(at), source.path.parent, source.data
    problems = list(source.problems)
    for index, name in enumerate(what.systems or ()):
        if name not in names:
            problems.append(source.problem((*at, "systems", index), unknown_name("system", name, names)))
    for key in what.set_:
        if key.partition(".")[0] in NOT_CHANGED:
            message = f"a variant cannot set {key!r} (not allowed: {', '.join(NOT_CHANGED)})"
            problems.append(source.problem((*at, "set", key), message))
    if problems:
        raise ConfigError(problems)
    nodes = _swapped(source, at, what, problems)
    changes: dict[str, Any] = {
        f"cluster.nodes.{place}": node
        for place, (node, before) in enumerate(zip(nodes, data["cluster"]["nodes"], strict=True))
        if node is not before
    }
    for key, patterns in (("down", what.lose), ("removed", what.remove)):
        if patterns:
            changes[f"cluster.{key}"] = [*(data["cluster"].get(key) or []), *patterns]
    if what.links is not None:
        scale = data["cluster"]["network"].get("scale")
        changes["cluster.network.scale"] = _product(scale, what.links.model_dump())
    if what.traffic is not None:
        scale = data.get("workload", {}).get("scale")
        changes["workload.scale"] = _product(scale, what.traffic.model_dump())
    others = (("model", what.model), ("precision", what.precision), *what.set_.items())
    changes |= {key: value for key, value in others if value is not None}
    changed = source.without("whatif").edited(*edits_of(changes, origin, directory))
    if what.add:
        changed = changed.extended(("cluster", "nodes"), what.add, origin, directory)
    if what.systems is not None:
        chosen = [system for system, name in zip(data["systems"], names, strict=True) if name in what.systems]
        changed = changed.edited(Edit.of("systems", chosen, origin, directory)).without("baseline")
    return replace(changed, problems=tuple(problems))


def described(base: ResolvedExperiment, changed: ResolvedExperiment, what: WhatifSection) -> Iterator[str]:
    """Yield descriptions of the differences between two experiments."""
    before, after = base.fleet, changed.fleet
    counts = [Counter((node.region, node.node_type) for node in fleet.cluster.nodes) for fleet in (before, after)]
    several = len({region for count in counts for region, _ in count}) > 1
    for region, kind in dict.fromkeys([*counts[0], *counts[1]]):
        old, new = (count[region, kind] for count in counts)
        if old != new:
            yield f"{kind}{f' in {region}' if several else ''}: {old} → {new}"
    prices = [fleet.cluster.cost_usd_per_hour for fleet in (before, after)]
    if not math.isclose(*prices):
        yield f"price: {prices[0]:.2f} → {prices[1]:.2f} $/h"
    for name in ("name", "precision", "kv_precision"):
        old_word, new_word = getattr(before.model, name), getattr(after.model, name)
        if old_word != new_word:
            yield f"{'model' if name == 'name' else name}: {old_word} → {new_word}"
    networks = before.cluster.network, after.cluster.network
    for name in ("intra_region", "inter_region"):
        links: list[LinkSpec] = [getattr(network, name) for network in networks]
        if links[0] != links[1]:
            yield f"{name} links: {_link(links[0])} → {_link(links[1])}"
    for name, unit in (("offered_rps", "requests/s"), ("mean_prompt_tokens", "prompt tokens per request"),
                       ("mean_output_tokens", "output tokens per request")):  # fmt: skip
        values = [getattr(experiment.workload_stats, name) for experiment in (base, changed)]
        if values[0] != values[1]:
            yield f"{unit}: {' → '.join('–' if value is None else f'{value:.4g}' for value in values)}"
    for edit in edits_of(what.set_):
        yield f"{edit.key}: {_at(base.document, edit.path)} → {edit.value}"
    if not what.replan:
        yield "placement: unchanged, on the remaining nodes"


def _swapped(source: Source, at: KeyPath, what: WhatifSection, problems: list[Problem]) -> list[dict[str, Any]]:
    """Return the nodes with GPUs swapped, without the KV blocks and prices given for the old GPUs."""
    nodes = list(source.data["cluster"]["nodes"])
    for number, swap in enumerate(what.swap):
        hit = [
            place
            for place, node in enumerate(nodes)
            if node["gpu"] == swap.from_ and swap.region in {None, node.get("region", "default")}
        ]
        if not hit:
            where = f" in region {swap.region}" if swap.region else ""
            message = f"{unknown_name('GPU', swap.from_, {node['gpu'] for node in nodes})}{where}"
            problems.append(Problem(source.where((*at, "swap", number)), "swap", message))
        for place in hit:
            kept = {key: value for key, value in nodes[place].items() if key not in {"cost", "kv_blocks", "kv_tokens"}}
            nodes[place] = {**kept, "gpu": swap.to}
    return nodes


def _product(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """Return the products of the factors."""
    first = first or {}
    return {
        key: _product(first.get(key), value) if isinstance(value, dict) else value * first.get(key, 1.0)
        for key, value in second.items()
    }


def _link(link: LinkSpec) -> str:
    latency = units.format_seconds(link.latency_ns / units.NS_PER_S)
    return f"{units.format_bandwidth(link.bandwidth_bps)}, {latency}"


def _at(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(document, list):
            document = document[int(part)]
        elif isinstance(document, dict):
            document = document.get(part)
        else:
            return "–"
    return "–" if document is None else document
