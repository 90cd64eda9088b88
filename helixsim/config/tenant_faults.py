"""``faults`` of an experiment with tenants: each tenant has the faults of its own nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from helixsim.config.edit import edits_of
from helixsim.config.faults_schema import FaultsSection
from helixsim.config.network import listed
from helixsim.config.source import Source
from helixsim.domain.cluster import Node
from helixsim.errors import Problem
from helixsim.validation import problems_of
from helixsim.yamlio import KeyPath


def with_own_faults(
    experiment: Source,
    own: tuple[str, ...] | None,
    nodes: tuple[Node, ...],
    at: KeyPath,
    source: Source,
    problems: list[Problem],
) -> Source:
    """Return the experiment of a tenant with those faults of its file, or of its own, that hit its nodes.

    ``own``: the ids of its nodes, None: they are to be planned. ``at``: where the faults stand in the file.
    """
    data = experiment.data.get("faults")
    if data is None:
        return experiment
    try:
        section = FaultsSection.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error, source, FaultsSection, at)
        return experiment
    if own is None:
        problems.append(source.problem(at, "need tenants whose nodes are stated: divisions are planned without faults"))
        return experiment
    problems += _unsupported(section, at, source)
    kept = set(own)

    def of_tenant(patterns: Sequence[str], path: KeyPath) -> list[str]:
        return sorted(kept & listed(patterns, path, nodes, source, problems))

    events = []
    for number, (event, written) in enumerate(zip(section.events, data.get("events", ()), strict=True)):
        hit = [] if event.nodes is None else of_tenant(event.nodes, (*at, "events", number, "nodes"))
        if hit:
            events.append({**written, "nodes": hit})
    changes: dict[str, Any] = {"faults.events": events}
    if section.random is not None and section.random.nodes is not None:
        hit = of_tenant(section.random.nodes, (*at, "random", "nodes"))
        changes["faults.random"] = {**data["random"], "nodes": hit} if hit else None
    return experiment.edited(*edits_of(changes, source.where(at), source.path.parent))


def _unsupported(section: FaultsSection, at: KeyPath, source: Source) -> Iterator[Problem]:
    """Refuse what would have to happen to several tenants at once."""
    for number, event in enumerate(section.events):
        if event.links is not None:
            yield source.problem((*at, "events", number, "links"), "links that fail are not simulated with tenants")
    if section.random_links is not None:
        yield source.problem((*at, "random_links"), "links that fail are not simulated with tenants")
    if section.random is not None and section.random.correlated_by == "site":
        message = "site is not simulated with tenants, whose random faults are drawn for each (host is)"
        yield source.problem((*at, "random", "correlated_by"), message)
